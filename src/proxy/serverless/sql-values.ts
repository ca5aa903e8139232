// Values of Postgres in text, to and from JSON.
//
// Source: neondatabase/neon proxy/src/serverless/json.rs (which JSON becomes what); utils/adt/arrayfuncs.c (array literals).

import type { SqlField } from "./sql-connection.ts";

const BOOL = 16;
const INT8 = 20;
const NUMBERS = new Set([21, 23, 700, 701]);
const JSON_TYPES = new Set([114, 3802]);
/** Array type to its element's. */
const ELEMENT_OF = new Map([
  [1000, BOOL],
  [1005, 21],
  [1007, 23],
  [1016, INT8],
  [1021, 700],
  [1022, 701],
  [199, 114],
  [3807, 3802],
  [1009, 25],
  [1015, 1043],
  [1014, 1042],
  [1115, 1114],
  [1182, 1082],
  [1185, 1184],
  [1231, 1700],
  [2951, 2950],
]);
const MAX_DEPTH = 6;

/** A parameter of a request as Postgres takes it. */
export function parameterText(value: unknown): string | null {
  if (value === null || value === undefined) {
    return null;
  }
  if (Array.isArray(value)) {
    return arrayLiteral(value);
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function arrayLiteral(values: readonly unknown[]): string {
  const elements = values.map((value) => {
    if (value === null || value === undefined) {
      return "NULL";
    }
    if (Array.isArray(value)) {
      return arrayLiteral(value);
    }
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    return typeof value === "string" || typeof value === "object"
      ? `"${text.replaceAll(/["\\]/g, "\\$&")}"`
      : text;
  });
  return `{${elements.join(",")}}`;
}

/** A row for a client that did not ask for Postgres's text. */
export function jsonRow(row: readonly (string | null)[], fields: readonly SqlField[]): unknown[] {
  return row.map((text, i) => (text === null ? null : jsonValue(text, fields[i]!.dataTypeID)));
}

function jsonValue(text: string, type: number): unknown {
  if (type === BOOL) {
    return text === "t";
  }
  if (NUMBERS.has(type)) {
    const number = Number(text);
    // JSON has no NaN and no infinity.
    return Number.isFinite(number) ? number : text;
  }
  if (JSON_TYPES.has(type)) {
    return JSON.parse(text) as unknown;
  }
  const element = ELEMENT_OF.get(type);
  return element === undefined ? text : parseArray(text, (one) => jsonValue(one, element));
}

/** An array literal of Postgres; text where it has more dimensions than arrays can have. */
export function parseArray(text: string, element: (text: string) => unknown): unknown {
  // Lower bounds other than 1 stand in front: [0:1]={a,b}
  let at = text.indexOf("{");
  const list = (depth: number): unknown[] => {
    const values: unknown[] = [];
    at++;
    while (at < text.length && text[at] !== "}") {
      if (text[at] === "{" && depth < MAX_DEPTH) {
        values.push(list(depth + 1));
      } else if (text[at] === '"') {
        values.push(element(quoted()));
      } else {
        const end = text.slice(at).search(/[,}]/) + at;
        const word = text.slice(at, end);
        values.push(word === "NULL" ? null : element(word));
        at = end;
      }
      if (text[at] === ",") {
        at++;
      }
    }
    at++;
    return values;
  };
  const quoted = (): string => {
    const match = /"((?:[^"\\]|\\.)*)"/sy;
    match.lastIndex = at;
    const found = match.exec(text);
    at = found === null ? text.length : match.lastIndex;
    return (found?.[1] ?? "").replaceAll(/\\(.)/gs, "$1");
  };
  return at < 0 ? text : list(1);
}
