// The stand-in for psql: its arguments and how rows look.

import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { test } from "node:test";
import { formatRows, runStatements, statementsOf } from "./sql-client.ts";

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

test("formatRows: more rows than a call takes arguments", () => {
  const rows = Array.from({ length: 300_000 }, (_, i) => [`${i}`]);
  const lines = formatRows({ fields: [{ name: "n", dataTypeID: 23 }], rows }).split("\n");
  assert.equal(lines[2], "      0");
  assert.equal(lines.at(-2), "(300000 rows)");
});

/** AuthenticationOk, ReadyForQuery. */
const WELCOME = Buffer.from("520000000800000000" + "5a0000000549", "hex");

test("runStatements: a connection that breaks is a failed statement, not the end of the process", async (t) => {
  const server = createServer((socket) => {
    socket.once("data", () => {
      socket.write(WELCOME);
      socket.once("data", () => socket.destroy());
    });
    socket.on("error", () => undefined);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const errors: string[] = [];
  const code = await runStatements(
    { host: "127.0.0.1", port, user: "u" },
    ["select 1", "select 2"],
    {
      out: () => undefined,
      error: (text) => errors.push(text),
    },
  );
  assert.equal(code, 1);
  assert.equal(errors.length, 2);
  assert.match(errors[0]!, /terminated/);
});

/** CommandComplete with a tag, and ReadyForQuery. */
function completed(tag: string): Buffer {
  const header = Buffer.from("C....");
  header.writeInt32BE(4 + tag.length + 1, 1);
  return Buffer.concat([header, Buffer.from(`${tag}\0`), Buffer.from("5a0000000549", "hex")]);
}

test("runStatements: says what Postgres says of a command, as psql does", async (t) => {
  const tags = ["CREATE TABLE", "INSERT 0 3", "CREATE MATERIALIZED VIEW"];
  const server = createServer((socket) => {
    socket.once("data", () => {
      socket.write(WELCOME);
      socket.on("data", (bytes) => {
        if (bytes[0] === "Q".charCodeAt(0)) {
          socket.write(completed(tags.shift()!));
        }
      });
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const lines: string[] = [];
  const code = await runStatements({ host: "127.0.0.1", port, user: "u" }, ["a", "b", "c"], {
    out: (text) => lines.push(text),
    error: (text) => lines.push(text),
  });
  assert.deepEqual([code, ...lines], [0, "CREATE TABLE", "INSERT 0 3", "CREATE MATERIALIZED VIEW"]);
});
