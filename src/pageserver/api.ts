// What the pageserver's HTTP API and its SQL-like commands carry: types, and checks of requests.

import { z } from "zod";
import type { Lsn } from "../base/lsn.ts";
import { parseDurationMs } from "../base/text/duration.ts";
import { idText, lsnText } from "../http/schemas.ts";
import type { CheckPoint } from "../wal-decoder/record-sink.ts";

/** POST /v1/tenant. */
export const tenantCreateSchema = z.object({ new_tenant_id: idText });

/** POST /v1/tenant/{t}/timeline. Without an ancestor: a root timeline, made by initdb. */
export const timelineCreateSchema = z
  .object({
    new_timeline_id: idText,
    ancestor_timeline_id: idText.nullish(),
    ancestor_start_lsn: lsnText.nullish().describe("default: the ancestor's last record"),
    pg_version: z.int().min(14).max(18).nullish(),
    data_checksums: z.boolean().nullish().describe("as initdb's --data-checksums"),
  })
  .refine(
    (request) => request.ancestor_start_lsn == null || request.ancestor_timeline_id != null,
    "ancestor_start_lsn without ancestor_timeline_id",
  );

export type TimelineCreateRequest = z.infer<typeof timelineCreateSchema>;

/** GET /v1/tenant, one element; GET /v1/tenant/{t}. */
export const tenantInfoSchema = z.object({
  id: idText,
  state: z.object({ slug: z.literal("Active") }),
  timelines: z.array(idText),
});

export type TenantInfo = z.infer<typeof tenantInfoSchema>;

const durationText = z
  .string()
  .refine((text) => parseDurationMs(text) !== undefined, "expected a duration such as 7 days")
  .meta({ examples: ["7 days", "1h 30m", "0s"] });

/** What can be set of a tenant, as Neon's TenantConfig: absent is the default. */
export const tenantConfigSchema = z.strictObject({
  pitr_interval: durationText
    .describe("history of this age stays readable; 0s: gc_horizon counts")
    .optional(),
  gc_horizon: z
    .int()
    .min(0)
    .describe("bytes of WAL that stay readable where pitr_interval is 0s")
    .optional(),
  gc_period: durationText.describe("0s: only when it is asked for").optional(),
  compaction_period: durationText.describe("0s: only when it is asked for").optional(),
});

export type TenantConfig = { readonly [K in keyof TenantConfigFields]?: TenantConfigFields[K] };
type TenantConfigFields = Required<z.infer<typeof tenantConfigSchema>>;

/** PUT /v1/tenant/config: all that is set then. */
export const tenantConfigPutSchema = tenantConfigSchema.extend({ tenant_id: idText });

/** PATCH /v1/tenant/config: null is back to the default, absent as it was. */
export const tenantConfigPatchSchema = z.strictObject({
  tenant_id: idText,
  pitr_interval: tenantConfigSchema.shape.pitr_interval.nullable(),
  gc_horizon: tenantConfigSchema.shape.gc_horizon.nullable(),
  gc_period: tenantConfigSchema.shape.gc_period.nullable(),
  compaction_period: tenantConfigSchema.shape.compaction_period.nullable(),
});

export type TenantConfigPatch = {
  readonly [K in keyof TenantConfigFields]?: TenantConfigFields[K] | null;
};

/** GET /v1/tenant/{t}/config. */
export const tenantConfigInfoSchema = z.object({
  tenant_specific_overrides: tenantConfigSchema,
  effective_config: z.object({
    pitr_interval: z.string(),
    gc_horizon: z.int(),
    gc_period: z.string(),
    compaction_period: z.string(),
  }),
});

export type TenantConfigInfo = z.infer<typeof tenantConfigInfoSchema>;

/** Where the WAL of a timeline comes from at the moment. */
const walReceiverInfoSchema = z.object({
  state: z
    .enum(["waiting", "connecting", "streaming", "failed"])
    .describe("waiting: no safekeeper known; failed: a record could not be taken in, see error"),
  safekeeper_id: z.int().nullable(),
  error: z.string().nullable(),
});

