// Writes a timeline as of an LSN as the data directory of a cluster of its own, from which stock Postgres starts.
//
// It is what a compute starts from, made whole: shut down at the LSN, by a checkpoint that is its only WAL, so
// Postgres starts without recovery. Transactions that were open there are gone, as after a crash. Its system
// identifier is new: from here on its WAL is not the branch's, at the same LSNs and under the same file names, and
// a standby or archive of one must not take the other's.

import { existsSync, readdirSync, rmdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setIdleRepeatingTimer } from "../../base/clock.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import { randomBytes } from "../../base/random.ts";
import { makeSkeleton } from "../../data-directory/make-directory.ts";
import { writeDataDirectory } from "../../data-directory/start-directory.ts";
import { versionDirectory } from "../../data-directory/tablespace-directories.ts";
import type { ComputeState, TenantTimeline } from "../../pageserver/api.ts";
import { computeState, LSN_LEASE_MS, leaseLsn } from "../../pageserver/client.ts";
import { decodeControlFile } from "../../postgres/control-file.ts";
import { giveToPostgres } from "../../postgres/installation.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  GLOBAL_TABLESPACE_OID,
  INIT_FORK,
  MAIN_FORK,
  type StorageDirectory,
  type StorageFile,
  storagePath,
} from "../../postgres/relation-path.ts";
import { PageSource, pageserverPageService } from "../pages/page-source.ts";
import type { ListedFile } from "../shim/shim-protocol.ts";
import { exportSettings } from "./export-settings.ts";

/** Pages that are asked for at once. */
const CHUNK_PAGES = 128;

export interface ExportOptions {
  readonly pgAddr: string;
  readonly timeline: TenantTimeline;
  readonly lsn: Lsn;
  /** Absolute; nothing, or an empty directory, is there. Its parent exists. */
  readonly directory: string;
  readonly logger: Logger;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
}

export interface Exported {
  readonly lsn: Lsn;
  readonly pgVersion: number;
  readonly bytes: number;
}

/**
 * All of it is durable, and has its name, when it resolves; a failure leaves nothing, a kill a directory whose name ends in
 * `.partial`. StorageError `conflict` where something is there, `invalid` where the LSN is not kept.
 */
export async function exportDirectory(options: ExportOptions): Promise<Exported> {
  const { pgAddr, timeline, lsn, directory, logger } = options;
  requireNothingAt(directory);
  // The first lease comes with it.
  const state = await computeState(pgAddr, timeline, lsn);
  const lease = setIdleRepeatingTimer(() => {
    leaseLsn(pgAddr, timeline, state.lsn).catch((error: unknown) =>
      logger.warn({ error }, "the lease of the LSN is not renewed"),
    );
  }, LSN_LEASE_MS / 5);
  const partial = `${directory}.${randomBytes(4).toString("hex")}.partial`;
  const pages = new PageSource({
    service: pageserverPageService(pgAddr, timeline, state.lsn),
    lsn: state.lsn,
    checkPoint: state.checkPoint,
    logger,
  });
  try {
    await makeSkeleton(partial);
    writeDataDirectory({
      path: partial,
      state: { ...state, systemId: newSystemId() },
      settings: exportSettings(state, decodeControlFile(state.controlFile)),
      standby: false,
      tablespacesInPlace: true,
    });
    const bytes = await writeFiles(partial, state, pages, options);
    await syncTree(partial);
    await moveTo(partial, directory);
    return { lsn: state.lsn, pgVersion: state.pgVersion, bytes };
  } catch (error) {
    rmSync(partial, { recursive: true, force: true });
    throw error;
  } finally {
    lease?.cancel();
    pages.close();
  }
}

function requireNothingAt(directory: string): void {
  const status = statSync(directory, { throwIfNoEntry: false });
  if (status !== undefined && (!status.isDirectory() || readdirSync(directory).length > 0)) {
    const message = `'${directory}' is there and not an empty directory`;
    throw new StorageError("conflict", "not-empty", message);
  }
  if (!existsSync(dirname(directory))) {
    throw new StorageError("not-found", "no-such-directory", `there is no '${dirname(directory)}'`);
  }
}

/** As Postgres's own: 64 bits, never 0; below 2^63, since some tools read it as signed. */
function newSystemId(): bigint {
  return (randomBytes(8).readBigUInt64LE() >> 1n) | 1n;
}

async function writeFiles(
  directory: string,
  state: ComputeState,
  pages: PageSource,
  { onProgress }: ExportOptions,
): Promise<number> {
  const inTablespaces = versionDirectory(state);
  const files = (
    await Promise.all(directoriesOf(state).map((one) => listFiles(pages, one)))
  ).flat();
  const totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let doneBytes = 0;
  for (const { file, bytes } of files) {
    const path = join(directory, storagePath(file, inTablespaces));
    // Nobody else looks into it, so each piece can be appended.
    writeFileSync(path, "", { mode: 0o600, flag: "wx" });
    const fd = REAL_DISK.open(path, "r+");
    try {
      for (let at = 0; at < bytes; at += CHUNK_PAGES * PAGE_SIZE) {
        const count = Math.min(CHUNK_PAGES, (bytes - at) / PAGE_SIZE);
        const some = await pages.readPages(file, at / PAGE_SIZE, count);
        await REAL_DISK.background.write(fd, Buffer.concat(some.map((piece) => piece.bytes)), at);
        for (const piece of some) {
          piece.release();
        }
        doneBytes += count * PAGE_SIZE;
        onProgress(doneBytes, totalBytes);
      }
    } finally {
      REAL_DISK.close(fd);
    }
    giveToPostgres(path);
  }
  return totalBytes;
}

function directoriesOf({ databases }: ComputeState): StorageDirectory[] {
  return [
    { kind: "relation", spcOid: GLOBAL_TABLESPACE_OID, dbOid: 0 },
    ...databases
      .filter(({ spcOid }) => spcOid !== GLOBAL_TABLESPACE_OID)
      .map(({ spcOid, dbOid }) => ({ kind: "relation" as const, spcOid, dbOid })),
    ...([0, 1, 2, 3] as const).map((slru) => ({ kind: "slru" as const, slru })),
  ];
}

/** An unlogged relation has its init fork only, until it is made of that: here at once, as nothing is recovered. */
async function listFiles(pages: PageSource, directory: StorageDirectory): Promise<ListedFile[]> {
  const files = [...(await pages.listDirectory(directory))];
  const paths = new Set(files.map(({ file }) => storagePath(file)));
  for (const { file, bytes } of [...files]) {
    if (file.kind === "relation" && file.fork === INIT_FORK) {
      const main: StorageFile = { ...file, fork: MAIN_FORK };
      if (!paths.has(storagePath(main))) {
        files.push({ file: main, bytes });
      }
    }
  }
  return files;
}

/** Files, then the directories that name them. */
async function syncTree(directory: string): Promise<void> {
  const { background } = REAL_DISK;
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) {
      await syncTree(path);
    } else {
      const fd = await background.open(path, "r");
      try {
        await background.fsync(fd);
      } finally {
        await background.close(fd);
      }
    }
  }
  await background.fsyncDirectory(directory);
}

async function moveTo(partial: string, directory: string): Promise<void> {
  requireNothingAt(directory);
  if (existsSync(directory)) {
    rmdirSync(directory);
  }
  await REAL_DISK.background.rename(partial, directory);
  await REAL_DISK.background.fsyncDirectory(dirname(directory));
}
