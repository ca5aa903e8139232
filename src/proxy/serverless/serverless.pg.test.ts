import assert from "node:assert/strict";
import { request as httpsRequest } from "node:https";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { NeonDbError, neon, neonConfig, Pool } from "@neondatabase/serverless";
import { sql as drizzleSql } from "drizzle-orm";
import { drizzle as drizzleHttp } from "drizzle-orm/neon-http";
import { drizzle as drizzleServerless } from "drizzle-orm/neon-serverless";
import { integer, pgTable, text } from "drizzle-orm/pg-core";
import {
  ENDPOINT,
  HOST,
  ProxiedPostgres,
  ProxyFixture,
  ROLE,
} from "../../../testing/proxy/proxy-fixture.ts";
import { sleep } from "../../base/clock.ts";
import { cstring, encodeMessage, int32, MessageReader } from "../../postgres/wire/wire-messages.ts";

let postgres: ProxiedPostgres;
let fixture: ProxyFixture;
before(async () => {
  postgres = await ProxiedPostgres.start();
  fixture = await ProxyFixture.start(postgres);
  const { httpPort } = fixture;
  neonConfig.fetchEndpoint = (host) => {
    assert.equal(host, HOST);
    return `http://127.0.0.1:${httpPort}/sql`;
  };
  neonConfig.wsProxy = (host) => `127.0.0.1:${httpPort}/v2?address=${host}`;
  neonConfig.useSecureWebSocket = false;
});
after(async () => {
  await fixture.stop();
  await postgres.cluster.destroy();
});