export type WalReceiverInfo = z.infer<typeof walReceiverInfoSchema>;

/** GET /v1/tenant/{t}/timeline/{tl}. Neon's names. */
export const timelineInfoSchema = z.object({
  tenant_id: idText,
  timeline_id: idText,
  ancestor_timeline_id: idText.nullable(),
  ancestor_lsn: lsnText.nullable(),
  last_record_lsn: lsnText,
  prev_record_lsn: lsnText.describe("0/0 where it is not known: a fresh branch"),
  disk_consistent_lsn: lsnText,
  remote_consistent_lsn: lsnText.describe(
    "the object store has everything up to here; without one, as disk_consistent_lsn",
  ),
  min_readable_lsn: lsnText.describe("below it nothing can be read"),
  current_physical_size: z.int().describe("bytes of layers that it made and reads"),
  current_logical_size: z
    .int()
    .nullable()
    .describe("bytes of all relations at last_record_lsn; null where it was not asked for"),
  exclusive_size: z
    .int()
    .nullable()
    .describe("bytes of layers that no other timeline can read; null where it was not asked for"),
  pg_version: z.int(),
  state: z.enum(["Active", "Broken"]),
  walreceiver_status: z.string(),
  walreceiver: walReceiverInfoSchema,
  wal_source_connstr: z.string().nullable(),
  last_received_msg_lsn: lsnText.nullable(),
  last_received_msg_ts: z.number().nullable().describe("milliseconds since the Unix epoch"),
  system_id: z.string().describe("decimal, the timeline's Postgres system identifier"),
  wal_seg_size: z.int(),
  data_checksums: z.boolean().describe("its cluster has page checksums"),
  start_lsn: lsnText.describe("where the timeline's own WAL begins"),
  is_archived: z
    .literal(false)
    .describe("an archived one is told of by timeline_and_offloaded only"),
});

export type TimelineInfo = z.infer<typeof timelineInfoSchema>;

/** PUT /v1/tenant/{t}/timeline/{tl}/archival_config. Neon's. */
export const archivalConfigSchema = z.object({ state: z.enum(["Archived", "Unarchived"]) });

export type ArchivalState = z.infer<typeof archivalConfigSchema>["state"];

/** GET /v1/tenant/{t}/timeline_and_offloaded. Neon's names. */
export const timelinesAndOffloadedSchema = z.object({
  timelines: z.array(timelineInfoSchema),
  offloaded: z
    .array(
      z.object({
        tenant_id: idText,
        timeline_id: idText,
        ancestor_timeline_id: idText.nullable(),
        ancestor_retain_lsn: lsnText.nullable().describe("where it begins"),
        archived_at: z.string().describe("RFC 3339, in UTC"),
      }),
    )
    .describe("archived ones, also those that are still on the pageserver's disk"),
});

export type TimelinesAndOffloaded = z.infer<typeof timelinesAndOffloadedSchema>;
export type OffloadedTimelineInfo = TimelinesAndOffloaded["offloaded"][number];

/** PUT /v1/tenant/{t}/timeline/{tl}/import_pgdata, to be repeated until it is done. */
export const importRequestSchema = z.object({
  path: z
    .string()
    .min(1)
    .max(4096)
    .startsWith("/")
    .describe("data directory or unpacked base backup, where the pageserver runs"),
});

export const importStatusSchema = z.object({
  phase: z.enum(["copy", "replay"]).describe("of files; of WAL"),
  done_bytes: z.number(),
  total_bytes: z.number(),
  left_out: z.array(z.string()).describe("what is not taken over, for people"),
  timeline: timelineInfoSchema.nullable().describe("once it is done"),
});

export type ImportStatusJson = z.infer<typeof importStatusSchema>;

