// How far each safekeeper is with each timeline.

import { errorKind, errorMessage, StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { type Lsn, maxLsn, parseLsn } from "../base/lsn.ts";
import type { MembershipJson, SafekeeperTimelineStatus } from "../safekeeper/api.ts";
import { SafekeeperHttpClient } from "../safekeeper/client.ts";
import type { ControllerState, StorageNode } from "./controller-state.ts";

const TIMEOUT_MS = 3_000;
/** A peer that was not heard of for so long is not counted; they tell each second. */
const PEER_TIMEOUT_MS = 10_000;

/**
 * - `leading`: a proposer is connected; `idle`: none; `offloaded`: nor is any WAL on the disk
 * - `refused`: there, but damaged; the reason is in its log and `error`
 * - `missing`: a member that answers, but does not have the timeline (a lost disk)
 * - `former`: has a copy, but is no member any more
 * - `unreachable`: a member that does not answer
 */
export type PositionState =
  | "leading"
  | "idle"
  | "offloaded"
  | "refused"
  | "missing"
  | "former"
  | "unreachable";

/** States that want a look; `list` and `status` end with exit code 1 where they print one. */
export const BAD_STATES: ReadonlySet<PositionState> = new Set([
  "refused",
  "missing",
  "unreachable",
]);

export interface TimelinePosition {
  readonly safekeeper_id: number;
  readonly tenant_id: string;
  readonly timeline_id: string;
  readonly branch_name: string | null;
  readonly state: PositionState;
  readonly error: string | null;
  /** Absent where the safekeeper does not tell, as all below. */
  readonly generation?: number;
  /** Node ids; while membership changes those of the old set. */
  readonly members?: readonly number[];
  /** While membership changes: those of the new set. */
  readonly new_members?: readonly number[] | null;
  readonly term?: number;
  readonly last_log_term?: number;
  readonly flush_lsn?: string;
  readonly commit_lsn?: string;
  readonly backup_lsn?: string;
  readonly remote_consistent_lsn?: string;
  /** Bytes from its flush LSN to the newest commit LSN that any safekeeper tells. */
  readonly lag_bytes?: number;
  /** Bytes of committed WAL that are in no whole segment of the object store; null without one. */
  readonly backup_lag_bytes?: number | null;
  /** Bytes of committed WAL that no pageserver has stored. */
  readonly remote_lag_bytes?: number;
  /** Bytes from the least that a pageserver or standby streaming from it has to its commit LSN. */
  readonly reader_lag_bytes?: number | null;
  /** Other safekeepers that it hears of. */
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

/** Asks every safekeeper. */
export async function safekeeperPositions(known: NamedState): Promise<SafekeeperPositions> {
  const answering = new Set<number>();
  const found = await Promise.all(
    known.safekeepers.map(async (node) => {
      const timelines = await timelinesOf(node).catch(() => undefined);
      if (timelines !== undefined) {
        answering.add(node.id);
      }
      return timelines ?? [];
    }),
  );
  return { answering, rows: positionsOf(known, found.flat(), answering) };
}

/** Names are whoever's they are: here they only go into the rows. */
export interface NamedState extends ControllerState {
  /** Tenant id to branch name to timeline id. */
  readonly branchNameMappings: ReadonlyMap<string, ReadonlyMap<string, string>>;
}

interface TenantTimeline {
  readonly tenantId: string;
  readonly timelineId: string;
}

export interface Found extends TenantTimeline {
  readonly safekeeperId: number;
  /** Undefined where the safekeeper refuses the timeline. */
  readonly status: SafekeeperTimelineStatus | undefined;
  readonly error: string | null;
}

/** A row for each safekeeper that has a timeline, and for each that should have it. */
export function positionsOf(
  known: NamedState,
  found: readonly Found[],
  answering: ReadonlySet<number>,
): TimelinePosition[] {
  const rows: TimelinePosition[] = [];
  for (const timeline of timelinesIn(known, found)) {
    const copies = found.filter(({ timelineId }) => timelineId === timeline.timelineId);
    let head = 0 as Lsn;
    for (const { status } of copies) {
      head = maxLsn(head, lsnOf(status?.commit_lsn));
    }
    const members = membersOf(known, timeline, copies);
    rows.push(...copies.map((one) => toPosition(known, one, head, members)));
    const there = new Set(copies.map(({ safekeeperId }) => safekeeperId));
    for (const id of members.difference(there)) {
      const state = answering.has(id) ? "missing" : "unreachable";
      rows.push({ safekeeper_id: id, ...nameOf(known, timeline), error: null, state });
    }
  }
  return rows.sort((a, b) => compareText(key(a), key(b)) || a.safekeeper_id - b.safekeeper_id);
}

/** Those with a name, and those that somebody has without one. */
function timelinesIn(known: NamedState, found: readonly Found[]): Iterable<TenantTimeline> {
  const timelines = new Map<string, TenantTimeline>();
  for (const [tenantId, names] of known.branchNameMappings) {
    for (const timelineId of names.values()) {
      timelines.set(timelineId, { tenantId, timelineId });
    }
  }
  for (const { tenantId, timelineId } of found) {
    timelines.set(timelineId, { tenantId, timelineId });
  }
  return timelines.values();
}

/** Both sets of the newest membership that a copy tells; as on record where none tells any. */
function membersOf(
  known: NamedState,
  { tenantId, timelineId }: TenantTimeline,
  copies: readonly Found[],
): ReadonlySet<number> {
  const newest = copies.reduce<MembershipJson | undefined>((best, { status }) => {
    const mconf = status?.mconf;
    return mconf !== undefined && mconf.generation > (best?.generation ?? 0) ? mconf : best;
  }, undefined);
  if (newest !== undefined) {
    return new Set([...newest.members, ...(newest.new_members ?? [])].map(({ id }) => id));
  }
  const record = known.memberships.get(tenantId)?.get(timelineId);
  return new Set(
    record === undefined
      ? known.safekeepers.map(({ id }) => id)
      : [...record.members, ...(record.newMembers ?? [])],
  );
}

async function timelinesOf(node: StorageNode): Promise<Found[]> {
  const client = new SafekeeperHttpClient(node.listenHttpAddr, TIMEOUT_MS);
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
      if (error instanceof StorageError && error.code === "safekeeper-unreachable") {
        throw error;
      }
      // Deleted since it was listed.
      if (errorKind(error) === "not-found") {
        continue;
      }
      found.push({ ...one, status: undefined, error: errorMessage(error) });
    }
  }
  return found;
}

