import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ComputeWorld } from "../../testing/compute/compute-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { sleep } from "../base/clock.ts";
import type { StorageError } from "../base/errors.ts";

let world: ComputeWorld;

before(async () => {
  world = await ComputeWorld.start(3);
});

after(() => world.remove());

const stateOf = (error: unknown) => (error as StorageError).fields["sqlstate"];

test("suspend: sessions are told, who comes then may come again, and what was committed is there", async () => {
  const endpoint = await world.createEndpoint((await world.createTimeline()).timeline_id);
  await endpoint.start();
  await endpoint.query("create table t (n int)");
  for (let round = 1; round <= 3; round++) {
    const idle = await endpoint.connect();
    const busy = await endpoint.connect();
    await idle.query(`insert into t values (${round})`);
    const ends: unknown[] = [];
    idle.onClose((error) => ends.push(error));
    const working = assert.rejects(
      busy.query("select pg_sleep(60)"),
      (error) => stateOf(error) === "57P01",
    );
    const active = "select 1 from pg_stat_activity where query = 'select pg_sleep(60)'";
    await eventually("it is at work", async () => (await endpoint.query(active)).length === 1);
    const terminated = endpoint.client.terminate("fast");
    const refusals = new Set<string>();
    for (let over = false; !over; ) {
      over = await Promise.race([
        terminated.then(() => true),
        sleep(1, undefined).then(() => false),
      ]);
      await endpoint.connect().then(
        (connection) => connection.close(),
        (error: StorageError) =>
          refusals.add(`${error.kind} ${String(stateOf(error) ?? "closed")}`),
      );
    }
    // Nothing but what a client may try again: 57P01, 57P03, or nobody there.
    for (const refusal of refusals) {
      assert.match(refusal, /^(unavailable (57P03|closed)|internal 57P01)$/);
    }
    await working;
    await endpoint.daemon.exited();
    assert.equal(ends.length, 1);
    assert.ok([undefined, "57P01"].includes(stateOf(ends[0]) as string | undefined));
    await endpoint.start();
    assert.deepEqual(await endpoint.query("select count(*) from t"), [[`${round}`]]);
  }
});
