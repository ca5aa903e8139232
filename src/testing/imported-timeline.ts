// A root timeline made from a stopped stock cluster's data directory, for tests and benchmarks.

import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { generateTenantId, generateTimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { writeTemplate } from "../pageserver/initdb-import.ts";
import { writeIndexPart } from "../pageserver/storage/index-part.ts";
import { type StorageConfig, StorageResources } from "../pageserver/storage/storage-resources.ts";
import { Timeline } from "../pageserver/storage/timeline.ts";
import { decodeControlFile } from "../postgres/control-file.ts";
import { DEFAULT_MAJOR } from "../postgres/installation.ts";
import type { PgMajor } from "../postgres/versions.ts";

/** Storage settings that are absent are the pageserver's defaults. */
export interface ImportOptions extends Partial<StorageConfig> {
  readonly logger: Logger;
  readonly pgMajor?: PgMajor;
}

/** Its WAL goes on at the end of the base's shutdown checkpoint. `directory` is created. */
export async function openImportedTimeline(
  baseDir: string,
  directory: string,
  options: ImportOptions,
): Promise<Timeline> {
  const { logger, pgMajor = DEFAULT_MAJOR, ...storage } = options;
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
  await writeIndexPart(directory, part);
  return new Timeline(new StorageResources(logger, storage), directory, part, undefined);
}
