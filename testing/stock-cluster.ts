// An unmodified Postgres cluster in a directory of its own, for tests that need its WAL or its files; and base backups of any.

import { execFileSync } from "node:child_process";
import type { EventEmitter } from "node:events";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { type Lsn, parseLsn } from "../src/base/lsn.ts";
import {
  DEFAULT_MAJOR,
  findInstallation,
  giveToPostgres,
  type Installation,
  postgresUser,
  runPostgresTool,
} from "../src/postgres/installation.ts";
import { spreadDirectories } from "./homes/run-directory.ts";
import { initdbOnce } from "./homes/stock-template.ts";
import { killTree } from "./process-faults.ts";

/** Superuser of every stock cluster. */
export const STOCK_USER = "postgres";
/** No TCP: the number only names the socket file in a directory of its own. */
const PORT = 5432;

export interface StockClusterOptions {
  readonly pgMajor?: number;
  /** Directory with that major's binaries, where they are not the npm package's. */
  readonly pgBin?: string | undefined;
  readonly initdbArgs?: readonly string[];
  /** Lines for postgresql.conf on top of those that every test wants. */
  readonly settings?: Readonly<Record<string, string>>;
}

export class StockCluster {
  /** Removed by `destroy`, with the data directory in it. */
  readonly workdir: string;
  readonly dataDir: string;
  readonly installation: Installation;
  readonly #clients: pg.Client[] = [];
  #running = false;

  private constructor(workdir: string, installation: Installation) {
    this.workdir = workdir;
    this.dataDir = this.place("data");
    this.installation = installation;
  }

  /** Runs initdb; the cluster is not started. */
  static async create(options: StockClusterOptions = {}): Promise<StockCluster> {
    const installation = findInstallation(options.pgMajor ?? DEFAULT_MAJOR, {
      pgBin: options.pgBin,
    });
    const workdir = await mkdtemp(join(tmpdir(), "strata-stock-"));
    // Data directories are copied in it.
    spreadDirectories(workdir);
    giveToPostgres(workdir);
    const cluster = new StockCluster(workdir, installation);
    try {
      const args = [
        `--username=${STOCK_USER}`,
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
        ...(options.initdbArgs ?? []),
      ];
      await initdbOnce(installation, args, cluster.dataDir);
    } catch (error) {
      rmSync(workdir, { recursive: true, force: true });
      throw error;
    }
    cluster.configure({
      fsync: "off",
      wal_level: "replica",
      // All WAL since the base is replayed from pg_wal itself.
      wal_keep_size: "'16GB'",
      wal_recycle: "off",
      // A new segment is a hole until it is written: less to write, and to copy.
      wal_init_zero: "off",
      max_wal_size: "'4GB'",
      max_prepared_transactions: "20",
      shared_buffers: "'64MB'",
      listen_addresses: "''",
      port: `${PORT}`,
      unix_socket_directories: `'${workdir}'`,
      ...options.settings,
    });
    return cluster;
  }

  /** A path in `workdir`. Where a directory begins on the disk (spreadDirectories) comes of its name: no other cluster has this one. */
  place(name: string): string {
    return join(this.workdir, `${name}-${this.workdir.slice(-6)}`);
  }

