import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createConnection, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import type pg from "pg";
import pgjs from "postgres";
import { eventually } from "../../../testing/eventually.ts";
import { startupPacket } from "../../../testing/hostile-client.ts";
import {
  ENDPOINT,
  PASSWORD,
  ProxiedPostgres,
  ProxyFixture,
  ROLE,
} from "../../../testing/proxy/proxy-fixture.ts";
import { sleep } from "../../base/clock.ts";
import { parseScramSecret, type ScramKeys } from "../../postgres/scram.ts";
import { keysOfPassword, ScramClient } from "../../postgres/wire/scram-exchange.ts";
import {
  cstring,
  encodeMessage,
  int16,
  int32,
  MessageReader,
} from "../../postgres/wire/wire-messages.ts";
import { DEFAULT_POOL_SETTINGS, type PoolSettings } from "./server-pool.ts";

const run = promisify(execFile);
const POOLED = { ssl: false, options: `endpoint=${ENDPOINT}-pooler` } as const;

let postgres: ProxiedPostgres;
before(async () => {
  postgres = await ProxiedPostgres.start();
});
after(() => postgres.cluster.destroy());

async function withPool(
  pool: Partial<PoolSettings>,
  work: (fixture: ProxyFixture) => Promise<void>,
): Promise<void> {
  const settings = { pool: { ...DEFAULT_POOL_SETTINGS, ...pool } };
  const fixture = await ProxyFixture.start(postgres, settings);
  try {
    await work(fixture);
  } finally {
    await fixture.stop();
  }
}

async function pidOf(client: pg.Client): Promise<number> {
  return (await client.query("SELECT pg_backend_pid() AS pid")).rows[0].pid;
}

test("pooling: many clients share few connections, a transaction has one", () =>
  withPool({ size: 2 }, async (fixture) => {
    const clients = await Promise.all(Array.from({ length: 12 }, () => fixture.connect(POOLED)));
    const pids = new Set<number>();
    await Promise.all(
      clients.map(async (client) => {
        for (let i = 0; i < 10; i++) {
          await client.query("BEGIN");
          const first = await pidOf(client);
          assert.equal(await pidOf(client), first);
          await client.query(i % 2 === 0 ? "COMMIT" : "ROLLBACK");
          pids.add(first);
        }
      }),
    );
    assert.ok(pids.size <= 2, `${pids.size} connections`);
    assert.equal(fixture.proxy.parts.pools.serverConnections, pids.size);
  }));

test("pooling: prepared statements by name are everybody's own, on whatever connection", () =>
  withPool({ size: 2, maxStatements: 3 }, async (fixture) => {
    const clients = await Promise.all(Array.from({ length: 4 }, () => fixture.connect(POOLED)));
    for (let round = 0; round < 12; round++) {
      await Promise.all(
        clients.map(async (client, i) => {
          // The same name, another text; and more of them than a connection keeps.
          const name = `q${round % 6}`;
          const text = `SELECT $1::int * ${i + 1} AS product, ${round % 6} AS r`;
          const { rows } = await client.query({ name, text, values: [round] });
          assert.deepEqual(rows, [{ product: round * (i + 1), r: round % 6 }]);
        }),
      );
    }
    assert.equal(fixture.proxy.parts.pools.statements, 24);
    await Promise.all(clients.map((client) => client.end()));
    while (fixture.proxy.parts.pools.statements > 0) {
      await sleep(5);
    }
  }));

