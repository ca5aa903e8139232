// Values of results as text, and the names of their types.

import { Turns } from "../parts/turns.ts";
import type { Cell, StatementResult } from "./sql-stream.ts";

/** OIDs of pg_type.dat that users meet; the others are shown by their number. */
const TYPES: Readonly<Record<number, string>> = {
  ...{ 16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4" },
  ...{ 25: "text", 26: "oid", 114: "json", 142: "xml", 600: "point", 700: "float4", 701: "float8" },
  ...{ 790: "money", 829: "macaddr", 869: "inet", 650: "cidr", 1042: "bpchar", 1043: "varchar" },
  ...{ 1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval" },
  ...{ 1266: "timetz", 1560: "bit", 1562: "varbit", 1700: "numeric", 2205: "regclass" },
  ...{
    2206: "regtype",
    2249: "record",
    2278: "void",
    2950: "uuid",
    3220: "pg_lsn",
    3614: "tsvector",
  },
  ...{
    3802: "jsonb",
    1000: "bool[]",
    1007: "int4[]",
    1009: "text[]",
    1015: "varchar[]",
    1016: "int8[]",
  },
  ...{ 1231: "numeric[]", 2951: "uuid[]", 3807: "jsonb[]", 705: "unknown" },
};
const NUMERIC = new Set([20, 21, 23, 26, 700, 701, 790, 1700]);

export function typeName(oid: number): string {
  return TYPES[oid] ?? `type ${oid}`;
}

export function isNumeric(oid: number): boolean {
  return NUMERIC.has(oid);
}

/** A cut value is its beginning. */
export function cellText(cell: Cell): string {
  return cell === null ? "" : typeof cell === "string" ? cell : `${cell.text}…`;
}

/** Of a piece that is made at once. */
const CSV_ROWS = 200;

/** As COPY ... CSV HEADER writes it: null is nothing, an empty text is `""`. */
export async function csvOf({ columns, rows }: StatementResult): Promise<Blob> {
  const turns = new Turns();
  const head = `${columns.map(({ name }) => csvText(name)).join(",")}\n`;
  // Blobs of a blob are not copied: to encode and copy all of a long text at its end takes as long as a few frames.
  const pieces = [new Blob([head])];
  for (let from = 0; from < rows.length; from += CSV_ROWS) {
    let piece = "";
    for (const row of rows.slice(from, from + CSV_ROWS)) {
      piece += `${row.map((cell) => (cell === null ? "" : csvText(cellText(cell)))).join(",")}\n`;
    }
    pieces.push(new Blob([piece]));
    await turns.next();
  }
  return new Blob(pieces, { type: "text/csv" });
}

function csvText(text: string): string {
  return text === "" || /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
