// A branch's own start: subscriptions that it inherited lose their publisher's slot, which stays the parent's.
//
// A subscription is rows in catalogs, and so a branch has it too, with the name of the parent's slot at
// the publisher. Whoever connects to that slot moves it on, and what the other has not received is gone
// for it. So on a branch no worker may start before every subscription is as after
//
//   ALTER SUBSCRIPTION ... DISABLE; ALTER SUBSCRIPTION ... SET (slot_name = NONE)
//
// Postgres is started without workers and closed to users, the catalogs are changed, and a message in
// WAL (logical-message-records.ts) marks it done. The mark comes after the commit, so that a crash in
// between repeats all of it, and belongs to the timeline, so that later subscriptions are left alone.
//
// Tables whose first copy was under way have a slot each at the publisher, whose name would be the same
// here: they leave the subscription (ALTER SUBSCRIPTION ... REFRESH PUBLICATION brings them again).
// What stays: how far each subscription got (its replication origin), and all its options.

import type { Logger } from "../../base/log.ts";
import { SUBSCRIPTIONS_DETACHED_PREFIX } from "../../wal-decoder/logical-message-records.ts";
import {
  maintenanceSession,
  maintenanceSessionIn,
  type PostgresAddress,
} from "./maintenance-session.ts";

export interface DetachOptions extends PostgresAddress {
  readonly timelineId: string;
  readonly logger: Logger;
}

/** All of it; on return the mark is on a quorum. Any error: the branch is as it was, or nearly done. */
export async function detachInheritedSubscriptions(options: DetachOptions): Promise<void> {
  const connection = await maintenanceSession(options);
  try {
    const { rows: databases } = await connection.query(
      `select distinct d.datname, d.datallowconn
         from pg_catalog.pg_subscription s join pg_catalog.pg_database d on d.oid = s.subdbid`,
    );
    for (const [name, allowsConnections] of databases) {
      if (allowsConnections === "t") {
        await forgetUnfinishedCopies(options, name!);
      } else {
        options.logger.warn(
          { database: name },
          "subscriptions of a database that takes no connections: tables whose copy is unfinished stay",
        );
      }
    }
    const { rows: detached } = await connection.query(
      `update pg_catalog.pg_subscription set subenabled = false, subslotname = null
         where subenabled or subslotname is not null
         returning subname, (select datname from pg_catalog.pg_database where oid = subdbid)`,
    );
    await connection.query(
      `select pg_catalog.pg_logical_emit_message(
         true, '${SUBSCRIPTIONS_DETACHED_PREFIX}', '${options.timelineId}')`,
    );
    options.logger.info(
      { subscriptions: detached.map(([subscription, database]) => ({ subscription, database })) },
      "subscriptions of the parent branch are disabled here and have no slot",
    );
  } finally {
    connection.close();
  }
}

/** Of the subscriptions in `database`: tables that are neither being kept up (r) nor just about to be (s). */
async function forgetUnfinishedCopies(options: DetachOptions, database: string): Promise<void> {
  const connection = await maintenanceSessionIn(options, database);
  try {
    const { rows } = await connection.query(
      `with gone as (
         delete from pg_catalog.pg_subscription_rel where srsubstate not in ('r', 's')
         returning srsubid, srrelid)
       select s.subname, gone.srrelid::pg_catalog.regclass::text,
              (select pg_catalog.pg_replication_origin_drop(o.roname)::text
                 from pg_catalog.pg_replication_origin o
                where o.roname = pg_catalog.format('pg_%s_%s', gone.srsubid, gone.srrelid))
         from gone join pg_catalog.pg_subscription s on s.oid = gone.srsubid`,
    );
    if (rows.length > 0) {
      options.logger.warn(
        { database, tables: rows.map(([subscription, table]) => ({ subscription, table })) },
        "tables whose copy the parent branch had not finished are in their subscription no more",
      );
    }
  } finally {
    connection.close();
  }
}
