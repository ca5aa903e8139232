// A root timeline made from a stopped stock cluster's data directory, and a timeline's pages to compare with files.

import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { type Lsn, MAX_LSN } from "../src/base/lsn.ts";
import { readComputeState } from "../src/pageserver/compute-state.ts";
import { writeTemplate } from "../src/pageserver/ingest/initdb-import.ts";
import { decodeSize, readRelations } from "../src/pageserver/ingest/relation-heads.ts";
import { relBlockPrefix, relSizePrefix } from "../src/pageserver/layers/key.ts";
import { writeIndexPart } from "../src/pageserver/storage/index-part.ts";
import type { StorageResources } from "../src/pageserver/storage/storage-resources.ts";
import { TenantLayers } from "../src/pageserver/storage/tenant-layers.ts";
import { Timeline } from "../src/pageserver/storage/timeline.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import type { PgMajor } from "../src/postgres/versions.ts";
import type { ComparedPages } from "../src/wal-verify/directory-comparison.ts";

/** Its WAL goes on at the end of the base's shutdown checkpoint. `timelinesDirectory` is created. */
export async function openImportedTimeline(
  resources: StorageResources,
  baseDir: string,
  timelinesDirectory: string,
  pgMajor: PgMajor = DEFAULT_MAJOR,
): Promise<Timeline> {
  const layers = new TenantLayers({ timelinesDirectory, resources });
  const timelineId = generateTimelineId();
  const directory = layers.directoryOf(timelineId);
  mkdirSync(directory, { recursive: true });
  const control = decodeControlFile(readFileSync(join(baseDir, "global", "pg_control")), pgMajor);
  const { layer, lsn, prevRecordLsn } = await writeTemplate(baseDir, pgMajor, directory);
  const part = {
    tenantId: generateTenantId(),
    timelineId,
    ancestor: undefined,
    pgVersion: pgMajor,
    dataChecksums: control.dataChecksums,
    systemId: control.systemId,
    walSegmentSize: control.segmentSize,
    startLsn: lsn,
    diskConsistentLsn: lsn,
    prevRecordLsn,
    gcCutoffLsn: lsn,
    generation: 1,
    deleted: false,
    layers: [{ ...layer, maker: timelineId, capLsn: MAX_LSN }],
  };
  await writeIndexPart(directory, part, resources.disk);
  return new Timeline(resources, layers, part, undefined);
}

/** What a timeline has at `lsn`, for compareRelationFiles. */
export function pageSource(timeline: Timeline, lsn: Lsn): ComparedPages {
  return {
    blocks: (rel) => {
      const prefix = relSizePrefix(rel.spcOid, rel.dbOid, rel.relNumber, rel.fork);
      const size = timeline.readValue(prefix, 0, lsn);
      return size === undefined ? undefined : decodeSize(size);
    },
    readPage: (rel, blkno) =>
      timeline.readPage(relBlockPrefix(rel.spcOid, rel.dbOid, rel.relNumber, rel.fork), blkno, lsn),
    forks: () =>
      readComputeState(timeline, lsn)
        .databases.concat({ spcOid: 1664, dbOid: 0 })
        .flatMap(({ spcOid, dbOid }) =>
          readRelations(timeline, lsn, spcOid, dbOid).map((rel) => ({ ...rel, spcOid, dbOid })),
        ),
  };
}