const timestampText = z
  .string()
  .meta({ description: "RFC 3339, in UTC", examples: ["2026-11-28T10:38:10.250000Z"] });

/** GET /v1/tenant/{t}/timeline/{tl}/get_lsn_by_timestamp. */
export const lsnByTimestampSchema = z.object({
  lsn: lsnText.describe(
    "where recovery to that time stops; past, nodata: the oldest that can be read",
  ),
  kind: z
    .enum(["present", "future", "past", "nodata"])
    .describe(
      "future: no transaction ended later; past: all that are known did; nodata: none is known",
    ),
  commit_timestamp: timestampText
    .nullable()
    .describe("of the last commit at lsn; past: of the first transaction that is known"),
});

export type LsnByTimestamp = z.infer<typeof lsnByTimestampSchema>;

/** GET /v1/tenant/{t}/timeline/{tl}/get_timestamp_of_lsn. */
export const timestampOfLsnSchema = timestampText;

const keyText = z.string().regex(/^[0-9A-F]{36}$/);

/** GET /v1/tenant/{t}/timeline/{tl}/layer. */
export const layerMapInfoSchema = z.object({
  in_memory_layers: z.array(z.object({ kind: z.string(), lsn_start: lsnText })),
  historic_layers: z.array(
    z.object({
      layer_file_name: z.string(),
      layer_file_size: z.int(),
      kind: z.enum(["Delta", "Image"]),
      key_start: keyText.describe("36 hex digits"),
      key_end: keyText.describe("the last key that it may have"),
      lsn_start: lsnText,
      lsn_end: lsnText.describe("exclusive"),
      timeline_id: idText.describe("who made it"),
      cap_lsn: lsnText.nullable().describe("versions above are not this timeline's; null: all are"),
      remote: z.boolean().describe("only in the object store, not on the pageserver's disk"),
    }),
  ),
});

export type LayerMapInfo = z.infer<typeof layerMapInfoSchema>;

/** A day: younger objects may be on their way to an index. */
const DEFAULT_SCRUB_MIN_AGE_S = 86_400;

const objectSchema = z.object({ key: z.string(), bytes: z.int() });

/** PUT /v1/tenant/{t}/scrub. */
export const scrubRequestSchema = z.object({
  fix: z
    .boolean()
    .default(false)
    .describe("delete orphans, and put layers again that are missing and still on the disk"),
  min_age_s: z
    .int()
    .min(0)
    .default(DEFAULT_SCRUB_MIN_AGE_S)
    .describe("objects that are younger are no orphans"),
});

export const scrubReportSchema = z.object({
  timelines: z.int(),
  objects: z.int(),
  bytes: z.int(),
  orphans: z.array(objectSchema).describe("nobody names them"),
  missing: z
    .array(objectSchema.extend({ index: z.string() }))
    .describe("the index names them, and they are not there"),
  differing: z
    .array(objectSchema.extend({ index: z.string(), stored_bytes: z.int() }))
    .describe("not of the size that the index says"),
  damaged: z
    .array(z.object({ timeline_id: idText, error: z.string() }))
    .describe("timelines whose index cannot be read; then nothing counts as an orphan"),
  unknown: z.array(z.string()).describe("keys that are none of ours"),
  deleted: z.array(z.string()).describe("orphans that are gone now"),
  put_again: z.array(z.string()).describe("missing layers that are on their way again"),
});

export type ScrubRequest = z.input<typeof scrubRequestSchema>;
export type ScrubReportWire = z.infer<typeof scrubReportSchema>;

/** GET /v1/status. */
export const pageserverStatusSchema = z.object({ id: z.int() });

export type PageserverStatus = z.infer<typeof pageserverStatusSchema>;

/** A record that says which transactions run: a standby that has replayed one knows. */
export interface StandbySnapshot {
  /** Its record is [startLsn, endLsn). */
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** `shutdown`: a shutdown checkpoint, where none runs but what is prepared. */
  readonly kind: "running" | "shutdown";
  /** 32 bits, as `nextXid`: which is exact, where `checkPoint` may be up to 1023 ahead. */
  readonly oldestRunningXid: number;
  readonly nextXid: number;
}

