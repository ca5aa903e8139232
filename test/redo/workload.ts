// The whole workload of the conformance test, which makes every record kind of opcodes.ts occur.

import type pg from "pg";
import { prepareMixedWorkload, runMixedWorkload } from "../../testing/mixed-workload.ts";
import {
  prepareGinBrinWorkload,
  runGinBrinWorkload,
} from "../../testing/redo/gin-brin-workload.ts";
import {
  prepareGistSpgistHashWorkload,
  runGistSpgistHashWorkload,
} from "../../testing/redo/gist-spgist-hash-workload.ts";
import type { StockCluster } from "../../testing/stock-cluster.ts";
import { crashes } from "./crashes.ts";
import { concurrentBuilds, freezing, partitionMoves, pruning, tupleSizes } from "./heap-records.ts";
import { operatorClasses, prepareOperatorClasses } from "./operator-classes.ts";
import {
  freezeAll,
  logicalDecoding,
  multixacts,
  replicationOrigins,
  serverRecords,
  subtransactions,
  tablespaces,
} from "./server-records.ts";

/** What a cluster of this workload must be set to before its first start. */
export const WORKLOAD_SETTINGS: Readonly<Record<string, string>> = {
  autovacuum: "off",
  // crashes.ts says why.
  bgwriter_lru_maxpages: "0",
  shared_buffers: "'256MB'",
  track_commit_timestamp: "on",
  wal_level: "logical",
};

export async function prepareWorkload(client: pg.Client): Promise<void> {
  await prepareMixedWorkload(client);
  await prepareGinBrinWorkload(client);
  await prepareGistSpgistHashWorkload(client);
  await prepareOperatorClasses(client);
}

export interface ConformanceWorkloadOptions {
  readonly seed: number;
  readonly scale: number;
  /** Each part runs with another wal_compression of those that the binaries have. */
  readonly compress?: boolean;
  /** Leaves out what takes long and shows little that is new: deep trees of GIN. */
  readonly brief?: boolean;
  /** Told of each part as it begins. */
  readonly onPart?: (name: string) => void;
}

/** Runs every part in turn; between some of them Postgres restarts. */
export async function runWorkload(
  cluster: StockCluster,
  { seed, scale, compress, brief, onPart }: ConformanceWorkloadOptions,
): Promise<void> {
  const parts: readonly (readonly [string, () => Promise<void>])[] = [
    ["logical decoding", () => logicalDecoding(cluster)],
    ["replication origins", () => replicationOrigins(cluster)],
    ["server records", () => serverRecords(cluster)],
    ["subtransactions", () => subtransactions(cluster)],
    ["multixacts", () => multixacts(cluster)],
    ["tuple sizes", () => tupleSizes(cluster)],
    ["pruning", () => pruning(cluster)],
    ["freezing", () => freezing(cluster)],
    ["partition moves", () => partitionMoves(cluster)],
    ["concurrent builds", () => concurrentBuilds(cluster)],
    ["operator classes", () => operatorClasses(cluster, seed, scale)],
    ["gin, brin", () => runGinBrinWorkload(cluster, brief)],
    [
      "gist, spgist, hash",
      () =>
        runGistSpgistHashWorkload(cluster, {
          seed,
          scale: 0.3 * scale,
          uncheckedGistDeletion: true,
        }),
    ],
    ["mixed", () => runMixedWorkload(cluster, { seed, scale: 0.4 * scale })],
    ["crashes", () => crashes(cluster)],
    ["tablespaces", () => tablespaces(cluster)],
    ["the end", () => theEnd(cluster)],
  ];
  const methods = compress === true ? await compressionMethods(cluster) : [];
  for (const [i, [name, run]] of parts.entries()) {
    onPart?.(name);
    if (methods.length > 0) {
      const client = await cluster.connect();
      await client.query(`ALTER SYSTEM SET wal_compression = ${methods[i % methods.length]}`);
      await client.query("SELECT pg_reload_conf()");
    }
    await run();
  }
}

/** Of full-page images: what wal_compression can be set to, `off` among them. */
export async function compressionMethods(cluster: StockCluster): Promise<string[]> {
  const client = await cluster.connect();
  const answer = await client.query<{ values: string[] | null }>(
    "SELECT enumvals AS values FROM pg_settings WHERE name = 'wal_compression'",
  );
  // In 14 it is on or off: pglz or nothing.
  return answer.rows[0]?.values?.filter((value) => value !== "on") ?? ["on", "off"];
}

async function theEnd(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  // The mixed workload leaves it; it would keep everything from being frozen.
  await client.query("ROLLBACK PREPARED 'p2'");
  await freezeAll(cluster);
  await client.query(`BEGIN; CREATE TABLE prepared_at_the_end AS SELECT 1 AS x;
    PREPARE TRANSACTION 'at the end'`);
}
