// Client loads against any server: by pgbench where there is one, else by our own clients.

import { execFile, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeededRandom } from "../src/base/random.ts";
import { type Transaction, tpcbTransaction, withClient } from "../testing/tpcb.ts";

/** `tpcb` and `select` as pgbench's; `insert`: one small row into `commit_log` a transaction. */
export type LoadKind = "tpcb" | "select" | "insert";

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

/** `clients` connections, each with one transaction after the other, for `seconds` (a whole number). */
export function runLoad(
  url: string,
  kind: LoadKind,
  options: { readonly clients: number; readonly scale: number; readonly seconds: number },
): Promise<LoadResult> {
  const { clients, scale, seconds } = options;
  return hasPgbench
    ? runPgbench(url, kind, clients, seconds)
    : runOwnClients(url, OWN_TRANSACTIONS[kind](scale), clients, seconds);
}

async function runPgbench(
  url: string,
  kind: LoadKind,
  clients: number,
  seconds: number,
): Promise<LoadResult> {
  const directory = mkdtempSync(join(tmpdir(), "strata-pgbench-"));
  try {
    const script = join(directory, "insert.sql");
    writeFileSync(script, `${INSERT} (:client_id);\n`);
    const what = { tpcb: [], select: ["-S"], insert: ["-f", script] }[kind];
    const flags = ["-n", "-M", "prepared", "-c", String(clients), "-j", "1"];
    flags.push("-T", String(seconds), "-l", ...what, url);
    const tps = await pgbenchRate(flags, directory);
    return { tps, ...latencies(readLog(directory)) };
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

/** Milliseconds: the third field of pgbench's log, there in microseconds. */
function readLog(directory: string): number[] {
  return readdirSync(directory)
    .filter((name) => name.startsWith("pgbench_log."))
    .flatMap((name) => readFileSync(join(directory, name), "utf8").trimEnd().split("\n"))
    .map((line) => Number(line.split(" ")[2]) / 1000);
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
    client.query({
      name: "s",
      text: "select abalance from pgbench_accounts where aid = $1",
      values: [1 + random.int(scale * 100_000)],
    }),
  insert: () => (client, _random, name) =>
    client.query({ name: "i", text: `${INSERT} ($1)`, values: [Number.parseInt(name, 10)] }),
};

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
