// Postgres under the shim in a test: the test's process is the compute agent.

import type { ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { createLogger } from "../../src/base/log.ts";
import { WAL_SEGMENT_SIZE } from "../../src/base/lsn.ts";
import { PROTECTED_SETTINGS } from "../../src/compute/protected-settings.ts";
import {
  type CacheUsage,
  makeCacheCounters,
  readCacheUsage,
} from "../../src/compute/shim/cache-counters.ts";
import {
  checkPostgresBinary,
  findShim,
  shimEnvironment,
} from "../../src/compute/shim/shim-loader.ts";
import {
  type PageHandlers,
  type PlacedFile,
  ShimServer,
  type WalHandlers,
} from "../../src/compute/shim/shim-server.ts";
import { versionDirectory } from "../../src/data-directory/tablespace-directories.ts";
import { type Installation, spawnPostgresTool } from "../../src/postgres/installation.ts";
import { STOCK_USER } from "../stock-cluster.ts";

const PORT = 5432;
const READY_ATTEMPTS = 600;

export interface ShimmedPostgresOptions {
  readonly installation: Installation;
  /** Holds the sockets; the Postgres user may write to it. */
  readonly workdir: string;
  readonly dataDirectory: string;
  readonly pages: PageHandlers;
  readonly wal: WalHandlers;
  readonly walMode?: "quorum" | "none";
  readonly settings?: Readonly<Record<string, string>>;
  /** As the leader of a process group of its own. */
  readonly detached?: boolean;
  /** Absent: without a limit. */
  readonly localCacheBytes?: number | undefined;
  /** What lies in the data directory already. */
  readonly placed?: Promise<readonly PlacedFile[]>;
}

/** WAL is durable at once. */
export const NO_QUORUM: WalHandlers = {
  walWritten: () => undefined,
  flushWal: () => Promise.resolve(),
};

export class ShimmedPostgres {
  readonly process: ChildProcess;
  readonly exited: Promise<string>;
  readonly #options: ShimmedPostgresOptions;
  readonly #clients: pg.Client[] = [];
  #server: ShimServer;
  #ended: string | undefined;
  #log = "";

  /** Resolves when the first connection has been made. */
  static async start(options: ShimmedPostgresOptions): Promise<ShimmedPostgres> {
    await checkPostgresBinary(options.installation);
    const server = await listen(options, options.pages, options.wal);
    makeCacheCounters(countersPath(options));
    const postgres = new ShimmedPostgres(options, server);
    try {
      await postgres.#waitReady();
    } catch (error) {
      await postgres.stop("SIGQUIT");
      throw error;
    }
    return postgres;
  }

  private constructor(options: ShimmedPostgresOptions, server: ShimServer) {
    this.#options = options;
    this.#server = server;
    const settings: Record<string, string> = {
      listen_addresses: "",
      unix_socket_directories: options.workdir,
      port: String(PORT),
      ...PROTECTED_SETTINGS,
      ...(options.installation.major >= 17 ? { io_combine_limit: "256kB" } : {}),
      ...(options.installation.major >= 18 ? { io_method: "sync" } : {}),
      ...options.settings,
    };
    const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    this.process = spawnPostgresTool(
      options.installation,
      "postgres",
      ["-D", options.dataDirectory, ...args],
      {
        detached: options.detached ?? false,
        env: shimEnvironment({
          shimPath: findShim(options.workdir),
          dataDirectory: options.dataDirectory,
          socketPath: socketPath(options),
          wal: options.walMode ?? "quorum",
          walSegmentSize: WAL_SEGMENT_SIZE,
          versionDirectory: versionDirectory({
            pgVersion: options.installation.major,
            controlFile: readFileSync(join(options.dataDirectory, "global", "pg_control")),
          }),
          localCacheBytes: options.localCacheBytes,
          cacheCountersPath: countersPath(options),
        }),
      },
    );
    const hear = (chunk: Buffer) => {
      this.#log += chunk.toString("utf8");
    };
    this.process.stdout?.on("data", hear);
    this.process.stderr?.on("data", hear);
    this.exited = new Promise((resolve) => {
      this.process.once("close", (code, signal) => {
        this.#ended = signal ?? `exit code ${code}`;
        resolve(this.#ended);
      });
    });
  }

  get log(): string {
    return this.#log;
  }

  get cacheUsage(): CacheUsage {
    return readCacheUsage(countersPath(this.#options))!;
  }

  get server(): ShimServer {
    return this.#server;
  }

  /** A new connection; closed by `stop`. */
  async connect(database = "postgres"): Promise<pg.Client> {
    const { workdir: host } = this.#options;
    const client = new pg.Client({ host, port: PORT, user: STOCK_USER, database });
    client.on("error", () => {});
    await client.connect();
    this.#clients.push(client);
    return client;
  }

  /** The agent goes away and, after `pauseMs`, another one takes its place. */
  async replaceAgent(pages: PageHandlers, wal: WalHandlers, pauseMs: number): Promise<void> {
    await this.#server.close();
    await sleep(pauseMs);
    this.#server = await listen(this.#options, pages, wal);
  }

  async stop(signal: "SIGINT" | "SIGQUIT" = "SIGINT"): Promise<string> {
    await Promise.allSettled(this.#clients.splice(0).map((client) => client.end()));
    if (this.#ended === undefined) {
      this.process.kill(signal);
    }
    const ended = await this.exited;
    await this.#server.close();
    return ended;
  }

  async #waitReady(): Promise<void> {
    const loaded = this.#server.postmaster;
    for (let attempt = 0; ; attempt++) {
      if (this.#ended !== undefined || attempt === READY_ATTEMPTS) {
        throw new Error(`Postgres did not start (${this.#ended}): ${this.#log}`);
      }
      try {
        await this.connect();
        break;
      } catch {
        await sleep(10);
      }
    }
    await loaded;
  }
}

function countersPath(options: ShimmedPostgresOptions): string {
  return join(options.workdir, "cache-counters");
}

function socketPath(options: ShimmedPostgresOptions): string {
  return join(options.workdir, "shim.sock");
}

async function listen(
  options: ShimmedPostgresOptions,
  pages: PageHandlers,
  wal: WalHandlers,
): Promise<ShimServer> {
  const server = new ShimServer({
    socketPath: socketPath(options),
    logger: createLogger("test", "silent"),
    ...(options.placed === undefined ? {} : { placed: options.placed }),
    handlers: {
      stat: (file) => pages.stat(file),
      readPages: (file, blkno, count) => pages.readPages(file, blkno, count),
      listDirectory: (directory) => pages.listDirectory(directory),
      prefetch: (file, blkno, count) => pages.prefetch(file, blkno, count),
      walWritten: (segno, offset, length) => wal.walWritten(segno, offset, length),
      flushWal: (segno, endOffset) => wal.flushWal(segno, endOffset),
      extensionPaceMicros: () => wal.extensionPaceMicros?.() ?? 0,
    },
  });
  await server.listen();
  return server;
}
