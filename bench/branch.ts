// Creating a branch, and the first query on it, beside what stock Postgres has for a copy of a database.

import assert from "node:assert/strict";
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateTimelineId } from "../src/base/ids.ts";
import type { PgMajor } from "../src/postgres/versions.ts";
import { TestCluster } from "../testing/cluster.ts";
import { withClient } from "../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { findProgram, StockCluster } from "./stock.ts";

/** Milliseconds of POST .../timeline at the pageserver, which is all that a branch is. */
async function createBranch(
  cluster: TestCluster,
  tenant: string,
  ancestor: string,
): Promise<number> {
  const http = cluster.config().pageservers[0]!.listenHttpAddr;
  const body = JSON.stringify({
    new_timeline_id: generateTimelineId(),
    ancestor_timeline_id: ancestor,
  });
  const began = performance.now();
  const response = await fetch(`http://${http}/v1/tenant/${tenant}/timeline`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  if (!response.ok) {
    throw new Error(`branch: ${response.status} ${await response.text()}`);
  }
  await response.arrayBuffer();
  return performance.now() - began;
}

export interface BranchScale {
  readonly megabytes: number;
  readonly rounds: number;
  readonly pgMajor: PgMajor;
  /** Where pg_basebackup is, before $PATH. */
  readonly pgBin: string | undefined;
}

/** A table of that size, one row of about a thousand bytes after the other. */
export function fillStatements(megabytes: number): string[] {
  const rows = Math.ceil((megabytes * 1024 * 1024) / 1050);
  return [
    "create table filler(i int, p text)",
    "alter table filler alter column p set storage plain",
    `insert into filler select i, repeat(md5(i::text), 31) from generate_series(1, ${rows}) i`,
  ];
}

/** What stock Postgres has for a copy of a database, in milliseconds. */
const COPIES = [
  { name: "wal_log", from: 15, settings: [], strategy: "strategy wal_log" },
  { name: "file_copy", from: 15, settings: [], strategy: "strategy file_copy" },
  {
    name: "file_copy by clone",
    from: 18,
    settings: ["set file_copy_method = clone"],
    strategy: "strategy file_copy",
  },
] as const;

async function stockRows(scale: BranchScale, ours: number): Promise<Row[]> {
  const { megabytes, rounds, pgMajor, pgBin } = scale;
  const rows: Row[] = [];
  const row = (what: string, times: readonly number[]) => {
    const ms = median(times);
    rows.push({
      what: `branch creation against ${what} at ${sizeName(megabytes)}, ms`,
      ours: ours.toFixed(1),
      theirs: ms.toFixed(0),
      ratio: ratio(ours, ms),
      aim: "",
    });
  };
  await using stock = await StockCluster.create({ max_wal_size: "8GB" }, pgMajor);
  await stock.start();
  const run = (...statements: string[]) =>
    withClient(stock.url, async (client) => {
      for (const statement of statements) {
        await client.query(statement);
      }
    });
  await run("create database filler");
  await withClient(stock.url.replace(/postgres$/, "filler"), async (client) => {
    for (const statement of fillStatements(megabytes)) {
      await client.query(statement);
    }
    await client.query("vacuum");
  });
  await run("checkpoint");
  for (const { name, from, settings, strategy } of COPIES.filter(({ from }) => pgMajor >= from)) {
    const times: number[] = [];
    try {
      for (let i = 0; i < rounds; i++) {
        const began = performance.now();
        await run(...settings, `create database copy template filler ${strategy}`);
        times.push(performance.now() - began);
        await run("drop database copy", "checkpoint");
      }
      row(`CREATE DATABASE ... TEMPLATE, ${name}`, times);
    } catch (error) {
      progress(`CREATE DATABASE ... ${name} is left out from PostgreSQL ${from} on: ${error}`);
    }
  }
  const program = findProgram("pg_basebackup", pgMajor, pgBin);
  if (program === undefined) {
    progress(`no pg_basebackup of PostgreSQL ${pgMajor} (see --pg-bin): its row is left out`);
    return rows;
  }
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const directory = mkdtempSync(join(tmpdir(), "strata-bench-"));
    const url = `host=127.0.0.1 port=${stock.port} user=cloud_admin`;
    const began = performance.now();
    const arguments_ = ["-D", join(directory, "copy"), "-d", url, "-c", "fast"];
    const { status, stderr }: SpawnSyncReturns<string> = spawnSync(program, arguments_, {
      encoding: "utf8",
    });
    times.push(performance.now() - began);
    rmSync(directory, { recursive: true });
    assert.equal(status, 0, stderr);
  }
  row("pg_basebackup", times);
  return rows;
}

const sizeName = (megabytes: number) =>
  megabytes >= 1024 ? `${megabytes / 1024} GB` : `${megabytes} MB`;

export async function benchBranch(scale: BranchScale): Promise<Row[]> {
  const { megabytes, rounds } = scale;
  const creates: number[] = [];
  const commands: number[] = [];
  const firsts: number[] = [];
  {
    await using strata = await TestCluster.create();
    await strata.startEndpoint("main");
    await strata.query("main", ...fillStatements(megabytes));
    const spec = strata.endpointSpec();
    for (let i = 0; i < 20; i++) {
      creates.push(await createBranch(strata, spec.tenantId, spec.timelineId));
    }
    for (let i = 0; i < rounds; i++) {
      const name = `bench_${i}`;
      let began = performance.now();
      await strata.ok("timeline", "branch", "--branch-name", name);
      commands.push(performance.now() - began);
      await strata.ok("endpoint", "create", name, "--branch-name", name);
      began = performance.now();
      await strata.ok("endpoint", "start", name);
      await strata.query(name, "select * from filler where ctid = '(7,1)'");
      firsts.push(performance.now() - began);
      await strata.ok("endpoint", "stop", name);
    }
  }
  const size = sizeName(megabytes);
  progress(
    `branch at ${size}: ${median(creates).toFixed(1)} ms, command ${median(commands).toFixed(0)} ms`,
  );
  const row = (what: string, values: number[], aim: string, digits = 0): Row => ({
    what: `${what} at ${size}, ms`,
    ours: median(values).toFixed(digits),
    theirs: "—",
    ratio: "—",
    aim,
  });
  return [
    row("branch creation (pageserver)", creates, "< 20", 1),
    row("branch creation (CLI command)", commands, ""),
    row("start an endpoint on the branch + first query (CLI)", firsts, ""),
    ...(await stockRows(scale, median(creates))),
  ];
}
