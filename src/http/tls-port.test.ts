import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection } from "node:net";
import { after, type TestContext, test } from "node:test";
import { connect } from "node:tls";
import { z } from "zod";
import { REACHED_HOST, ServiceAuthority } from "../../testing/services/service-authority.ts";
import { createLogger } from "../base/log.ts";
import { trustServices } from "../base/network/service-tls.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { HttpClient } from "./client.ts";
import type { HttpLimits } from "./limits.ts";
import { route } from "./route.ts";
import { HttpServer } from "./server.ts";

const authority = await ServiceAuthority.create();
const stranger = await ServiceAuthority.create();
after(() => {
  authority.remove();
  stranger.remove();
});
const believe = (...caFiles: string[]) => trustServices(() => ({ isPlaintext: false, caFiles }));

const ROUTES = (["GET", "POST"] as const).map((method) =>
  route(
    {
      method,
      path: "/hello",
      summary: "Answers.",
      scope: "public",
      answer: z.object({}),
    },
    () => ({}),
  ),
);

async function serve(
  t: TestContext,
  certificates: TlsCertificates | undefined,
  host = REACHED_HOST,
  limits: Partial<HttpLimits> = {},
) {
  let encrypted: unknown;
  const server = new HttpServer({
    takes: ({ socket }) => {
      encrypted = (socket as { encrypted?: boolean }).encrypted ?? false;
      return false;
    },
    component: "test",
    routes: ROUTES,
    metrics: { contentType: "text/plain", text: () => "" },
    logger: createLogger("test", "silent"),
    listenHost: host,
    certificates,
    limits,
  });
  const port = await server.listen(host, 0);
  t.after(() => server.close());
  t.after(() => certificates?.close());
  const address = `${host}:${port}`;
  const client = new HttpClient({ component: "thing", address, timeoutMs: 5000 });
  /** Whether it was asked with TLS. */
  const ask = async (method: "GET" | "POST" = "GET") => {
    await client.call(method, "/hello");
    return encrypted;
  };
  return { port, ask, address };
}

test("HttpServer: with TLS where others reach it, without on loopback", async (t) => {
  believe(authority.caFile);
  const reached = await serve(t, await authority.certificates("good"));
  for (const method of ["GET", "GET", "POST"] as const) {
    assert.equal(await reached.ask(method), true);
  }
  const own = await serve(t, await authority.certificates("good"), "127.0.0.1");
  assert.equal(await own.ask(), false);
});

test("HttpServer: plain text to a port with TLS is told so, and gets nothing else", async (t) => {
  const { port } = await serve(t, await authority.certificates("good"));
  const response = await fetch(`http://127.0.0.1:${port}/hello`);
  assert.equal(response.status, 400);
  const { code, msg } = (await response.json()) as { code: string; msg: string };
  assert.equal(code, "tls-needed");
  assert.match(msg, /speaks TLS only: https/);
});

test("HttpClient: who is not who he should be gets no request, and the error says what to do", async (t) => {
  believe(authority.caFile);
  const refuses = async (server: { ask(): Promise<unknown>; address: string }, why: RegExp) =>
    assert.rejects(server.ask(), (error: Error & { kind: string }) => {
      assert.equal(error.kind, "unavailable");
      assert.match(error.message, why);
      assert.ok(error.message.includes(server.address), error.message);
      return true;
    });
  await refuses(await serve(t, await stranger.certificates("good")), /is of no authority in .*ca/);
  const expired = await serve(t, await authority.certificates("expired", REACHED_HOST, -1));
  await refuses(expired, /has expired.*'strata start'/);
  const other = await serve(t, await authority.certificates("other", "10.0.0.1"));
  await refuses(other, /is for 10\.0\.0\.1, and not for that address/);
  await refuses(await serve(t, undefined), /answers in plain text/);
});

test("HttpServer: a new certificate is shown without a restart, and the one before to nobody", async (t) => {
  believe(authority.caFile);
  const certificates = await authority.certificates("renewed", REACHED_HOST, -1);
  const { ask } = await serve(t, certificates);
  await assert.rejects(ask(), /expired/);
  await authority.issue("renewed");
  certificates.lookAgain();
  assert.equal(await ask(), true);
  // A connection that was made while it was good is no reason to believe a new one.
  await authority.issue("renewed", REACHED_HOST, -1);
  certificates.lookAgain();
  await assert.rejects(ask("POST"), /expired/);
});

test("HttpServer: neither silence nor half of a handshake holds a connection, nor its close", async (t) => {
  const limits = { headersTimeoutMs: 200 };
  const { port } = await serve(t, await authority.certificates("good"), REACHED_HOST, limits);
  for (const first of ["", "\x16\x03\x01\x02\x00\x01"]) {
    const socket = createConnection(port, "127.0.0.1");
    socket.on("error", () => undefined);
    socket.write(Buffer.from(first, "latin1"));
    await once(socket, "close");
  }
  // One that waits when the server closes (t.after) is not waited for.
  createConnection(port, "127.0.0.1").on("error", () => undefined);
});

test("HttpServer: another protocol's TLS is refused by ALPN", async (t) => {
  const { port } = await serve(t, await authority.certificates("good"));
  const socket = connect({ port, rejectUnauthorized: false, ALPNProtocols: ["postgresql"] });
  const [error] = await once(socket, "error");
  assert.match(String(error), /no application protocol/i);
});
