// Clients of pgoutput as Debezium is one, through the proxy: a snapshot and then every transaction, whatever is killed and however late they confirm.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { SeededRandom } from "../../src/base/random.ts";
import type { Victim } from "../../testing/cluster.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { useProxyOfHome } from "../../testing/proxy/proxy-of-home.ts";
import { ChangeConsumer } from "../../testing/replication/change-consumer.ts";
import {
  ChangeWriter,
  createChanged,
  moreWritten,
} from "../../testing/replication/change-writer.ts";

/** More where one wants to know more: each has every fault once. */
const ROUNDS = Number(process.env["STRATA_CONSUMER_ROUNDS"] ?? 1);
const SEED = Number(process.env["STRATA_CONSUMER_SEED"] ?? 1);
/** A machine with other work is slow; nobody may be told so. */
const PATIENCE_MS = 600_000;
const PATIENCE = { timeoutMs: 120_000, logs: () => world.cluster.logTails(4) };
/** That a client has acknowledged between two faults. */
const TRANSACTIONS = 20;

const random = new SeededRandom(SEED);
let world: ControlPlaneWorld;
let project: string;
let endpoint: string;
let login: pg.ClientConfig;
let writers: ChangeWriter[];
let consumers: ChangeConsumer[];

const config = (): pg.ClientConfig => ({ ...login, options: `endpoint=${endpoint}` });

before(async () => {
  world = await ControlPlaneWorld.create({
    safekeepers: 3,
    proxyOptions: { "wake-timeout-ms": `${PATIENCE_MS}`, "login-timeout-ms": "120000" },
  });
  const created = await world.createProject("changes");
  project = created.project.id;
  endpoint = created.endpoints[0].id;
  const { role: user, password, database } = created.connection_uris[0].connection_parameters;
  const { address } = useProxyOfHome(world.cluster.home);
  login = { ...address, user, password, database, connectionTimeoutMillis: PATIENCE_MS };
  await world.api("PATCH", `/projects/${project}`, {
    project: { settings: { enable_logical_replication: true } },
  });
  await world.settled(project);
  await ask(createChanged("changed"), "create publication changes for table changed");
  writers = [1, 2].map(
    (id) => new ChangeWriter(id, "changed", config, new SeededRandom(SEED * 100 + id)),
  );
  consumers = [
    { slot: "prompt", confirmEach: 1, keepsOffset: true },
    { slot: "late", confirmEach: 15, keepsOffset: false },
    { slot: "never", confirmEach: 0, keepsOffset: true },
    { slot: "never_and_forgets", confirmEach: 0, keepsOffset: false },
  ].map(
    (options) =>
      new ChangeConsumer({ ...options, publication: "changes", table: "changed", config }),
  );
});

after(async () => {
  await Promise.allSettled((consumers ?? []).map((consumer) => consumer.stop()));
  await Promise.allSettled((writers ?? []).map((writer) => writer.stop()));
  await world?.[Symbol.asyncDispose]();
});

async function ask(...statements: string[]): Promise<Record<string, unknown>[]> {
  const client = new pg.Client(config());
  client.on("error", () => {});
  await client.connect();
  try {
    let rows: Record<string, unknown>[] = [];
    for (const statement of statements) {
      rows = (await client.query(statement)).rows;
    }
    return rows;
  } finally {
    await client.end().catch(() => undefined);
  }
}

const progress = () => moreWritten(writers, TRANSACTIONS, PATIENCE);

/** All that the table has is with each consumer. */
async function arrived(): Promise<void> {
  const rows = await ask("select id, v from changed");
  const wanted = new Map(rows.map(({ id, v }) => [id, v]));
  for (const [i, consumer] of consumers.entries()) {
    await eventually(
      `consumer ${i} to have ${wanted.size} rows`,
      () =>
        consumer.rows.size === wanted.size &&
        [...wanted].every(([id, v]) => consumer.rows.get(`${id}`) === v),
      PATIENCE,
    );
  }
}

const suspend = () => world.api("POST", `/projects/${project}/endpoints/${endpoint}/suspend`);

async function restarted(victim: Victim): Promise<void> {
  await world.cluster.kill9(victim);
  await world.cluster.ok("start", "--start-timeout", "600s");
}

const FAULTS: Readonly<Record<string, () => Promise<unknown>>> = {
  "a suspension": suspend,
  "Postgres is killed": () => world.cluster.kill9(`postgres-${endpoint}`),
  "the agent is killed": () => world.cluster.kill9(`agent-${endpoint}`),
  "the pageserver is killed": () => restarted("pageserver"),
  "a safekeeper is killed": () => restarted(`safekeeper-${1 + random.int(3)}`),
  "the proxy is killed": () => restarted("proxy"),
  "consumers are killed": () => Promise.all(consumers.map((consumer) => consumer.drop())),
};

test(`${ROUNDS} rounds of faults: no change is missing, none comes that was confirmed (seed ${SEED})`, async () => {
  const started = new Map<ChangeConsumer, number[]>();
  for (const writer of writers) {
    writer.start();
  }
  await progress();
  for (const consumer of consumers) {
    await consumer.snapshot();
    started.set(
      consumer,
      writers.map(({ acknowledged }) => acknowledged),
    );
    consumer.start();
    await progress();
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, fault] of Object.entries(FAULTS)) {
      const began = performance.now();
      await sleep(random.int(500));
      await fault();
      await progress();
      console.log(`${name}: ${(performance.now() - began).toFixed(0)} ms`);
    }
  }
  await Promise.all(writers.map((writer) => writer.stop()));
  await arrived();
  await Promise.all(consumers.map((consumer) => consumer.stop()));
  for (const consumer of consumers) {
    assert.deepEqual(
      [...consumer.inserted].filter(([id, times]) => times > 1 || consumer.snapshotIds.has(id)),
      [],
    );
    for (const [i, writer] of writers.entries()) {
      for (let n = started.get(consumer)![i]! + 2; n <= writer.acknowledged; n++) {
        assert.ok(consumer.inserted.has(writer.idOf(n)), `${writer.idOf(n)} did not come`);
      }
    }
  }
  console.log(
    consumers.map(({ transactions, repeated, connections }) => ({
      transactions,
      repeated,
      connections,
    })),
  );
  const [prompt, late, never, forgets] = consumers as [
    ChangeConsumer,
    ChangeConsumer,
    ChangeConsumer,
    ChangeConsumer,
  ];
  assert.equal(prompt.repeated, 0, "it says where it is");
  assert.equal(never.repeated, 0, "it says where it is");
  assert.ok(forgets.repeated > late.repeated, "what was never confirmed comes each time");
});
