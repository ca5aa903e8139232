// Statements on the rows of one table: what is looked at, changed, added and deleted, with every name and value quoted.

/** Of a row to which a statement goes; `xmin` is the transaction that wrote it, as it was read. */
export interface RowKey {
  readonly columns: readonly {
    readonly name: string;
    readonly type: string;
    readonly value: string;
  }[];
  readonly xmin: string;
}

export interface TableName {
  readonly schema: string;
  readonly name: string;
}

/** Null is NULL; undefined is the column's default. */
export type NewValue = string | null | undefined;

export interface Change {
  readonly column: string;
  readonly value: NewValue;
}

export const OPERATORS = {
  "=": "is",
  "<>": "is not",
  "<": "less than",
  "<=": "at most",
  ">": "more than",
  ">=": "at least",
  contains: "contains",
  null: "is null",
  "not null": "is not null",
} as const;
export type Operator = keyof typeof OPERATORS;

export interface Filter {
  readonly column: string;
  /** As `pg_catalog.format_type` writes it, without length: `varchar(3)` would cut what is compared. */
  readonly type: string;
  readonly operator: Operator;
  readonly value: string;
}

export interface RowsWanted {
  readonly table: TableName;
  readonly columns: readonly string[];
  readonly filters: readonly Filter[];
  /** Columns, first the most important. */
  readonly order: readonly { readonly column: string; readonly isDescending: boolean }[];
  readonly limit: number;
  readonly offset: number;
  /** The last column is then `xmin`, by which a change notices another one. */
  readonly withXmin: boolean;
}

export function ident(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Means the same whatever `standard_conforming_strings` is, which a role or a database may have set. */
export function literal(value: string): string {
  const quoted = `'${value.replaceAll("'", "''").replaceAll("\\", "\\\\")}'`;
  return value.includes("\\") ? `E${quoted}` : quoted;
}

export function tableText({ schema, name }: TableName): string {
  return `${ident(schema)}.${ident(name)}`;
}

export function selectRows(wanted: RowsWanted): string {
  const { table, columns, filters, order, limit, offset, withXmin } = wanted;
  const shown = [...columns.map(ident), ...(withXmin ? ["xmin"] : [])].join(", ");
  const by = order.map(
    ({ column, isDescending }) => `${ident(column)}${isDescending ? " DESC" : ""}`,
  );
  return [
    `SELECT ${shown}`,
    `FROM ${tableText(table)}`,
    ...whereOf(filters),
    ...(by.length === 0 ? [] : [`ORDER BY ${by.join(", ")}`]),
    `LIMIT ${limit} OFFSET ${offset}`,
  ].join("\n");
}

export function countRows(table: TableName, filters: readonly Filter[]): string {
  return ["SELECT pg_catalog.count(*)", `FROM ${tableText(table)}`, ...whereOf(filters)].join("\n");
}

export function updateRow(table: TableName, changes: readonly Change[], key: RowKey): string {
  const set = changes.map(({ column, value }) => `${ident(column)} = ${valueText(value)}`);
  return `UPDATE ${tableText(table)}\nSET ${set.join(",\n    ")}\nWHERE ${keyText(key)}`;
}

export function insertRow(table: TableName, changes: readonly Change[]): string {
  const given = changes.filter(({ value }) => value !== undefined);
  const into = `INSERT INTO ${tableText(table)}`;
  if (given.length === 0) {
    return `${into} DEFAULT VALUES`;
  }
  const columns = given.map(({ column }) => ident(column)).join(", ");
  return `${into} (${columns})\nVALUES (${given.map(({ value }) => valueText(value)).join(", ")})`;
}

export function deleteRow(table: TableName, key: RowKey): string {
  return `DELETE FROM ${tableText(table)}\nWHERE ${keyText(key)}`;
}

function whereOf(filters: readonly Filter[]): string[] {
  return filters.length === 0 ? [] : [`WHERE ${filters.map(filterText).join("\n  AND ")}`];
}

function filterText({ column, type, operator, value }: Filter): string {
  const name = ident(column);
  switch (operator) {
    case "null":
      return `${name} IS NULL`;
    case "not null":
      return `${name} IS NOT NULL`;
    case "contains":
      // Not LIKE: what is looked for has no wildcards.
      return `pg_catalog.strpos(pg_catalog.lower(${name}::text), pg_catalog.lower(${literal(value)})) > 0`;
    case "=":
    case "<>":
    case "<":
    case "<=":
    case ">":
    case ">=":
      return `${name} ${operator} ${literal(value)}::${type}`;
  }
}

/** Whoever has changed the row since it was read has written another xmin: then nothing is hit. */
function keyText({ columns, xmin }: RowKey): string {
  return [
    ...columns.map(({ name, type, value }) => `${ident(name)} = ${literal(value)}::${type}`),
    `xmin = ${literal(xmin)}`,
  ].join(" AND ");
}

/** Without a type: it becomes that of the column, and what is too long for it is an error. */
function valueText(value: NewValue): string {
  return value === undefined ? "DEFAULT" : value === null ? "NULL" : literal(value);
}
