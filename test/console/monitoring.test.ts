import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { seriesOf, walRate } from "../../console/src/monitoring/series.ts";
import type { MonitoringSample } from "../../src/control-plane/api.ts";
import { assertAccessible } from "../../testing/console/axe.ts";
import { ConsoleWorld } from "../../testing/console/console-world.ts";
import { goTo, inBothSizes } from "../../testing/console/visit.ts";

// What the console shows of a branch's work, as it happens: its stream, and the page in a browser where one is installed.

let world: ConsoleWorld;
let endpoint: string;

before(async () => {
  world = await ConsoleWorld.create();
  const { endpoints } = await world.world.api("GET", `/projects/${world.projectId}/endpoints`);
  endpoint = `/projects/${world.projectId}/endpoints/${endpoints[0].id}`;
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

function open(signal: AbortSignal, branchId = world.branchId): Promise<Response> {
  const { address, key } = world.world;
  const path = `/console/projects/${world.projectId}/branches/${branchId}/monitoring`;
  return fetch(`http://${address}${path}`, { headers: { authorization: `Bearer ${key}` }, signal });
}

/** The lists of samples, as they come; ends with the iteration. */
async function* listsOf(): AsyncGenerator<MonitoringSample[]> {
  const controller = new AbortController();
  try {
    const { body } = await open(controller.signal);
    let rest = "";
    for await (const chunk of body!.pipeThrough(new TextDecoderStream())) {
      const events = (rest + chunk).split("\n\n");
      rest = events.pop()!;
      for (const event of events) {
        if (event.startsWith("data: ")) {
          yield JSON.parse(event.slice("data: ".length));
        }
      }
    }
  } finally {
    controller.abort();
  }
}

async function firstWhere(
  is: (sample: MonitoringSample) => boolean,
): Promise<MonitoringSample | undefined> {
  // The first list has all of before, however much that is.
  let lists = 0;
  for await (const list of listsOf()) {
    const found = list.find(is);
    lists++;
    assert.ok(lists < 100, "it never happens");
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

test("monitoring: counts what is done; who comes later hears of before", async () => {
  const empty = await firstWhere(({ postgres }) => postgres !== undefined);
  await world.sql("create table t (n int); insert into t select generate_series(1, 5000)");
  const { rowsWritten, commits } = empty!.postgres!;
  const written = await firstWhere(
    ({ postgres }) => postgres !== undefined && postgres.rowsWritten >= rowsWritten + 5000,
  );
  assert.ok(written!.postgres!.commits > commits);
  assert.ok(written!.layers_bytes! > 0);
  assert.match(written!.last_record_lsn!, /^[0-9A-F]+\/[0-9A-F]+$/);
  for await (const list of listsOf()) {
    assert.ok(
      list.some(({ at }) => at === empty!.at),
      "the first list does not have all",
    );
    break;
  }
  const missing = await open(AbortSignal.timeout(30_000), "br-no-such-branch-1");
  assert.equal(missing.status, 404);
});

test("monitoring: a session at work is counted, ours is not", async () => {
  const controller = new AbortController();
  const running = await world.runSql("select pg_sleep(600)", {}, controller.signal);
  const one = await firstWhere(({ postgres }) => postgres?.active === 1);
  assert.equal(one!.postgres!.connections, 1);
  controller.abort();
  await running.body?.cancel().catch(() => {});
  assert.equal(
    (await firstWhere(({ postgres, at }) => at > one!.at && postgres?.connections === 0))!.is_awake,
    true,
  );
});

test("monitoring: a branch is neither kept awake nor woken by it", async () => {
  await world.world.api("PATCH", endpoint, { endpoint: { suspend_timeout_seconds: 5 } });
  const asleep = await firstWhere(({ is_awake }) => !is_awake);
  assert.equal(asleep!.postgres, undefined);
  let count = 0;
  for await (const list of listsOf()) {
    const since = list.filter(({ at }) => at >= asleep!.at);
    count += since.length;
    assert.ok(
      since.every(({ is_awake }) => !is_awake),
      "it wakes",
    );
    if (count >= 3) {
      break;
    }
  }
});

test("series: a rate between two samples; none over a time in which nobody looked", () => {
  const sample = (seconds: number, lsn: string) => ({
    at: seconds * 1000,
    is_awake: true,
    last_record_lsn: lsn,
  });
  const samples = [
    sample(0, "0/10"),
    sample(2, "0/30"),
    sample(60, "0/1000"),
    sample(62, "0/1010"),
  ];
  const { times, values } = seriesOf(samples, [walRate]);
  assert.deepEqual(times, [0, 2, 2.001, 60, 62]);
  assert.deepEqual(values, [[null, 16, null, null, 8]]);
});

inBothSizes(
  "monitoring, awake and asleep",
  () => world,
  async ({ browser, page }) => {
    await world.world.api("POST", `${endpoint}/suspend`);
    await world.world.api("PATCH", endpoint, { endpoint: { suspend_timeout_seconds: -1 } });
    await page.getByRole("link", { name: /shop/ }).click();
    await goTo(page, "Monitoring");
    const state = page.getByRole("main").getByRole("status");
    await state.filter({ hasText: "asleep" }).waitFor();
    await world.sql("insert into t select generate_series(1, 100000)");
    await state.filter({ hasText: "awake · at most" }).waitFor();
    await page.locator("figure", { hasText: "Storage" }).filter({ hasText: /[kM]B/ }).waitFor();
    await page
      .locator("figure", { hasText: "Transactions a second" })
      .filter({ hasText: /committed \d/ })
      .waitFor();
    assert.equal(await page.locator("figure canvas").count(), 6);
    await assertAccessible(browser, "monitoring");
  },
);
