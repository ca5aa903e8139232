// A root timeline made from a stopped stock cluster's data directory, for tests and benchmarks.

import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { generateTenantId, generateTimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { writeTemplate } from "../pageserver/initdb-import.ts";
import { writeIndexPart } from "../pageserver/storage/index-part.ts";
import { StorageResources } from "../pageserver/storage/storage-resources.ts";
import { Timeline } from "../pageserver/storage/timeline.ts";
import { decodeControlFile } from "../postgres/control-file.ts";

export interface ImportOptions {
  readonly logger: Logger;
  /** Size of the open layer at which it is frozen; absent: the pageserver's default. */
  readonly checkpointDistanceBytes?: number;
}

/** Its WAL goes on at the end of the base's shutdown checkpoint. `directory` is created. */
export async function openImportedTimeline(
  baseDir: string,
  directory: string,
  options: ImportOptions,
): Promise<Timeline> {
  const { logger, ...storage } = options;
  mkdirSync(directory);
  const control = decodeControlFile(readFileSync(join(baseDir, "global", "pg_control")), 17);
  const { layer, lsn, prevRecordLsn } = await writeTemplate(baseDir, 17, directory);
  const part = {
    tenantId: generateTenantId(),
    timelineId: generateTimelineId(),
    ancestor: undefined,
    pgVersion: 17,
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
