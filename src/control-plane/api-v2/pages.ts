// Lists of the API, a page at a time.

import { StorageError } from "../../base/errors.ts";

/** What a list is in the order of, the most important first. The last one tells rows apart, so that no two have the same place. */
type Place = readonly (string | number)[];

interface Page<T> {
  readonly rows: readonly T[];
  /** Of the last row; undefined where there is none. */
  readonly cursor: string | undefined;
  readonly isLast: boolean;
}

/**
 * The `limit` rows behind `cursor`, which is a place in the list, not one of its rows: who deletes what a page told of goes on behind
 * it. StorageError `invalid`.
 */
export function page<T>(
  rows: readonly T[],
  order: { readonly by: (row: T) => Place; readonly descending?: boolean },
  { limit, cursor }: { readonly limit: number; readonly cursor?: string | undefined },
): Page<T> {
  const sign = order.descending ? -1 : 1;
  const placed = rows
    .map((row) => ({ row, place: order.by(row) }))
    .toSorted((a, b) => sign * compare(a.place, b.place));
  const after = cursor ? parseCursor(cursor) : undefined;
  const left =
    after === undefined ? placed : placed.filter(({ place }) => sign * compare(place, after) > 0);
  const taken = left.slice(0, limit);
  const last = taken.at(-1);
  return {
    rows: taken.map(({ row }) => row),
    cursor: last === undefined ? undefined : formatCursor(last.place),
    isLast: left.length <= limit,
  };
}

function compare(a: Place, b: Place): number {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at === -1 ? 0 : a[at]! < b[at]! ? -1 : 1;
}

function formatCursor(place: Place): string {
  return Buffer.from(JSON.stringify(place)).toString("base64url");
}

function parseCursor(cursor: string): Place {
  const place = parsed(Buffer.from(cursor, "base64url").toString());
  if (!isPlace(place)) {
    throw new StorageError("invalid", "bad-cursor", "the cursor is not one that a list gave");
  }
  return place;
}

function isPlace(value: unknown): value is Place {
  return Array.isArray(value) && value.every((v) => typeof v === "string" || typeof v === "number");
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
