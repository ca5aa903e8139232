// A root timeline made from a stopped stock cluster's data directory, for tests and benchmarks.

import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { writeTemplate } from "../src/pageserver/ingest/initdb-import.ts";
import { writeIndexPart } from "../src/pageserver/storage/index-part.ts";
import type { StorageResources } from "../src/pageserver/storage/storage-resources.ts";
import { Timeline } from "../src/pageserver/storage/timeline.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import type { PgMajor } from "../src/postgres/versions.ts";

/** Its WAL goes on at the end of the base's shutdown checkpoint. `directory` is created. */
export async function openImportedTimeline(
  resources: StorageResources,
  baseDir: string,
  directory: string,
  pgMajor: PgMajor = DEFAULT_MAJOR,
): Promise<Timeline> {
  mkdirSync(directory);
  const control = decodeControlFile(readFileSync(join(baseDir, "global", "pg_control")), pgMajor);
  const { layer, lsn, prevRecordLsn } = await writeTemplate(baseDir, pgMajor, directory);
  const part = {
    tenantId: generateTenantId(),
    timelineId: generateTimelineId(),
    ancestor: undefined,
    pgVersion: pgMajor,
    dataChecksums: control.dataChecksums,
    systemId: control.systemId,
    walSegmentSize: control.segmentSize,
    startLsn: lsn,
    diskConsistentLsn: lsn,
    prevRecordLsn,
    layers: [layer],
  };
  await writeIndexPart(directory, part, resources.disk);
  return new Timeline(resources, directory, part, undefined);
}
