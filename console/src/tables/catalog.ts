// What tables there are, and what one is made of, as the catalog of a database tells.

import { useQuery } from "@tanstack/react-query";
import { cellText } from "../sql/cells.ts";
import { readSql, type SqlPlace, sqlKey } from "../sql/sql-stream.ts";
import { literal, type TableName, tableText } from "./statements.ts";

export interface TableSummary extends TableName {
  readonly kind: keyof typeof KINDS;
}

export const KINDS = {
  r: "table",
  p: "partitioned table",
  v: "view",
  m: "materialized view",
  f: "foreign table",
} as const;

export interface ColumnFacts {
  readonly name: string;
  readonly type: string;
  /** Without length or precision. */
  readonly bareType: string;
  readonly isNullable: boolean;
  /** As SQL; "" where there is none. */
  readonly defaultText: string;
  /** Made by Postgres always: nobody writes it. */
  readonly isMade: boolean;
  /** From 1; 0: not of the primary key. */
  readonly keyPlace: number;
}

export interface IndexFacts {
  readonly name: string;
  readonly definition: string;
  readonly bytes: number;
  readonly isValid: boolean;
}

export interface TableFacts {
  readonly table: TableName;
  readonly kind: keyof typeof KINDS;
  /** What the planner thinks; below 0: it does not know. */
  readonly rows: number;
  readonly bytes: number;
  readonly columns: readonly ColumnFacts[];
  readonly indexes: readonly IndexFacts[];
  readonly constraints: readonly { readonly name: string; readonly definition: string }[];
  /** Why rows cannot be changed here; undefined: they can. */
  readonly whyNoChange: string | undefined;
}

/** More are not listed. */
export const MAX_TABLES = 5000;

const TABLES = `select n.nspname, c.relname, c.relkind
from pg_catalog.pg_namespace n
left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v', 'm', 'f')
where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
order by 1, 2 limit ${MAX_TABLES}`;

const factsOf = (regclass: string) => `select c.relkind, c.reltuples::pg_catalog.int8,
  case when c.relkind in ('r', 'm', 'p') then pg_catalog.pg_total_relation_size(c.oid) else 0 end,
  c.relkind = 'r' and c.relhassubclass
from pg_catalog.pg_class c where c.oid = ${regclass};
select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.format_type(a.atttypid, -1),
  a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attidentity = 'a' or a.attgenerated <> '',
  coalesce(pg_catalog.array_position(k.conkey, a.attnum), 0)
from pg_catalog.pg_attribute a
left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_catalog.pg_constraint k on k.conrelid = a.attrelid and k.contype = 'p'
where a.attrelid = ${regclass} and a.attnum > 0 and not a.attisdropped order by a.attnum;
select c.relname, pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.pg_relation_size(i.indexrelid), i.indisvalid
from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
where i.indrelid = ${regclass} order by not i.indisprimary, 1;
select conname, pg_catalog.pg_get_constraintdef(oid)
from pg_catalog.pg_constraint where conrelid = ${regclass} and contype in ('p', 'u', 'f', 'c', 'x') order by contype, 1`;

/** A schema without tables has an empty list. */
export function useTables(place: SqlPlace | undefined) {
  return useQuery({
    ...sqlKey(place, "tables"),
    queryFn: async ({ signal }) => {
      const { statements } = await readSql(place!, TABLES, signal);
      const rows = statements[0]?.rows ?? [];
      const schemas = new Map<string, TableSummary[]>();
      for (const row of rows) {
        const [schema = "", name = "", kind = ""] = row.map(cellText);
        const tables = schemas.get(schema) ?? [];
        schemas.set(schema, tables);
        if (kind !== "") {
          tables.push({ schema, name, kind: kind as TableSummary["kind"] });
        }
      }
      return { schemas, isCut: rows.length === MAX_TABLES };
    },
  });
}

export function useTableFacts(place: SqlPlace | undefined, table: TableName) {
  return useQuery({
    ...sqlKey(place, "table", table.schema, table.name),
    queryFn: async ({ signal }) => {
      const regclass = `${literal(tableText(table))}::pg_catalog.regclass`;
      const { statements } = await readSql(place!, factsOf(regclass), signal);
      const [facts, columns, indexes, constraints] = statements.map(({ rows }) =>
        rows.map((row) => row.map(cellText)),
      );
      return factsFrom(table, { facts, columns, indexes, constraints });
    },
  });
}

type Rows = readonly string[][] | undefined;

function factsFrom(
  table: TableName,
  of: { facts: Rows; columns: Rows; indexes: Rows; constraints: Rows },
): TableFacts {
  const [kind = "r", rows, bytes, hasChildren] = of.facts?.[0] ?? [];
  const columns = (of.columns ?? []).map((row) => {
    const [name = "", type = "", bareType = "", notNull, defaultText = "", made, place] = row;
    const rest = { isNullable: notNull !== "t", isMade: made === "t", keyPlace: Number(place) };
    return { name, type, bareType, defaultText, ...rest };
  });
  return {
    table,
    kind: kind as TableFacts["kind"],
    rows: Number(rows),
    bytes: Number(bytes),
    columns,
    indexes: (of.indexes ?? []).map(([name = "", definition = "", size, valid]) => ({
      name,
      definition,
      bytes: Number(size),
      isValid: valid === "t",
    })),
    constraints: (of.constraints ?? []).map(([name = "", definition = ""]) => ({
      name,
      definition,
    })),
    whyNoChange: whyNoChange(kind, hasChildren === "t", columns),
  };
}

function whyNoChange(
  kind: string,
  hasChildren: boolean,
  columns: readonly ColumnFacts[],
): string | undefined {
  if (kind !== "r" && kind !== "p") {
    return `it is a ${KINDS[kind as TableFacts["kind"]]}`;
  }
  if (hasChildren) {
    return "other tables inherit from it, which its primary key does not cover";
  }
  return columns.some(({ keyPlace }) => keyPlace > 0) ? undefined : "it has no primary key";
}
