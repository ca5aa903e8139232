import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createConnection, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { promisify } from "node:util";
import type pg from "pg";
import { eventually } from "../../testing/eventually.ts";
import { freePort } from "../../testing/free-port.ts";
import { converse, startupPacket } from "../../testing/hostile-client.ts";
import {
  ENDPOINT,
  HOST,
  PASSWORD,
  ProxiedPostgres,
  ProxyFixture,
  ROLE,
} from "../../testing/proxy/proxy-fixture.ts";
import { sleep } from "../base/clock.ts";
import { parseScramSecret, scramSecret } from "../postgres/scram.ts";
import { cstring, encodeMessage, int32 } from "../postgres/wire/wire-messages.ts";

const run = promisify(execFile);
const SSL_REQUEST = Buffer.concat([int32(8), int32(80877103)]);
const GSSENC_REQUEST = Buffer.concat([int32(8), int32(80877104)]);

let postgres: ProxiedPostgres;
before(async () => {
  postgres = await ProxiedPostgres.start();
});
after(() => postgres.cluster.destroy());

async function withProxy(
  settings: Parameters<typeof ProxyFixture.start>[1],
  work: (fixture: ProxyFixture) => Promise<void>,
): Promise<void> {
  const fixture = await ProxyFixture.start(postgres, settings);
  try {
    await work(fixture);
  } finally {
    await fixture.stop();
  }
}

/** What a client is told: SQLSTATE, message and hint. */
async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (error: unknown) => error as pg.DatabaseError,
  );
  assert.ok(error !== undefined, "not refused");
  return `${error.code} ${error.message} ${error.hint ?? ""}`;
}

async function whoAmI(client: pg.Client): Promise<unknown> {
  return (await client.query("SELECT current_user AS role")).rows[0].role;
}

test("proxy: verify-full with channel binding, endpoint by host name", () =>
  withProxy({}, async (fixture) => {
    assert.equal(await whoAmI(await fixture.connect()), ROLE);
    assert.equal(fixture.controlPlane.countOf(`wake_compute ${ENDPOINT}`), 1);
    // Names that are not the certificate's are not ours.
    await assert.rejects(
      fixture.connect({ ssl: { ca: fixture.ca, servername: "ep-x.example.com" } }),
      /does not match certificate/,
    );
  }));

test("proxy: psql, with channel binding required, pooler's name too", async (context) => {
  const psql = "/usr/bin/psql";
  if ((await run(psql, ["--version"]).catch(() => undefined)) === undefined) {
    context.skip("no psql on this machine");
    return;
  }
  await withProxy({}, async (fixture) => {
    for (const host of [HOST, HOST.replace(".", "-pooler.")]) {
      const conninfo =
        `host=${host} hostaddr=127.0.0.1 port=${fixture.port} user=${ROLE} dbname=postgres ` +
        `sslmode=verify-full sslrootcert=${fixture.tls.caCert} channel_binding=require`;
      const { stdout } = await run(psql, [conninfo, "-Atc", "SELECT 40 + 2"], {
        env: { PGPASSWORD: PASSWORD },
      });
      assert.equal(stdout.trim(), "42");
    }
  });
});

test("proxy: endpoint by option or in front of the password; other options stay", () =>
  withProxy({}, async (fixture) => {
    const noName = { ssl: { ca: fixture.ca, servername: "localhost" } };
    const byOption = { ...noName, options: `-c work_mem=77kB endpoint=${ENDPOINT}` };
    const client = await fixture.connect(byOption);
    assert.equal((await client.query("SHOW work_mem")).rows[0].work_mem, "77kB");
    await fixture.connect({ ...noName, options: `endpoint%3D${ENDPOINT}` });
    for (const between of [";", "$"]) {
      const password = `endpoint=${ENDPOINT}${between}${PASSWORD}`;
      assert.equal(await whoAmI(await fixture.connect({ ...noName, password })), ROLE);
    }
    assert.match(
      await refusal(fixture.connect({ ...noName, password: `endpoint=${ENDPOINT};${PASSWORD}x` })),
      /^28P01 password authentication failed for user "ann"/,
    );
  }));

