// When a compute was last used, so that whoever pays for it may suspend it.
//
// Used is a compute while a client's query or transaction is open, a walsender serves somebody, a
// subscription's worker runs, or autovacuum does; else it was last used when the newest of its
// sessions became idle. Sessions that came and went since the last look show in the time that all
// backends have worked (pg_stat_database.active_time), which they report when they end. Our own
// sessions have `track_activities = off`, so they add nothing to it (maintenance-session.ts).
//
// It is looked at when somebody asks, and then in a session that ends at once: one that stayed would
// keep its database from being a template, renamed or dropped, and an idle compute from being idle.
// So the answer is as exact as the questions are frequent: what came and went between two of them
// counts as of the second.

import { monotonicMs, nowMs, sleep } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import {
  AGENT_NAME_PREFIX,
  maintenanceSession,
  type PostgresAddress,
} from "./maintenance-session.ts";

/** Questions that follow closer get the same answer: a look costs a session, some 5 ms of CPU. */
const LOOK_INTERVAL_MS = 2000;
/** Nobody waits longer for a look: Postgres may be waiting for storage. */
const LOOK_PATIENCE_MS = 3000;

const LOOK = `
  select
    (select sum(active_time) from pg_stat_database),
    count(*) filter (where
      backend_type = 'client backend' and state is distinct from 'idle'
      or backend_type in ('walsender', 'autovacuum worker')
      or backend_type like 'logical replication%worker') > 0,
    extract(epoch from max(state_change) filter (where backend_type = 'client backend')) * 1000
  from pg_stat_activity
  where not (usename is not distinct from '${SUPERUSER}' and application_name like '${AGENT_NAME_PREFIX}%')`;

export class Activity {
  readonly #logger: Logger;
  #activeTime = "0";
  /** Undefined: at work, or nobody knows. */
  #lastActiveMs: number | undefined;
  #newestMs: number;
  /** On the monotonic clock. A start counts as a look: what follows it is not to be kept waiting. */
  #lookedMs: number;
  #looking: Promise<void> | undefined;

  /** Of one run of Postgres, whose statistics begin with zero; it accepts connections since `sinceMs`. */
  constructor(logger: Logger, sinceMs: number) {
    this.#logger = logger;
    this.#newestMs = sinceMs;
    this.#lastActiveMs = sinceMs;
    this.#lookedMs = monotonicMs() - (nowMs() - sinceMs);
  }

  /** RFC 3339, up to 2 s old; null while it is used, or Postgres does not tell: that counts as now. */
  async lastActive(address: PostgresAddress): Promise<string | null> {
    if (monotonicMs() - this.#lookedMs >= LOOK_INTERVAL_MS) {
      this.#looking ??= this.#look(address).finally(() => {
        this.#looking = undefined;
      });
      const patience = new AbortController();
      const tired = sleep(LOOK_PATIENCE_MS, patience.signal).then(
        () => true,
        () => false,
      );
      const late = await Promise.race([this.#looking.then(() => false), tired]);
      patience.abort();
      if (late) {
        return null;
      }
    }
    const last = this.#lastActiveMs;
    return last === undefined ? null : new Date(last).toISOString();
  }

  async #look(address: PostgresAddress): Promise<void> {
    try {
      const session = await maintenanceSession(address);
      try {
        const { rows } = await session.query(LOOK);
        this.#found(rows[0] ?? []);
      } finally {
        session.close();
      }
    } catch (error) {
      // Too many connections, for one: then somebody is at work.
      this.#logger.debug({ error }, "cannot see whether Postgres is used");
      this.#lastActiveMs = undefined;
    }
    this.#lookedMs = monotonicMs();
  }

  #found([activeTime = "0", busy, idleSince]: readonly (string | null)[]): void {
    const now = nowMs();
    const worked = (activeTime ?? "0") !== this.#activeTime;
    this.#activeTime = activeTime ?? "0";
    this.#newestMs = Math.min(
      now,
      Math.max(this.#newestMs, Number(idleSince ?? 0), worked || busy === "t" ? now : 0),
    );
    this.#lastActiveMs = busy === "t" ? undefined : this.#newestMs;
  }
}
