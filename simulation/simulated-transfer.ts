// Carries out the transfer of a timeline between simulated safekeepers: what they send and take is shipped code.

import { carryOutAtOnce } from "../src/base/disk-steps.ts";
import type { StoreAnswer, StoreSteps, StoreStream } from "../src/object-store/store-steps.ts";
import type { Timeline } from "../src/safekeeper/timeline.ts";
import type { IncomingPlace } from "../src/safekeeper/timeline-manager.ts";
import type { PullDecision, PullSource } from "../src/safekeeper/transfer/pull-decision.ts";
import { SnapshotReceiver } from "../src/safekeeper/transfer/snapshot-receiver.ts";
import { TIMELINE_IDS } from "./simulated-wal.ts";

/** A snapshot's steps, with what they give put into `parts`. */
export function* gathered(snapshot: StoreStream, parts: Uint8Array[]): StoreSteps {
  let step = snapshot.next();
  while (step.done !== true) {
    let answer: StoreAnswer;
    if (step.value instanceof Uint8Array) {
      parts.push(step.value);
    } else {
      try {
        answer = yield step.value;
      } catch (error) {
        step = snapshot.throw(error);
        continue;
      }
    }
    step = snapshot.next(answer);
  }
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
