// Who streams WAL out of a timeline, and what all of them together have told.

import { type Lsn, minLsn } from "../../base/lsn.ts";
import {
  type HotStandbyFeedback,
  NO_HOT_STANDBY_FEEDBACK,
} from "../../safekeeper-protocol/messages.ts";
import type { PageserverFeedback } from "../../safekeeper-protocol/pageserver-feedback.ts";

/** A connection that streams WAL out of a timeline. */
export interface WalConsumer {
  /** Commit LSN, flush LSN or term changed. */
  wake(): void;
  /** What it will ask for next; WAL from here on stays. */
  readonly sentLsn: Lsn;
  readonly pageserverFeedback: PageserverFeedback | undefined;
  readonly hotStandbyFeedback: HotStandbyFeedback | undefined;
}

/** What the pageserver that is furthest behind has stored; undefined where none of them is one. */
export function slowestPageserver(consumers: Iterable<WalConsumer>): Lsn | undefined {
  let slowest: Lsn | undefined;
  for (const { pageserverFeedback } of consumers) {
    const lsn = pageserverFeedback?.remoteConsistentLsn;
    if (lsn !== undefined) {
      slowest = slowest === undefined ? lsn : minLsn(slowest, lsn);
    }
  }
  return slowest;
}

/** The least transaction ids that any standby still sees. */
export function combinedStandbyFeedback(consumers: Iterable<WalConsumer>): HotStandbyFeedback {
  const least = (a: bigint, b: bigint) => (a === 0n || (b !== 0n && b < a) ? b : a);
  let result = NO_HOT_STANDBY_FEEDBACK;
  for (const { hotStandbyFeedback } of consumers) {
    if (hotStandbyFeedback !== undefined) {
      result = {
        timestamp: Math.max(result.timestamp, hotStandbyFeedback.timestamp),
        xmin: least(result.xmin, hotStandbyFeedback.xmin),
        catalogXmin: least(result.catalogXmin, hotStandbyFeedback.catalogXmin),
      };
    }
  }
  return result;
}
