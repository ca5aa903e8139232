// What Postgres has counted of its work, seen in a session of our own, which does not count as use.

import { SUPERUSER } from "../../postgres/installation.ts";
import type { ComputeStatistics } from "../api.ts";
import {
  AGENT_NAME_PREFIX,
  MAINTENANCE_DATABASES,
  maintenanceSession,
  type PostgresAddress,
} from "./maintenance-session.ts";

const OURS = MAINTENANCE_DATABASES.map((name) => `'${name}'`).join(", ");
/** Names are those of the answer. Sums are null where there is no other database. */
const STATISTICS = `
  with sessions as (
    select count(*) as connections, count(*) filter (where state is distinct from 'idle') as active
    from pg_stat_activity
    where backend_type = 'client backend'
      and not (usename is not distinct from '${SUPERUSER}' and application_name like '${AGENT_NAME_PREFIX}%')
  ), counted as (
    select sum(xact_commit), sum(xact_rollback), sum(tup_returned),
      sum(tup_inserted + tup_updated + tup_deleted), sum(blks_hit), sum(blks_read)
    from pg_stat_database where datname is not null and datname not in (${OURS})
  )
  select sessions.*, current_setting('max_connections'), counted.* from sessions, counted`;

export async function statistics(address: PostgresAddress): Promise<ComputeStatistics> {
  const session = await maintenanceSession(address);
  try {
    const { rows } = await session.query(STATISTICS);
    const [connections, active, maxConnections, ...counted] = (rows[0] ?? []).map(Number);
    const [commits, rollbacks, rowsRead, rowsWritten, blocksHit, blocksRead] = counted;
    return {
      connections: connections ?? 0,
      active: active ?? 0,
      maxConnections: maxConnections ?? 0,
      commits: commits ?? 0,
      rollbacks: rollbacks ?? 0,
      rowsRead: rowsRead ?? 0,
      rowsWritten: rowsWritten ?? 0,
      blocksHit: blocksHit ?? 0,
      blocksRead: blocksRead ?? 0,
    };
  } finally {
    session.close();
  }
}
