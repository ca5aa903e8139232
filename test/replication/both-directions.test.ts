// Logical replication out of endpoints and into them, all at once and under load, with kill -9 of every side: each table is the same on both in the end.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import {
  ChangeWriter,
  createChanged,
  moreWritten,
} from "../../testing/replication/change-writer.ts";
import { STOCK_USER, StockCluster } from "../../testing/stock-cluster.ts";
import { withClient } from "../../testing/tpcb.ts";

/** More where one wants to know more: each has every fault once. */
const ROUNDS = Number(process.env["STRATA_BOTH_WAYS_ROUNDS"] ?? 1);
const SEED = Number(process.env["STRATA_BOTH_WAYS_SEED"] ?? 1);
const PATIENCE = { timeoutMs: 180_000, logs: () => cluster.logTails(4) };
/** That a writer has acknowledged between two faults. */
const TRANSACTIONS = 15;
const LOGICAL = ["-c", "wal_level=logical"] as const;

/** `main` and `dev` are branches of one tenant, `other` is another tenant's, `stock` a stock server. */
type Side = "main" | "dev" | "other" | "stock";

/** Each has a table, a publication and a subscription of its own, all of that name. */
const LINKS: readonly { readonly name: string; readonly from: Side; readonly to: Side }[] = [
  { name: "main_to_stock", from: "main", to: "stock" },
  { name: "stock_to_main", from: "stock", to: "main" },
  { name: "main_to_dev", from: "main", to: "dev" },
  { name: "dev_to_main", from: "dev", to: "main" },
  { name: "dev_to_other", from: "dev", to: "other" },
  { name: "other_to_stock", from: "other", to: "stock" },
];

const random = new SeededRandom(SEED);
let cluster: TestCluster;
let stock: StockCluster;
const writers: ChangeWriter[] = [];

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
  stock = await StockCluster.create({
    settings: { wal_level: "logical", wal_retrieve_retry_interval: "'500ms'" },
  });
  await stock.start();
  await cluster.ok("endpoint", "create", "main", ...LOGICAL);
  await cluster.ok("endpoint", "start", "main");
  // The branch has its tables from its parent.
  for (const { name } of LINKS) {
    await run("main", createChanged(name));
  }
  await cluster.ok("branch", "create", "dev");
  await cluster.ok("endpoint", "create", "dev", "--branch-name", "dev", ...LOGICAL);
  await cluster.ok("endpoint", "start", "dev");
  const tenant = randomBytes(16).toString("hex");
  await cluster.ok("tenant", "create", "--tenant-id", tenant);
  const ofTenant = ["--tenant-id", tenant, "--branch-name", "main"];
  await cluster.ok("endpoint", "create", "other", ...ofTenant, ...LOGICAL);
  await cluster.ok("endpoint", "start", "other");
  for (const { name } of LINKS) {
    await run("other", createChanged(name));
    await run("stock", createChanged(name));
  }
  for (const { name, from, to } of LINKS) {
    await run(from, `create publication ${name} for table ${name}`);
    writers.push(
      new ChangeWriter(1, name, () => config(from), new SeededRandom(SEED + writers.length)),
    );
    await run(to, `create subscription ${name} connection '${conninfo(from)}' publication ${name}`);
  }
});

after(async () => {
  await Promise.allSettled(writers.map((writer) => writer.stop()));
  await stock?.destroy();
  await cluster?.[Symbol.asyncDispose]();
});

function config(side: Side): pg.ClientConfig {
  return side === "stock"
    ? { host: stock.workdir, port: 5432, user: STOCK_USER, database: "postgres" }
    : { connectionString: cluster.url(side) };
}

function conninfo(side: Side): string {
  return side === "stock"
    ? `host=${stock.workdir} port=5432 user=${STOCK_USER} dbname=postgres`
    : cluster.url(side);
}

async function run(side: Side, sql: string): Promise<Record<string, unknown>[]> {
  if (side !== "stock") {
    return cluster.query(side, sql);
  }
  const socket = encodeURIComponent(stock.workdir);
  return withClient(`postgresql://${STOCK_USER}@${socket}:5432/postgres`, async (client) => {
    return (await client.query(sql)).rows;
  });
}

