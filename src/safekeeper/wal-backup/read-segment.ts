// Reads a timeline's WAL for a check of its records, wherever it is: on this disk or in the object store.

import { freeMemory } from "../../base/memory/free-memory.ts";
import { pause, type StoreSteps } from "../../object-store/store-steps.ts";
import { pgVersion } from "../../postgres/versions.ts";
import type { Timeline } from "../timeline.ts";
import { type Walk, WholeSegmentCheck } from "./whole-segment-check.ts";

export function newWholeSegmentCheck({ state }: Timeline): WholeSegmentCheck {
  const { walSegSize, pgVersion: version, systemId, localStartLsn } = state.persistent;
  const { pageMagic } = pgVersion(Math.floor(version / 10_000));
  return new WholeSegmentCheck({ segmentSize: walSegSize, pageMagic, systemId }, localStartLsn);
}

/**
 * What a walk of WholeSegmentCheck gives. What it wants of segments that left the disk comes from the
 * store. StorageError as the walk's and the store's.
 */
export function* walked<T>(timeline: Timeline, walk: Walk<T>): StoreSteps<T> {
  const release = timeline.hold();
  const reader = timeline.openReader();
  try {
    let step = walk.next();
    while (step.done !== true) {
      const { lsn, length } = step.value;
      const { storedWal, localWalStartLsn } = timeline;
      const isHere = lsn >= localWalStartLsn || storedWal === undefined;
      const piece = isHere ? reader.read(lsn, length) : yield* storedWal.readSteps(lsn, length);
      step = walk.next(piece);
      if (isHere) {
        freeMemory(piece);
      }
      yield* pause();
    }
    return step.value;
  } finally {
    reader.close();
    release();
  }
}
