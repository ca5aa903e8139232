// JSON of the safekeeper's HTTP API (Neon's names; LSNs as `X/X`).

import { z } from "zod";
import { idText, lsnText } from "../http/schemas.ts";
import type { MembershipConfiguration, SafekeeperId } from "../safekeeper-protocol/membership.ts";

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
  tenant_id: idText,
  timeline_id: idText,
  mconf: membershipSchema.nullish(),
  /** PG_VERSION_NUM form, 170010. */
  pg_version: z.int().min(140000).max(189999),
  /** Decimal. */
  system_id: z.union([z.string().regex(/^\d{1,20}$/), z.int().min(0)]).nullish(),
  wal_seg_size: z.int().nullish(),
  /** Where this timeline's own WAL begins. */
  start_lsn: lsnText,
  commit_lsn: lsnText.nullish(),
});

export type MembershipJson = z.infer<typeof membershipSchema>;
export type TimelineCreateRequest = z.infer<typeof timelineCreateRequestSchema>;

export function membershipFromJson(json: MembershipJson): MembershipConfiguration {
  const members = (set: MembershipJson["members"]): SafekeeperId[] =>
    set.map((member) => ({ id: member.id, host: member.host, pgPort: member.pg_port }));
  return {
    generation: json.generation,
    members: members(json.members),
    newMembers: json.new_members == null ? undefined : members(json.new_members),
  };
}

export function membershipToJson(mconf: MembershipConfiguration): MembershipJson {
  const members = (set: readonly SafekeeperId[]) =>
    set.map((member) => ({ id: member.id, host: member.host, pg_port: member.pgPort }));
  return {
    generation: mconf.generation,
    members: members(mconf.members),
    new_members: mconf.newMembers === undefined ? null : members(mconf.newMembers),
  };
}

/** POST .../term_bump; without `term` it is raised by one. */
export const termBumpRequestSchema = z.object({ term: z.int().min(1).nullish() });

export const termBumpResponseSchema = z.object({ previous_term: z.int(), current_term: z.int() });

export type TermBumpResponse = z.infer<typeof termBumpResponseSchema>;

export const deleteQuerySchema = z.object({
  only_local: z.stringbool().optional().describe("what the object store has stays"),
});

/** DELETE, PUT .../exclude. */
export const deleteResponseSchema = z.object({ dir_existed: z.boolean() });

export type DeleteResponse = z.infer<typeof deleteResponseSchema>;

/** POST /v1/pull_timeline. */
export const pullTimelineRequestSchema = z.object({
  tenant_id: idText,
  timeline_id: idText,
  /** `HOST:PORT`, or URLs of it, of the safekeepers that have it. */
  http_hosts: z.array(z.string().min(1).max(300)).min(1).max(32),
  /**
   * Adopted where its generation is above theirs. They must be in one already that is joint, and has this
   * node among the new members, where theirs names it: its disk may have been lost in an older one.
   */
  mconf: membershipSchema.nullish(),
});

export type PullTimelineRequest = z.infer<typeof pullTimelineRequestSchema>;

export const pullTimelineResponseSchema = z.object({
  safekeeper_host: z
    .string()
    .nullable()
    .describe("where it was copied from; null where it was here already"),
});

export type PullTimelineResponse = z.infer<typeof pullTimelineResponseSchema>;

/** POST .../copy. */
export const timelineCopyRequestSchema = z.object({
  target_timeline_id: idText,
  /** A record end in committed WAL. */
  until_lsn: lsnText,
});

export type TimelineCopyRequest = z.infer<typeof timelineCopyRequestSchema>;

/** GET .../digest?from_lsn=X/X&until_lsn=X/X. */
export const digestQuerySchema = z.object({ from_lsn: lsnText, until_lsn: lsnText });

export const timelineDigestSchema = z.object({
  sha256: z.string().describe("hex, of WAL [from_lsn, until_lsn)"),
});

/**
 * PUT .../membership: the configuration to be in from now on. PUT .../exclude: the one that no longer
 * has this safekeeper.
 */
export const membershipRequestSchema = z.object({ mconf: membershipSchema });

/** All of it is durable, and holds at least until the next switch. */
export const membershipSwitchResponseSchema = z.object({
  previous_conf: membershipSchema,
  current_conf: membershipSchema,
  term: z.int(),
  last_log_term: z.int(),
  flush_lsn: lsnText,
});

export type MembershipSwitchResponse = z.infer<typeof membershipSwitchResponseSchema>;

/** GET /v1/debug_dump; Neon's names. `dump_all` stands for all others; dump_control_file is the default. */
export const debugDumpQuerySchema = z.object({
  dump_all: z.stringbool().optional(),
  dump_control_file: z.stringbool().optional(),
  dump_memory: z.stringbool().optional(),
  dump_disk_content: z.stringbool().optional(),
  dump_term_history: z.stringbool().optional(),
  tenant_id: idText.optional(),
  timeline_id: idText.optional(),
});

