// Reads segments that are to be uploaded, and checks their records meanwhile.

import { turn } from "../../base/clock.ts";
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
export async function readSegment(
  timeline: Timeline,
  walk: Walk<Uint8Array>,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const release = timeline.hold();
  const reader = timeline.openReader();
  try {
    let step = walk.next();
    while (step.done !== true) {
      const { lsn, length } = step.value;
      const { storedWal, localWalStartLsn } = timeline;
      const isHere = lsn >= localWalStartLsn || storedWal === undefined;
      const piece = isHere ? reader.read(lsn, length) : await storedWal.read(lsn, length, signal);
      step = walk.next(piece);
      await turn();
    }
    return step.value;
  } finally {
    reader.close();
    release();
  }
}
