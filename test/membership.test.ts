// A timeline moves to other safekeepers under a TPC-B load, whatever happens to who moves it: nothing is lost.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import pg from "pg";
import { sleep } from "../src/base/clock.ts";
import { parseTenantId, parseTimelineId } from "../src/base/ids.ts";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { openWalPush, SafekeeperHttpClient } from "../src/safekeeper/client.ts";
import {
  decodeAcceptorMessage,
  encodeProposerMessage,
} from "../src/safekeeper-protocol/messages.ts";
import { TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { checkConsistency, checkTpcb, initializeTpcb, TpcbLoad } from "../testing/tpcb.ts";

const MAIN = join(import.meta.dirname, "..", "src", "cli", "main.ts");
let cluster: TestCluster;
let load: TpcbLoad | undefined;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 4 });
  await migrate("1,2,3");
  await cluster.startEndpoint("main");
  await initializeTpcb(cluster.url());
});
after(async () => {
  await load?.stop();
  await cluster?.[Symbol.asyncDispose]();
});

const ARGUMENTS = ["timeline", "safekeeper-migrate", "--new-sk-set"];
const migrate = (ids: string) => cluster.ok(...ARGUMENTS, ids);

/**
 * Runs it until it prints its n-th line, and into what follows, then kill -9; false where it came to its end. It kills itself: who
 * reads its lines may come to that when it has ended.
 */
function migrateAndKill(ids: string, lines: number): Promise<boolean> {
  const program = `let lines = 0;
    const write = process.stdout.write.bind(process.stdout);
    process.stdout.write = (text, ...rest) => {
      const before = lines;
      lines += String(text).split("\\n").length - 1;
      if (before < ${lines} && lines >= ${lines}) setTimeout(() => process.kill(process.pid, "SIGKILL"), 2);
      return write(text, ...rest);
    };`;
  const preloaded = `data:text/javascript,${encodeURIComponent(program)}`;
  const child = spawn(process.execPath, ["--import", preloaded, MAIN, ...ARGUMENTS, ids], {
    env: { ...process.env, STRATA_HOME: cluster.home },
    stdio: ["ignore", "ignore", "inherit"],
  });
  return new Promise((resolve) => child.on("close", (_code, signal) => resolve(signal !== null)));
}

function safekeeper(id: number): SafekeeperHttpClient {
  return new SafekeeperHttpClient(`http://${cluster.config().safekeepers[id - 1]!.listenHttpAddr}`);
}

function timelineIds() {
  const { tenantId, timelineId } = cluster.endpointSpec();
  return { tenantId: parseTenantId(tenantId), timelineId: parseTimelineId(timelineId) };
}

async function generationAt(id: number): Promise<number> {
  const { tenantId, timelineId } = timelineIds();
  return (await safekeeper(id).timelineStatus(tenantId, timelineId)).mconf.generation;
}

async function checkExcluded(id: number): Promise<void> {
  const { tenantId, timelineId } = timelineIds();
  await assert.rejects(safekeeper(id).timelineStatus(tenantId, timelineId), { kind: "not-found" });
  const directory = join(cluster.home, "safekeepers", `sk${id}`, tenantId, timelineId);
  assert.ok(!existsSync(directory), `safekeeper ${id} still has ${directory}`);
}

test("{1,2,3} to {1,2,4} under load, the command killed after each step: nothing is lost", async () => {
  load = new TpcbLoad(cluster.url(), { clients: 4 });
  await load.progress(100);
  let kills = 0;
  while (await migrateAndKill("1,2,4", 1 + (kills % 3))) {
    kills++;
    await load.progress(20);
    assert.ok(kills < 20, "it never came to its end");
  }
  await load.progress(200);
  assert.ok(kills >= 2, `killed only ${kills} times`);
  assert.deepEqual(load.errors, [], "clients noticed something");
  await checkExcluded(3);
  assert.equal(await generationAt(4), await generationAt(1));
});

test("its new member counts: one of the old ones may die", async () => {
  await cluster.kill9("safekeeper-1");
  await load!.progress(200);
  await cluster.ok("safekeeper", "start", "1");
});

test("a whole new set, and back: the compute follows", async () => {
  await migrate("3");
  await load!.progress(100);
  for (const id of [1, 2, 4]) {
    await checkExcluded(id);
  }
  await migrate("1,2,3");
  await load!.progress(100);
  assert.deepEqual(load!.errors, [], "clients noticed something");
  assert.equal((await agentStatus("main"))["generation"], await generationAt(3));
});

