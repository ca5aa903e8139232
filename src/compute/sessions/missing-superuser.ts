// The superuser of endpoints, in a cluster that was imported: it is made at the first start, by the cluster's own one.

import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { TenantTimeline } from "../../pageserver/api.ts";
import { computeState, PagestreamClient } from "../../pageserver/client.ts";
import {
  AUTH_ID_RELATION_ID,
  bootstrapSuperuserNames,
} from "../../postgres/bootstrap-superuser.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import { decodeRelationMap } from "../../postgres/relation-map.ts";
import { GLOBAL_TABLESPACE_OID, MAIN_FORK } from "../../postgres/relation-path.ts";
import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";

export interface SuperuserPlace extends PostgresAddress {
  readonly pgAddr: string;
  readonly timeline: TenantTimeline;
  /** Where the compute started: its pages of then are looked at. */
  readonly lsn: Lsn;
  readonly logger: Logger;
}

export function isMissingSuperuser(error: unknown): boolean {
  return errorMessage(error).includes(`role "${SUPERUSER}" does not exist`);
}

/** StorageError `unavailable` where the cluster's own superuser cannot make it. */
export async function createSuperuser(place: SuperuserPlace): Promise<void> {
  const names = await readNames(place);
  const problems: string[] = [];
  for (const user of names) {
    try {
      const connection = await maintenanceSession(place, user);
      try {
        await connection.query(
          `create role ${SUPERUSER} superuser createdb createrole replication bypassrls login`,
        );
      } finally {
        connection.close();
      }
      place.logger.info({ by: user }, "made the superuser of endpoints in an imported cluster");
      return;
    } catch (error) {
      problems.push(`as '${user}': ${errorMessage(error)}`);
    }
  }
  const message = `the cluster has no role ${SUPERUSER}, and it cannot be made: ${problems.join("; ")}`;
  throw new StorageError("unavailable", "no-superuser", message);
}

async function readNames({ pgAddr, timeline, lsn }: SuperuserPlace): Promise<string[]> {
  const { relationMaps } = await computeState(pgAddr, timeline, lsn);
  const shared = relationMaps.find(({ dbOid }) => dbOid === 0)?.bytes;
  const relNumber =
    shared && decodeRelationMap(shared).find(({ oid }) => oid === AUTH_ID_RELATION_ID)?.relNumber;
  if (relNumber === undefined) {
    throw new StorageError("corrupt", "no-pg-authid", "pg_authid is in no relation map");
  }
  const rel = { spcOid: GLOBAL_TABLESPACE_OID, dbOid: 0, relNumber, fork: MAIN_FORK };
  const pages = await PagestreamClient.connect(pgAddr, timeline);
  try {
    const blocks = await pages.relSize(rel, lsn);
    return bootstrapSuperuserNames(
      await Promise.all(
        Array.from({ length: blocks }, (_, blkno) => pages.getPage(rel, blkno, lsn)),
      ),
    );
  } finally {
    pages.close();
  }
}