const partialBackup = z
  .string()
  .nullable()
  .describe("name of this safekeeper's partial segment in the store");

const termHistory = z.array(z.object({ term: z.int(), lsn: lsnText }));

const evictionState = z.enum(["present", "offloaded"]);

const walBackupState = z.enum(["idle", "uploading", "failing"]);

const debugControlFileSchema = z
  .object({
    mconf: membershipSchema,
    acceptor_state: z.object({ term: z.int(), term_history: termHistory.nullable() }),
    server: z.object({ pg_version: z.int(), system_id: z.string(), wal_seg_size: z.int() }),
    timeline_start_lsn: lsnText,
    local_start_lsn: lsnText,
    commit_lsn: lsnText,
    backup_lsn: lsnText,
    peer_horizon_lsn: lsnText,
    remote_consistent_lsn: lsnText,
    partial_backup: partialBackup,
    eviction_state: evictionState,
  })
  .describe("as on disk, except that a partial segment and eviction come from memory");

const debugMemorySchema = z.object({
  peers_info_len: z.int(),
  walsenders_len: z.int(),
  wal_backup: z.object({ state: walBackupState, last_error: z.string().nullable() }),
  write_lsn: lsnText,
  flush_lsn: lsnText,
  commit_lsn: lsnText,
  last_log_term: z.int(),
  local_wal_start_lsn: lsnText,
  idle_ms: z.int(),
});

/** Neon's shape (safekeeper/src/debug_dump.rs). */
export const debugDumpSchema = z.object({
  config: z.object({ id: z.int() }),
  timelines_count: z.int(),
  timelines: z.array(
    z.object({
      tenant_id: idText,
      timeline_id: idText,
      control_file: debugControlFileSchema.nullable(),
      memory: debugMemorySchema.nullable(),
      disk_content: z
        .object({
          files: z.array(z.object({ name: z.string(), size: z.int(), modified: z.iso.datetime() })),
        })
        .nullable(),
    }),
  ),
});

export type DebugDump = z.infer<typeof debugDumpSchema>;

const walSenderSchema = z.object({
  remote: z.string(),
  application_name: z.string(),
  sent_lsn: lsnText.describe("where it will read next"),
  flush_lsn: lsnText.nullable().describe("what it told about itself, as apply_lsn"),
  apply_lsn: lsnText.nullable(),
});

/** Another safekeeper, as heard of through the broker. */
const peerSchema = z.object({
  sk_id: z.int(),
  term: z.int(),
  last_log_term: z.int(),
  flush_lsn: lsnText,
  commit_lsn: lsnText,
  reported_ms_ago: z.number(),
});

/** GET /v1/tenant/{tenant}/timeline/{timeline}. */
export const safekeeperTimelineStatusSchema = z.object({
  tenant_id: idText,
  timeline_id: idText,
  mconf: membershipSchema,
  acceptor_state: z.object({
    term: z.int(),
    epoch: z.int().describe("term of the last WAL it holds"),
    term_history: termHistory,
  }),
  pg_info: z.object({
    pg_version: z.int(),
    system_id: z.string().describe("decimal; a number would lose digits"),
    wal_seg_size: z.int(),
  }),
  flush_lsn: lsnText,
  timeline_start_lsn: lsnText,
  local_start_lsn: lsnText,
  commit_lsn: lsnText,
  backup_lsn: lsnText,
  peer_horizon_lsn: lsnText,
  remote_consistent_lsn: lsnText,
  local_wal_start_lsn: lsnText.describe(
    "where the WAL on its disk begins; below, it is in the object store only",
  ),
  eviction_state: evictionState,
  wal_backup: z
    .object({
      state: walBackupState,
      lag_bytes: z.int().describe("committed WAL that is in no whole segment in the store"),
      partial: partialBackup,
      last_error: z.string().nullable(),
    })
    .nullable()
    .describe("null where no object store is configured"),
  peers: z.array(peerSchema),
  walsenders: z.array(walSenderSchema),
  walreceivers: z.array(z.object({ remote: z.string(), connected_at: z.iso.datetime() })),
});

export type SafekeeperTimelineStatus = z.infer<typeof safekeeperTimelineStatusSchema>;

/** GET /v1/status. */
export const safekeeperStatusSchema = z.object({ id: z.int() });

export type SafekeeperStatus = z.infer<typeof safekeeperStatusSchema>;

/** GET /v1/tenant/timeline, one element. */
export const tenantTimelineSchema = z.object({ tenant_id: idText, timeline_id: idText });

export type TenantTimelineJson = z.infer<typeof tenantTimelineSchema>;