test("a replica follows to a whole new set, with the connections that it has", async () => {
  load ??= new TpcbLoad(cluster.url(), { clients: 4 });
  await cluster.ok("endpoint", "create", "follower", "--branch-name", "main", "--replica");
  await cluster.ok("endpoint", "start", "follower");
  const reader = new pg.Client({ connectionString: cluster.url("follower") });
  await reader.connect();
  try {
    const seen = async () => {
      const { rows } = await reader.query("select count(*)::int as n from pgbench_history");
      return rows[0].n as number;
    };
    for (const [set, gone] of [
      ["4", [1, 2, 3]],
      ["1,2,3", [4]],
    ] as const) {
      const said = await migrate(set);
      assert.doesNotMatch(said, /has not heard/);
      for (const id of gone) {
        await checkExcluded(id);
      }
      const before = await seen();
      await load.progress(50);
      await eventually(`the replica to go on with safekeepers ${set}`, async () => {
        return (await seen()) >= before + 50;
      });
      const last = await generationAt(set === "4" ? 4 : 1);
      await eventually("the replica to know that the change is over", async () => {
        return (await agentStatus("follower"))["generation"] === last;
      });
    }
  } finally {
    await reader.end();
    await cluster.ok("endpoint", "stop", "follower", "--destroy");
  }
  assert.deepEqual(load.errors, [], "clients noticed something");
});

test("a proposer of an older generation is refused, and says so", async () => {
  const { tenantId, timelineId } = timelineIds();
  const generation = await generationAt(2);
  const channel = await openWalPush({
    pgAddr: cluster.config().safekeepers[1]!.listenPgAddr,
    tenantId,
    timelineId,
  });
  const greeted = Promise.withResolvers<number>();
  const closed = new Promise<Error | undefined>((resolve) => channel.onClose(resolve));
  channel.onData((payload) => {
    const message = decodeAcceptorMessage(payload);
    greeted.resolve(message.type === "greeting" ? message.mconf.generation : -1);
  });
  channel.send(
    encodeProposerMessage({
      type: "greeting",
      tenantId,
      timelineId,
      mconf: { generation: 1, members: [{ id: 2, host: "old", pgPort: 1 }], newMembers: undefined },
      pgVersion: DEFAULT_MAJOR * 10_000,
      systemId: 0n,
      walSegSize: 16 * 1024 * 1024,
    }),
  );
  assert.equal(await greeted.promise, generation);
  channel.send(encodeProposerMessage({ type: "vote-request", generation: 1, term: 1000 }));
  assert.match(
    `${(await closed)?.message}`,
    new RegExp(`vote request in membership generation 1, but this safekeeper is in ${generation}`),
  );
  await load!.progress(20);
});

test("a lost disk: the same set once more fills it", async () => {
  const { tenantId, timelineId } = timelineIds();
  await safekeeper(2).deleteTimeline(tenantId, timelineId, true);
  await migrate("1,2,3");
  assert.equal(await generationAt(2), await generationAt(1));
  await load!.progress(50);
});

test("a change that cannot be finished is refused or given up, and given back", async () => {
  assert.match(await cluster.fails(...ARGUMENTS, "1,2,9"), /could not find safekeeper 9/);
  await cluster.kill9("safekeeper-4");
  const command = [...ARGUMENTS, "1,2,4", "--timeout", "1s"];
  assert.match(await cluster.fails(...command), /safekeeper 4: .*; run it again/);
  assert.match(await cluster.fails(...ARGUMENTS, "2,3"), /to safekeepers 1, 2, 4 is under way/);
  await cluster.ok("timeline", "safekeeper-migrate", "--abort");
  await load!.progress(50);
  await cluster.ok("safekeeper", "start", "4");
  await migrate("1,2,4");
  await load!.progress(50);
});

test("after all of it: all acknowledged is there, also on a compute that starts afresh", async () => {
  await load!.stop();
  await checkTpcb(cluster.url(), load!.acknowledged);
  await cluster.ok("endpoint", "stop", "main");
  await sleep(100);
  await cluster.ok("endpoint", "start", "main");
  const held = cluster.endpointSpec().safekeepers.map(({ id }) => id);
  assert.deepEqual(held, [1, 2, 4]);
  await checkTpcb(cluster.url(), load!.acknowledged);
  await checkConsistency(cluster.url());
});

async function agentStatus(endpoint: string): Promise<Record<string, unknown>> {
  const { internalHttpPort } = cluster.endpointSpec(endpoint);
  return (await (await fetch(`http://127.0.0.1:${internalHttpPort}/status`)).json()) as never;
}
