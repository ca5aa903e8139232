// Collects what a compute needs to start at an LSN.

import { StorageError } from "../base/errors.ts";
import { formatLsn, INVALID_LSN, type Lsn } from "../base/lsn.ts";
import { decodeRelationMap } from "../postgres/relation-map.ts";
import { GLOBAL_TABLESPACE_OID } from "../postgres/relation-path.ts";
import type { ComputeStateWire } from "./api.ts";
import { readAuxFiles } from "./ingest/aux-files.ts";
import { readPreparedTransactions } from "./ingest/prepared-transactions.ts";
import { decodeSize, FORK_MAIN } from "./ingest/relation-heads.ts";
import { readReplicationOrigins } from "./ingest/replication-origins.ts";
import { readStandbySnapshots } from "./ingest/standby-snapshots.ts";
import { readStatistics } from "./ingest/statistics.ts";
import { readTablespaces } from "./ingest/tablespaces.ts";
import { readCheckPoint } from "./ingest/walingest.ts";
import {
  CONTROL_FILE_INDEX,
  CONTROL_PREFIX,
  KEYSPACE_DATABASE,
  prefixField2,
  prefixField3,
  relmapPrefix,
  relSizePrefix,
  subscriptionsDetachedKey,
} from "./layers/key.ts";
import type { ServedTimeline } from "./served-timeline.ts";

/** Shared by all databases, so its file is in the shared map. */
const SUBSCRIPTION_RELATION_ID = 6100;

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64");
}

/** `lsn` at most `lastRecordLsn`. StorageError `corrupt` where a part is missing. */
export function readComputeState(timeline: ServedTimeline, lsn: Lsn): ComputeStateWire {
  const controlFile = timeline.readValue(CONTROL_PREFIX, CONTROL_FILE_INDEX, lsn);
  if (controlFile === undefined) {
    throw new StorageError("corrupt", "no-control-file", `no control file at ${formatLsn(lsn)}`);
  }
  const databases = [...timeline.scan([KEYSPACE_DATABASE], lsn)].map(({ prefix }) => ({
    spcOid: prefixField2(prefix),
    dbOid: prefixField3(prefix),
  }));
  const relationMaps = [{ spcOid: GLOBAL_TABLESPACE_OID, dbOid: 0 }, ...databases].flatMap(
    (place) => {
      const map = timeline.readValue(relmapPrefix(place.spcOid, place.dbOid), 0, lsn);
      return map === undefined ? [] : [{ ...place, base64: base64(map) }];
    },
  );
  const checkPoint = Object.fromEntries(
    Object.entries(readCheckPoint(timeline, lsn)).map(([name, value]) => [
      name,
      typeof value === "bigint" ? `${value}` : name === "redo" ? formatLsn(value as Lsn) : value,
    ]),
  );
  const statistics = readStatistics(timeline, lsn);
  return {
    lsn: formatLsn(lsn),
    prevRecordLsn: formatLsn(lsn === timeline.lastRecordLsn ? timeline.prevRecordLsn : INVALID_LSN),
    systemId: `${timeline.systemId}`,
    pgVersion: timeline.pgVersion,
    walSegmentSize: timeline.walSegmentSize,
    checkPoint,
    controlFile: base64(controlFile),
    relationMaps,
    databases,
    tablespaces: readTablespaces(timeline, lsn),
    ...(statistics === undefined ? {} : { statistics: base64(statistics) }),
    twoPhase: readPreparedTransactions(timeline, lsn).map(({ fullXid, payload }) => ({
      fullXid: `${fullXid}`,
      base64: base64(payload),
    })),
    hasInheritedSubscriptions: hasInheritedSubscriptions(timeline, lsn),
    replicationOrigins: readReplicationOrigins(timeline, lsn).map(({ originId, remoteLsn }) => ({
      originId,
      remoteLsn: `${remoteLsn}`,
    })),
    timelineStartLsn: formatLsn(timeline.startLsn),
    standbySnapshots: readStandbySnapshots(timeline, lsn).map((snapshot) => ({
      ...snapshot,
      startLsn: formatLsn(snapshot.startLsn),
      endLsn: formatLsn(snapshot.endLsn),
    })),
    auxFiles: readAuxFiles(timeline, timeline.startLsn, lsn).map(({ path, bytes }) => ({
      path,
      base64: base64(bytes),
    })),
  };
}

/**
 * What is asked is whether pg_subscription had a page where the timeline begins: what was made later is
 * its own. In nearly all it never had one, and a root of initdb begins without any. That moment is kept until a compute has detached
 * them (retention/collection.ts); where nobody knows any more what was there, that is done.
 */
export function hasInheritedSubscriptions(timeline: ServedTimeline, lsn: Lsn): boolean {
  const { startLsn } = timeline;
  if (!timeline.isKept(startLsn)) {
    return false;
  }
  const map = timeline.readValue(relmapPrefix(GLOBAL_TABLESPACE_OID, 0), 0, startLsn);
  const file =
    map && decodeRelationMap(map).find(({ oid }) => oid === SUBSCRIPTION_RELATION_ID)?.relNumber;
  if (file === undefined) {
    return false;
  }
  const sizeKey = relSizePrefix(GLOBAL_TABLESPACE_OID, 0, file, FORK_MAIN);
  const size = timeline.readValue(sizeKey, 0, startLsn);
  if (size === undefined || decodeSize(size) === 0) {
    return false;
  }
  const detached = subscriptionsDetachedKey(timeline.timelineId);
  return timeline.readValue(detached.prefix, detached.index, lsn) === undefined;
}
