// Commits of single rows while other sessions write much WAL: Strata with one and with three safekeepers beside stock, alone and with two standbys.

import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { connect, withClient } from "../../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "../report.ts";
import { COMMON_SETTINGS, StockCluster, startQuorumOfThree } from "../stock.ts";

const THREE = "3 safekeepers";
const ONE = "1 safekeeper";
const STOCK = "stock";
/** Three copies on one disk, two of which a commit waits for: what three safekeepers of one machine are against. */
const QUORUM = "stock with two standbys, one waited for";

/** Of each table that indexes are built on: one a session, as dropping an index locks its table. */
const ROWS = 60_000;
/** Between two commits, as of a user who is there but does not flood. */
const PAUSE_MS = 2;

/** What runs beside the commits: statements that each session repeats. */
const BULK: Readonly<Record<string, readonly string[]>> = {
  nothing: [],
  "four index builds": ["gist (place)", "gin (tags)", "brin (id)", "spgist (place)"].map(
    (index, i) => `create index bulk_${i} on documents_${i} using ${index}; drop index bulk_${i}`,
  ),
  "bulk inserts": [
    `create table copied as select id, tags, place from documents; drop table copied`,
  ],
};

const PREPARE = `
  create table documents as
    select g as id, array[g % 500, g % 20011, g % 97] as tags, point(g * 7919 % 1000, g % 997) as place
      from generate_series(1, ${ROWS}) g;
  ${[0, 1, 2, 3].map((i) => `create table documents_${i} as table documents;`).join(" ")}
  create table single_rows(at timestamptz default now(), value int)`;

interface Latencies {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** WAL that all of it made, in MB a second. */
  readonly walRate: number;
}

function repeat(url: string, statement: string, ended: () => boolean): Promise<void> {
  return withClient(url, async (client) => {
    while (!ended()) {
      await client.query(statement);
    }
  });
}

/** Megabytes of WAL that were made so far. */
async function walMegabytes(client: pg.Client): Promise<number> {
  const { rows } = await client.query("select pg_current_wal_insert_lsn() - '0/0' as bytes");
  return Number(rows[0].bytes) / 1e6;
}

async function commitRows(client: pg.Client, seconds: number): Promise<number[]> {
  const ms: number[] = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const started = performance.now();
    await client.query("insert into single_rows(value) values (1)");
    ms.push(performance.now() - started);
    await sleep(PAUSE_MS);
  }
  return ms.sort((a, b) => a - b);
}

async function measure(
  url: string,
  statements: readonly string[],
  seconds: number,
): Promise<Latencies> {
  const client = await connect(url);
  try {
    await client.query("checkpoint");
    let ended = false;
    const loads = statements.map((statement) => repeat(url, statement, () => ended));
    await sleep(200);
    const before = await walMegabytes(client);
    const started = performance.now();
    const ms = await commitRows(client, seconds);
    const walRate = ((await walMegabytes(client)) - before) / (performance.now() - started);
    ended = true;
    await Promise.all(loads);
    return {
      p50Ms: ms[ms.length >> 1]!,
      p99Ms: ms[Math.floor(ms.length * 0.99)]!,
      maxMs: ms.at(-1)!,
      walRate: walRate * 1000,
    };
  } finally {
    await client.end();
  }
}

async function startStrata(safekeepers: number): Promise<TestCluster> {
  const strata = await TestCluster.create({ safekeepers });
  try {
    await strata.ok("endpoint", "create", "main");
    strata.setPostgres("main", COMMON_SETTINGS);
    await strata.ok("endpoint", "start", "main");
    await withClient(strata.url(), (client) => client.query(PREPARE));
  } catch (error) {
    await strata[Symbol.asyncDispose]();
    throw error;
  }
  return strata;
}

/** `rounds` interleaved rounds of `seconds` each. */
export async function benchBulkWal(rounds: number, seconds: number): Promise<Row[]> {
  await using stock = await StockCluster.create();
  await using quorum = await startQuorumOfThree(stock);
  await stock.start();
  await withClient(quorum.primary.url, (client) => client.query(PREPARE));
  await withClient(stock.url, (client) => client.query(PREPARE));
  await using one = await startStrata(1);
  await using three = await startStrata(3);
  const systems = new Map([
    [THREE, three.url()],
    [ONE, one.url()],
    [STOCK, stock.url],
    [QUORUM, quorum.primary.url],
  ]);

  const rows: Row[] = [];
  for (const [what, statements] of Object.entries(BULK)) {
    const results = new Map<string, Latencies[]>([...systems.keys()].map((name) => [name, []]));
    for (let i = 0; i < rounds; i++) {
      for (const [name, url] of systems) {
        results.get(name)!.push(await measure(url, statements, seconds));
      }
    }
    const of = (name: string, pick: (result: Latencies) => number) =>
      median(results.get(name)!.map(pick));
    const text = (name: string) => {
      const [p50, p99, max, rate] = (["p50Ms", "p99Ms", "maxMs", "walRate"] as const).map((key) =>
        of(name, (result) => result[key]),
      );
      const beside = statements.length === 0 ? "" : ` at ${rate!.toFixed(1)} MB/s of WAL`;
      return `${p50!.toFixed(2)} / ${p99!.toFixed(1)} / ${max!.toFixed(0)} ms${beside}`;
    };
    for (const name of systems.keys()) {
      progress(`bulk-wal, ${what}, ${name}: ${text(name)}`);
    }
    for (const [name, other] of [
      [THREE, STOCK],
      [ONE, STOCK],
      [THREE, QUORUM],
    ] as const) {
      const p50 = (which: string) => of(which, (result) => result.p50Ms);
      const beside = other === STOCK ? "" : `, beside ${other}`;
      rows.push({
        what: `commit beside ${what}, ${name}${beside}: p50 / p99 / longest`,
        ours: text(name),
        theirs: text(other),
        ratio: ratio(p50(name), p50(other)),
        aim: statements.length === 0 || other !== STOCK ? "" : "≤ 1.5",
      });
    }
  }
  return rows;
}
