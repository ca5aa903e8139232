// Names for completion: tables and columns of the database, read once somebody has run something there.

import type { SQLNamespace } from "@codemirror/lang-sql";
import { useQuery } from "@tanstack/react-query";
import { cellText } from "./cells.ts";
import { readSql, type SqlPlace, sqlKey } from "./sql-stream.ts";

const NOTHING: SQLNamespace = {};
const COLUMNS = `select n.nspname, c.relname, a.attname
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid
where c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attnum > 0 and not a.attisdropped
and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
order by 1, 2, a.attnum limit 20000`;

/** Undefined, before somebody has run something: a branch that sleeps is left asleep. */
export function useSchema(place: SqlPlace | undefined): SQLNamespace {
  const { data } = useQuery({
    ...sqlKey(place, "columns"),
    queryFn: async ({ signal }) => {
      const { statements } = await readSql(place!, COLUMNS, signal);
      return namespaceOf((statements[0]?.rows ?? []).map((row) => row.map(cellText)));
    },
  });
  return data ?? NOTHING;
}

/** Rows of schema, table, column; what is in `public` is found without it. */
function namespaceOf(rows: readonly string[][]): SQLNamespace {
  const found: Record<string, Record<string, string[]>> = Object.create(null);
  const open: Record<string, string[]> = Object.create(null);
  for (const [schema = "", table = "", column = ""] of rows) {
    found[schema] ??= Object.create(null) as Record<string, string[]>;
    found[schema][table] ??= [];
    const columns = found[schema][table];
    columns.push(column);
    if (schema === "public") {
      open[table] = columns;
    }
  }
  return { ...open, ...found } as SQLNamespace;
}
