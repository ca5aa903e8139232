// JSON of the safekeeper's HTTP API (Neon's names; LSNs as `X/X`).

import { z } from "zod";
import { parseLsn } from "../base/lsn.ts";

const HEX_32 = z.string().regex(/^[0-9a-fA-F]{32}$/, "expected 32 hex digits");
const LSN_TEXT = z.string().refine((text) => parseLsn(text) !== undefined, "expected an LSN");

export const safekeeperIdSchema = z.object({
  id: z.int().min(0),
  host: z.string(),
  pg_port: z.int().min(0).max(65535),
});

export const membershipSchema = z.object({
  generation: z.int().min(0),
  members: z.array(safekeeperIdSchema),
  new_members: z.array(safekeeperIdSchema).nullish(),
});

/**
 * POST /v1/tenant/timeline. Repeating it with equal values is fine; other values are a conflict.
 */
export const timelineCreateRequestSchema = z.object({
  tenant_id: HEX_32,
  timeline_id: HEX_32,
  mconf: membershipSchema.nullish(),
  /** PG_VERSION_NUM form, 170010. */
  pg_version: z.int().min(140000).max(189999),
  /** Decimal. */
  system_id: z.union([z.string().regex(/^\d{1,20}$/), z.int().min(0)]).nullish(),
  wal_seg_size: z.int().nullish(),
  /** Where this timeline's own WAL begins. */
  start_lsn: LSN_TEXT,
  commit_lsn: LSN_TEXT.nullish(),
});

export type MembershipJson = z.infer<typeof membershipSchema>;
export type TimelineCreateRequest = z.infer<typeof timelineCreateRequestSchema>;

/** POST .../term_bump; without `term` it is raised by one. */
export const termBumpRequestSchema = z.object({ term: z.int().min(1).nullish() });

export interface TermBumpResponse {
  readonly previous_term: number;
  readonly current_term: number;
}

/** POST /v1/pull_timeline. */
export const pullTimelineRequestSchema = z.object({
  tenant_id: HEX_32,
  timeline_id: HEX_32,
  /** `http://HOST:PORT` of the safekeepers that have it. */
  http_hosts: z.array(z.string().min(1).max(300)).min(1).max(32),
  /**
   * Adopted where its generation is above theirs. They must be in one already that is joint, and has this
   * node among the new members, where theirs names it: its disk may have been lost in an older one.
   */
  mconf: membershipSchema.nullish(),
});

export type PullTimelineRequest = z.infer<typeof pullTimelineRequestSchema>;

export interface PullTimelineResponse {
  /** Where it was copied from; null where it was here already. */
  readonly safekeeper_host: string | null;
}

/** POST .../copy. */
export const timelineCopyRequestSchema = z.object({
  target_timeline_id: HEX_32,
  /** A record end in committed WAL. */
  until_lsn: LSN_TEXT,
});

export type TimelineCopyRequest = z.infer<typeof timelineCopyRequestSchema>;

/** GET .../digest?from_lsn=X/X&until_lsn=X/X. */
export const digestQuerySchema = z.object({ from_lsn: LSN_TEXT, until_lsn: LSN_TEXT });

export interface TimelineDigest {
  /** Hex, of WAL [from_lsn, until_lsn). */
  readonly sha256: string;
}

/**
 * PUT .../membership: the configuration to be in from now on. PUT .../exclude: the one that no longer
 * has this safekeeper.
 */
export const membershipRequestSchema = z.object({ mconf: membershipSchema });

/** All of it is durable, and holds at least until the next switch. */
export interface MembershipSwitchResponse {
  readonly previous_conf: MembershipJson;
  readonly current_conf: MembershipJson;
  readonly term: number;
  readonly last_log_term: number;
  readonly flush_lsn: string;
}

/** GET /v1/debug_dump; Neon's names. `dump_all` stands for all others; dump_control_file is the default. */
export const debugDumpQuerySchema = z.object({
  dump_all: z.stringbool().optional(),
  dump_control_file: z.stringbool().optional(),
  dump_memory: z.stringbool().optional(),
  dump_disk_content: z.stringbool().optional(),
  dump_term_history: z.stringbool().optional(),
  tenant_id: HEX_32.optional(),
  timeline_id: HEX_32.optional(),
});

export interface WalSenderJson {
  readonly remote: string;
  readonly application_name: string;
  /** Where it will read next. */
  readonly sent_lsn: string;
  /** What it told about itself: `r` (standby) or `z` (pageserver) messages. */
  readonly flush_lsn: string | null;
  readonly apply_lsn: string | null;
}

/** Another safekeeper, as heard of through the broker. */
export interface PeerJson {
  readonly sk_id: number;
  readonly term: number;
  readonly last_log_term: number;
  readonly flush_lsn: string;
  readonly commit_lsn: string;
  readonly reported_ms_ago: number;
}

export interface WalReceiverJson {
  readonly remote: string;
  readonly connected_at: string;
}

/** GET /v1/tenant/{tenant}/timeline/{timeline}. */
export interface SafekeeperTimelineStatus {
  readonly tenant_id: string;
  readonly timeline_id: string;
  readonly mconf: MembershipJson;
  readonly acceptor_state: {
    readonly term: number;
    /** Term of the last WAL it holds. */
    readonly epoch: number;
    readonly term_history: readonly { readonly term: number; readonly lsn: string }[];
  };
  readonly pg_info: {
    readonly pg_version: number;
    /** Decimal; a number would lose digits. */
    readonly system_id: string;
    readonly wal_seg_size: number;
  };
  readonly flush_lsn: string;
  readonly timeline_start_lsn: string;
  readonly local_start_lsn: string;
  readonly commit_lsn: string;
  readonly backup_lsn: string;
  readonly peer_horizon_lsn: string;
  readonly remote_consistent_lsn: string;
  /** Where the WAL on its disk begins; below, it is in the object store only. */
  readonly local_wal_start_lsn: string;
  readonly eviction_state: "present" | "offloaded";
  /** Null where no object store is configured. */
  readonly wal_backup: {
    readonly state: "idle" | "uploading" | "failing";
    /** Committed WAL that is in no whole segment in the store. */
    readonly lag_bytes: number;
    /** Name of this safekeeper's partial segment in the store. */
    readonly partial: string | null;
    readonly last_error: string | null;
  } | null;
  readonly peers: readonly PeerJson[];
  readonly walsenders: readonly WalSenderJson[];
  readonly walreceivers: readonly WalReceiverJson[];
}

/** GET /v1/status. */
export interface SafekeeperStatus {
  readonly id: number;
}

export interface TenantTimelineJson {
  readonly tenant_id: string;
  readonly timeline_id: string;
}
