// The statements that take the longest, from pg_stat_statements where users have it.

import { StorageError } from "../../base/errors.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import type { Insights } from "../api.ts";
import {
  connectableDatabases,
  type PostgresAddress,
  sessionUnlessDropped,
} from "./maintenance-session.ts";
import { quoteName } from "./sql-text.ts";

/** Neon's. */
const MOST_STATEMENTS = 10;
const EXTENSION = "pg_stat_statements";

/**
 * Of all databases, whichever has the extension. StorageError `unsupported` says what is missing: the library in
 * shared_preload_libraries, or the extension.
 */
export async function insights(address: PostgresAddress): Promise<Insights> {
  for (const database of (await connectableDatabases(address)).values()) {
    const session = await sessionUnlessDropped(address, database);
    if (session === undefined) {
      continue;
    }
    try {
      const { rows: found } = await session.query(
        `select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
          where e.extname = '${EXTENSION}'`,
      );
      const schema = found[0]?.[0];
      if (schema === undefined || schema === null) {
        continue;
      }
      const { rows: loaded } = await session.query(
        `select '${EXTENSION}' = any (regexp_split_to_array(
           current_setting('shared_preload_libraries'), '[\\s",]+|\\$libdir/'))`,
      );
      if (loaded[0]?.[0] !== "t") {
        throw missing("is not loaded");
      }
      const { rows } = await session.query(
        `select row_to_json(s) from ${quoteName(schema)}.${EXTENSION} s
          where userid <> '${SUPERUSER}'::regrole
          order by mean_exec_time + mean_plan_time desc limit ${MOST_STATEMENTS}`,
      );
      return { pg_stat_statements: rows.map(([row]) => JSON.parse(row!)) };
    } finally {
      session.close();
    }
  }
  throw missing("is in no database");
}

function missing(what: string): StorageError {
  const message =
    `statements are counted by ${EXTENSION}, which ${what}: it needs the setting shared_preload_libraries=${EXTENSION}, ` +
    `a start, and CREATE EXTENSION ${EXTENSION} in a database`;
  return new StorageError("unsupported", "no-pg-stat-statements", message);
}
