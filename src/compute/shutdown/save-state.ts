// What a clean stop saves beside what Postgres writes into WAL: sequences, free space maps, replication slots, statistics.

import { join } from "node:path";
import type { Logger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import { readSlotFiles } from "../../data-directory/aux-files.ts";
import { readLeftFile } from "../../data-directory/left-files.ts";
import { encodeStatisticsFiles } from "../../data-directory/statistics-files.ts";
import {
  CONTROL_FILE_SIZE,
  DB_SHUTDOWNED,
  decodeControlFile,
} from "../../postgres/control-file.ts";
import { encodeImageRecord } from "../../postgres/fpi.ts";
import { XLOG_LOGICAL_MESSAGE } from "../../postgres/opcodes.ts";
import { RELATION_SEGMENT_BLOCKS } from "../../postgres/relation-path.ts";
import { RM_LOGICALMSG_ID } from "../../postgres/rmgr.ts";
import { pgVersion } from "../../postgres/versions.ts";
import { encodeRecord } from "../../postgres/xlog-record.ts";
import {
  encodeAuxFileMessage,
  encodeStatisticsMessage,
} from "../../wal-decoder/logical-message-records.ts";
import { changedPages } from "./changed-pages.ts";
import { appendRecords, type EndOfWal } from "./closing-wal.ts";
import type { ServedFiles } from "./served-files.ts";

/** Compressed; more is not worth what each start and each branch would have to read. */
const MAX_STATISTICS_BYTES = 8 * 1024 * 1024;

export interface ShutDownCompute {
  readonly dataDirectory: string;
  readonly pgVersion: number;
  readonly systemId: bigint;
  readonly walSegmentSize: number;
  /** Where its Postgres began. */
  readonly startLsn: Lsn;
  readonly versionDirectory: string;
  readonly served: ServedFiles;
  readonly logger: Logger;
}

/**
 * Whether the last record is the checkpoint of a finished shutdown. Only then all is in the files: after a crash
 * a page there may be older than its WAL, and a sequence would go back.
 */
export function hasShutDown(dataDirectory: string, end: EndOfWal): boolean {
  const bytes = readLeftFile(dataDirectory, "global/pg_control", CONTROL_FILE_SIZE);
  if (bytes === undefined) {
    return false;
  }
  const control = decodeControlFile(bytes);
  return control.state === DB_SHUTDOWNED && control.checkPointLsn === end.lastRecordLsn;
}

/**
 * Writes it into pg_wal behind `end`, where the shutdown checkpoint ends (`hasShutDown`): pages as full-page images,
 * logical slots as that checkpoint left them, and last the statistics, which are true only where nothing follows. Returns up to where there is WAL now.
 */
export function saveState(compute: ShutDownCompute, end: EndOfWal): Lsn {
  const { dataDirectory, logger, walSegmentSize: segmentSize } = compute;
  const version = pgVersion(compute.pgVersion);
  const changed = changedPages({ ...compute, path: dataDirectory });
  const records = changed.map(({ file, blkno, page }) => (prevLsn: Lsn) => {
    const block = { ...file, blkno: file.segment * RELATION_SEGMENT_BLOCKS + blkno };
    return encodeImageRecord({ version, prevLsn, block, page });
  });
  const slots = readSlotFiles(dataDirectory);
  const message = { rmid: RM_LOGICALMSG_ID, info: XLOG_LOGICAL_MESSAGE, xid: 0 };
  for (const { path, bytes } of slots) {
    const mainData = encodeAuxFileMessage(path, bytes);
    records.push((prevLsn) => encodeRecord({ ...message, mainData, prevLsn }));
  }
  const statistics = encodeStatisticsFiles(dataDirectory);
  if (statistics !== undefined && statistics.length <= MAX_STATISTICS_BYTES) {
    const mainData = encodeStatisticsMessage(statistics);
    records.push((prevLsn) => encodeRecord({ ...message, mainData, prevLsn }));
  }
  logger.info(
    { pages: changed.length, slots: slots.length, statisticsBytes: statistics?.length ?? 0 },
    "saving what the shutdown left beside WAL",
  );
  const wal = {
    ...{ directory: join(dataDirectory, "pg_wal"), version, segmentSize },
    systemId: compute.systemId,
  };
  return appendRecords(wal, end, records);
}