/** What a compute needs to start at an LSN. `Wire`: as the JSON of `compute_state` spells it. */
export interface ComputeStateWire {
  readonly lsn: string;
  readonly prevRecordLsn: string;
  readonly systemId: string;
  readonly pgVersion: number;
  readonly walSegmentSize: number;
  /** CheckPoint with LSNs as `X/X` and bigints as decimal strings. */
  readonly checkPoint: Readonly<Record<string, string | number | boolean>>;
  readonly controlFile: string;
  readonly relationMaps: readonly { spcOid: number; dbOid: number; base64: string }[];
  readonly databases: readonly { spcOid: number; dbOid: number }[];
  readonly tablespaces: readonly { spcOid: number; location: string }[];
  readonly statistics?: string;
  readonly twoPhase: readonly { fullXid: string; base64: string }[];
  readonly hasInheritedSubscriptions: boolean;
  /** `remoteLsn` decimal. */
  readonly replicationOrigins: readonly { originId: number; remoteLsn: string }[];
  readonly timelineStartLsn: string;
  /** LSNs as `X/X`. */
  readonly standbySnapshots: readonly (Pick<
    StandbySnapshot,
    "kind" | "oldestRunningXid" | "nextXid"
  > & { readonly startLsn: string; readonly endLsn: string })[];
  readonly auxFiles: readonly { path: string; base64: string }[];
}

export interface ComputeState {
  readonly lsn: Lsn;
  /** Start of the record that ends at `lsn`; 0 where it is not known. */
  readonly prevRecordLsn: Lsn;
  readonly systemId: bigint;
  readonly pgVersion: number;
  readonly walSegmentSize: number;
  readonly checkPoint: CheckPoint;
  /** pg_control with the parameters that WAL has changed since initdb: a template for a start. */
  readonly controlFile: Uint8Array;
  /** pg_filenode.map files; the shared one is spcOid 1664, dbOid 0. */
  readonly relationMaps: readonly { spcOid: number; dbOid: number; bytes: Uint8Array }[];
  /** Directories of databases, and of those with relations in a tablespace of the user's. */
  readonly databases: readonly { spcOid: number; dbOid: number }[];
  /** The user's. `location`: absolute; empty where it is in place. */
  readonly tablespaces: readonly { spcOid: number; location: string }[];
  /** What a clean stop right here has left of pg_stat (data-directory/statistics-files.ts). */
  readonly statistics?: Uint8Array | undefined;
  /** Prepared transactions: pg_twophase files without their CRC. */
  readonly twoPhase: readonly { fullXid: bigint; payload: Uint8Array }[];
  /** The timeline may have begun with subscriptions of another, and no compute has detached them. */
  readonly hasInheritedSubscriptions: boolean;
  /** How far each replication origin was replayed: pg_logical/replorigin_checkpoint. */
  readonly replicationOrigins: readonly { originId: number; remoteLsn: bigint }[];
  /** Where the timeline's own WAL begins. */
  readonly timelineStartLsn: Lsn;
  /** The last two up to here, the older one first; those that end at `timelineStartLsn` or before are an ancestor's. */
  readonly standbySnapshots: readonly StandbySnapshot[];
  /** Of its logical replication slots and for them (data-directory/aux-files.ts); a branch has none of its parent's. */
  readonly auxFiles: readonly { path: string; bytes: Uint8Array }[];
}

/** One fork of a relation that exists. */
export interface RelationSize {
  readonly relNumber: number;
  readonly fork: number;
  readonly blocks: number;
}

/** Whose data a page service command is about: 32 hex digits each; the server checks them. */
export interface TenantTimeline {
  readonly tenantId: string;
  readonly timelineId: string;
}