  configure(settings: Readonly<Record<string, string>>): void {
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}\n`);
    appendFileSync(join(this.dataDir, "postgresql.conf"), lines.join(""));
  }

  async start(): Promise<void> {
    const log = join(this.workdir, "log");
    try {
      await this.#pgCtl("start", "-l", log, "-t", "120");
    } catch (error) {
      const text = existsSync(log) ? readFileSync(log, "utf8") : "";
      throw new Error(`start stock Postgres: ${text.slice(-1000)}`, { cause: error });
    }
    this.#running = true;
  }

  /** `immediate` leaves what a crash leaves. Closes all clients. */
  async stop(mode: "fast" | "immediate" = "fast"): Promise<void> {
    await Promise.allSettled(this.#clients.splice(0).map((client) => client.end()));
    if (this.#running) {
      this.#running = false;
      await this.#pgCtl("stop", "-m", mode, "-t", "120");
    }
  }

  /** While it runs. */
  get postmasterPid(): number {
    return Number.parseInt(readFileSync(join(this.dataDir, "postmaster.pid"), "latin1"), 10);
  }

  /** SIGKILL to the postmaster and all that it has started; they are gone on return. Closes all clients. */
  async kill9(): Promise<void> {
    await Promise.allSettled(this.#clients.splice(0).map((client) => client.end()));
    const pid = this.postmasterPid;
    this.#running = false;
    await killTree(pid);
    // Where nobody waits for orphans the process stays as a zombie, and a new postmaster takes it for another one that runs.
    rmSync(join(this.dataDir, "postmaster.pid"));
    rmSync(join(this.workdir, `.s.PGSQL.${PORT}.lock`));
  }

  async #pgCtl(action: string, ...args: string[]): Promise<void> {
    await runPostgresTool(this.installation, "pg_ctl", ["-D", this.dataDir, "-w", ...args, action]);
  }

  /** A new connection; closed by `stop`. */
  async connect(database = "postgres"): Promise<pg.Client> {
    const client = new pg.Client({ host: this.workdir, port: PORT, user: STOCK_USER, database });
    // A server that stops must not take the test down through an unheard 'error' event.
    client.on("error", () => {});
    await client.connect();
    this.#clients.push(client);
    return client;
  }

  /** End of the last WAL record inserted so far. */
  async currentLsn(client: pg.Client): Promise<Lsn> {
    const answer = await client.query<{ lsn: string }>(
      "SELECT pg_current_wal_insert_lsn()::text AS lsn",
    );
    return parseLsn(answer.rows[0]!.lsn)!;
  }

  /** Copies the data directory as it is; only a stopped cluster gives a consistent one. */
  copyData(name: string): string {
    const target = this.place(name);
    copyTree(this.dataDir, target);
    return target;
  }

  async destroy(): Promise<void> {
    try {
      await this.stop("immediate");
    } finally {
      rmSync(this.workdir, { recursive: true, force: true });
    }
  }
}

/** Copies a directory with owners and modes, which Postgres insists on. */
export function copyTree(from: string, to: string): void {
  execFileSync("cp", ["-a", from, to]);
}

/** An empty directory that the Postgres user owns. */
export function makePostgresDirectory(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  giveToPostgres(path);
}

/** A file that the Postgres user owns. */
export function writePostgresFile(path: string, content: string | Uint8Array): void {
  writeFileSync(path, content);
  giveToPostgres(path);
}

/** The archive `base.tar`. `withWal`: with the WAL that it needs, as `pg_basebackup -X fetch`. */
async function baseBackupArchive(
  conninfo: pg.ClientConfig,
  major: number,
  withWal: boolean,
): Promise<Buffer> {
  const client = new pg.Client({ ...conninfo, replication: "true" } as pg.ClientConfig);
  await client.connect();
  const parts: Buffer[] = [];
  const { connection } = client as unknown as { connection: EventEmitter };
  connection.on("copyData", ({ chunk }: { chunk: Buffer }) => {
    // From 15 on one stream has everything, by a letter: archive name, data, manifest, progress.
    if (major < 15 || chunk[0] === "d".charCodeAt(0)) {
      parts.push(Buffer.from(chunk.subarray(major < 15 ? 0 : 1)));
    }
  });
  await client.query(
    major < 15
      ? `BASE_BACKUP LABEL 'b' FAST ${withWal ? "WAL" : ""}`
      : `BASE_BACKUP (LABEL 'b', CHECKPOINT 'fast', WAL ${withWal})`,
  );
  await client.end();
  return Buffer.concat(parts);
}

/** Into `directory`, which is made. */
export async function takeBaseBackup(
  conninfo: pg.ClientConfig,
  major: number,
  directory: string,
  { withWal = false } = {},
): Promise<void> {
  const archive = await baseBackupArchive(conninfo, major, withWal);
  makePostgresDirectory(directory);
  const user = postgresUser();
  execFileSync("tar", ["-xf", "-", "-C", directory], {
    input: archive,
    ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
  });
}

/** As `pg_basebackup -Ft -X fetch`, in one file. */
export async function takeBaseBackupFile(
  conninfo: pg.ClientConfig,
  major: number,
  file: string,
): Promise<void> {
  writeFileSync(file, await baseBackupArchive(conninfo, major, true));
}
