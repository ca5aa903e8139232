// What stands between Postgres and its files: the shim's environment, and who answers it.

import { statSync, writeFileSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import { sleep } from "../../base/clock.ts";
import { readFileIfExists } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { SpareFiles } from "../../data-directory/spare-files.ts";
import { versionDirectory } from "../../data-directory/tablespace-directories.ts";
import type { ComputeState, TenantTimeline } from "../../pageserver/api.ts";
import { type Installation, socketDirectory } from "../../postgres/installation.ts";
import type { StorageFile } from "../../postgres/relation-path.ts";
import { CHECKED_POSTGRES_NAME, START_READS_NAME } from "../api.ts";
import {
  makeReadCounts,
  OWN_EXTENSION_NAME,
  placeOwnExtension,
  READ_COUNTS_NAME,
} from "../extensions/strata-extension.ts";
import { type CacheUsage, makeCacheCounters, readCacheUsage } from "../shim/cache-counters.ts";
import { checkPostgresBinary, findShim, SHIM_FILES, shimEnvironment } from "../shim/shim-loader.ts";
import { type PlacedFile, ShimServer } from "../shim/shim-server.ts";
import { ServedFiles } from "../shutdown/served-files.ts";
import { type PageClient, PageSource, pageserverPageService } from "./page-source.ts";
import { FilePlacement, StartReads } from "./start-reads.ts";
import { type Progress, WrittenBlocks } from "./written-blocks.ts";

const SOCKET_NAME = "shim.sock";
const COUNTERS_NAME = "cache-counters";

/**
 * Path of the library that Postgres must be started with; checks that this Postgres can be. Both
 * take up to 50 ms, so neither is repeated while no file that they depend on has changed.
 */
export async function prepareShim(installation: Installation, workdir: string): Promise<string> {
  const inputs = [join(installation.binDir, "postgres"), ...SHIM_FILES];
  const stamps = inputs.map((path) => `${path} ${stamp(path)}`);
  const record = join(workdir, CHECKED_POSTGRES_NAME);
  const [shim, shimStamp, ...checked] = (readFileIfExists(record)?.toString() ?? "").split("\n");
  // A new endpoint begins with another one's record; a library in that one's directory may go with it.
  const isAnothers = isIn(dirname(workdir), shim!) && !isIn(workdir, shim!);
  if (checked.join() === stamps.join() && shimStamp === stamp(shim!) && !isAnothers) {
    return shim!;
  }
  await checkPostgresBinary(installation);
  const found = findShim(workdir);
  writeFileSync(record, [found, stamp(found), ...stamps].join("\n"));
  return found;
}

function isIn(directory: string, path: string): boolean {
  return path.startsWith(`${directory}${sep}`);
}

/** What changes with the bytes of a file, and cannot be set back; empty where there is none. */
function stamp(path: string): string {
  const status = statSync(path, { throwIfNoEntry: false });
  return status === undefined ? "" : `${status.ino} ${status.size} ${status.ctimeMs}`;
}

export interface LazyFilesOptions {
  readonly workdir: string;
  readonly dataDirectory: string;
  readonly timeline: TenantTimeline;
  readonly pageserverAddress: string;
  /** To there, where one has been made already. */
  readonly connection: Promise<PageClient> | undefined;
  /** Pages are served as of `state.lsn`. */
  readonly state: ComputeState;
  /** Undefined: nothing is written, syncs do nothing. */
  readonly wal:
    | {
        written(segment: number, offset: number, length: number): void;
        flush(segment: number, endOffset: number): Promise<void>;
        /** As WalHandlers'. */
        readonly extensionPaceMicros: number;
      }
    | undefined;
  /** As WalHandlers.fetchOldWal; undefined: there is none. */
  readonly fetchOldWal: ((segno: number) => Promise<boolean>) | undefined;
  /** How much of storage's files may stay in the data directory, where it can; undefined: all. */
  readonly localCacheBytes: number | undefined;
  /** Undefined: what is written stays there in any case. */
  readonly progress: Progress | undefined;
  readonly logger: Logger;
}

/** Postgres with this environment waits before it starts its first child until `release`. */
export class LazyFiles {
  readonly #options: LazyFilesOptions;
  readonly #socketPath: string;
  readonly #logger: Logger;
  readonly #pages: PageSource;
  readonly #server: ShimServer;
  /** Of the user's tablespaces. */
  readonly versionDirectory: string;
  readonly served = new ServedFiles();
  readonly #reads: StartReads;
  readonly #placement: FilePlacement;
  readonly #placed = Promise.withResolvers<readonly PlacedFile[]>();

  /** Asks for what the start will read. */
  constructor(options: LazyFilesOptions) {
    const { wal, logger } = options;
    const { lsn } = options.state;
    this.#options = options;
    this.#logger = logger;
    const socketPath = join(socketDirectory(options.workdir, SOCKET_NAME), SOCKET_NAME);
    this.#socketPath = socketPath;
    this.versionDirectory = versionDirectory(options.state);
    const { localCacheBytes, progress, dataDirectory } = options;
    this.#pages = new PageSource({
      service: pageserverPageService(options.pageserverAddress, options.timeline, lsn),
      connection: options.connection,
      lsn,
      checkPoint: options.state.checkPoint,
      written:
        localCacheBytes === undefined || progress === undefined
          ? undefined
          : new WrittenBlocks({
              ...{ dataDirectory, progress, startLsn: lsn },
              versionDirectory: this.versionDirectory,
            }),
      logger,
    });
    this.#pages.warmUp();
    const pages = this.#pages;
    const record = join(options.workdir, START_READS_NAME);
    const reads = new StartReads(record, this.versionDirectory, options.state.databases);
    this.#reads = reads;
    this.#placement = new FilePlacement(pages, reads, (file, content) =>
      this.served.placed(file, content),
    );
    this.#server = new ShimServer({
      socketPath,
      logger,
      placed: this.#placed.promise,
      handlers: {
        stat: async (file, asker) => {
          reads.note(file, 0, 0, asker);
          const bytes = await pages.stat(file);
          this.served.told(file, bytes);
          return bytes;
        },
        alsoLacking: (file) => pages.alsoLacking(file),
        readPages: (file, blkno, count, asker) => {
          reads.note(file, blkno, count, asker);
          return ServedFiles.isMap(file)
            ? this.#readMap(file, blkno, count)
            : pages.readPages(file, blkno, count);
        },
        comparePages: async (file, blkno, blocks) => {
          const same = await pages.comparePages(file, blkno, blocks);
          if (same !== undefined && same !== 0) {
            this.served.gaveBack(file);
          }
          return same;
        },
        listDirectory: async (directory) => {
          const files = await pages.listDirectory(directory);
          for (const { file, bytes } of files) {
            this.served.told(file, bytes);
          }
          return files;
        },
        prefetch: (file, blkno, count) => pages.prefetch(file, blkno, count),
        walWritten: (segment, offset, length) => wal?.written(segment, offset, length),
        flushWal: (segment, endOffset) => wal?.flush(segment, endOffset) ?? Promise.resolve(),
        extensionPaceMicros: () => wal?.extensionPaceMicros ?? 0,
        fetchOldWal: (segno) => options.fetchOldWal?.(segno) ?? Promise.resolve(false),
      },
    });
  }

  async #readMap(file: StorageFile, blkno: number, count: number) {
    const pieces = await this.#pages.readPages(file, blkno, count);
    this.served.given(file, blkno, pieces);
    return pieces;
  }

  get state(): ComputeState {
    return this.#options.state;
  }

  get waitingReads(): number {
    return this.#pages.waitingReads;
  }

  get #countersPath(): string {
    return this.#runtimePath(COUNTERS_NAME);
  }

  /** Where Postgres's user may open it: beside the data directory. */
  #runtimePath(name: string): string {
    return join(dirname(this.#options.dataDirectory), name);
  }

  /** Of Postgres since its start; undefined before. */
  get cacheUsage(): CacheUsage | undefined {
    return readCacheUsage(this.#countersPath);
  }

  /** The data directory is written, but no Postgres runs in it. On return one may. */
  async start(spares: SpareFiles): Promise<void> {
    makeCacheCounters(this.#countersPath, spares);
    makeReadCounts(this.#runtimePath(READ_COUNTS_NAME), spares);
    placeOwnExtension(this.#runtimePath(OWN_EXTENSION_NAME), spares);
    await this.#server.listen();
  }

  /** What the last starts have read is written now, as far as it is here. */
  place(spares: SpareFiles): void {
    this.#placement.into(this.#options.dataDirectory, spares);
  }

  /** What Postgres's environment must hold. `shim`: as `prepareShim` gave it. */
  environment(shim: string): Readonly<Record<string, string>> {
    return shimEnvironment({
      shimPath: shim,
      dataDirectory: this.#options.dataDirectory,
      socketPath: this.#socketPath,
      wal: this.#options.wal === undefined ? "none" : "quorum",
      walSegmentSize: this.#options.state.walSegmentSize,
      versionDirectory: this.versionDirectory,
      localCacheBytes: this.#options.localCacheBytes,
      cacheCountersPath: this.#countersPath,
      readCountsPath: this.#runtimePath(READ_COUNTS_NAME),
      extensionDirectory: this.#runtimePath(OWN_EXTENSION_NAME),
    });
  }

  /** Postgres may go on, and finds what its last starts have read. */
  async release(): Promise<void> {
    this.#placed.resolve(await this.#placement.finish());
  }

  /** The start is over: what Postgres has read in it will be there at the next one. */
  endOfStart(): void {
    try {
      this.#reads.save(this.#placement.used());
    } catch (error) {
      this.#logger.warn({ error }, "cannot record what a start reads");
    }
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
    this.#placement.cancel();
    await this.#server.close();
    this.#pages.close();
  }
}
