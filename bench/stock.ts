// A stock Postgres cluster of the same binary, the other side of every comparison.

import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "../src/base/clock.ts";
import {
  DEFAULT_MAJOR,
  findInstallation,
  giveToPostgres,
  spawnPostgresTool,
} from "../src/postgres/installation.ts";
import { freePort } from "../testing/free-port.ts";
import { copyTree } from "../testing/stock-cluster.ts";
import { connect, withClient } from "../testing/tpcb.ts";

/** What both sides run with, so that only storage differs. */
export const COMMON_SETTINGS: Readonly<Record<string, string>> = {
  shared_buffers: "128MB",
  max_connections: "100",
  autovacuum: "off",
};

export class StockCluster {
  readonly dataDir: string;
  readonly port: number;
  readonly pgMajor: number;
  readonly #root: string;
  #process: ChildProcess | undefined;

  private constructor(root: string, port: number, pgMajor: number) {
    this.#root = root;
    this.dataDir = join(root, "data");
    this.port = port;
    this.pgMajor = pgMajor;
  }

  get url(): string {
    return `postgresql://cloud_admin@127.0.0.1:${this.port}/postgres`;
  }

  /** initdb with the options that Strata's own template has; not started. */
  static async create(
    settings: Readonly<Record<string, string>> = {},
    pgMajor: number = DEFAULT_MAJOR,
  ): Promise<StockCluster> {
    const cluster = await StockCluster.#empty(pgMajor);
    const arguments_ = ["-D", cluster.dataDir, "-U", "cloud_admin", "--auth=trust", "--no-sync"];
    arguments_.push("--no-instructions", "-E", "UTF8");
    arguments_.push(
      ...(pgMajor >= 17 ? ["--locale-provider=builtin", "--locale=C.UTF-8"] : ["--locale=C"]),
    );
    const installation = findInstallation(pgMajor);
    const initdb = spawnPostgresTool(installation, "initdb", arguments_, { stdio: "ignore" });
    const [code] = await once(initdb, "exit");
    assert.equal(code, 0, "initdb failed");
    cluster.configure({ ...COMMON_SETTINGS, ...settings });
    return cluster;
  }

  static async #empty(pgMajor: number): Promise<StockCluster> {
    const root = mkdtempSync(join(tmpdir(), "strata-bench-"));
    chmodSync(root, 0o755);
    giveToPostgres(root);
    return new StockCluster(root, await freePort(), pgMajor);
  }

  /** A byte copy of this cluster while it is stopped, with a port of its own. */
  copy(settings: Readonly<Record<string, string>> = {}): Promise<StockCluster> {
    return this.copyOf(this.dataDir, settings);
  }

  /** The same of any directory that a stopped cluster left. */
  async copyOf(
    directory: string,
    settings: Readonly<Record<string, string>>,
  ): Promise<StockCluster> {
    const copy = await StockCluster.#empty(this.pgMajor);
    copyTree(directory, copy.dataDir);
    copy.configure(settings);
    return copy;
  }

  configure(settings: Readonly<Record<string, string>>): void {
    const lines = Object.entries(settings).map(([name, value]) => `${name} = '${value}'\n`);
    appendFileSync(join(this.dataDir, "postgresql.conf"), lines.join(""));
  }

  /** Writes an empty file into the data directory: `standby.signal`, `recovery.signal`. */
  signal(name: string): void {
    const path = join(this.dataDir, name);
    writeFileSync(path, "");
    giveToPostgres(path);
  }

  /** Of its postmaster, while it runs. */
  get pid(): number {
    return this.#process!.pid!;
  }

  /** Returns when the first row was answered, which may take `timeoutMs`: milliseconds from exec. */
  async start(timeoutMs = 60_000): Promise<number> {
    const logPath = join(this.#root, "log");
    const log = openSync(logPath, "a");
    const began = performance.now();
    const flags = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="];
    this.#process = spawnPostgresTool(
      findInstallation(this.pgMajor),
      "postgres",
      ["-D", this.dataDir, "-p", String(this.port), ...flags],
      { stdio: ["ignore", log, log] },
    );
    closeSync(log);
    const died = once(this.#process, "exit").then(() => {
      throw new Error(`stock postgres ended:\n${readFileSync(logPath, "utf8").slice(-2000)}`);
    });
    // After the start, `stop` is what waits for the exit.
    died.catch(() => {});
    await Promise.race([firstRow(this.url, timeoutMs), died]);
    return performance.now() - began;
  }

  async stop(signal: "SIGINT" | "SIGQUIT" = "SIGINT"): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child !== undefined && child.exitCode === null) {
      child.kill(signal);
      await once(child, "exit");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGQUIT");
    rmSync(this.#root, { recursive: true, force: true });
  }
}