test("proxy: what is wrong is said, with what to do", () =>
  withProxy({ requireTls: true }, async (fixture) => {
    const localhost = { ssl: { ca: fixture.ca, servername: "localhost" } };
    assert.match(
      await refusal(fixture.connect(localhost)),
      /^28000 no endpoint named: .*'localhost'.*endpoint%3D/,
    );
    assert.match(
      await refusal(
        fixture.connect({ ssl: { ca: fixture.ca, servername: "ep-none.localtest.me" } }),
      ),
      /^28000 there is no endpoint 'ep-none' here/,
    );
    assert.match(
      await refusal(fixture.connect({ options: "endpoint=ep-other" })),
      /^28000 the host name says endpoint 'ep-quiet-tree-a1b2c3d4', the option says 'ep-other'/,
    );
    assert.match(
      await refusal(fixture.connect({ ssl: false })),
      /^28000 connections here need TLS .*sslmode=require/,
    );
    // Postgres's own words.
    assert.match(
      await refusal(fixture.connect({ database: "none" })),
      /^3D000 database "none" does not exist/,
    );
  }));

test("proxy: a wrong password and an unknown role look alike", () =>
  withProxy({}, async (fixture) => {
    const wrong = await refusal(fixture.connect({ password: "guess" }));
    const unknown = await refusal(fixture.connect({ user: "bob" }));
    assert.match(
      wrong,
      /^28P01 password authentication failed for user "ann" .*'strata roles reset-password ROLE /,
    );
    assert.equal(unknown, wrong.replace("ann", "bob"));
    // Neither woke anything.
    assert.equal(fixture.controlPlane.countOf(`wake_compute ${ENDPOINT}`), 0);
    const salts = [
      await saltOf(fixture, "bob"),
      await saltOf(fixture, "bob"),
      await saltOf(fixture, "eve"),
    ];
    assert.equal(salts[0], salts[1], "an unknown role has the same salt each time");
    assert.notEqual(salts[0], salts[2]);
  }));

/** As server-first says it. */
async function saltOf(fixture: ProxyFixture, user: string): Promise<string> {
  const first = Buffer.from("n,,n=,r=abcdefghijklmnop");
  const hello = [
    startupPacket({ user, options: `endpoint=${ENDPOINT}` }),
    encodeMessage("p", cstring("SCRAM-SHA-256"), int32(first.length), first),
  ];
  const { answers } = await converse(`127.0.0.1:${fixture.port}`, hello, [], { least: 2 });
  const text = answers.at(-1)?.body.toString() ?? "";
  return /,s=([^,]+),i=4096/.exec(text)?.[1] ?? assert.fail(`no salt in '${text}'`);
}

test("proxy: a client that was told that there is no channel binding is refused", () =>
  withProxy({}, async (fixture) => {
    const socket = connectTls({
      host: "127.0.0.1",
      port: fixture.port,
      servername: HOST,
      ca: fixture.ca,
      ALPNProtocols: ["postgresql"],
    });
    const first = Buffer.from("y,,n=,r=abcdefghijklmnop");
    socket.write(startupPacket({ user: ROLE }));
    socket.write(encodeMessage("p", cstring("SCRAM-SHA-256"), int32(first.length), first));
    const text = await everything(socket);
    assert.match(text, /SCRAM-SHA-256-PLUS/);
    assert.match(text, /channel binding negotiation failed/);
  }));

function everything(socket: NodeJS.ReadableStream): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
    });
    socket.on("error", reject).on("end", () => resolve(text));
  });
}