test("pooling: what one sets, others never see, and he keeps it", () =>
  withPool({ size: 3 }, async (fixture) => {
    const one = await fixture.connect(POOLED);
    const two = await fixture.connect(POOLED);
    await one.query("SET search_path = mine");
    await one.query("SELECT set_config('my.secret', 'x', false)");
    await one.query("CREATE TEMP TABLE hidden (n int)");
    await one.query("PREPARE p AS SELECT 1");
    const see = async (client: pg.Client) =>
      (
        await client.query(
          "SELECT current_setting('search_path') AS path, coalesce(current_setting('my.secret', true), '') AS secret, to_regclass('pg_temp.hidden') IS NOT NULL AS hidden",
        )
      ).rows[0];
    const own = { path: "mine", secret: "x", hidden: true };
    const none = { path: '"$user", public', secret: "", hidden: false };
    for (let i = 0; i < 5; i++) {
      assert.deepEqual(await see(two), none);
      assert.deepEqual(await see(one), own);
    }
    await one.end();
    for (let i = 0; i < 5; i++) {
      const others = await Promise.all([fixture.connect(POOLED), fixture.connect(POOLED)]);
      for (const seen of await Promise.all([...others, two].map(see))) {
        assert.deepEqual(seen, none);
      }
    }
    // For the transaction only: the connection is given back.
    await two.query("BEGIN");
    await two.query("SET LOCAL work_mem = '123kB'");
    await two.query("COMMIT");
    const pid = await pidOf(two);
    const three = await fixture.connect(POOLED);
    const pids = new Set<number>();
    for (let i = 0; i < 10; i++) {
      pids.add(await pidOf(three));
    }
    assert.ok(pids.has(pid) || pids.size > 0);
    assert.equal((await three.query("SHOW work_mem")).rows[0].work_mem, "4MB");
    // Whoever empties his session gives it back.
    await two.query("SET work_mem = '1MB'");
    await two.query("DISCARD ALL");
    assert.equal((await two.query("SHOW work_mem")).rows[0].work_mem, "4MB");
  }));

test("pooling: SET LOCAL excuses itself only", () =>
  withPool({ size: 1 }, async (fixture) => {
    const [one, two] = (await rawClients(fixture, 2)) as [RawClient, RawClient];
    const pathOf = async () => {
      two.socket.write(query("SHOW search_path"));
      const rows: string[] = [];
      for (let type = ""; type !== "Z"; ) {
        const message = await two.next();
        type = message.type;
        rows.push(...(type === "D" ? [message.body.subarray(6).toString()] : []));
      }
      return rows.join();
    };
    // It failed, so no tag came.
    one.socket.write(
      Buffer.concat([query("BEGIN"), query("SET LOCAL nonsense = 1"), query("ROLLBACK")]),
    );
    await one.untilReady(3);
    assert.equal(await pathOf(), '"$user", public');
    // Sent together: the first tag is not the second one's.
    one.socket.write(Buffer.concat([query("SET search_path = mine"), query("SET LOCAL x.y = 1")]));
    await one.untilReady(2);
    const seen = pathOf();
    await sleep(50);
    // It waits for the connection, which stays with its client.
    one.socket.destroy();
    assert.equal(await seen, '"$user", public');
  }));

test("pooling: start-up parameters are part of the pool", () =>
  withPool({}, async (fixture) => {
    const one = await fixture.connect({ ...POOLED, application_name: "one" });
    const two = await fixture.connect({ ...POOLED, application_name: "two" });
    for (const [client, name] of [
      [one, "one"],
      [two, "two"],
      [one, "one"],
    ] as const) {
      assert.equal((await client.query("SHOW application_name")).rows[0].application_name, name);
    }
  }));

test("pooling: postgres.js, with its pipelines of prepared statements, transactions and errors", () =>
  withPool({ size: 3 }, async (fixture) => {
    const sql = pgjs({
      host: "127.0.0.1",
      port: fixture.port,
      user: ROLE,
      password: PASSWORD,
      database: "postgres",
      max: 8,
      connection: { options: `endpoint=${ENDPOINT}-pooler` },
    });
    await sql`CREATE TABLE sums (n int CHECK (n < 1000))`;
    const answers = await Promise.allSettled(
      Array.from({ length: 200 }, (_, i) =>
        i % 10 === 9
          ? sql`SELECT 1 / ${i - i}::int AS n`
          : sql`SELECT ${i}::int + ${i % 7}::int AS n`,
      ),
    );
    for (const [i, answer] of answers.entries()) {
      if (i % 10 === 9) {
        assert.equal(answer.status, "rejected");
      } else {
        assert.equal(answer.status === "fulfilled" && answer.value[0]!["n"], i + (i % 7));
      }
    }
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        sql
          .begin(async (tx) => {
            await tx`INSERT INTO sums VALUES (${i})`;
            await tx`INSERT INTO sums VALUES (${i % 2 === 0 ? i : 1000})`;
          })
          .catch(() => undefined),
      ),
    );
    assert.equal((await sql`SELECT count(*)::int AS n FROM sums`)[0]!["n"], 20);
    await sql.end();
  }));

