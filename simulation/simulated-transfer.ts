// Carries out the transfer of a timeline between simulated safekeepers: what they send and take is shipped code.

import { carryOutAtOnce } from "../src/base/disk-steps.ts";
import { maxLsn } from "../src/base/lsn.ts";
import { persistentNow } from "../src/safekeeper/consensus/acceptor.ts";
import type { Timeline } from "../src/safekeeper/timeline.ts";
import type { IncomingPlace } from "../src/safekeeper/timeline-manager.ts";
import type { PullDecision, PullSource } from "../src/safekeeper/transfer/pull-decision.ts";
import { snapshotLayout } from "../src/safekeeper/transfer/snapshot.ts";
import { SnapshotReceiver } from "../src/safekeeper/transfer/snapshot-receiver.ts";
import { TAR_END } from "../src/safekeeper/transfer/tar.ts";
import { newWholeSegmentCheck, walked } from "../src/safekeeper/wal-backup/read-segment.ts";
import { carryOutNow, type SimulatedStore } from "./simulated-store.ts";
import { TIMELINE_IDS } from "./simulated-wal.ts";

/** The record in the middle of which it begins, if it does, is checked with what the store has of it. */
export function snapshotOf(timeline: Timeline, store: SimulatedStore): Uint8Array {
  const { state, localWalStartLsn } = timeline;
  const startLsn = maxLsn(state.persistent.localStartLsn, localWalStartLsn);
  if (timeline.storedWal !== undefined && startLsn < state.flushLsn) {
    const walk = newWholeSegmentCheck(timeline).recordAt(startLsn, state.flushLsn);
    carryOutNow(walked(timeline, walk), store);
  }
  const reader = timeline.openReader();
  const parts = [...snapshotLayout(persistentNow(state), localWalStartLsn)].map((part) =>
    part instanceof Uint8Array ? part : reader.read(part.lsn, part.end - part.lsn),
  );
  reader.close();
  return Buffer.concat([...parts, TAR_END]);
}

/** Until the timeline is served. StorageErrors as those of a pull. */
export function receiveSnapshot(
  place: IncomingPlace,
  archive: Uint8Array,
  decision: PullDecision<PullSource>,
): Timeline {
  const receiver = new SnapshotReceiver(place, TIMELINE_IDS, decision);
  try {
    carryOutAtOnce(receiver.take(archive), place.disk);
    receiver.finish();
  } finally {
    carryOutAtOnce(receiver.close(), place.disk);
  }
  return place.install();
}
