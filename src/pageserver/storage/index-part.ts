// index_part.json: what a timeline is and which layer files belong to it; the only authority on both.
//
// Ours, format version 4. Checksummed JSON (base/text/checksummed-json.ts): the fields of IndexPart in snake case.
// Replaced as a whole, after the layers it names are durable; a layer file that it does not name does
// not exist. A wrong checksum, version or field is `corrupt`: the timeline does not load.

import { basename, join } from "node:path";
import { z } from "zod";
import { type Disk, readFileIfExists, writeFileDurablyAsync } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, MAX_LSN, parseLsn } from "../../base/lsn.ts";
import { decodeChecksummedJson, encodeChecksummedJson } from "../../base/text/checksummed-json.ts";
import { INDEX_PART_FORMAT_VERSION } from "../layers/format-versions.ts";
import { FIRST_LAYER_NUMBER, parseLayerFileName } from "../layers/layer-format.ts";
import type { LayerDescription } from "../layers/layer-writer.ts";

export const INDEX_PART_NAME = "index_part.json";

export interface IndexPart {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | undefined;
  /** Major version of Postgres. */
  readonly pgVersion: number;
  /** Its cluster has data checksums; initdb decides it for good. */
  readonly dataChecksums: boolean;
  /** Postgres's database system identifier, an unsigned 64-bit number. */
  readonly systemId: bigint;
  readonly walSegmentSize: number;
  /** Where the timeline's own WAL begins: the end of initdb, or the branch point. */
  readonly startLsn: Lsn;
  readonly diskConsistentLsn: Lsn;
  /** Start of the record that ends at diskConsistentLsn; 0 where unknown. */
  readonly prevRecordLsn: Lsn;
  /** Below it only what branches and leases need is kept; at most diskConsistentLsn. */
  readonly gcCutoffLsn: Lsn;
  /** LSNs that leases held when this was written, ascending: whoever has one finds it again after a restart. Undefined: not known. */
  readonly leases?: readonly Lsn[] | undefined;
  /** Where replicas would begin, as of what had been taken in when this was written, ascending. Undefined: not known. */
  readonly replicaStarts?: readonly Lsn[] | undefined;
  /** What it was detached from, while an index in the object store may still read on there. */
  readonly detachedFrom?: IndexPart["ancestor"];
  /** Nobody uses it since then, in milliseconds since the Unix epoch; undefined where it is in use. */
  readonly archivedAtMs?: number | undefined;
  readonly layers: readonly IndexLayer[];
  /** Of the process that wrote it. */
  readonly generation: number;
  /** Only in an object store: the timeline is gone, its objects are on their way out. */
  readonly deleted: boolean;
}

/** A layer that the timeline may read. */
export interface IndexLayer extends LayerDescription {
  /** Who made it: it lies in that one's directory. */
  readonly maker: TimelineId;
  /** Versions above it are not this timeline's; MAX_LSN where all are. */
  readonly capLsn: Lsn;
}

export interface RootTimelineParameters {
  readonly timelineId: TimelineId;
  readonly pgVersion: number;
  readonly dataChecksums: boolean;
  /** Unsigned 64 bits. */
  readonly systemId: bigint;
  readonly walSegmentSize: number;
  /** The LSN of the imported layers: the end of initdb's WAL. */
  readonly startLsn: Lsn;
  /** Start of the last record before startLsn; 0 where unknown. */
  readonly prevRecordLsn: Lsn;
  /** Image layer files at startLsn; hard-linked (or copied), so the originals stay. */
  readonly layerPaths: readonly { readonly path: string; readonly sizeBytes: number }[];
}

/** Of a root that is made. */
export function rootIndex(
  tenantId: TenantId,
  { layerPaths, ...parameters }: RootTimelineParameters,
  generation: number,
): IndexPart {
  return {
    ...parameters,
    tenantId,
    ancestor: undefined,
    diskConsistentLsn: parameters.startLsn,
    gcCutoffLsn: parameters.startLsn,
    leases: [],
    generation,
    deleted: false,
    layers: layerPaths.map(({ path, sizeBytes }) => ({
      fileName: basename(path),
      sizeBytes,
      maker: parameters.timelineId,
      capLsn: MAX_LSN,
    })),
  };
}

/** Of a branch that is made; `ancestor` is of the generation that makes it. */
export function branchIndex(ancestor: IndexPart, timelineId: TimelineId, lsn: Lsn): IndexPart {
  const { tenantId, pgVersion, dataChecksums, systemId, walSegmentSize, generation } = ancestor;
  return {
    tenantId,
    timelineId,
    ancestor: { timelineId: ancestor.timelineId, lsn },
    pgVersion,
    dataChecksums,
    systemId,
    walSegmentSize,
    startLsn: lsn,
    diskConsistentLsn: lsn,
    // The record that ends there is the ancestor's; on the branch nothing precedes the first.
    prevRecordLsn: 0 as Lsn,
    gcCutoffLsn: lsn,
    leases: [],
    generation,
    deleted: false,
    layers: [],
  };
}

const lsnSchema = z.string().transform((text, context) => {
  const lsn = parseLsn(text);
  if (lsn === undefined) {
    context.addIssue(`not an LSN: ${text}`);
    return z.NEVER;
  }
  return lsn;
});