test("proxy: direct TLS needs ALPN", () =>
  withProxy({}, async (fixture) => {
    const options = { host: "127.0.0.1", port: fixture.port, servername: HOST, ca: fixture.ca };
    const good = connectTls({ ...options, ALPNProtocols: ["postgresql"] });
    good.write(startupPacket({ user: ROLE }));
    assert.match(
      await new Promise((resolve) => good.once("data", (one) => resolve(one.toString("latin1")))),
      /^R.*SCRAM-SHA-256/s,
    );
    good.destroy();
    await assert.rejects(everything(connectTls({ ...options, ALPNProtocols: ["h2"] })));
    const silent = connectTls(options);
    silent.write(startupPacket({ user: ROLE }));
    assert.equal(await everything(silent).catch(() => ""), "");
  }));

test("proxy: nothing may come together with a request for TLS", () =>
  withProxy({}, async (fixture) => {
    const address = `127.0.0.1:${fixture.port}`;
    for (const request of [SSL_REQUEST, GSSENC_REQUEST]) {
      const both = Buffer.concat([request, startupPacket({ user: ROLE })]);
      const { answers, closed } = await converse(address, [both], [], { least: 1 });
      assert.deepEqual(
        answers.map(({ type }) => type),
        ["E"],
      );
      assert.match(answers[0]!.body.toString(), /unencrypted data/);
      assert.equal(closed, true);
    }
  }));

test("proxy: a newer protocol is negotiated down, and its options named", () =>
  withProxy({}, async (fixture) => {
    const words = ["user", ROLE, "options", `endpoint=${ENDPOINT}`, "_pq_.speed", "on"];
    const body = Buffer.concat([int32(196610), ...words.map(cstring), Buffer.from([0])]);
    const hello = Buffer.concat([int32(body.length + 4), body]);
    const { answers } = await converse(`127.0.0.1:${fixture.port}`, [hello], [], { least: 2 });
    assert.deepEqual(
      answers.map(({ type }) => type),
      ["v", "R"],
    );
    assert.deepEqual(
      answers[0]!.body,
      Buffer.concat([int32(196608), int32(1), cstring("_pq_.speed")]),
    );
  }));

test("proxy: cancel stops the query of whoever has the key, and nobody else's", () =>
  withProxy({}, async (fixture) => {
    const client = await fixture.connect();
    const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
    const { pid } = (await client.query("SELECT pg_backend_pid() AS pid")).rows[0];
    assert.notEqual(processID, pid);
    const cancel = (key: number) => {
      const request = Buffer.concat([int32(16), int32(80877102), int32(processID), int32(key)]);
      // It is closed, however late.
      return converse(`127.0.0.1:${fixture.port}`, [request], [], { quietMs: 5000 });
    };
    const query = client.query("SELECT pg_sleep(30)");
    query.catch(() => undefined);
    const activity = `SELECT 1 FROM pg_stat_activity WHERE pid = ${pid} AND query ~ 'sleep' AND state = 'active'`;
    const isAtWork = async () => (await postgres.sql(activity)).rows.length === 1;
    await eventually("it is at work", isAtWork);
    assert.equal((await cancel(secretKey ^ 1)).closed, true);
    await sleep(100);
    assert.ok(await isAtWork());
    await cancel(secretKey);
    assert.match(await refusal(query), /^57014 canceling statement/);
    // As from one whose connection is gone.
    await client.end();
    const { cancelKeys } = fixture.proxy.parts;
    const isForgotten = () => cancelKeys.find(processID, int32(secretKey)) === undefined;
    await eventually("its key is forgotten", isForgotten);
  }));

test("proxy: a compute that falls asleep as somebody comes is woken again", () =>
  withProxy({}, async (fixture) => {
    const endpoint = fixture.controlPlane.endpoints.get(ENDPOINT)!;
    const awake = endpoint.address;
    const dead = `127.0.0.1:${await freePort()}`;
    endpoint.onWake = async ({ count }) => {
      endpoint.address = count < 3 ? dead : awake;
      return count !== 3
        ? undefined
        : {
            status: 423,
            body: {
              error: "busy",
              status: {
                code: "x",
                message: "x",
                details: { error_info: { reason: "RUNNING_OPERATIONS" } },
              },
            },
          };
    };
    assert.equal(await whoAmI(await fixture.connect()), ROLE);
    assert.equal(fixture.controlPlane.countOf(`wake_compute ${ENDPOINT}`), 4);
  }));

