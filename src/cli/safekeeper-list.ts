// How far each safekeeper is with each timeline: what `safekeeper status` and `safekeeper list` print.

import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { type Lsn, maxLsn, parseLsn } from "../base/lsn.ts";
import type { SafekeeperTimelineStatus } from "../safekeeper/api.ts";
import { SafekeeperHttpClient } from "../safekeeper/client.ts";
import type { StorageNode, StrataConfig } from "./config.ts";
import { formatTable } from "./output.ts";

const TIMEOUT_MS = 3_000;

export interface TimelinePosition {
  readonly safekeeper_id: number;
  readonly tenant_id: string;
  readonly timeline_id: string;
  readonly branch_name: string | null;
  /** `refused`: there, but damaged; the reason is in its log and `error`. */
  readonly state: "leading" | "idle" | "offloaded" | "refused";
  readonly error: string | null;
  /** Absent where it is refused, as all below. */
  readonly generation?: number;
  /** Node ids; both sets while membership changes. */
  readonly members?: readonly number[];
  readonly term?: number;
  readonly last_log_term?: number;
  readonly flush_lsn?: string;
  readonly commit_lsn?: string;
  readonly backup_lsn?: string;
  readonly remote_consistent_lsn?: string;
  /** Bytes from its flush LSN to the newest commit LSN that any safekeeper tells. */
  readonly lag_bytes?: number;
  /** Bytes from the least that a pageserver or standby streaming from it has to its commit LSN. */
  readonly reader_lag_bytes?: number | null;
  readonly peers?: number;
  readonly proposers?: number;
  readonly readers?: readonly string[];
}

export interface SafekeeperPositions {
  /** Ids of the safekeepers that answer. */
  readonly answering: ReadonlySet<number>;
  /** By tenant, timeline, safekeeper. */
  readonly rows: readonly TimelinePosition[];
}

/** Asks every safekeeper of the home; those that do not answer are left out. */
export async function safekeeperPositions(config: StrataConfig): Promise<SafekeeperPositions> {
  const answering = new Set<number>();
  const found: Found[] = [];
  await Promise.all(
    config.safekeepers.map(async (node) => {
      const timelines = await timelinesOf(node).catch(() => undefined);
      if (timelines !== undefined) {
        answering.add(node.id);
        found.push(...timelines);
      }
    }),
  );
  const heads = new Map<string, Lsn>();
  for (const { timelineId, status } of found) {
    const head = heads.get(timelineId) ?? (0 as Lsn);
    heads.set(timelineId, maxLsn(head, lsnOf(status?.commit_lsn)));
  }
  const rows = found
    .map((one) => toPosition(config, one, heads.get(one.timelineId)!))
    .sort((a, b) => compareText(key(a), key(b)) || a.safekeeper_id - b.safekeeper_id);
  return { answering, rows };
}

interface Found {
  readonly safekeeperId: number;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly status: SafekeeperTimelineStatus | undefined;
  readonly error: string | null;
}

async function timelinesOf(node: StorageNode): Promise<Found[]> {
  const client = new SafekeeperHttpClient(`http://${node.listenHttpAddr}`, TIMEOUT_MS);
  const found: Found[] = [];
  for (const { tenant_id: tenantId, timeline_id: timelineId } of await client.listTimelines()) {
    const one = { safekeeperId: node.id, tenantId, timelineId };
    try {
      const status = await client.timelineStatus(
        parseTenantId(tenantId),
        parseTimelineId(timelineId),
      );
      found.push({ ...one, status, error: null });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      found.push({ ...one, status: undefined, error: reason });
    }
  }
  return found;
}

function toPosition(config: StrataConfig, found: Found, head: Lsn): TimelinePosition {
  const { safekeeperId, tenantId, timelineId, status } = found;
  const names = Object.entries(config.branchNameMappings[tenantId] ?? {});
  const row = {
    safekeeper_id: safekeeperId,
    tenant_id: tenantId,
    timeline_id: timelineId,
    branch_name: names.find(([, id]) => id === timelineId)?.[0] ?? null,
    error: found.error,
  };
  if (status === undefined) {
    return { ...row, state: "refused" };
  }
  const { generation, members, new_members: joining } = status.mconf;
  // What tells no position (pg_receivewal has none to apply) counts with what it was sent.
  const applied = status.walsenders.map(
    (sender) => lsnOf(sender.apply_lsn) || lsnOf(sender.flush_lsn) || lsnOf(sender.sent_lsn),
  );
  const leading = status.walreceivers.length > 0;
  return {
    ...row,
    state: leading ? "leading" : status.eviction_state === "offloaded" ? "offloaded" : "idle",
    generation,
    members: [...new Set([...members, ...(joining ?? [])].map(({ id }) => id))],
    term: status.acceptor_state.term,
    last_log_term: status.acceptor_state.epoch,
    flush_lsn: status.flush_lsn,
    commit_lsn: status.commit_lsn,
    backup_lsn: status.backup_lsn,
    remote_consistent_lsn: status.remote_consistent_lsn,
    lag_bytes: Math.max(0, head - lsnOf(status.flush_lsn)),
    reader_lag_bytes:
      applied.length === 0 ? null : Math.max(0, lsnOf(status.commit_lsn) - Math.min(...applied)),
    peers: status.peers.length,
    proposers: status.walreceivers.length,
    readers: status.walsenders.map((sender) => sender.application_name || sender.remote),
  };
}

/** No lines where there are no timelines. */
export function formatPositions(rows: readonly TimelinePosition[]): string[] {
  if (rows.length === 0) {
    return [];
  }
  const header = ["BRANCH", "SK", "STATE", "GEN", "MEMBERS", "TERM", "FLUSH", "COMMIT", "LAG"];
  header.push("BACKUP", "REMOTE", "PEERS", "READERS", "READER LAG");
  const cell = (value: string | number | null | undefined) => `${value ?? "---"}`;
  const table = formatTable(
    header,
    rows.map((row) => [
      row.branch_name ?? row.timeline_id,
      cell(row.safekeeper_id),
      row.state,
      cell(row.generation),
      row.members?.join(",") ?? "---",
      cell(row.term),
      cell(row.flush_lsn),
      cell(row.commit_lsn),
      cell(row.lag_bytes),
      cell(row.backup_lsn),
      cell(row.remote_consistent_lsn),
      cell(row.peers),
      row.readers?.join(",") || "---",
      cell(row.reader_lag_bytes),
    ]),
  );
  return table.split("\n");
}

function lsnOf(text: string | null | undefined): Lsn {
  return parseLsn(text ?? "") ?? (0 as Lsn);
}

function key({ tenant_id, branch_name, timeline_id }: TimelinePosition): string {
  return `${tenant_id} ${branch_name ?? ""} ${timeline_id}`;
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
