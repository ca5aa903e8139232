// Which safekeeper of a timeline uploads its WAL, so that as a rule only one does.

import { monotonicMs } from "../../base/clock.ts";
import { crc32c } from "../../base/crc32c.ts";
import type { TimelineId } from "../../base/ids.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { AcceptorState } from "../consensus/acceptor.ts";
import type { KnownPeer } from "../timeline.ts";

/** A peer that was not heard of for so long is taken for dead; they publish each second. */
const PEER_TIMEOUT_MS = 10_000;
/** Further behind than this, a safekeeper is no candidate (Neon's max_offloader_lag_bytes). */
const MAX_LAG_BYTES = 128 * 1024 * 1024;
/** The next candidate begins when nothing was uploaded for so long: the first may be broken. */
const TAKEOVER_MS = 20_000;

/**
 * For how long, in milliseconds, uploads must have stood still before this safekeeper begins: 0 for
 * the one that is elected. All who know the same of each other come to the same order; which one is
 * first differs from timeline to timeline, to share the work. It need not be right: uploads are
 * idempotent, and a wrong order only costs one that was not needed.
 */
export function uploadRank(
  nodeId: number,
  timelineId: TimelineId,
  state: Pick<AcceptorState, "commitLsn">,
  peers: ReadonlyMap<number, KnownPeer>,
): number {
  const candidates: [number, Lsn][] = [[nodeId, state.commitLsn]];
  for (const [id, peer] of peers) {
    if (monotonicMs() - peer.reportedAtMs < PEER_TIMEOUT_MS) {
      candidates.push([id, peer.commitLsn]);
    }
  }
  const newest = Math.max(...candidates.map(([, commitLsn]) => commitLsn));
  const order = candidates
    .filter(([, commitLsn]) => newest - commitLsn <= MAX_LAG_BYTES)
    .map(([id]) => id)
    .sort((a, b) => a - b);
  const first = crc32c(Buffer.from(timelineId)) % order.length;
  const place = order.indexOf(nodeId);
  const behind = place < 0 ? order.length : (place - first + order.length) % order.length;
  return behind * TAKEOVER_MS;
}