function nameOf(known: NamedState, { tenantId, timelineId }: TenantTimeline) {
  const names = [...(known.branchNameMappings.get(tenantId) ?? [])];
  return {
    tenant_id: tenantId,
    timeline_id: timelineId,
    branch_name: names.find(([, id]) => id === timelineId)?.[0] ?? null,
  };
}

function toPosition(
  known: NamedState,
  found: Found,
  head: Lsn,
  members: ReadonlySet<number>,
): TimelinePosition {
  const { safekeeperId, status, error } = found;
  const row = { safekeeper_id: safekeeperId, ...nameOf(known, found), error };
  if (status === undefined) {
    return { ...row, state: "refused" };
  }
  // What tells no position (pg_receivewal has none to apply) counts with what it was sent.
  const applied = status.walsenders.map(
    (sender) => lsnOf(sender.apply_lsn) || lsnOf(sender.flush_lsn) || lsnOf(sender.sent_lsn),
  );
  const commit = lsnOf(status.commit_lsn);
  const heard = status.peers.filter((peer) => peer.reported_ms_ago < PEER_TIMEOUT_MS);
  return {
    ...row,
    state: stateOf(safekeeperId, status, members),
    generation: status.mconf.generation,
    members: status.mconf.members.map(({ id }) => id),
    new_members: status.mconf.new_members?.map(({ id }) => id) ?? null,
    term: status.acceptor_state.term,
    last_log_term: status.acceptor_state.epoch,
    flush_lsn: status.flush_lsn,
    commit_lsn: status.commit_lsn,
    backup_lsn: status.backup_lsn,
    remote_consistent_lsn: status.remote_consistent_lsn,
    lag_bytes: Math.max(0, head - lsnOf(status.flush_lsn)),
    backup_lag_bytes: status.wal_backup?.lag_bytes ?? null,
    remote_lag_bytes: Math.max(0, commit - lsnOf(status.remote_consistent_lsn)),
    reader_lag_bytes: applied.length === 0 ? null : Math.max(0, commit - Math.min(...applied)),
    peers: heard.length,
    proposers: status.walreceivers.length,
    readers: status.walsenders.map((sender) => sender.application_name || sender.remote),
  };
}

function stateOf(
  id: number,
  status: SafekeeperTimelineStatus,
  members: ReadonlySet<number>,
): PositionState {
  if (!members.has(id)) {
    return "former";
  }
  if (status.walreceivers.length > 0) {
    return "leading";
  }
  return status.eviction_state === "offloaded" ? "offloaded" : "idle";
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