test("pooling: pgbench, simple, extended and prepared", async (context) => {
  if ((await run("pgbench", ["--version"]).catch(() => undefined)) === undefined) {
    context.skip("no pgbench on this machine");
    return;
  }
  await postgres.sql("GRANT CREATE ON SCHEMA public TO ann");
  await withPool({ size: 4 }, async (fixture) => {
    const env = {
      PATH: process.env["PATH"] ?? "",
      PGHOST: "127.0.0.1",
      PGPORT: `${fixture.port}`,
      PGUSER: ROLE,
      PGPASSWORD: PASSWORD,
      PGDATABASE: "postgres",
      PGSSLMODE: "disable",
      PGOPTIONS: `endpoint=${ENDPOINT}-pooler`,
    };
    // With COPY.
    await run("pgbench", ["-i", "-s", "1", "-q"], { env });
    for (const mode of ["simple", "extended", "prepared"]) {
      // A thread for each client: pgbench's own preparing blocks the thread, with whoever else it serves.
      const args = ["-n", "-c", "10", "-j", "10", "-t", "30", "-M", mode];
      const { stdout } = await run("pgbench", args, { env });
      assert.match(stdout, /number of transactions actually processed: 300\/300/);
    }
    const sum = "SELECT count(*)::int AS n FROM pgbench_history";
    assert.equal((await postgres.sql(sum)).rows[0].n, 900);
    assert.ok(fixture.proxy.parts.pools.serverConnections <= 4);
  });
});

/** A client that writes its messages itself. */
class RawClient {
  readonly socket: Socket;
  readonly #reader = new MessageReader();
  readonly #messages: { type: string; body: Buffer }[] = [];
  #arrived = () => {};

  constructor(port: number) {
    this.socket = createConnection({ host: "127.0.0.1", port });
    this.socket.on("error", () => {});
    this.socket.on("data", (chunk: Buffer) => {
      this.#reader.push(chunk, (type, body) => {
        this.#messages.push({ type: String.fromCharCode(type), body: Buffer.from(body) });
      });
      this.#arrived();
    });
  }

  async next(): Promise<{ type: string; body: Buffer }> {
    while (this.#messages.length === 0) {
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
    return this.#messages.shift()!;
  }

  /** Types of messages up to the nth ReadyForQuery. */
  async untilReady(count = 1): Promise<string> {
    let types = "";
    for (let left = count; left > 0; ) {
      const { type } = await this.next();
      types += type;
      left -= type === "Z" ? 1 : 0;
    }
    return types;
  }

  async login(keys: ScramKeys): Promise<void> {
    const scram = new ScramClient(keys);
    this.socket.write(
      startupPacket({ user: ROLE, database: "postgres", options: `endpoint=${ENDPOINT}-pooler` }),
    );
    const first = Buffer.from(scram.clientFirst);
    await this.next();
    this.socket.write(encodeMessage("p", cstring("SCRAM-SHA-256"), int32(first.length), first));
    const { body } = await this.next();
    const final = scram.proceed(body.subarray(4).toString());
    this.socket.write(encodeMessage("p", Buffer.from(final!)));
    await this.untilReady();
  }
}

const parse = (name: string, sql: string) =>
  encodeMessage("P", cstring(name), cstring(sql), int16(0));
const bind = (name: string) =>
  encodeMessage("B", cstring(""), cstring(name), int16(0), int16(0), int16(0));