const schema = z.object({
  format_version: z.int().min(1).max(INDEX_PART_FORMAT_VERSION),
  tenant_id: z.string(),
  timeline_id: z.string(),
  ancestor_timeline_id: z.string().nullable(),
  ancestor_lsn: lsnSchema.nullable(),
  pg_version: z.int().min(14).max(99),
  // Absent before there were any with checksums.
  data_checksums: z.boolean().default(false),
  system_id: z.string().regex(/^\d{1,20}$/),
  wal_seg_size: z.int().positive(),
  start_lsn: lsnSchema,
  disk_consistent_lsn: lsnSchema,
  prev_record_lsn: lsnSchema,
  gc_cutoff_lsn: lsnSchema.optional(),
  leases: z.array(lsnSchema).optional(),
  replica_starts: z.array(lsnSchema).optional(),
  detached_from: z.object({ timeline_id: z.string(), lsn: lsnSchema }).optional(),
  archived_at: z.iso.datetime().optional(),
  generation: z.int().min(1).max(0xffff_ffff).default(FIRST_LAYER_NUMBER.generation),
  deleted: z.boolean().default(false),
  layers: z.array(
    z.object({
      name: z.string(),
      size: z.int().nonnegative(),
      timeline_id: z.string().optional(),
      cap_lsn: lsnSchema.optional(),
    }),
  ),
});

export function encodeIndexPart(part: IndexPart): string {
  const body = {
    format_version: INDEX_PART_FORMAT_VERSION,
    tenant_id: part.tenantId,
    timeline_id: part.timelineId,
    ancestor_timeline_id: part.ancestor?.timelineId ?? null,
    ancestor_lsn: part.ancestor === undefined ? null : formatLsn(part.ancestor.lsn),
    pg_version: part.pgVersion,
    data_checksums: part.dataChecksums,
    system_id: part.systemId.toString(),
    wal_seg_size: part.walSegmentSize,
    start_lsn: formatLsn(part.startLsn),
    disk_consistent_lsn: formatLsn(part.diskConsistentLsn),
    prev_record_lsn: formatLsn(part.prevRecordLsn),
    gc_cutoff_lsn: formatLsn(part.gcCutoffLsn),
    ...(part.leases === undefined ? {} : { leases: part.leases.map(formatLsn) }),
    ...((part.replicaStarts ?? []).length === 0
      ? {}
      : { replica_starts: part.replicaStarts!.map(formatLsn) }),
    ...(part.detachedFrom === undefined
      ? {}
      : {
          detached_from: {
            timeline_id: part.detachedFrom.timelineId,
            lsn: formatLsn(part.detachedFrom.lsn),
          },
        }),
    ...(part.archivedAtMs === undefined
      ? {}
      : { archived_at: new Date(part.archivedAtMs).toISOString() }),
    generation: part.generation,
    ...(part.deleted ? { deleted: true } : {}),
    layers: part.layers.map(({ fileName, sizeBytes, maker, capLsn }) => ({
      name: fileName,
      size: sizeBytes,
      ...(maker === part.timelineId ? {} : { timeline_id: maker }),
      ...(capLsn === MAX_LSN ? {} : { cap_lsn: formatLsn(capLsn) }),
    })),
  };
  return encodeChecksummedJson(body, 1);
}

/** `corrupt` on anything that `encodeIndexPart` does not write; `path`, a file's or an object's, is for the message. */
export function decodeIndexPart(text: string, path: string): IndexPart {
  const corrupt = (what: string, cause?: unknown) =>
    new StorageError("corrupt", "corrupt-index", `index ${path}: ${what}`, {
      cause,
      fields: { path },
    });
  const data = decodeChecksummedJson(text, schema, corrupt);
  if ((data.ancestor_timeline_id === null) !== (data.ancestor_lsn === null)) {
    throw corrupt("ancestor and its LSN must come together");
  }
  for (const layer of data.layers) {
    // A name is also a path: nothing but a layer's name gets through.
    if (parseLayerFileName(layer.name) === undefined) {
      throw corrupt(`not a layer name: ${layer.name}`);
    }
  }
  return {
    tenantId: parseTenantId(data.tenant_id),
    timelineId: parseTimelineId(data.timeline_id),
    ancestor:
      data.ancestor_timeline_id === null
        ? undefined
        : { timelineId: parseTimelineId(data.ancestor_timeline_id), lsn: data.ancestor_lsn! },
    pgVersion: data.pg_version,
    dataChecksums: data.data_checksums,
    systemId: BigInt(data.system_id),
    walSegmentSize: data.wal_seg_size,
    startLsn: data.start_lsn,
    diskConsistentLsn: data.disk_consistent_lsn,
    prevRecordLsn: data.prev_record_lsn,
    gcCutoffLsn: data.gc_cutoff_lsn ?? data.start_lsn,
    leases: data.leases,
    ...(data.replica_starts === undefined ? {} : { replicaStarts: data.replica_starts }),
    detachedFrom: data.detached_from && {
      timelineId: parseTimelineId(data.detached_from.timeline_id),
      lsn: data.detached_from.lsn,
    },
    archivedAtMs: data.archived_at === undefined ? undefined : Date.parse(data.archived_at),
    generation: data.generation,
    deleted: data.deleted,
    layers: data.layers.map((layer) => ({
      fileName: layer.name,
      sizeBytes: layer.size,
      maker: parseTimelineId(layer.timeline_id ?? data.timeline_id),
      capLsn: layer.cap_lsn ?? MAX_LSN,
    })),
  };
}

/** Undefined where the directory has none: its creation did not finish. */
export function readIndexPart(directory: string, disk: Disk): IndexPart | undefined {
  const path = join(directory, INDEX_PART_NAME);
  const bytes = readFileIfExists(path, disk);
  return bytes === undefined ? undefined : decodeIndexPart(bytes.toString("utf8"), path);
}

/** Durable when it resolves. One caller a timeline at a time. */
export async function writeIndexPart(
  directory: string,
  part: IndexPart,
  disk: Disk,
): Promise<void> {
  const path = join(directory, INDEX_PART_NAME);
  await writeFileDurablyAsync(path, encodeIndexPart(part), disk, `${path}.___temp`);
}
