// For tests: a stopped stock cluster, and synthesized data directories with its relations in place.

import {
  closeSync,
  cpSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { INVALID_LSN, type Lsn } from "../src/base/lsn.ts";
import { PostgresProcess } from "../src/compute/postgres-process.ts";
import { postgresSettings } from "../src/compute/postgres-settings.ts";
import { makeSkeleton } from "../src/data-directory/make-directory.ts";
import { type ReplayStart, writeDataDirectory } from "../src/data-directory/start-directory.ts";
import type { SynthesizedWal } from "../src/data-directory/synthesized-wal.ts";
import type { ComputeState } from "../src/pageserver/api.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import {
  findInstallation,
  giveToPostgres,
  postgresSocketDirectory,
  postgresUser,
  runPostgresTool,
} from "../src/postgres/installation.ts";
import { pgVersion } from "../src/postgres/versions.ts";
import { connectWire, type WireConnection } from "../src/postgres/wire/wire-client.ts";
import { freePort } from "./free-port.ts";

export const installation = findInstallation();
const SEGMENT_SIZE = 16 * 1024 * 1024;

export interface RunningPostgres {
  readonly process: PostgresProcess;
  readonly port: number;
  connect(): Promise<WireConnection>;
}

/** A cluster with a table `numbers` (1000 rows, sum 500500), an empty one `prepared`, a database
 *  `other`, and a prepared transaction `pending` that inserts one row into `prepared`; shut down. */
export class StoppedCluster {
  readonly directory: string;
  readonly stock: string;
  #postgresOid = 0;

  static async create(): Promise<StoppedCluster> {
    const cluster = new StoppedCluster();
    await cluster.#initialize();
    return cluster;
  }

  private constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "strata-synthesized-"));
    giveToPostgres(this.directory);
    this.stock = join(this.directory, "stock");
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  async #initialize(): Promise<void> {
    await runPostgresTool(installation, "initdb", [
      ...["-D", this.stock, "-U", "cloud_admin", "--no-sync", "--no-instructions", "-E", "UTF8"],
      "--locale=C",
      ...(installation.major >= 18 ? ["--no-data-checksums"] : []),
    ]);
    const run = await startPostgres(this.stock, ["-c", "max_prepared_transactions=10"]);
    const sql = await run.connect();
    const database = await sql.query("SELECT oid FROM pg_database WHERE datname = 'postgres'");
    this.#postgresOid = Number(database.rows[0]![0]);
    await sql.query(
      "CREATE TABLE numbers AS SELECT n, 'row ' || n AS t FROM generate_series(1, 1000) n",
    );
    await sql.query("CREATE DATABASE other");
    await sql.query("CREATE TABLE prepared (n int)");
    await sql.query("BEGIN; INSERT INTO prepared VALUES (7); PREPARE TRANSACTION 'pending'");
    sql.close();
    await run.process.stop("fast");
  }

  /** What storage would say of the cluster, as if its WAL had gone on to `lsn`. */
  stateAt(lsn: Lsn): ComputeState {
    const read = (path: string) => readFileSync(join(this.stock, path));
    const controlFile = read("global/pg_control");
    const control = decodeControlFile(controlFile, pgVersion(installation.major).major);
    const databases = readdirSync(join(this.stock, "base")).map(Number);
    return {
      lsn,
      prevRecordLsn: 0 as Lsn,
      systemId: control.systemId + 1n,
      pgVersion: installation.major,
      walSegmentSize: SEGMENT_SIZE,
      checkPoint: control.checkPoint,
      controlFile,
      relationMaps: [
        { spcOid: 1664, dbOid: 0, bytes: read("global/pg_filenode.map") },
        ...databases.map((dbOid) => ({
          spcOid: 1663,
          dbOid,
          bytes: read(`base/${dbOid}/pg_filenode.map`),
        })),
      ],
      databases: databases.map((dbOid) => ({ spcOid: 1663, dbOid })),
      tablespaces: [],
      twoPhase: readdirSync(join(this.stock, "pg_twophase")).map((name) => ({
        fullXid: BigInt(`0x${name}`),
        payload: read(`pg_twophase/${name}`).subarray(0, -4),
      })),
      hasInheritedSubscriptions: false,
      replicationOrigins: [],
      timelineStartLsn: INVALID_LSN,
      standbySnapshots: [],
      auxFiles: [],
    };
  }

  /** A synthesized data directory that begins at `lsn`, relations and SLRUs copied into it. */
  async synthesize(
    name: string,
    lsn: Lsn,
    options: { standby?: boolean; replay?: ReplayStart; prevRecordLsn?: Lsn } = {},
  ): Promise<{ path: string; wal: SynthesizedWal; args: readonly string[]; state: ComputeState }> {
    const path = join(this.directory, name);
    const settings = postgresSettings({
      pgVersion: installation.major,
      host: "127.0.0.1",
      port: 1,
      socketDirectory: "/tmp",
      settings: { shared_buffers: "16MB" },
      preparedTransactions: 1,
      replicationOrigins: 0,
    });
    const { standby = false, replay, prevRecordLsn = INVALID_LSN } = options;
    const state = { ...this.stateAt(lsn), prevRecordLsn };
    await makeSkeleton(path);
    const wal = writeDataDirectory({ path, state, settings, standby, replay });
    // Of the databases only `postgres`, to which the tests connect.
    for (const part of [`base/${this.#postgresOid}`, "global", "pg_xact", "pg_multixact"]) {
      cpSync(join(this.stock, part), join(path, part), { recursive: true, force: false });
    }
    giveTree(path);
    return { path, wal, args: settings.commandLine, state };
  }
}

function giveTree(path: string): void {
  if (postgresUser() === undefined) {
    return;
  }
  giveToPostgres(path);
  if (statSync(path).isDirectory()) {
    for (const name of readdirSync(path)) {
      giveTree(join(path, name));
    }
  }
}

/** Postgres on a unix socket, accepting connections; its log goes beside the data directory. */
export async function startPostgres(
  dataDirectory: string,
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Promise<RunningPostgres> {
  const port = await freePort();
  const host = postgresSocketDirectory(dirname(dataDirectory));
  const logPath = `${dataDirectory}.log`;
  const logFd = openSync(logPath, "a");
  const process = await PostgresProcess.start({
    installation,
    dataDirectory,
    args: ["-p", String(port), "-c", `unix_socket_directories=${host}`, ...args],
    env,
    logFd,
  });
  closeSync(logFd);
  try {
    await process.waitReady(20_000);
  } catch (error) {
    await process.stop("immediate");
    throw new Error(readFileSync(logPath, "utf8"), { cause: error });
  }
  const connect = () =>
    connectWire({
      host,
      port,
      parameters: { user: "cloud_admin", database: "postgres" },
    });
  return { process, port, connect };
}
