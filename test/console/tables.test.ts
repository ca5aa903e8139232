import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  countRows,
  deleteRow,
  type Filter,
  insertRow,
  type Operator,
  type RowKey,
  selectRows,
  updateRow,
} from "../../console/src/tables/statements.ts";
import { assertAccessible } from "../../testing/console/axe.ts";
import { ConsoleWorld, type SqlLine } from "../../testing/console/console-world.ts";
import { goTo, inBothSizes, type Visit } from "../../testing/console/visit.ts";

// The console's page of tables: its statements against Postgres, and the page in a real browser where one is installed.

/** All that quoting could stumble over. */
const HOSTILE = `a"b'c\\d\\'; drop table orders; --<img src=x onerror=alert(1)> \u202Eת$$\n%_`;
/** As long as Postgres lets it be, in bytes. */
const LONG = `"${"é'".repeat(20)}xy`;
const TABLE = { schema: HOSTILE.slice(0, 40), name: LONG };
const COLUMNS = ["id", HOSTILE.slice(0, 45), "n"];
const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;
const TABLE_TEXT = `${quoted(TABLE.schema)}.${quoted(TABLE.name)}`;

let world: ConsoleWorld;

before(async () => {
  world = await ConsoleWorld.create();
  await ok(`create schema ${quoted(TABLE.schema)};
    create table ${TABLE_TEXT} (id text primary key, ${quoted(COLUMNS[1]!)} varchar(200) default 'd', n numeric(9,2));
    create table orders (id int primary key, customer text not null, total numeric(9, 2), big text, made int generated always as (id * 2) stored);
    insert into orders select n, 'customer ' || n, n, null from generate_series(1, 250) n;
    update orders set big = repeat('x', 100000) where id = 3;
    create index on orders (customer);
    create table keyless (n int); insert into keyless values (1);`);
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

async function ok(query: string): Promise<SqlLine[]> {
  const lines = await world.sql(query);
  assert.deepEqual(
    lines.filter(({ t }) => t === "error"),
    [],
  );
  return lines;
}

const rowsOf = (lines: SqlLine[]) =>
  lines.filter(({ t }) => t === "rows").flatMap(({ rows }) => rows);
const tagOf = (lines: SqlLine[]) => lines.find(({ t }) => t === "done").tag;

async function rows(filters: readonly Filter[] = []): Promise<SqlLine[]> {
  return rowsOf(
    await ok(
      selectRows({
        ...{ table: TABLE, columns: COLUMNS, filters, withXmin: true, limit: 100, offset: 0 },
        order: [{ column: "id", isDescending: false }],
      }),
    ),
  );
}

function keyOf(row: SqlLine): RowKey {
  return { columns: [{ name: "id", type: "text", value: row[0] }], xmin: row[3] };
}

test("tables: hostile names and values come back as they are, whatever the settings", async () => {
  for (const setting of ["on", "off"]) {
    await ok(`alter role neondb_owner set standard_conforming_strings = ${setting}`);
    const id = `${setting} ${HOSTILE}`;
    const insert = insertRow(TABLE, [
      { column: "id", value: id },
      { column: COLUMNS[1]!, value: HOSTILE },
      { column: "n", value: null },
    ]);
    assert.equal(tagOf(await ok(insert)), "INSERT 0 1");
    const [row] = await rows([{ column: "id", type: "text", operator: "=", value: id }]);
    assert.deepEqual(row.slice(0, 3), [id, HOSTILE, null]);
    const change = updateRow(TABLE, [{ column: COLUMNS[1]!, value: `${HOSTILE}2` }], keyOf(row));
    assert.equal(tagOf(await ok(change)), "UPDATE 1");
    const [changed] = await rows([{ column: "id", type: "text", operator: "=", value: id }]);
    assert.deepEqual(changed.slice(0, 3), [id, `${HOSTILE}2`, null]);
    assert.equal(tagOf(await ok(deleteRow(TABLE, keyOf(changed)))), "DELETE 1");
  }
  await ok("alter role neondb_owner reset standard_conforming_strings");
  assert.equal(rowsOf(await ok("select count(*) from orders"))[0][0], "250");
});

test("tables: a row that was changed since it was read is not changed, nor deleted", async () => {
  await ok(insertRow(TABLE, [{ column: "id", value: "seen" }]));
  const [seen] = await rows();
  assert.deepEqual(seen.slice(0, 3), ["seen", "d", null]);
  await ok(`update ${TABLE_TEXT} set n = 7`);
  const late = updateRow(TABLE, [{ column: "n", value: "8" }], keyOf(seen));
  assert.equal(tagOf(await ok(late)), "UPDATE 0");
  assert.equal(tagOf(await ok(deleteRow(TABLE, keyOf(seen)))), "DELETE 0");
  const [now] = await rows();
  assert.equal(now[2], "7.00");
  const toDefault = [
    { column: COLUMNS[1]!, value: undefined },
    { column: "n", value: null },
  ];
  assert.equal(tagOf(await ok(updateRow(TABLE, toDefault, keyOf(now)))), "UPDATE 1");
  const [tooLong] = await world.sql(
    updateRow(TABLE, [{ column: COLUMNS[1]!, value: "x".repeat(201) }], keyOf((await rows())[0])),
  );
  assert.equal(tooLong.code, "22001", "it is cut silently");
  assert.equal(tagOf(await ok(deleteRow(TABLE, keyOf((await rows())[0])))), "DELETE 1");
});

test("tables: each comparison finds what it says", async () => {
  const values = ["a%b", "A_c", "abc", "ab\\c"];
  for (const [i, value] of values.entries()) {
    const n = i === 0 ? null : `${i}`;
    await ok(
      insertRow(TABLE, [
        { column: "id", value },
        { column: "n", value: n },
      ]),
    );
  }
  const found = async (column: string, operator: Operator, value = "") => {
    const type = column === "n" ? "numeric" : "text";
    const filters = [{ column, type, operator, value }];
    const ids = (await rows(filters)).map(([id]) => id);
    const [[count]] = rowsOf(await ok(countRows(TABLE, filters)));
    assert.equal(count, `${ids.length}`);
    return ids.toSorted();
  };
  assert.deepEqual(await found("id", "contains", "%"), ["a%b"]);
  assert.deepEqual(await found("id", "contains", "a_"), ["A_c"]);
  assert.deepEqual(await found("id", "contains", "\\"), ["ab\\c"]);
  assert.deepEqual(await found("n", "null"), ["a%b"]);
  assert.deepEqual(await found("n", "not null"), ["A_c", "ab\\c", "abc"]);
  assert.deepEqual(await found("n", ">", "1"), ["ab\\c", "abc"]);
  assert.deepEqual(await found("n", ">=", "1.0"), ["A_c", "ab\\c", "abc"]);
  assert.deepEqual(await found("n", "<", "2"), ["A_c"]);
  assert.deepEqual(await found("n", "<=", "2"), ["A_c", "abc"]);
  assert.deepEqual(await found("n", "<>", "2"), ["A_c", "ab\\c"]);
  assert.equal(tagOf(await ok(insertRow({ schema: "public", name: "keyless" }, []))), "INSERT 0 1");
});

inBothSizes(
  "tables, pages, filters; a row is changed, added, deleted; a hostile one is shown",
  () => world,
  async (visit) => useTables(visit),
);

async function useTables({ browser, page, dialog, size }: Visit): Promise<void> {
  const [customer, total] = size === "desk" ? ["O'Brien <b>", "2.50"] : ["O'Hara </b>", "2.75"];
  const quotedCustomer = customer.replace("'", "''");
  await page.getByRole("link", { name: /shop/ }).click();
  await goTo(page, "Tables");
  await page.getByRole("link", { name: "orders", exact: true }).click();
  await page.getByText("rows 1 to 100").waitFor();
  await assertAccessible(browser, "tables");
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByText("rows 101 to 200").waitFor();
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByText("rows 201 to 250").waitFor();
  assert.ok(await page.getByRole("button", { name: "Next" }).isDisabled());
  const filter = page.getByRole("form", { name: "Filter" });
  await filter.getByLabel("Column", { exact: true }).selectOption("total");
  await filter.getByLabel("Comparison").selectOption("at most");
  await filter.getByLabel("Value").fill("3");
  await filter.getByRole("button", { name: "Filter" }).click();
  await page.getByText("rows 1 to 3", { exact: true }).waitFor();
  await filter.getByLabel("Sorted by").selectOption("id ↓");
  await page.locator("#cell-0-0", { hasText: /^3$/ }).waitFor();
  await page.getByRole("button", { name: "Count" }).click();
  await page.getByText("3 in all").waitFor();

  // By keys: the cell of the second row, second column.
  await page.getByRole("grid").focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await dialog.getByRole("textbox", { name: /^customer/ }).waitFor();
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(customer);
  await dialog.getByText(`SET "customer" = '${quotedCustomer}'`).waitFor();
  await assertAccessible(browser, "change row");
  // Somebody else is first.
  await ok(`update orders set total = ${total} where id = 2`);
  await dialog.getByRole("button", { name: "Run it" }).click();
  await dialog.getByText(/Nothing was changed: somebody else/).waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await page.locator("#cell-1-2", { hasText: total }).waitFor();
  await page.locator("#cell-1-1").dblclick();
  await dialog.getByRole("textbox", { name: /^customer/ }).fill(customer);
  await dialog.getByRole("button", { name: "Run it" }).click();
  await page.locator("#cell-1-1", { hasText: customer }).waitFor();

  await page.getByRole("button", { name: "New row…" }).click();
  await dialog.getByRole("textbox", { name: /^id/ }).fill("-1");
  await dialog.getByRole("textbox", { name: /^total/ }).fill("-5");
  await dialog.getByRole("button", { name: "Run it" }).click();
  await dialog.getByText(/null value in column "customer"/).waitFor();
  await dialog.getByRole("textbox", { name: /^customer/ }).fill("");
  await dialog.getByLabel("What customer is").selectOption("a value");
  await dialog.getByRole("button", { name: "Run it" }).click();
  await page.locator("#cell-3-0", { hasText: "-1" }).waitFor();
  assert.deepEqual(rowsOf(await ok("select customer, total from orders where id = -1")), [
    ["", "-5.00"],
  ]);
  await page.locator("#cell-3-0").click();
  await page.getByRole("button", { name: "Delete row…" }).click();
  await dialog.getByText(/DELETE FROM "public"."orders"/).waitFor();
  await dialog.getByRole("button", { name: "Delete it" }).click();
  await page.locator("#cell-3-0").waitFor({ state: "detached" });

  await page.getByRole("tab", { name: "Columns" }).click();
  await page.getByText("primary 1").waitFor();
  await page.getByRole("tab", { name: "Indexes and constraints" }).click();
  await page.getByText(/CREATE INDEX orders_customer_idx/).waitFor();
  await assertAccessible(browser, "indexes");
  await page.getByRole("link", { name: "keyless", exact: true }).click();
  await page.getByText("Rows are not changed here: it has no primary key.").waitFor();
  await page.getByRole("link", { name: LONG, exact: true }).click();
  await page.locator("#cell-0-0", { hasText: "A_c" }).waitFor();
  await assertAccessible(browser, "a hostile table");
}