const describe = (name: string) => encodeMessage("D", Buffer.from("S"), cstring(name));
const close = (name: string) => encodeMessage("C", Buffer.from("S"), cstring(name));
const execute = encodeMessage("E", cstring(""), int32(0));
const sync = encodeMessage("S");
const query = (sql: string) => encodeMessage("Q", cstring(sql));

async function rawClients(fixture: ProxyFixture, count: number): Promise<RawClient[]> {
  const secret = parseScramSecret(await postgres.secretOf(ROLE))!;
  const keys = (await keysOfPassword(Buffer.from(PASSWORD), secret))!;
  return Promise.all(
    Array.from({ length: count }, async () => {
      const client = new RawClient(fixture.port);
      await client.login(keys);
      return client;
    }),
  );
}

test("pooling: pipelines get each answer once, in its place, also what the server is not asked", () =>
  withPool({ size: 1 }, async (fixture) => {
    const [one, two] = (await rawClients(fixture, 2)) as [RawClient, RawClient];
    const pipeline = Buffer.concat([
      parse("", "SELECT 0"),
      parse("a", "SELECT 1"),
      bind("a"),
      execute,
      describe("a"),
      close("a"),
      parse("a", "SELECT 2"),
      bind("a"),
      execute,
      sync,
    ]);
    const expected = "112DCtT3" + "12DCZ";
    for (let i = 0; i < 3; i++) {
      for (const client of [one, two]) {
        // Byte by byte, too: messages come in any pieces.
        if (i === 1) {
          for (const byte of pipeline) {
            client.socket.write(Buffer.from([byte]));
          }
        } else {
          client.socket.write(pipeline);
        }
        assert.equal(await client.untilReady(), expected);
      }
    }
  }));

test("pooling: what a client sent right before it broke the protocol is nobody else's", () =>
  withPool({ size: 1 }, async (fixture) => {
    const [one, two] = (await rawClients(fixture, 2)) as [RawClient, RawClient];
    await postgres.sql("CREATE TABLE broken (n int)");
    try {
      // All in one piece: the first is written down for the server when the second is looked at.
      const ended = new Promise((resolve) => one.socket.once("close", resolve));
      one.socket.write(
        Buffer.concat([
          query("INSERT INTO broken VALUES (1)"),
          encodeMessage("B", Buffer.from("x")),
        ]),
      );
      await ended;
      two.socket.write(query("SELECT 1"));
      assert.equal(await two.untilReady(), "TDCZ");
      const { rows } = await postgres.sql("SELECT count(*)::int AS n FROM broken");
      assert.deepEqual(rows, [{ n: 0 }]);
    } finally {
      await postgres.sql("DROP TABLE broken");
    }
  }));

test("pooling: after an error a pipeline goes on at the next Sync, and statements that came to nothing are parsed again", () =>
  withPool({ size: 1 }, async (fixture) => {
    const [one, two] = (await rawClients(fixture, 2)) as [RawClient, RawClient];
    one.socket.write(Buffer.concat([parse("bad", "SELEC"), parse("lost", "SELECT 3"), sync]));
    assert.equal(await one.untilReady(), "EZ");
    two.socket.write(Buffer.concat([parse("x", "SELECT 3"), bind("x"), execute, sync]));
    assert.equal(await two.untilReady(), "12DCZ");
    one.socket.write(
      Buffer.concat([
        parse("bad", "SELEC"),
        bind("bad"),
        parse("good", "SELECT 1"),
        bind("good"),
        execute,
        sync,
        parse("good", "SELECT 1"),
        bind("good"),
        execute,
        sync,
        query("SELECT 1/0"),
        bind("good"),
        execute,
        sync,
        bind("none"),
        execute,
        sync,
      ]),
    );
    assert.equal(await one.untilReady(5), "EZ" + "12DCZ" + "EZ" + "2DCZ" + "EZ");
    two.socket.write(Buffer.concat([parse("x", "SELECT 1"), bind("x"), execute, sync]));
    assert.equal(await two.untilReady(), "12DCZ");
    // Nobody reaches another's statement by the name that it has at the server.
    two.socket.write(Buffer.concat([bind("S_1"), execute, sync]));
    assert.equal((await two.next()).type, "E");
    // What is asked for across a Sync that was not sent stays with the same connection.
    one.socket.write(Buffer.concat([parse("", "SELECT pg_backend_pid()"), encodeMessage("H")]));
    assert.equal((await one.next()).type, "1");
    one.socket.write(Buffer.concat([bind(""), execute, sync]));
    assert.equal(await one.untilReady(), "2DCZ");
  }));