/** Without a driver. */
async function post(
  body: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; answer: Record<string, unknown> }> {
  const response = await fetch(`http://127.0.0.1:${fixture.httpPort}/sql`, {
    method: "POST",
    headers: { "Neon-Connection-String": fixture.url, ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return {
    status: response.status,
    answer: (await response.json()) as Record<string, unknown>,
  };
}

test("neon(): statements with parameters of every kind, rows and commands", async () => {
  const sql = neon(fixture.url);
  const bytes = Buffer.from("ab");
  const [row] = await sql`SELECT ${5}::int AS n, ${"é'"}::text AS t, ${null}::text AS nothing,
    ${["a", 'b"c']}::text[] AS list, ${{ a: [1] }}::jsonb AS json, ${bytes} = '\\x6162'::bytea AS same`;
  assert.deepEqual(row, {
    n: 5,
    t: "é'",
    nothing: null,
    list: ["a", 'b"c'],
    json: { a: [1] },
    same: true,
  });
  await sql`CREATE TABLE things (n int PRIMARY KEY, t text)`;
  const full = neon(fixture.url, { fullResults: true });
  const inserted = await full.query("INSERT INTO things VALUES (1, 'x'), (2, 'y')");
  assert.deepEqual([inserted.command, inserted.rowCount, inserted.rows], ["INSERT", 2, []]);
  const dropped = await full.query("DROP TABLE things");
  assert.deepEqual([dropped.command, dropped.rowCount, dropped.fields], ["DROP", null, []]);
  const arrays = neon(fixture.url, { arrayMode: true });
  assert.deepEqual(await arrays`SELECT 1 AS a, 2 AS a`, [[1, 2]]);
});

test("neon(): errors are NeonDbErrors with Postgres's fields", async () => {
  const sql = neon(fixture.url);
  await sql`CREATE TABLE keys (n int CONSTRAINT the_key PRIMARY KEY)`;
  await sql`INSERT INTO keys VALUES (1)`;
  const error = await sql`INSERT INTO keys VALUES (1)`.then(
    () => assert.fail("no error"),
    (error: unknown) => error as NeonDbError,
  );
  assert.ok(error instanceof NeonDbError);
  assert.equal(error.code, "23505");
  assert.equal(error.constraint, "the_key");
  assert.equal(error.table, "keys");
  assert.match(error.detail ?? "", /already exists/);
  await assert.rejects(sql.query("SELECT 1; SELECT 2"), { code: "42601" });
  await assert.rejects(sql`SELEC`, { code: "42601", position: "1" });
  await assert.rejects(sql.query("COPY keys FROM STDIN"), { code: "57014" });
  assert.deepEqual(await sql`SELECT count(*)::int FROM keys`, [{ count: 1 }]);
  await assert.rejects(neon(fixture.url.replace("horse", "cow"))`SELECT 1`, { code: "28P01" });
  await assert.rejects(neon(`${fixture.url}x`)`SELECT 1`, { code: "3D000" });
});

test("neon().transaction: all or nothing, isolation, read only, deferrable", async () => {
  const sql = neon(fixture.url);
  await sql`CREATE TABLE moves (n int CHECK (n > 0))`;
  const settings = await sql.transaction(
    [
      sql`SELECT current_setting('transaction_isolation') AS i, current_setting('transaction_read_only') AS r,
        current_setting('transaction_deferrable') AS d`,
      sql`SELECT 1 AS one`,
    ],
    { isolationLevel: "Serializable", readOnly: true, deferrable: true },
  );
  assert.deepEqual(settings, [[{ i: "serializable", r: "on", d: "on" }], [{ one: 1 }]]);
  await sql.transaction([sql`INSERT INTO moves VALUES (1)`, sql`INSERT INTO moves VALUES (2)`]);
  await assert.rejects(
    sql.transaction([sql`INSERT INTO moves VALUES (3)`, sql`INSERT INTO moves VALUES (-1)`]),
    { code: "23514" },
  );
  await assert.rejects(sql.transaction([sql`INSERT INTO moves VALUES (4)`], { readOnly: true }), {
    code: "25006",
  });
  assert.deepEqual(await sql`SELECT count(*)::int FROM moves`, [{ count: 2 }]);
  const bad = await post({ queries: [] }, { "Neon-Batch-Isolation-Level": "Snapshot" });
  assert.deepEqual([bad.status, bad.answer["message"]], [400, "invalid isolation level"]);
});

test("/sql: what one request sets, no other sees; few connections serve many", async () => {
  const sql = neon(fixture.url);
  await sql`SET search_path = nowhere`;
  await sql`SELECT set_config('my.secret', 'x', false)`;
  await sql`CREATE TEMP TABLE left_over (n int)`;
  // The connection that was used last is given out first, once it is clean.
  await sleep(50);
  for (let i = 0; i < 5; i++) {
    const [row] = await sql`SELECT current_setting('search_path') AS path,
      current_setting('my.secret', true) AS secret, to_regclass('left_over')::text AS table`;
    // A setting that was there once is empty afterwards.
    assert.deepEqual(
      { ...row, secret: row!["secret"] ?? "" },
      { path: '"$user", public', secret: "", table: null },
    );
  }
  // A transaction that nobody ends is none for the next.
  await sql`BEGIN`;
  const states = await Promise.all(
    Array.from({ length: 60 }, () => sql`SELECT pg_backend_pid() AS pid, pg_sleep(0.01)`),
  );
  const pids = new Set(states.map(([row]) => row!["pid"]));
  assert.ok(pids.size <= 20, `${pids.size} connections`);
});

/** A Postgres that answers `statements` of them, and ends the connection at the next as one that stops. */
async function endingPostgres(statements: number, saysBefore: Buffer) {
  let asked = 0;
  const sockets = new Set<Socket>();
  const ready = encodeMessage("Z", Buffer.from("I"));
  const stop = encodeMessage("E", ...["SFATAL", "VFATAL", "C57P01", "Mstopping", ""].map(cstring));
  const server = createServer((socket) => {
    const reader = new MessageReader();
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", () => {
      socket.write(Buffer.concat([encodeMessage("R", int32(0)), ready]));
      socket.on("data", (chunk: Buffer) =>
        reader.push(chunk, (type) => {
          if (type === "P".charCodeAt(0)) {
            asked++;
            if (asked > statements && asked % 2 === 0) {
              socket.end(Buffer.concat([saysBefore, stop]));
            }
          } else if (
            !socket.writableEnded &&
            (type === "S".charCodeAt(0) || type === "Q".charCodeAt(0))
          ) {
            socket.write(Buffer.concat([encodeMessage("C", cstring("SELECT 0")), ready]));
          }
        }),
      );
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked: () => asked,
    close: () => {
      server.close();
      sockets.forEach((socket) => void socket.destroy());
    },
  };
}

test("/sql: a connection that the compute has closed meanwhile is nobody's error", async () => {
  const { secrets } = fixture.controlPlane.endpoints.get(ENDPOINT)!;
  for (const [saysBefore, asked] of [
    [Buffer.alloc(0), 3],
    // It was at work: that it had no effect is not said.
    [encodeMessage("1"), 2],
  ] as const) {
    const fake = await endingPostgres(1, saysBefore);
    const id = `ep-ends-${asked}`;
    fixture.controlPlane.endpoints.set(id, { address: fake.address, secrets });
    try {
      const headers = { "Neon-Connection-String": fixture.url.replace(ENDPOINT, id) };
      assert.equal((await post({ query: "SELECT" }, headers)).status, 200);
      await sleep(50);
      const second = await post({ query: "SELECT" }, headers);
      assert.deepEqual([second.status, fake.asked()], [asked === 3 ? 200 : 400, asked]);
    } finally {
      fixture.controlPlane.endpoints.delete(id);
      fake.close();
    }
  }
});

test("/sql: a caller that goes away stops its statement", async () => {
  const controller = new AbortController();
  const sql = neon(fixture.url, { fetchOptions: { signal: controller.signal } });
  const waiting = (async () => await sql`SELECT pg_sleep(60)`)();
  waiting.catch(() => undefined);
  const active = async () =>
    (
      await postgres.sql(
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()",
      )
    ).rows.length;
  while ((await active()) === 0) {
    await sleep(10);
  }
  controller.abort();
  for (let ms = 0; (await active()) > 0; ms += 10) {
    assert.ok(ms < 5000, "it still runs");
    await sleep(10);
  }
  await assert.rejects(waiting);
});

test("/sql: without the driver's headers values are JSON's, rows objects", async () => {
  const query = `SELECT 1::int2 AS i, 2.5::float8 AS f, 'NaN'::float8 AS nan, true AS b, '{"a": 1}'::json AS j,
    9007199254740993 AS big, '{1,NULL}'::int[] AS l, '{{"a,b",c\\\\d},{e,"NULL"}}'::text[] AS tt, 'x'::text AS t, $1::int AS p`;
  const { status, answer } = await post({ query, params: [7] });
  assert.equal(status, 200);
  assert.deepEqual(answer["rows"], [
    {
      i: 1,
      f: 2.5,
      nan: "NaN",
      b: true,
      j: { a: 1 },
      big: "9007199254740993",
      l: [1, null],
      tt: [
        ["a,b", "c\\d"],
        ["e", "NULL"],
      ],
      t: "x",
      p: 7,
    },
  ]);
  assert.equal(answer["rowAsArray"], false);
});

test("/sql: what is too large, or no request, is refused", async () => {
  const big = await post({ query: "SELECT $1::text", params: ["x".repeat(11 * 1024 * 1024)] });
  assert.equal(big.status, 413);
  const much = await post({ query: "SELECT repeat('x', 1000000) FROM generate_series(1, 20)" });
  assert.equal(much.status, 507);
  assert.match(String(much.answer["message"]), /response is too large \(max is 10485760 bytes\)/);
  for (const body of [
    "",
    "{",
    "[]",
    "{}",
    { query: 1 },
    { queries: {} },
    { query: "x", params: 1 },
  ]) {
    assert.equal((await post(body)).status, 400, JSON.stringify(body));
  }
  for (const url of ["", "http://x", "postgresql://a@x.localtest.me/b", "postgresql://a:%ff@x/b"]) {
    const { status, answer } = await post({ query: "SELECT 1" }, { "Neon-Connection-String": url });
    assert.equal(status, 400, url);
    assert.match(String(answer["message"]), /connection string|Connection-String/);
  }
  const elsewhere = { "Neon-Connection-String": "postgresql://a:b@ep-none.localtest.me/b" };
  const unknown = await post({ query: "SELECT 1" }, elsewhere);
  assert.match(String(unknown.answer["message"]), /no endpoint 'ep-none' here/);
});

test("/sql: any page may ask (CORS); /status is not for pages; https with the certificate of the home", async () => {
  const base = `http://127.0.0.1:${fixture.httpPort}`;
  const preflight = await fetch(`${base}/sql`, { method: "OPTIONS" });
  assert.equal(preflight.status, 200);
  assert.equal(preflight.headers.get("access-control-allow-origin"), "*");
  assert.match(preflight.headers.get("access-control-allow-headers") ?? "", /Batch-Deferrable/);
  const page = { headers: { origin: "https://evil.example" } };
  assert.equal((await fetch(`${base}/status`, page)).status, 403);
  assert.equal((await fetch(`${base}/status`)).status, 200);
  const body = await new Promise<string>((resolve, reject) => {
    const request = httpsRequest({
      host: "127.0.0.1",
      port: fixture.httpPort,
      servername: "api.localtest.me",
      ca: fixture.ca,
      method: "POST",
      path: "/sql",
      headers: { "neon-connection-string": fixture.url, host: "api.localtest.me" },
    });
    request.on("response", (response) => {
      let text = "";
      response.on("data", (chunk) => {
        text += chunk;
      });
      response.on("end", () => resolve(text));
    });
    request.on("error", reject);
    request.end('{"query":"SELECT 41 + 1 AS n"}');
  });
  assert.deepEqual(JSON.parse(body).rows, [{ n: 42 }]);
});

test("Pool over WebSocket: pipelined password, transactions, errors, much data", async () => {
  const pool = new Pool({ connectionString: fixture.url });
  try {
    assert.deepEqual((await pool.query("SELECT current_user AS u")).rows, [{ u: ROLE }]);
    const client = await pool.connect();
    await client.query("BEGIN");
    await client.query("CREATE TABLE sockets (t text)");
    await client.query(
      "INSERT INTO sockets SELECT repeat('x', 100000) FROM generate_series(1, 100)",
    );
    await assert.rejects(client.query("SELECT 1/0"), { code: "22012" });
    await client.query("ROLLBACK");
    const { rows } = await client.query(
      "SELECT repeat('y', 1000000) AS y FROM generate_series(1, 20)",
    );
    assert.equal(rows.length, 20);
    client.release();
  } finally {
    await pool.end();
  }
  const wrong = new Pool({ connectionString: fixture.url.replace("horse", "cow") });
  wrong.on("error", () => {});
  await assert.rejects(wrong.query("SELECT 1"), { code: "28P01" });
  await wrong.end();
  // SCRAM is not asked for, whoever asks politely.
  neonConfig.pipelineConnect = false;
  const polite = new Pool({ connectionString: fixture.url });
  assert.deepEqual((await polite.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  await polite.end();
  neonConfig.pipelineConnect = "password";
  while (fixture.proxy.parts.endpoints.counts.has(ENDPOINT)) {
    await sleep(5);
  }
});

test("drizzle: neon-http with batch, neon-serverless with transactions", async () => {
  const notes = pgTable("notes", { id: integer().primaryKey(), body: text() });
  const http = drizzleHttp(neon(fixture.url));
  await http.execute(drizzleSql`CREATE TABLE notes (id int PRIMARY KEY, body text)`);
  const [, second] = await http.batch([
    http.insert(notes).values({ id: 1, body: "a" }),
    http.insert(notes).values({ id: 2, body: "b" }).returning(),
  ]);
  assert.deepEqual(second, [{ id: 2, body: "b" }]);
  const pool = new Pool({ connectionString: fixture.url });
  pool.on("error", () => {});
  const serverless = drizzleServerless(pool);
  await assert.rejects(
    serverless.transaction(async (tx) => {
      await tx.insert(notes).values({ id: 3, body: "c" });
      tx.rollback();
    }),
  );
  assert.deepEqual(await serverless.select({ id: notes.id }).from(notes), [{ id: 1 }, { id: 2 }]);
  await pool.end();
});