/** PUT /v1/tenant/{t}/timeline/{tl}/do_gc. Neon's, and what a dry run is. */
export const gcRequestSchema = z
  .strictObject({
    gc_horizon: z
      .int()
      .min(0)
      .nullish()
      .describe("in place of the tenant's; counts where its pitr_interval is 0s"),
    pitr_interval: durationText
      .nullish()
      .describe("in place of the tenant's; of a dry run: what a tenant keeps is set for good"),
    dry_run: z.boolean().nullish().describe("nothing changes"),
    force: z
      .boolean()
      .nullish()
      .describe("also while computes have yet to renew their leases, after a start"),
  })
  .refine(
    (request) => request.pitr_interval == null || request.dry_run === true,
    "pitr_interval is for a dry run only",
  );

/** A branch or a lease that holds an LSN below the cutoff, or an imported cluster's subscriptions, which hold where it begins. */
const gcHolderSchema = z.object({
  lsn: lsnText,
  kind: z.enum(["branch", "lease", "subscriptions"]),
  timeline_id: idText.nullable().describe("the branch's"),
  valid_until: timestampText.nullable().describe("of a lease"),
});

export type GcHolder = z.infer<typeof gcHolderSchema>;

/** What becomes of a layer, and why. */
export const LAYER_FATES = [
  "removed",
  "rewritten",
  "above_cutoff",
  "needed_at_cutoff",
  "needed_below_cutoff",
] as const;

export type LayerFate = (typeof LAYER_FATES)[number];

const gcCountSchema = z.object({ layers: z.int(), bytes: z.int() });

/** What it does to the layers that one timeline may read, its ancestors' not counted. */
export const gcResultSchema = z.object({
  timeline_id: idText,
  dry_run: z.boolean(),
  gc_cutoff_lsn: lsnText.describe("below it nothing can be read but what is held"),
  gc_cutoff_time: timestampText.nullable().describe("of the last commit before it"),
  held: z.array(gcHolderSchema),
  total: gcCountSchema.describe("before"),
  removed: gcCountSchema.describe("nobody needs anything of them"),
  freed: gcCountSchema.describe("of the removed, those that no other timeline reads: files go"),
  rewritten: gcCountSchema.describe("replaced by what is needed of them"),
  written: gcCountSchema.nullable().describe("null: a dry run does not know"),
  above_cutoff: gcCountSchema.describe("stay: they have history above the cutoff"),
  needed_at_cutoff: gcCountSchema.describe("stay: what is at the cutoff is read from them"),
  needed_below_cutoff: gcCountSchema.describe("stay: what is held is read from them"),
  layers: z.array(
    z.object({
      layer_file_name: z.string(),
      layer_file_size: z.int(),
      fate: z.enum(LAYER_FATES),
    }),
  ),
});

export type GcResult = z.infer<typeof gcResultSchema>;

/** POST /v1/tenant/{t}/timeline/{tl}/lsn_lease, as Neon's. */
export const lsnLeaseRequestSchema = z.object({ lsn: lsnText });
export const lsnLeaseSchema = z.object({ valid_until: timestampText });

/** GET /v1/tenant/{t}/synthetic_size. */
export const syntheticSizeSchema = z.object({
  id: idText,
  size: z.int().describe("bytes of the cheapest snapshots and WAL that serve all that is read"),
  segments: z.array(
    z.object({
      timeline_id: idText,
      lsn: lsnText,
      parent: z.int().nullable().describe("which of these is before it"),
      wal: z.int().describe("bytes from the parent to here"),
      logical_size: z.int().describe("bytes of a snapshot here"),
      needed: z.boolean().describe("whether all from the parent to here is read"),
    }),
  ),
});

export type SyntheticSize = z.infer<typeof syntheticSizeSchema>;

/** As Neon's; here no other branch gets another parent. */
export const detachAncestorSchema = z.object({ reparented_timelines: z.array(z.string()) });
