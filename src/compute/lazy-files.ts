// What stands between Postgres and its files: the shim's environment, and who answers it.

import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "../base/clock.ts";
import { readFileIfExists } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { ComputeState, TenantTimeline } from "../pageserver/api.ts";
import { type Installation, socketDirectory } from "../postgres/installation.ts";
import { PageSource, pageserverPageService } from "./page-source.ts";
import { checkPostgresBinary, findShim, SHIM_FILES, shimEnvironment } from "./shim-loader.ts";
import { ShimServer } from "./shim-server.ts";

const SOCKET_NAME = "shim.sock";

/**
 * Path of the library that Postgres must be started with; checks that this Postgres can be. Both
 * take up to 50 ms, so neither is repeated while no file that they depend on has changed.
 */
export async function prepareShim(installation: Installation, workdir: string): Promise<string> {
  const inputs = [join(installation.binDir, "postgres"), ...SHIM_FILES];
  const stamps = inputs.map((path) => `${path} ${stamp(path)}`);
  const record = join(workdir, "checked-postgres");
  const [shim, shimStamp, ...checked] = (readFileIfExists(record)?.toString() ?? "").split("\n");
  if (checked.join() === stamps.join() && shimStamp === stamp(shim!)) {
    return shim!;
  }
  await checkPostgresBinary(installation);
  const found = findShim(workdir);
  writeFileSync(record, [found, stamp(found), ...stamps].join("\n"));
  return found;
}

/** What changes with the bytes of a file, and cannot be set back; empty where there is none. */
function stamp(path: string): string {
  const status = statSync(path, { throwIfNoEntry: false });
  return status === undefined ? "" : `${status.ino} ${status.size} ${status.ctimeMs}`;
}

export interface LazyFilesOptions {
  /** As `prepareShim` gave it. */
  readonly shim: string;
  readonly workdir: string;
  readonly dataDirectory: string;
  readonly timeline: TenantTimeline;
  readonly pageserverAddress: string;
  /** Pages are served as of `state.lsn`. */
  readonly state: ComputeState;
  /** Undefined: nothing is written, syncs do nothing. */
  readonly wal:
    | {
        written(segment: number, offset: number, length: number): void;
        flush(segment: number, endOffset: number): Promise<void>;
      }
    | undefined;
  readonly logger: Logger;
}

export class LazyFiles {
  /** What Postgres's environment must hold. */
  readonly environment: Readonly<Record<string, string>>;
  readonly #pages: PageSource;
  readonly #server: ShimServer;

  static async start(options: LazyFilesOptions): Promise<LazyFiles> {
    const files = new LazyFiles(options);
    await files.#server.listen();
    return files;
  }

  private constructor(options: LazyFilesOptions) {
    const { wal, logger, dataDirectory } = options;
    const { lsn } = options.state;
    const socketPath = join(socketDirectory(options.workdir, SOCKET_NAME), SOCKET_NAME);
    this.#pages = new PageSource({
      service: pageserverPageService(options.pageserverAddress, options.timeline, lsn),
      lsn,
      checkPoint: options.state.checkPoint,
      logger,
    });
    this.#pages.warmUp();
    const pages = this.#pages;
    this.#server = new ShimServer({
      socketPath,
      logger,
      handlers: {
        stat: (path) => pages.stat(path),
        readPages: (path, blkno, count) => pages.readPages(path, blkno, count),
        listDirectory: (directory) => pages.listDirectory(directory),
        prefetch: (path, blkno, count) => pages.prefetch(path, blkno, count),
        walWritten: (segment, offset, length) => wal?.written(segment, offset, length),
        flushWal: (segment, endOffset) => wal?.flush(segment, endOffset) ?? Promise.resolve(),
      },
    });
    this.environment = shimEnvironment({
      shimPath: options.shim,
      dataDirectory,
      socketPath,
      wal: wal === undefined ? "none" : "quorum",
      walSegmentSize: options.state.walSegmentSize,
    });
  }

  /**
   * Resolves when a process that has loaded the shim has said so. Postgres without it would find
   * empty files and acknowledge commits that are nowhere, so until then it must not be used.
   * StorageError `internal` after `timeoutMs`.
   */
  async shimLoaded(timeoutMs: number): Promise<void> {
    const timer = new AbortController();
    const late = sleep(timeoutMs, timer.signal).then(() => {
      throw new StorageError("internal", "shim-not-loaded", "Postgres has not loaded the shim");
    });
    try {
      await Promise.race([this.#server.postmaster, late]);
    } finally {
      late.catch(() => undefined);
      timer.abort();
    }
  }

  /** No flush is answered as done any more; whoever waits for one ends. */
  fence(): void {
    this.#server.fence();
  }

  async close(): Promise<void> {
    await this.#server.close();
    this.#pages.close();
  }
}
