// The stand-in for psql: its arguments and how rows look.

import assert from "node:assert/strict";
import { test } from "node:test";
import { formatRows, statementsOf } from "./sql-client.ts";

test("statementsOf: -c in every form, and nothing else", () => {
  assert.deepEqual(
    statementsOf(["-c", "select 1", "--command", "b", "-cselect 2", "--command=d"]),
    ["select 1", "b", "select 2", "d"],
  );
  assert.equal(statementsOf([]), undefined);
  assert.equal(statementsOf(["-c"]), undefined);
  assert.equal(statementsOf(["-l"]), undefined);
  assert.equal(statementsOf(["-c", "select 1", "-f", "x.sql"]), undefined);
});

test("formatRows: as psql prints them", () => {
  const fields = [
    { name: "key", dataTypeID: 23 },
    { name: "value", dataTypeID: 25 },
  ];
  const rows = [
    ["1", "one"],
    ["20", null],
  ];
  assert.equal(
    formatRows({ fields, rows }),
    " key | value\n-----+-------\n   1 | one\n  20 |\n(2 rows)\n",
  );
});