test("proxy: many that come at once wake once", () =>
  withProxy({ accessKeepMs: 60_000 }, async (fixture) => {
    fixture.controlPlane.endpoints.get(ENDPOINT)!.onWake = async () => {
      while (fixture.proxy.parts.endpoints.counts.get(ENDPOINT) !== 20) {
        await sleep(5);
      }
      return undefined;
    };
    const clients = await Promise.all(Array.from({ length: 20 }, () => fixture.connect()));
    assert.equal(clients.length, 20);
    assert.equal(fixture.controlPlane.countOf(`wake_compute ${ENDPOINT}`), 1);
    assert.equal(fixture.controlPlane.countOf(`get_endpoint_access_control ${ENDPOINT}`), 1);
  }));

test("proxy: what the control plane says for users reaches them; a compute that does not come is an error in time", () =>
  withProxy({ wakeTimeoutMs: 300 }, async (fixture) => {
    const endpoint = fixture.controlPlane.endpoints.get(ENDPOINT)!;
    endpoint.onWake = async () => ({
      status: 422,
      body: {
        error: "internal words",
        status: {
          code: "quota",
          message: "internal words",
          details: { user_facing_message: { message: "the quota of this project is used up" } },
        },
      },
    });
    assert.match(await refusal(fixture.connect()), /the quota of this project is used up/);
    endpoint.onWake = async () => undefined;
    endpoint.address = `127.0.0.1:${await freePort()}`;
    assert.match(await refusal(fixture.connect()), /^57P03 the endpoint did not come up in 0.3 s/);
  }));

test("proxy: a password that was changed is seen, at the latest at the second try", () =>
  withProxy({ accessKeepMs: 60_000 }, async (fixture) => {
    await fixture.connect();
    const { secrets } = fixture.controlPlane.endpoints.get(ENDPOINT)!;
    try {
      await postgres.sql(`ALTER ROLE ${ROLE} PASSWORD 'new'`);
      secrets.set(ROLE, await postgres.secretOf(ROLE));
      // Postgres has another secret than the one that this login was checked against.
      assert.match(await refusal(fixture.connect()), /^28P01 password authentication failed/);
      assert.match(await refusal(fixture.connect()), /^28P01 password authentication failed/);
      assert.equal(await whoAmI(await fixture.connect({ password: "new" })), ROLE);
    } finally {
      await postgres.sql(`ALTER ROLE ${ROLE} PASSWORD '${PASSWORD}'`);
    }
  }));

test("proxy: the control plane's secret decides, and only with the one that Postgres has is there a way in", () =>
  withProxy({}, async (fixture) => {
    const { secrets } = fixture.controlPlane.endpoints.get(ENDPOINT)!;
    // The same password, another salt.
    secrets.set(ROLE, scramSecret(PASSWORD));
    assert.match(await refusal(fixture.connect()), /^28P01/);
    assert.notEqual(parseScramSecret(secrets.get(ROLE)!), undefined);
  }));

test("proxy: passwords cannot be tried at leisure", () =>
  withProxy({ failedLoginsPerMinute: 3 }, async (fixture) => {
    for (let i = 0; i < 3; i++) {
      assert.match(await refusal(fixture.connect({ password: `guess ${i}` })), /^28P01/);
    }
    assert.match(
      await refusal(fixture.connect()),
      /^53300 too many failed logins from 127.0.0.1 .*Try again in \d+ seconds/,
    );
  }));

test("proxy: thousands that connect and say nothing keep nobody out", () =>
  withProxy({ maxHalfOpen: 50 }, async (fixture) => {
    const crowd: Socket[] = [];
    const come = async () => {
      const socket = createConnection({ host: "127.0.0.1", port: fixture.port });
      socket.on("error", () => {});
      crowd.push(socket);
      await new Promise<void>((resolve) => socket.once("connect", resolve));
    };
    try {
      while (crowd.length < 10_000) {
        await Promise.all(Array.from({ length: 500 }, come));
      }
      assert.equal(await whoAmI(await fixture.connect()), ROLE);
      assert.ok(fixture.proxy.parts.halfOpen.count <= 50);
    } finally {
      for (const socket of crowd) {
        socket.destroy();
      }
    }
  }));

