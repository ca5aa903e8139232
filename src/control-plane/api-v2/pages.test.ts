import assert from "node:assert/strict";
import { test } from "node:test";
import { page } from "./pages.ts";

interface Row {
  readonly id: string;
  readonly at: string;
}

/** Two of them are of one moment. */
const ROWS: readonly Row[] = [
  { id: "c", at: "2026-01-02" },
  { id: "a", at: "2026-01-01" },
  { id: "b", at: "2026-01-02" },
  { id: "d", at: "2026-01-03" },
];
const by = ({ at, id }: Row) => [at, id];

function encode(text: string): string {
  return Buffer.from(text).toString("base64url");
}

/** The ids page by page, with what `between` leaves of the rows for the next page. */
function walk(
  limit: number,
  descending: boolean,
  between: (rows: readonly Row[], seen: readonly Row[]) => readonly Row[] = (rows) => rows,
): string[] {
  const pages: string[] = [];
  let rows = ROWS;
  let cursor: string | undefined;
  while (pages.length < ROWS.length) {
    const next = page(rows, { by, descending }, { limit, cursor });
    pages.push(next.rows.map(({ id }) => id).join(""));
    if (next.isLast) {
      break;
    }
    cursor = next.cursor;
    rows = between(rows, next.rows);
  }
  return pages;
}

test("page: each row once, in order, also those of one moment", () => {
  assert.deepEqual(walk(1, false), ["a", "b", "c", "d"]);
  assert.deepEqual(walk(2, true), ["dc", "ba"]);
  assert.deepEqual(walk(3, false), ["abc", "d"]);
  assert.deepEqual(walk(4, false), ["abcd"]);
});

test("page: rows may come in another order each time", () => {
  assert.deepEqual(
    walk(1, true, (rows) => rows.toReversed()),
    ["d", "c", "b", "a"],
  );
});

test("page: what a page told of may be deleted before the next is asked for", () => {
  assert.deepEqual(
    walk(2, true, (rows, seen) => rows.filter((row) => !seen.includes(row))),
    ["dc", "ba"],
  );
});

test("page: an empty list, and numbers", () => {
  assert.deepEqual(page([], { by }, { limit: 2 }), { rows: [], cursor: undefined, isLast: true });
  const numbers = page([10, 9, 100], { by: (n) => [n] }, { limit: 2 });
  assert.deepEqual(numbers.rows, [9, 10]);
  const rest = page([10, 9, 100], { by: (n) => [n] }, { limit: 2, cursor: numbers.cursor });
  assert.deepEqual(rest.rows, [100]);
});

test("page: a cursor that no list gave", () => {
  for (const cursor of [
    "proud-sun-12345678",
    encode("null"),
    encode("{}"),
    encode('[{"toString":1}]'),
  ]) {
    assert.throws(() => page(ROWS, { by }, { limit: 1, cursor }), {
      message: "the cursor is not one that a list gave",
    });
  }
});
