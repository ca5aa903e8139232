// What the HTTP API tells about one timeline.

import { monotonicMs } from "../base/clock.ts";
import { formatLsn } from "../base/lsn.ts";
import { membershipToJson, type SafekeeperTimelineStatus } from "./api.ts";
import { WalSender } from "./replication/wal-sender.ts";
import type { Timeline } from "./timeline.ts";
import { partialSegmentName } from "./wal-backup/stored-wal.ts";
import type { WalBackup } from "./wal-backup/wal-backup.ts";
import type { WalPusher } from "./wal-push.ts";

export function timelineStatus(
  timeline: Timeline,
  options: { backup: WalBackup; receiversOf(timeline: Timeline): ReadonlySet<WalPusher> },
): SafekeeperTimelineStatus {
  const { state, lastLogTerm } = timeline;
  const { persistent } = state;
  const senders = [...timeline.consumers].filter((consumer) => consumer instanceof WalSender);
  return {
    tenant_id: persistent.tenantId,
    timeline_id: persistent.timelineId,
    mconf: membershipToJson(persistent.mconf),
    acceptor_state: {
      term: persistent.term,
      epoch: lastLogTerm,
      term_history: persistent.termHistory.map((entry) => ({
        term: entry.term,
        lsn: formatLsn(entry.lsn),
      })),
    },
    pg_info: {
      pg_version: persistent.pgVersion,
      system_id: persistent.systemId.toString(),
      wal_seg_size: persistent.walSegSize,
    },
    flush_lsn: formatLsn(state.flushLsn),
    timeline_start_lsn: formatLsn(persistent.timelineStartLsn),
    local_start_lsn: formatLsn(persistent.localStartLsn),
    commit_lsn: formatLsn(state.commitLsn),
    backup_lsn: formatLsn(persistent.backupLsn),
    peer_horizon_lsn: formatLsn(state.peerHorizonLsn),
    remote_consistent_lsn: formatLsn(state.remoteConsistentLsn),
    local_wal_start_lsn: formatLsn(timeline.localWalStartLsn),
    eviction_state: timeline.placement.evicted ? "offloaded" : "present",
    wal_backup: backupStatus(timeline, options.backup),
    peers: [...timeline.peers].map(([id, peer]) => ({
      sk_id: id,
      term: peer.term,
      last_log_term: peer.lastLogTerm,
      flush_lsn: formatLsn(peer.flushLsn),
      commit_lsn: formatLsn(peer.commitLsn),
      reported_ms_ago: Math.round(monotonicMs() - peer.reportedAtMs),
    })),
    walsenders: senders.map((sender) => {
      const { standbyStatus, pageserverFeedback } = sender;
      const flush = pageserverFeedback?.diskConsistentLsn ?? standbyStatus?.flushLsn;
      const apply = pageserverFeedback?.lastReceivedLsn ?? standbyStatus?.applyLsn;
      return {
        remote: sender.remote,
        application_name: sender.applicationName,
        sent_lsn: formatLsn(sender.sentLsn),
        flush_lsn: flush === undefined ? null : formatLsn(flush),
        apply_lsn: apply === undefined ? null : formatLsn(apply),
      };
    }),
    walreceivers: [...options.receiversOf(timeline)].map((receiver) => ({
      remote: receiver.remote,
      connected_at: new Date(receiver.connectedAtMs).toISOString(),
    })),
  };
}

function backupStatus(
  timeline: Timeline,
  backup: WalBackup,
): SafekeeperTimelineStatus["wal_backup"] {
  const { storedWal, placement, state } = timeline;
  if (storedWal === undefined) {
    return null;
  }
  const { state: backupState, lastError } = backup.status(timeline);
  return {
    state: backupState,
    lag_bytes: state.commitLsn - state.persistent.backupLsn,
    partial:
      placement.partial === undefined
        ? null
        : partialSegmentName(placement.partial, storedWal.segmentSize),
    last_error: lastError ?? null,
  };
}
