// Client loads against any server: by pgbench where there is one, else by our own clients.

import { execFile, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type pg from "pg";
import { SeededRandom } from "../src/base/random.ts";
import {
  ACCOUNTS_PER_BRANCH,
  type Transaction,
  tpcbTransaction,
  withClient,
} from "../testing/tpcb.ts";

/**
 * `tpcb` and `select` as pgbench's; `insert`: one small row into `commit_log` a transaction; `update`: of one account, by its key;
 * `skewed`: as `select`, but a tenth of all accounts gets three quarters of the reads and a hundredth more than half.
 */
export type LoadKind = "tpcb" | "select" | "insert" | "update" | "skewed";

export interface LoadScale {
  readonly clients: number;
  /** Of pgbench's tables. */
  readonly scale: number;
  /** A whole number. */
  readonly seconds: number;
}

export interface LoadResult {
  /** Transactions a second. */
  readonly tps: number;
  /** Of whole transactions, in milliseconds. */
  readonly meanMs: number;
  readonly p99Ms: number;
}

/** What `insert` writes to; needed once before it. */
export const COMMIT_LOG = "create table commit_log(client int, at timestamptz default now())";
const INSERT = "insert into commit_log(client) values";

const hasPgbench = spawnSync("pgbench", ["--version"]).status === 0;
/** Whether `timeLoad` can be used. */
export const canTimeLoads = hasPgbench;

/**
 * All of pgbench's tables and their indexes, as far as there is room: into Postgres's own memory (`buffer`; a scan of a large table would go
 * past it), or (`read`) only into the operating system's, for which an endpoint fetches them.
 */
export function readTables(url: string, into: "buffer" | "read"): Promise<void> {
  return withClient(url, async (client) => {
    await client.query("create extension if not exists pg_prewarm");
    await client.query(
      `select pg_prewarm(oid, '${into}') from pg_class where relname like 'pgbench%' and relkind in ('r', 'i')`,
    );
  });
}

/** `clients` connections, each with one transaction after the other. */
export function runLoad(url: string, kind: LoadKind, load: LoadScale): Promise<LoadResult> {
  const { clients, scale, seconds } = load;
  return hasPgbench
    ? withPgbench(url, kind, load, (tps, directory) => ({
        tps,
        ...latencies(readLog(directory).map(({ ms }) => ms)),
      }))
    : runOwnClients(url, OWN_TRANSACTIONS[kind](scale), clients, seconds);
}

/** Transactions a second in each window of `windowMs` since `beganMs` (of the epoch); only where `canTimeLoads`. */
export function timeLoad(
  url: string,
  kind: LoadKind,
  load: LoadScale,
  windowMs: number,
  beganMs: number,
): Promise<number[]> {
  return withPgbench(url, kind, load, (_, directory) => {
    const counts: number[] = new Array(Math.ceil((load.seconds * 1000) / windowMs)).fill(0);
    for (const { atMs } of readLog(directory)) {
      const window = Math.floor((atMs - beganMs) / windowMs);
      counts[window] = (counts[window] ?? 0) + 1;
    }
    return counts.map((count) => (count * 1000) / windowMs);
  });
}

/** What pgbench runs for each kind but for its own, with `:n` accounts. */
const SCRIPTS: Readonly<Record<Exclude<LoadKind, "tpcb" | "select">, string>> = {
  insert: `${INSERT} (:client_id);`,
  update:
    "\\set aid random(1, :n)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :aid;",
  skewed:
    "\\set aid 1 + int(pow(random(0, 999999) / 1000000.0, 8) * (:n - 1))\nselect abalance from pgbench_accounts where aid = :aid;",
};

async function withPgbench<T>(
  url: string,
  kind: LoadKind,
  { clients, scale, seconds }: LoadScale,
  look: (tps: number, directory: string) => T,
): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "strata-pgbench-"));
  try {
    const flags = ["-n", "-M", "prepared", "-c", String(clients), "-j", "1"];
    flags.push("-T", String(seconds), "-l");
    if (kind === "select") {
      flags.push("-S");
    } else if (kind !== "tpcb") {
      const script = join(directory, "script.sql");
      writeFileSync(script, `${SCRIPTS[kind]}\n`);
      flags.push("-f", script, "-D", `n=${scale * ACCOUNTS_PER_BRANCH}`);
    }
    return look(await pgbenchRate([...flags, url], directory), directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function pgbenchRate(flags: string[], cwd: string): Promise<number> {
  return new Promise((resolve, reject) => {
    execFile("pgbench", flags, { cwd }, (error, stdout, stderr) => {
      const match = /tps = ([\d.]+)/.exec(stdout);
      if (error !== null || match === null) {
        reject(new Error(`pgbench failed: ${stderr}`));
      } else {
        resolve(Number(match[1]));
      }
    });
  });
}

/** Each transaction of pgbench's log: client, number, microseconds, script, and its end as seconds and microseconds of the epoch. */
function readLog(directory: string): { ms: number; atMs: number }[] {
  return readdirSync(directory)
    .filter((name) => name.startsWith("pgbench_log."))
    .flatMap((name) => readFileSync(join(directory, name), "utf8").trimEnd().split("\n"))
    .map((line) => {
      const [, , took, , seconds, microseconds] = line.split(" ").map(Number);
      return { ms: took! / 1000, atMs: seconds! * 1000 + microseconds! / 1000 };
    });
}

function latencies(ms: number[]): { meanMs: number; p99Ms: number } {
  const sorted = ms.sort((a, b) => a - b);
  return {
    meanMs: sorted.reduce((sum, each) => sum + each, 0) / sorted.length,
    p99Ms: sorted[Math.floor(sorted.length * 0.99)]!,
  };
}

const OWN_TRANSACTIONS: Readonly<Record<LoadKind, (scale: number) => Transaction>> = {
  tpcb: (scale) => tpcbTransaction(scale),
  select: (scale) => (client, random) =>
    selectAccount(client, 1 + random.int(scale * ACCOUNTS_PER_BRANCH)),
  skewed: (scale) => (client, random) => {
    const share = (random.int(1_000_000) / 1_000_000) ** 8;
    return selectAccount(client, 1 + Math.floor(share * (scale * ACCOUNTS_PER_BRANCH - 1)));
  },
  update: (scale) => (client, random) =>
    client.query({
      name: "u",
      text: "update pgbench_accounts set abalance = abalance + 1 where aid = $1",
      values: [1 + random.int(scale * ACCOUNTS_PER_BRANCH)],
    }),
  insert: () => (client, _random, name) =>
    client.query({ name: "i", text: `${INSERT} ($1)`, values: [Number.parseInt(name, 10)] }),
};

function selectAccount(client: pg.Client, aid: number): Promise<unknown> {
  const text = "select abalance from pgbench_accounts where aid = $1";
  return client.query({ name: "s", text, values: [aid] });
}

async function runOwnClients(
  url: string,
  transaction: Transaction,
  clients: number,
  seconds: number,
): Promise<LoadResult> {
  const ms: number[] = [];
  await Promise.all(
    Array.from({ length: clients }, (_, index) =>
      withClient(url, async (client) => {
        const random = new SeededRandom(index);
        const end = performance.now() + seconds * 1000;
        for (let started = performance.now(); started < end; ) {
          await transaction(client, random, `${index}`);
          const now = performance.now();
          ms.push(now - started);
          started = now;
        }
      }),
    ),
  );
  return { tps: ms.length / seconds, ...latencies(ms) };
}
