// CREATE DATABASE with file_copy, whose one record stands for all pages of another database: copies them
// a slice at a time, so that the other timelines of the process are served meanwhile.

import { monotonicMs, turn } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { type KeyPrefix, relBlockPrefix, relmapPrefix } from "../layers/key.ts";
import { LayerNotResident } from "../layers/layer-file.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";
import { type RelationHeads, readRelations } from "./relation-heads.ts";

/** The event loop is given back after this long: a page read that comes in between takes a few of its turns. */
const SLICE_MS = 0.5;

export interface DatabaseCopy {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly srcSpcOid: number;
  readonly srcDbOid: number;
  /** The source is read as of here: the end of the record before. */
  readonly sourceLsn: Lsn;
  /** Where the copy appears. */
  readonly lsn: Lsn;
}

/**
 * In key order, so that layers which are written out on the way do not overlap. A copy that was broken off
 * (StorageError `unavailable`, once `signal` aborts) may begin anew: the same versions are put again.
 */
export async function copyDatabase(
  copy: DatabaseCopy,
  storage: TimelineStorage,
  heads: RelationHeads,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { spcOid, dbOid, srcSpcOid, srcDbOid, sourceLsn, lsn } = copy;
  const aborted = new Promise<void>((resolve) => {
    signal?.addEventListener("abort", () => resolve(), { once: true });
  });
  let sliceStart = monotonicMs();
  const relations = await storage.whenResident(() =>
    readRelations(storage, sourceLsn, srcSpcOid, srcDbOid),
  );
  for (const { relNumber, fork, blocks } of relations) {
    const from = relBlockPrefix(srcSpcOid, srcDbOid, relNumber, fork);
    const target = heads.get(spcOid, dbOid, relNumber, fork);
    for (let blkno = 0; blkno < blocks; blkno++) {
      const { blockPrefix } = target;
      if (!tryCopyPage(storage, from, blockPrefix, blkno, copy)) {
        await storage.whenResident(() => copyPage(storage, from, blockPrefix, blkno, copy));
      }
      if (monotonicMs() - sliceStart >= SLICE_MS) {
        await Promise.race([storage.makeRoom() ?? turn(), aborted]);
        if (signal?.aborted === true) {
          const message = `the copy of database ${srcDbOid} was broken off`;
          throw new StorageError("unavailable", "shutting-down", message);
        }
        sliceStart = monotonicMs();
      }
    }
    heads.resize(target, blocks);
  }
  const map = await storage.whenResident(() =>
    storage.readValue(relmapPrefix(srcSpcOid, srcDbOid), 0, sourceLsn),
  );
  if (map !== undefined) {
    storage.putImage(relmapPrefix(spcOid, dbOid), 0, lsn, map);
  }
}

function copyPage(
  storage: TimelineStorage,
  from: KeyPrefix,
  to: KeyPrefix,
  blkno: number,
  { sourceLsn, lsn }: DatabaseCopy,
): void {
  const page = storage.readPage(from, blkno, sourceLsn);
  if (page === undefined) {
    storage.putTombstone(to, blkno, lsn);
  } else {
    storage.putImage(to, blkno, lsn, page);
  }
}

/** Whether it is done; else a layer has to be fetched first, and nothing was put. */
function tryCopyPage(...copy: Parameters<typeof copyPage>): boolean {
  try {
    copyPage(...copy);
    return true;
  } catch (error) {
    if (error instanceof LayerNotResident) {
      return false;
    }
    throw error;
  }
}