/** Polls each millisecond until `select 1` is answered. */
export async function firstRow(url: string, timeoutMs = 60_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      const client = await connect(url);
      await client.query("select 1");
      await client.end();
      return;
    } catch (error) {
      if (performance.now() > deadline) {
        throw error;
      }
      await sleep(1);
    }
  }
}

interface PrimaryAndStandby {
  readonly primary: StockCluster;
  readonly standby: StockCluster;
}

/** A primary with one streaming standby on the same disk, both stock: what `base`, which does not run, is. */
export function startWithStandby(base: StockCluster): Promise<PrimaryAndStandby> {
  return startBoth(base, async () => {});
}

/** The same, and commits of the primary wait for the standby. */
export function startWithSynchronousStandby(base: StockCluster): Promise<PrimaryAndStandby> {
  return startBoth(base, (primary) => becomeSynchronous(primary));
}

/**
 * A primary and two streaming standbys on the same disk, all stock: three copies, and commits wait for one of the standbys, as
 * ours wait for two of three safekeepers.
 */
export async function startQuorumOfThree(
  base: StockCluster,
): Promise<{ readonly primary: StockCluster } & AsyncDisposable> {
  const primary = await base.copy({ wal_level: "replica", wal_keep_size: "4GB" });
  const all = [primary];
  const dispose = async () => {
    for (const cluster of all) {
      await cluster[Symbol.asyncDispose]();
    }
  };
  try {
    for (let i = 0; i < 2; i++) {
      all.push(await makeStandbyOf(primary));
    }
    await primary.start();
    await Promise.all(all.slice(1).map((standby) => standby.start()));
    await becomeSynchronous(primary, "ANY 1 (standby)", 2);
  } catch (error) {
    await dispose();
    throw error;
  }
  return { primary, [Symbol.asyncDispose]: dispose };
}

/** Not started yet. */
async function makeStandbyOf(primary: StockCluster): Promise<StockCluster> {
  const standby = await primary.copy({
    primary_conninfo: `host=127.0.0.1 port=${primary.port} user=cloud_admin application_name=standby`,
  });
  standby.signal("standby.signal");
  return standby;
}

async function startBoth(
  base: StockCluster,
  then: (primary: StockCluster) => Promise<void>,
): Promise<PrimaryAndStandby> {
  const primary = await base.copy({
    wal_level: "replica",
    wal_keep_size: "4GB",
  });
  const standby = await makeStandbyOf(primary);
  try {
    await primary.start();
    await standby.start();
    await then(primary);
  } catch (error) {
    await primary[Symbol.asyncDispose]();
    await standby[Symbol.asyncDispose]();
    throw error;
  }
  return { primary, standby };
}

/** A program of this major, in `pgBin` or in $PATH, that does not come with Strata; undefined where there is none. */
export function findProgram(
  name: "pg_receivewal" | "pg_basebackup",
  pgMajor: number,
  pgBin: string | undefined,
): string | undefined {
  return [...(pgBin === undefined ? [] : [join(pgBin, name)]), name].find((path) => {
    const { stdout } = spawnSync(path, ["--version"], { encoding: "utf8" });
    return stdout?.includes(`(PostgreSQL) ${pgMajor}.`) === true;
  });
}

/** A primary that waits for `pg_receivewal --synchronous`, which writes on the same disk. */
export class ReceivewalCluster {
  readonly primary: StockCluster;
  readonly #directory = mkdtempSync(join(tmpdir(), "strata-receivewal-"));
  readonly #process: ChildProcess;

  private constructor(primary: StockCluster, program: string) {
    this.primary = primary;
    const from = `host=127.0.0.1 port=${primary.port} user=cloud_admin application_name=standby`;
    const arguments_ = ["--synchronous", "-D", this.#directory, "-d", from];
    this.#process = spawn(program, arguments_, { stdio: "ignore" });
  }

  static async start(base: StockCluster, program: string): Promise<ReceivewalCluster> {
    const primary = await base.copy({ wal_level: "replica", wal_keep_size: "4GB" });
    let cluster: ReceivewalCluster | undefined;
    try {
      await primary.start();
      cluster = new ReceivewalCluster(primary, program);
      await becomeSynchronous(primary);
      return cluster;
    } catch (error) {
      await (cluster ?? primary)[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.primary[Symbol.asyncDispose]();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** Returns when so many standbys stream that commits may wait for. */
function becomeSynchronous(primary: StockCluster, names = "standby", count = 1): Promise<void> {
  return withClient(primary.url, async (client) => {
    await client.query(`alter system set synchronous_standby_names = '${names}'`);
    await client.query("select pg_reload_conf()");
    for (let i = 0; i < 200; i++) {
      const { rows } = await client.query(
        "select 1 from pg_stat_replication where sync_state in ('sync', 'quorum')",
      );
      if (rows.length >= count) {
        return;
      }
      await sleep(50);
    }
    throw new Error("the standby did not become synchronous");
  });
}