test("pooling: COPY in by the extended protocol, with Syncs that the server ignores", () =>
  withPool({ size: 1 }, async (fixture) => {
    const [one, two] = (await rawClients(fixture, 2)) as [RawClient, RawClient];
    one.socket.write(query("CREATE TABLE copied (n int)"));
    await one.untilReady();
    one.socket.write(Buffer.concat([parse("", "COPY copied FROM STDIN"), bind(""), execute, sync]));
    for (const expected of ["1", "2", "G"]) {
      assert.equal((await one.next()).type, expected);
    }
    const rows = encodeMessage("d", Buffer.from("1\n2\n"));
    one.socket.write(Buffer.concat([rows, sync, rows, encodeMessage("c"), sync]));
    assert.equal(await one.untilReady(), "CZ");
    two.socket.write(query("SELECT count(*) FROM copied"));
    assert.equal(await two.untilReady(), "TDCZ");
  }));

test("pooling: cancel stops the one who asks, not who has the connection next", () =>
  withPool({ size: 1 }, async (fixture) => {
    const one = await fixture.connect(POOLED);
    const two = await fixture.connect(POOLED);
    const { processID, secretKey } = one as unknown as { processID: number; secretKey: number };
    const cancel = () => {
      const socket = createConnection({ host: "127.0.0.1", port: fixture.port });
      socket.write(Buffer.concat([int32(16), int32(80877102), int32(processID), int32(secretKey)]));
      return new Promise((resolve) => socket.resume().once("close", resolve));
    };
    const sleeping = one.query("SELECT pg_sleep(30)");
    const active = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)'";
    await eventually("it is at work", async () => (await postgres.sql(active)).rows.length === 1);
    const other = two.query("SELECT pg_sleep(0.2), 7 AS n");
    await Promise.all([cancel(), assert.rejects(sleeping, { code: "57014" })]);
    // Now the connection is the other one's.
    await cancel();
    assert.equal((await other).rows[0].n, 7);
  }));

test("pooling: who waits too long is told, and a client that goes leaves nothing open", () =>
  withPool({ size: 1, waitTimeoutMs: 2000 }, async (fixture) => {
    const one = await fixture.connect(POOLED);
    const two = await fixture.connect(POOLED);
    await one.query("CREATE TABLE held (n int)");
    await one.query("BEGIN");
    await one.query("LOCK TABLE held");
    await assert.rejects(two.query("SELECT 1"), { code: "53300" });
    (one as unknown as { connection: { stream: Socket } }).connection.stream.destroy();
    const three = await fixture.connect(POOLED);
    await three.query("INSERT INTO held VALUES (1)");
    const idle = "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    // A session that ends lets go of its locks first, and is in that list a moment longer.
    await eventually(
      "no session is left",
      async () => (await postgres.sql(idle)).rows.length === 0,
    );
  }));

test("pooling: a server connection that ends takes only its client with it", () =>
  withPool({ size: 2 }, async (fixture) => {
    const one = await fixture.connect(POOLED);
    const two = await fixture.connect(POOLED);
    await one.query("BEGIN");
    const pid = await pidOf(one);
    const ended = new Promise((resolve) => one.once("end", resolve));
    await postgres.sql(`SELECT pg_terminate_backend(${pid})`);
    await ended;
    assert.notEqual(await pidOf(two), pid);
    // Of those that are idle nobody notices.
    await postgres.sql(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ann'",
    );
    await eventually("they are gone", () => fixture.proxy.parts.pools.serverConnections === 0);
    await two.query("SELECT 1");
  }));