const progress = () => moreWritten(writers, TRANSACTIONS, PATIENCE);

/** Of a table: what differs where one row does. */
async function sum(side: Side, table: string): Promise<string> {
  const [row] = await run(
    side,
    `select count(*)::int n, coalesce(sum(hashtextextended(t::text, 0)), 0)::text s from ${table} t`,
  );
  return `${row!["n"]} rows, ${row!["s"]}`;
}

async function arrived(): Promise<void> {
  for (const { name, from, to } of LINKS) {
    const wanted = await sum(from, name);
    await eventually(`${name}: ${wanted}`, async () => (await sum(to, name)) === wanted, PATIENCE);
  }
}

/** Postgres ends with its agent, but a moment later, and has its port until then. */
async function agentKilled(id: string): Promise<void> {
  await cluster.kill9(`agent-${id}`);
  await eventually(
    `${id} to start`,
    async () => (await cluster.cli("endpoint", "start", id)).code === 0,
    PATIENCE,
  );
}

async function restarted(id: string, mode: "fast" | "immediate"): Promise<void> {
  await cluster.ok("endpoint", "stop", id, "--mode", mode);
  await cluster.ok("endpoint", "start", id);
}

const FAULTS: Readonly<Record<string, () => Promise<unknown>>> = {
  "Postgres of main is killed": () => cluster.kill9("postgres-main"),
  "stock is killed": async () => {
    await stock.kill9();
    await stock.start();
  },
  "the agent of dev is killed": () => agentKilled("dev"),
  "the agent of other is killed": () => agentKilled("other"),
  "main is stopped": () => restarted("main", "fast"),
  "Postgres of dev is killed": () => cluster.kill9("postgres-dev"),
  "other is stopped at once": () => restarted("other", "immediate"),
};

test(`${ROUNDS} rounds of kills of every side: publisher and subscriber have the same rows (seed ${SEED})`, async () => {
  for (const writer of writers) {
    writer.start();
  }
  await progress();
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, fault] of Object.entries(FAULTS)) {
      const began = performance.now();
      await sleep(random.int(300));
      await fault();
      await progress();
      console.log(`${name}: ${(performance.now() - began).toFixed(0)} ms`);
    }
  }
  await Promise.all(writers.map((writer) => writer.stop()));
  await arrived();
  for (const [i, { name, from }] of LINKS.entries()) {
    const [row] = await run(from, `select count(*)::int n from ${name}`);
    console.log(`${name}: ${writers[i]!.acknowledged} transactions, ${row!["n"]} rows`);
  }
});

test("slots of one name on a branch and on its parent have a subscriber each", async () => {
  const target = await stock.connect();
  for (const side of ["main", "dev"] as const) {
    await run(side, "create table twice (n int, side text)");
    await run(side, "create publication twice for table twice");
    await target.query(`create database of_${side}`);
    const subscriber = await stock.connect(`of_${side}`);
    await subscriber.query("create table twice (n int, side text)");
    await subscriber.query(
      `create subscription of_${side} connection '${conninfo(side)}' publication twice with (slot_name = 'twice')`,
    );
    await run(side, `insert into twice select i, '${side}' from generate_series(1, 100) i`);
  }
  await agentKilled("dev");
  await restarted("main", "fast");
  for (const side of ["main", "dev"] as const) {
    await run(side, `insert into twice values (101, '${side}')`);
    const subscriber = await stock.connect(`of_${side}`);
    await eventually(`rows of ${side}`, async () => {
      const { rows } = await subscriber.query(
        "select side, count(*)::int n from twice group by side",
      );
      return rows.length === 1 && rows[0].side === side && rows[0].n === 101;
    });
  }
  assert.deepEqual(
    await run("dev", "select slot_name::text from pg_replication_slots where slot_name = 'twice'"),
    [{ slot_name: "twice" }],
  );
});
