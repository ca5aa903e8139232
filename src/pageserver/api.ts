// What the pageserver's HTTP API and its SQL-like commands carry: types, and checks of requests.

import { z } from "zod";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import type { CheckPoint } from "../wal-decoder/record-sink.ts";

const ID = z.string().regex(/^[0-9a-fA-F]{32}$/, "expected 32 hex digits");
const LSN_TEXT = z
  .string()
  .refine((text) => parseLsn(text) !== undefined, "expected an LSN such as 0/16F9A00");

/** POST /v1/tenant. */
export const tenantCreateSchema = z.object({ new_tenant_id: ID });

/** POST /v1/tenant/{t}/timeline. Without an ancestor: a root timeline, made by initdb. */
export const timelineCreateSchema = z
  .object({
    new_timeline_id: ID,
    ancestor_timeline_id: ID.nullish(),
    /** Default: the ancestor's last record. */
    ancestor_start_lsn: LSN_TEXT.nullish(),
    pg_version: z.int().min(14).max(18).nullish(),
    /** Ours: as initdb's --data-checksums. */
    data_checksums: z.boolean().nullish(),
  })
  .refine(
    (request) => request.ancestor_start_lsn == null || request.ancestor_timeline_id != null,
    "ancestor_start_lsn without ancestor_timeline_id",
  );

export interface TenantCreateRequest {
  readonly new_tenant_id: string;
}

export interface TimelineCreateRequest {
  readonly new_timeline_id: string;
  readonly ancestor_timeline_id?: string | null;
  readonly ancestor_start_lsn?: string | null;
  readonly pg_version?: number | null;
  readonly data_checksums?: boolean | null;
}

/** GET /v1/tenant, one element; GET /v1/tenant/{t}. */
export interface TenantInfo {
  readonly id: string;
  readonly state: { readonly slug: "Active" };
  readonly timelines: readonly string[];
}

/** Where the WAL of a timeline comes from at the moment. */
export interface WalReceiverInfo {
  /** `waiting`: no safekeeper known; `failed`: a record could not be taken in, see `error`. */
  readonly state: "waiting" | "connecting" | "streaming" | "failed";
  readonly safekeeper_id: number | null;
  readonly error: string | null;
}

/** GET /v1/tenant/{t}/timeline/{tl}. Neon's names; LSNs as `X/X`. */
export interface TimelineInfo {
  readonly tenant_id: string;
  readonly timeline_id: string;
  readonly ancestor_timeline_id: string | null;
  readonly ancestor_lsn: string | null;
  readonly last_record_lsn: string;
  /** `0/0` where it is not known: a fresh branch. */
  readonly prev_record_lsn: string;
  readonly disk_consistent_lsn: string;
  /** There is no object store yet: as disk_consistent_lsn. */
  readonly remote_consistent_lsn: string;
  /** Below it nothing can be read. */
  readonly min_readable_lsn: string;
  readonly current_physical_size: number;
  readonly pg_version: number;
  readonly state: "Active" | "Broken";
  readonly walreceiver_status: string;
  readonly walreceiver: WalReceiverInfo;
  readonly wal_source_connstr: string | null;
  readonly last_received_msg_lsn: string | null;
  /** Milliseconds since the Unix epoch. */
  readonly last_received_msg_ts: number | null;
  /** Ours: decimal, the timeline's Postgres system identifier. */
  readonly system_id: string;
  readonly wal_seg_size: number;
  /** Ours: its cluster has page checksums. */
  readonly data_checksums: boolean;
  /** Ours: where the timeline's own WAL begins. */
  readonly start_lsn: string;
}

/** GET /v1/tenant/{t}/timeline/{tl}/layer. */
export interface LayerMapInfo {
  readonly in_memory_layers: readonly { readonly kind: string; readonly lsn_start: string }[];
  readonly historic_layers: readonly {
    readonly layer_file_name: string;
    readonly layer_file_size: number;
  }[];
}

/** GET /v1/status. */
export interface PageserverStatus {
  readonly id: number;
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
  readonly twoPhase: readonly { fullXid: string; base64: string }[];
  readonly hasInheritedSubscriptions: boolean;
  /** `remoteLsn` decimal. */
  readonly replicationOrigins: readonly { originId: number; remoteLsn: string }[];
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
  readonly databases: readonly { spcOid: number; dbOid: number }[];
  /** Prepared transactions: pg_twophase files without their CRC. */
  readonly twoPhase: readonly { fullXid: bigint; payload: Uint8Array }[];
  /** The timeline may have begun with subscriptions of another, and no compute has detached them. */
  readonly hasInheritedSubscriptions: boolean;
  /** How far each replication origin was replayed: pg_logical/replorigin_checkpoint. */
  readonly replicationOrigins: readonly { originId: number; remoteLsn: bigint }[];
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
