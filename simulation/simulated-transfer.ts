// Carries out the transfer of a timeline between simulated safekeepers: what they send and take is shipped code.

import { carryOutAtOnce } from "../src/base/disk-steps.ts";
import { StorageError } from "../src/base/errors.ts";
import type { StoreAnswer, StoreSteps, StoreStream } from "../src/object-store/store-steps.ts";
import type { Timeline } from "../src/safekeeper/timeline.ts";
import type { IncomingPlace } from "../src/safekeeper/timeline-manager.ts";
import {
  decidePull,
  type PullDecision,
  type PullSource,
} from "../src/safekeeper/transfer/pull-decision.ts";
import { SnapshotReceiver } from "../src/safekeeper/transfer/snapshot-receiver.ts";
import type { MembershipConfiguration } from "../src/safekeeper-protocol/membership.ts";
import type { Answer } from "./answer.ts";
import { TIMELINE_IDS } from "./simulated-wal.ts";
import type { SafekeeperProcess, World } from "./world.ts";

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

export interface Fetched {
  readonly archive: Uint8Array;
  readonly decision: PullDecision<PullSource>;
}

/** Asks those in `from` what they have, and the one that is chosen for all of it. */
export function fetchSnapshot(
  { network, safekeepers }: World,
  to: SafekeeperProcess,
  mconf: MembershipConfiguration,
  from: readonly number[],
  done: (answer: Answer<Fetched>) => void,
): void {
  const fetchFrom = (decision: PullDecision<PullSource>) => {
    const donor = safekeepers.get(decision.donor.nodeId)!;
    const begin = (reply: (answer: Answer<Uint8Array>) => void) => donor.snapshot(reply);
    network.ask(to, donor, begin, (archive) => {
      done(
        archive === undefined || archive instanceof StorageError
          ? new StorageError("unavailable", "snapshot-broke", "the donor broke off")
          : { archive, decision },
      );
    });
  };
  const sources: PullSource[] = [];
  let answers = 0;
  for (const id of from) {
    const other = safekeepers.get(id)!;
    const status = () => other.status();
    network.call(to, other, status, (answer) => {
      if (answer !== undefined && !(answer instanceof StorageError)) {
        sources.push(answer);
      }
      if (++answers === from.length) {
        const decision = decided(to.id, sources, mconf);
        if (decision instanceof StorageError) {
          done(decision);
        } else {
          fetchFrom(decision);
        }
      }
    });
  }
}

function decided(
  nodeId: number,
  sources: readonly PullSource[],
  mconf: MembershipConfiguration,
): Answer<PullDecision<PullSource>> {
  try {
    return decidePull(nodeId, sources, mconf);
  } catch (error) {
    if (error instanceof StorageError) {
      return error;
    }
    throw error;
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