test("proxy: who does not finish the login is cut off", () =>
  withProxy({ loginTimeoutMs: 4000 }, async (fixture) => {
    const socket = createConnection({ host: "127.0.0.1", port: fixture.port });
    socket.write(SSL_REQUEST.subarray(0, 5));
    assert.equal(await everything(socket).catch(() => ""), "");
    // One that is in stays.
    const client = await fixture.connect();
    await sleep(4100);
    assert.equal(await whoAmI(client), ROLE);
  }));

test("proxy: an endpoint takes so many connections and no more", () =>
  withProxy({ maxConnectionsPerEndpoint: 2 }, async (fixture) => {
    const [one] = await Promise.all([fixture.connect(), fixture.connect()]);
    assert.match(await refusal(fixture.connect()), /^53300 endpoint '.*' has 2 connections/);
    await one.end();
    while (fixture.proxy.parts.endpoints.counts.get(ENDPOINT) === 2) {
      await sleep(5);
    }
    await fixture.connect();
  }));

test("proxy: addresses that are not on the list stay out", () =>
  withProxy({ accessKeepMs: 0 }, async (fixture) => {
    const endpoint = fixture.controlPlane.endpoints.get(ENDPOINT)!;
    endpoint.allowedIps = ["10.0.0.0/8", "nonsense"];
    assert.match(await refusal(fixture.connect()), /^28000 address 127.0.0.1 may not connect/);
    endpoint.allowedIps = ["127.0.0.0/8"];
    assert.equal(await whoAmI(await fixture.connect()), ROLE);
  }));

test("proxy: much goes both ways, and who does not read holds only a little of it", () =>
  withProxy({}, async (fixture) => {
    // Without TLS, whose streams hold bytes that nobody can count.
    const client = await fixture.connect({ ssl: false, options: `endpoint=${ENDPOINT}` });
    const megabytes = 64;
    const sent = "x".repeat(1024 * 1024);
    const back = await client.query("SELECT md5($1) = md5(repeat('x', 1048576)) AS same", [sent]);
    assert.equal(back.rows[0].same, true);
    const { connection } = client as unknown as { connection: { stream: NodeJS.ReadStream } };
    connection.stream.pause();
    const query = client.query(
      `SELECT repeat('y', 1048576) AS y FROM generate_series(1, ${megabytes})`,
    );
    await sleep(500);
    const held = [...heldBytes(fixture)].reduce((sum, bytes) => sum + bytes, 0);
    assert.ok(held < 4 * 1024 * 1024, `${held} bytes are held`);
    connection.stream.resume();
    const { rows } = await query;
    assert.equal(rows.length, megabytes);
    assert.equal(rows.at(-1).y.length, 1024 * 1024);
  }));

/** What the proxy's sockets have not sent yet. */
function* heldBytes(fixture: ProxyFixture): Generator<number> {
  for (const socket of fixture.proxy.sockets) {
    yield socket.writableLength;
  }
}

test("proxy: whichever side goes, the other goes too", () =>
  withProxy({}, async (fixture) => {
    const one = await fixture.connect();
    const { pid } = (await one.query("SELECT pg_backend_pid() AS pid")).rows[0];
    const ended = new Promise((resolve) => one.once("end", resolve));
    await postgres.sql(`SELECT pg_terminate_backend(${pid})`);
    await ended;
    const two = await fixture.connect();
    const other = (await two.query("SELECT pg_backend_pid() AS pid")).rows[0].pid;
    (two as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    for (;;) {
      const left = await postgres.sql(`SELECT 1 FROM pg_stat_activity WHERE pid = ${other}`);
      if (left.rows.length === 0) {
        break;
      }
      await sleep(10);
    }
    while (fixture.proxy.connections > 0) {
      await sleep(5);
    }
  }));
