// GET /v1/debug_dump: everything a person may want to see of a safekeeper's timelines.

import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { formatLsn } from "../../base/lsn.ts";
import { type DebugDump, type debugDumpQuerySchema, membershipToJson } from "../api.ts";
import type { Timeline } from "../timeline.ts";
import { partialSegmentName } from "../wal-backup/stored-wal.ts";
import type { WalBackup } from "../wal-backup/wal-backup.ts";

export type DebugDumpQuery = z.infer<typeof debugDumpQuerySchema>;

export interface DebugDumpOptions {
  readonly nodeId: number;
  readonly backup: WalBackup;
  readonly timelines: { readonly timelines: Iterable<Timeline> };
}

export function debugDump(options: DebugDumpOptions, query: DebugDumpQuery): DebugDump {
  const wanted = (flag: boolean | undefined) => flag ?? query.dump_all ?? false;
  const dumps = [...options.timelines.timelines]
    .filter(
      ({ tenantId, timelineId }) =>
        (query.tenant_id ?? tenantId) === tenantId &&
        (query.timeline_id ?? timelineId) === timelineId,
    )
    .map((timeline) => ({
      tenant_id: timeline.tenantId,
      timeline_id: timeline.timelineId,
      control_file:
        (query.dump_control_file ?? true)
          ? controlFile(timeline, wanted(query.dump_term_history))
          : null,
      memory: wanted(query.dump_memory) ? memory(timeline, options.backup) : null,
      disk_content: wanted(query.dump_disk_content) ? diskContent(timeline) : null,
    }));
  return { config: { id: options.nodeId }, timelines_count: dumps.length, timelines: dumps };
}

type TimelineDump = DebugDump["timelines"][number];

function controlFile(
  timeline: Timeline,
  withTermHistory: boolean,
): NonNullable<TimelineDump["control_file"]> {
  const { persistent } = timeline.state;
  const { partial, evicted } = timeline.placement;
  return {
    mconf: membershipToJson(persistent.mconf),
    acceptor_state: {
      term: persistent.term,
      term_history: withTermHistory
        ? persistent.termHistory.map(({ term, lsn }) => ({ term, lsn: formatLsn(lsn) }))
        : null,
    },
    server: {
      pg_version: persistent.pgVersion,
      system_id: persistent.systemId.toString(),
      wal_seg_size: persistent.walSegSize,
    },
    timeline_start_lsn: formatLsn(persistent.timelineStartLsn),
    local_start_lsn: formatLsn(persistent.localStartLsn),
    commit_lsn: formatLsn(persistent.commitLsn),
    backup_lsn: formatLsn(persistent.backupLsn),
    peer_horizon_lsn: formatLsn(persistent.peerHorizonLsn),
    remote_consistent_lsn: formatLsn(persistent.remoteConsistentLsn),
    partial_backup:
      partial === undefined ? null : partialSegmentName(partial, persistent.walSegSize),
    eviction_state: evicted ? "offloaded" : "present",
  };
}

function memory(timeline: Timeline, backup: WalBackup): NonNullable<TimelineDump["memory"]> {
  const { state } = timeline;
  const { state: backupState, lastError } = backup.status(timeline);
  return {
    peers_info_len: timeline.peers.size,
    walsenders_len: timeline.consumers.size,
    wal_backup: { state: backupState, last_error: lastError ?? null },
    write_lsn: formatLsn(state.writeLsn),
    flush_lsn: formatLsn(state.flushLsn),
    commit_lsn: formatLsn(state.commitLsn),
    last_log_term: timeline.lastLogTerm,
    local_wal_start_lsn: formatLsn(timeline.localWalStartLsn),
    idle_ms: Math.round(timeline.idleMs),
  };
}

function diskContent(timeline: Timeline): NonNullable<TimelineDump["disk_content"]> {
  const files = readdirSync(timeline.directory)
    .sort()
    .flatMap((name) => {
      const status = statSync(join(timeline.directory, name), { throwIfNoEntry: false });
      return status === undefined
        ? []
        : [{ name, size: status.size, modified: status.mtime.toISOString() }];
    });
  return { files };
}
