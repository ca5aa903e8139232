import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { neon, neonConfig, Pool } from "@neondatabase/serverless";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { WebSocket } from "ws";
import {
  ENDPOINT,
  HOST,
  ProxiedPostgres,
  ProxyFixture,
  ROLE,
} from "../../../testing/proxy/proxy-fixture.ts";

// Tokens of users at the proxy: who shows a good one is logged in as the role that it is for, which may have no password.

const GUEST = "guest";

let postgres: ProxiedPostgres;
let fixture: ProxyFixture;
let jwks: Server;
let sign: (seconds?: number) => Promise<string>;
const url = (role: string) => `postgresql://${role}@${HOST}/postgres`;

before(async () => {
  postgres = await ProxiedPostgres.start();
  await postgres.sql(`CREATE ROLE ${GUEST} LOGIN`);
  await postgres.sql("CREATE ROLE nobody NOLOGIN");
  fixture = await ProxyFixture.start(postgres);
  const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
  const key = { ...(await exportJWK(publicKey)), kid: "one", alg: "ES256" };
  sign = (seconds = 300) =>
    new SignJWT({ sub: "user-1" })
      .setProtectedHeader({ alg: "ES256", kid: "one" })
      .setExpirationTime(Math.floor(Date.now() / 1000) + seconds)
      .sign(privateKey);
  jwks = createServer((_request, response) => response.end(JSON.stringify({ keys: [key] })));
  await new Promise<void>((resolve) => jwks.listen(0, "127.0.0.1", resolve));
  const endpoint = fixture.controlPlane.endpoints.get(ENDPOINT)!;
  endpoint.socket = `${postgres.cluster.workdir}/.s.PGSQL.${postgres.port}`;
  const { port } = jwks.address() as AddressInfo;
  endpoint.jwks = [
    { jwks_url: `http://127.0.0.1:${port}/`, role_names: [GUEST, "nobody", "not_there"] },
  ];
  neonConfig.fetchEndpoint = () => `http://127.0.0.1:${fixture.httpPort}/sql`;
  neonConfig.wsProxy = () => `127.0.0.1:${fixture.httpPort}/v2?address=${HOST}`;
  neonConfig.useSecureWebSocket = false;
});

after(async () => {
  jwks?.close();
  await fixture?.stop();
  await postgres?.cluster.destroy();
});

test("/sql: a token lets in as its roles, without a password; wrong ones, and other roles, stay out", async () => {
  const ask = (role: string, authToken: string) =>
    neon(url(role), {
      authToken,
    })`SELECT session_user::text AS who, current_setting('is_superuser') AS super`;
  const good = await sign();
  assert.deepEqual(await ask(GUEST, good), [{ who: GUEST, super: "off" }]);
  await assert.rejects(ask(GUEST, await sign(-60)), { code: "28000", message: /has expired/ });
  await assert.rejects(ask(GUEST, `${good}x`), { code: "28000" });
  // Known to Postgres, or to the socket: not to the rule.
  await assert.rejects(ask(ROLE, good), { code: "28000", message: /no JWKS .* is for this role/ });
  await assert.rejects(ask("postgres", good), { code: "28000" });
  // Postgres's own words.
  await assert.rejects(ask("nobody", good), { message: /not permitted to log in/ });
  await assert.rejects(ask("not_there", good), { message: /does not exist/ });
  // A connection that a token has opened serves nobody who has none.
  await assert.rejects(neon(`postgresql://${GUEST}:guess@${HOST}/postgres`)`SELECT 1`, {
    code: "28P01",
  });
  assert.deepEqual(await neon(fixture.url)`SELECT session_user::text AS who`, [{ who: ROLE }]);
});

test("WebSocket: a token in the request, in place of the password; a header that is none is refused", async () => {
  const headers = { authorization: `Bearer ${await sign()}` };
  neonConfig.webSocketConstructor = class extends WebSocket {
    constructor(address: string) {
      super(address, { headers });
    }
  };
  // It would send a password before anybody asks.
  neonConfig.pipelineConnect = false;
  try {
    for (const host of [HOST, HOST.replace(".", "-pooler.")]) {
      neonConfig.wsProxy = () => `127.0.0.1:${fixture.httpPort}/v2?address=${host}`;
      const pool = new Pool({ connectionString: url(GUEST) });
      const { rows } = await pool.query("SELECT session_user::text AS who");
      assert.deepEqual(rows, [{ who: GUEST }]);
      await pool.end();
      const other = new Pool({ connectionString: url(ROLE) });
      await assert.rejects(other.query("SELECT 1"), { code: "28000" });
      await other.end();
    }
  } finally {
    neonConfig.pipelineConnect = "password";
    neonConfig.webSocketConstructor = WebSocket;
  }
  const socket = new WebSocket(`ws://127.0.0.1:${fixture.httpPort}/v2`, {
    headers: { authorization: "Basic eDp5" },
  });
  const error = await new Promise<Error>((resolve) => socket.on("error", resolve));
  assert.match(error.message, /400/);
});

test("a compute that is on another machine is not opened by a token; passwords go on", async () => {
  const endpoint = fixture.controlPlane.endpoints.get(ENDPOINT)!;
  const { socket } = endpoint;
  delete endpoint.socket;
  try {
    // Of another database, for which there is no connection yet.
    await assert.rejects(
      neon(url(GUEST).replace(/postgres$/, "template1"), { authToken: await sign() })`SELECT 1`,
      {
        code: "0A000",
        message: /not on this machine/,
      },
    );
    const rows = await neon(fixture.url)`SELECT 1 AS one`;
    assert.deepEqual(rows, [{ one: 1 }]);
  } finally {
    endpoint.socket = socket!;
  }
});
