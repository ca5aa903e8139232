// What a person waits for: whole commands, and from "make a branch" to its first row, by command and over HTTP.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { monotonicMs } from "../../src/base/clock.ts";
import { ROOT } from "../../src/base/program-files.mjs";
import { DEFAULT_WARM_AGENTS } from "../../src/local/config.ts";
import { parseHostPort } from "../../src/postgres/wire/wire-client.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { withClient } from "../../testing/tpcb.ts";
import { fillStatements } from "../branch.ts";
import { median, progress, type Row, ratio, spread } from "../report.ts";
import { firstRow, StockCluster } from "../stock.ts";

const AT_ONCE = 8;

export interface CommandsScale {
  readonly rounds: number;
  /** Of the database that is branched. */
  readonly megabytes: number;
}

/** As a person types it: the launcher that npm installs, whatever `node` is. */
function strataCommand(home: string, ...args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [join(ROOT, "scripts", "strata.mjs"), ...args],
      { env: { ...process.env, STRATA_HOME: home } },
      (error, _, stderr) => (error === null ? resolve() : reject(new Error(stderr))),
    );
  });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = monotonicMs();
  await work();
  return monotonicMs() - began;
}

/** A copy of the database `filler`, and a row of it. */
async function stockCopy(stock: StockCluster, strategy: string, name: string): Promise<number> {
  const took = await timed(async () => {
    await withClient(stock.url, (client) =>
      client.query(`create database ${name} template filler strategy ${strategy}`),
    );
    await firstRow(stock.url.replace(/postgres$/, name));
  });
  await withClient(stock.url, (client) => client.query(`drop database ${name}`));
  return took;
}

async function commandTimes(
  strata: TestCluster,
  note: (what: string, ms: number) => void,
  round: number,
): Promise<void> {
  const run = (...args: string[]) => strataCommand(strata.home, ...args);
  const name = (what: string) => `bench-${what}-${round}`;
  const started = name("started");
  note("strata --version", await timed(() => run("--version")));
  note("branch create", await timed(() => run("branch", "create", name("one"))));
  const began = monotonicMs();
  await run("branch", "create", started, "--start");
  note("branch create --start", monotonicMs() - began);
  await firstRow(strata.url(started));
  note("branch to its first row, by command", monotonicMs() - began);
  await strata.ok("endpoint", "stop", started, "--destroy");
  const together = await Promise.all(
    Array.from({ length: AT_ONCE }, (_, i) =>
      timed(() => run("branch", "create", name(`many-${i}`))),
    ),
  );
  note(`${AT_ONCE} concurrent branch creates: the median one`, median(together));
  note(`${AT_ONCE} concurrent branch creates: the last one`, Math.max(...together));
}

interface HttpWay {
  readonly world: ControlPlaneWorld;
  readonly projectId: string;
  readonly branch: (name: string) => Promise<number>;
}

/** Neon's API and the proxy, as a program that makes a branch for a test would use them. */
async function openHttpWay(megabytes: number): Promise<HttpWay> {
  const world = await ControlPlaneWorld.create();
  try {
    const created = await world.createProject("bench");
    const { role: user, password, database } = created.connection_uris[0].connection_parameters;
    const config = JSON.parse(readFileSync(join(world.cluster.home, "config.json"), "utf8"));
    const proxy = parseHostPort(config.proxy.listenPgAddr);
    const connectTo = async (endpoint: string) => {
      const options = `endpoint=${endpoint}`;
      const client = new pg.Client({ ...proxy, user, password, database, options });
      client.on("error", () => {});
      await client.connect();
      return client;
    };
    const client = await connectTo(created.endpoints[0].id);
    for (const statement of fillStatements(megabytes)) {
      await client.query(statement);
    }
    await client.end();
    const projectId: string = created.project.id;
    const branch = async (name: string) => {
      const began = monotonicMs();
      const body = { branch: { name }, endpoints: [{ type: "read_write" }] };
      const made = await world.api("POST", `/projects/${projectId}/branches`, body);
      const fresh = await connectTo(made.endpoints[0].id);
      await fresh.query("select * from filler where ctid = '(7,1)'");
      const took = monotonicMs() - began;
      await fresh.end();
      await world.settled(projectId);
      await world.api("DELETE", `/projects/${projectId}/branches/${made.branch.id}`);
      await world.settled(projectId);
      return took;
    };
    return { world, projectId, branch };
  } catch (error) {
    await world.cluster[Symbol.asyncDispose]();
    throw error;
  }
}

const AIMS: Readonly<Record<string, string>> = {
  "strata --version": "80 ms",
  "branch create": "120 ms",
  "branch create --start": "250 ms",
  "branch to its first row, over HTTP": "100 ms",
  "branch to its first row, by command": "150 ms",
};

/** Interleaved; the ratio is to stock's copy of files, where what is timed ends with a row of a branch. */
export async function benchCommands({ rounds, megabytes }: CommandsScale): Promise<Row[]> {
  progress(`commands: loading ${megabytes} MB`);
  await using stock = await StockCluster.create({ max_wal_size: "8GB" });
  await stock.start();
  await withClient(stock.url, (client) => client.query("create database filler"));
  await withClient(stock.url.replace(/postgres$/, "filler"), async (client) => {
    for (const statement of fillStatements(megabytes)) {
      await client.query(statement);
    }
  });
  // As a home has it whose owner has chosen nothing.
  await using strata = await TestCluster.create({ warmAgents: DEFAULT_WARM_AGENTS });
  await strata.startEndpoint("main");
  await strata.query("main", ...fillStatements(megabytes));
  const http = await openHttpWay(megabytes);
  await using world = http.world.cluster;
  void world;
  const times = new Map<string, number[]>();
  // One is not counted: its start has nothing yet that starts have read.
  for (let round = -1; round < rounds; round++) {
    const note = (what: string, ms: number) => {
      times.set(what, [...(times.get(what) ?? []), ...(round < 0 ? [] : [ms])]);
    };
    await commandTimes(strata, note, round + 1);
    note("branch to its first row, over HTTP", await http.branch(`bench-${round + 1}`));
    note("file_copy", await stockCopy(stock, "file_copy", "copy"));
    note("wal_log", await stockCopy(stock, "wal_log", "copy"));
  }
  const theirs = times.get("file_copy")!;
  const wal = times.get("wal_log")!;
  progress(`commands: stock's copy with strategy wal_log: ${spread(wal)} ms`);
  return [...times]
    .filter(([, values]) => values !== theirs && values !== wal)
    .map(([what, values]) => {
      const isCompared = what.startsWith("branch to");
      return {
        what: `${what}, ms, p50 (p99)${isCompared ? ` (stock: CREATE DATABASE of ${megabytes} MB, file_copy, and a row)` : ""}`,
        ours: spread(values),
        theirs: isCompared ? spread(theirs) : "—",
        ratio: isCompared ? ratio(median(values), median(theirs)) : "—",
        aim: AIMS[what] ?? "",
      };
    });
}
