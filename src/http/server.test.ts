import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { createConnection } from "node:net";
import { type TestContext, test } from "node:test";
import { z } from "zod";
import { sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { HttpClient } from "./client.ts";
import { kindOfStatus, statusOfError } from "./http-errors.ts";
import type { HttpLimits } from "./limits.ts";
import { mediaRoute, type Route, route } from "./route.ts";
import { HttpServer } from "./server.ts";

const JSON_TYPE = { "content-type": "application/json" };

class RecordingLogger implements Logger {
  level = "trace";
  readonly lines: { level: string; fields: Record<string, unknown>; message: string }[] = [];
  readonly trace = this.#method("trace");
  readonly debug = this.#method("debug");
  readonly info = this.#method("info");
  readonly warn = this.#method("warn");
  readonly error = this.#method("error");
  readonly fatal = this.#method("fatal");

  child(): Logger {
    return this;
  }

  #method(level: string) {
    return (fields: object | string, message?: string) => {
      this.lines.push({ level, fields: fields as Record<string, unknown>, message: message ?? "" });
    };
  }
}

/** What a request to /slow waits for, and what waits for that request. */
class Gate {
  readonly reached = Promise.withResolvers<void>();
  readonly opened = Promise.withResolvers<void>();
}

let gate = new Gate();

const ROUTES: Route[] = [
  route(
    {
      method: "POST",
      path: "/echo/{name}",
      summary: "Says what it got.",
      scope: "tenant",
      status: 201,
      params: z.object({ name: z.string() }),
      query: z.object({ twice: z.stringbool().optional() }),
      body: z.object({ count: z.int().optional() }),
      answer: z.object({ name: z.string(), twice: z.boolean(), count: z.int().nullable() }),
    },
    ({ params, query, body }) => ({
      name: params.name,
      twice: query.twice ?? false,
      count: body.count ?? null,
    }),
  ),
  route({ method: "GET", path: "/echo/all", summary: "A name.", scope: "admin" }, () => undefined),
  route({ method: "GET", path: "/fail/{kind}", summary: "Fails.", scope: "public" }, (request) => {
    const { kind } = request.params as { kind: "corrupt" };
    if ((kind as string) === "bug") {
      throw new TypeError("a bug");
    }
    throw new StorageError(kind, `is-${kind}`, `it is ${kind}`);
  }),
  route({ method: "GET", path: "/slow", summary: "Waits.", scope: "public" }, () => {
    gate.reached.resolve();
    return gate.opened.promise;
  }),
  mediaRoute(
    {
      method: "GET",
      path: "/bytes/{count}",
      summary: "Chunks.",
      scope: "public",
      mediaType: "application/octet-stream",
    },
    async (request) => {
      const { count } = request.params as { count: string };
      return (async function* () {
        for (let i = 0; i < Number(count); i++) {
          if (i === 13) {
            throw new Error("half way");
          }
          yield Buffer.alloc(65536, i);
        }
      })();
    },
  ),
];

interface Started {
  readonly server: HttpServer;
  readonly url: string;
  readonly port: number;
  readonly logger: RecordingLogger;
}

async function start(
  context: TestContext,
  limits: Partial<HttpLimits> = {},
  authorize?: (request: unknown, scope: string) => void,
): Promise<Started> {
  const logger = new RecordingLogger();
  const server = new HttpServer({
    component: "test",
    routes: ROUTES,
    metrics: { contentType: "text/plain", text: () => "own_metric 1" },
    logger,
    listenHost: "127.0.0.1",
    limits,
    authorize,
  });
  const port = await server.listen("127.0.0.1", 0);
  context.after(() => server.close());
  return { server, port, logger, url: `http://127.0.0.1:${port}` };
}

/** All that comes back for `text`, until the other side closes; and after how long. */
async function raw(port: number, text: string): Promise<{ answer: string; ms: number }> {
  const socket = createConnection(port, "127.0.0.1");
  let answer = "";
  const started = performance.now();
  socket.on("data", (chunk) => {
    answer += chunk;
  });
  socket.on("error", () => {});
  socket.write(text);
  await new Promise((resolve) => socket.on("close", resolve));
  return { answer, ms: performance.now() - started };
}

async function allAnswered(logger: RecordingLogger, count: number): Promise<void> {
  for (let ms = 0; ms < 10_000; ms += 20) {
    if (logger.lines.filter(({ message }) => message === "request answered").length >= count) {
      return;
    }
    await sleep(20);
  }
  assert.fail("requests stay open");
}

async function allClosed({ node }: HttpServer): Promise<void> {
  for (let ms = 0; ms < 10_000; ms += 20) {
    const open = await new Promise<number>((resolve) =>
      node.getConnections((_error, count) => resolve(count)),
    );
    if (open === 0) {
      return;
    }
    await sleep(20);
  }
  assert.fail("connections stay open");
}

test("HttpServer: what a route declares is what a handler sees", async (context) => {
  const { url } = await start(context);
  const answer = await fetch(`${url}/echo/a%20b?twice=true`, {
    method: "POST",
    headers: JSON_TYPE,
    body: '{"count": 3}',
  });
  assert.equal(answer.status, 201);
  assert.deepEqual(await answer.json(), { name: "a b", twice: true, count: 3 });
  const empty = await fetch(`${url}/echo/all`, { method: "POST", headers: JSON_TYPE });
  assert.deepEqual(await empty.json(), { name: "all", twice: false, count: null });
  const fixed = await fetch(`${url}/echo/all`);
  assert.equal(fixed.status, 200);
  assert.equal(await fixed.text(), "");
  assert.equal((await fetch(`${url}/echo/all`, { method: "HEAD" })).status, 200);
});

test("HttpServer: every refusal is {msg, code, request_id} under its status", async (context) => {
  const { url, logger } = await start(context);
  const post = (body: string | Uint8Array<ArrayBuffer>, type = "application/json") =>
    fetch(`${url}/echo/x`, { method: "POST", headers: { "content-type": type }, body });
  const cases: [Promise<Response>, number, string][] = [
    [fetch(`${url}/nothing`), 404, "no-route"],
    [fetch(`${url}/echo`), 404, "no-route"],
    [fetch(`${url}/slow`, { method: "DELETE", headers: JSON_TYPE }), 405, "method-not-allowed"],
    [post("{"), 400, "bad-json"],
    [post(new Uint8Array([0x22, 0xff, 0x22])), 400, "bad-json"],
    [post('{"count": "x"}'), 400, "bad-request"],
    [post("[]"), 400, "bad-request"],
    [post("x".repeat(2 ** 20 + 1)), 413, "body-too-large"],
    [post("{}", "text/plain"), 415, "not-json"],
    [fetch(`${url}/echo/x`, { method: "POST" }), 415, "not-json"],
    [fetch(`${url}/slow`, { headers: { origin: "http://evil.example" } }), 403, "wrong-origin"],
    [fetch(`${url}/fail/invalid`), 400, "is-invalid"],
    [fetch(`${url}/fail/forbidden`), 403, "is-forbidden"],
    [fetch(`${url}/fail/not-found`), 404, "is-not-found"],
    [fetch(`${url}/fail/conflict`), 409, "is-conflict"],
    [fetch(`${url}/fail/fenced`), 412, "is-fenced"],
    [fetch(`${url}/fail/unavailable`), 503, "is-unavailable"],
    [fetch(`${url}/fail/unsupported`), 501, "is-unsupported"],
    [fetch(`${url}/fail/corrupt`), 500, "is-corrupt"],
    [fetch(`${url}/fail/bug`), 500, "internal"],
  ];
  for (const [pending, status, code] of cases) {
    const answer = await pending;
    const body = (await answer.json()) as Record<string, string>;
    assert.equal(answer.status, status, JSON.stringify(body));
    assert.equal(body["code"], code);
    assert.ok(body["msg"]);
    assert.equal(body["request_id"], answer.headers.get("x-request-id"));
  }
  // Only what a person should look at is an error in the log.
  const errors = logger.lines.filter(({ level }) => level === "error");
  assert.deepEqual(
    errors.map(({ fields }) => fields["path"]),
    ["/fail/corrupt", "/fail/bug"],
  );
});

test("HttpServer: a request id is taken where it is one, else made", async (context) => {
  const { url, logger } = await start(context);
  const ask = async (id: string) =>
    (await fetch(`${url}/fail/conflict`, { headers: { "x-request-id": id } })).headers.get(
      "x-request-id",
    );
  assert.equal(await ask("trace-1.a"), "trace-1.a");
  assert.ok(logger.lines.some(({ fields }) => fields["requestId"] === "trace-1.a"));
  assert.match((await ask("no spaces"))!, /^[0-9a-f]{16}$/);
  assert.match((await ask("x".repeat(101)))!, /^[0-9a-f]{16}$/);
});

test("HttpServer: half a request, and none, get 408 in time", async (context) => {
  const limits = { headersTimeoutMs: 200, requestTimeoutMs: 400, checkIntervalMs: 20 };
  const { port } = await start(context, limits);
  const post = `POST /echo/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n`;
  const halves = [
    "",
    "GET /slow HT",
    "GET /slow HTTP/1.1\r\nHost: loc",
    `${post}Content-Length: 9\r\n\r\n{`,
  ];
  for (const { answer, ms } of await Promise.all(halves.map((half) => raw(port, half)))) {
    assert.match(answer, /^HTTP\/1.1 408 Request Timeout\r\n.*"code":"request-timeout"/s);
    assert.ok(ms < 9000, `${ms} ms`);
  }
});

test("HttpServer: a long answer is no half request", async (context) => {
  const limits = { headersTimeoutMs: 1000, requestTimeoutMs: 1000, checkIntervalMs: 20 };
  const { url } = await start(context, limits);
  gate = new Gate();
  const slow = fetch(`${url}/slow`);
  await gate.reached.promise;
  await sleep(1300);
  gate.opened.resolve();
  assert.equal((await slow).status, 200);
});

test("HttpServer: idle connections, headers, connections have limits", async (context) => {
  const limits = { keepAliveTimeoutMs: 100, maxConnections: 2, checkIntervalMs: 20 };
  const { port, server } = await start(context, limits);
  const get = "GET /echo/all HTTP/1.1\r\nHost: localhost\r\n";
  const idle = await raw(port, `${get}\r\n`);
  assert.match(idle.answer, /^HTTP\/1.1 200/);
  assert.ok(idle.ms < 5000);
  const large = await raw(port, `${get}X: ${"x".repeat(20_000)}\r\n\r\n`);
  assert.match(large.answer, /^HTTP\/1.1 431 .*"code":"headers-too-large"/s);
  const garbage = await raw(port, "\x16\x03\x01\r\n\r\n");
  assert.match(garbage.answer, /^HTTP\/1.1 400 .*"code":"bad-http"/s);
  await allClosed(server);
  const sockets = [createConnection(port, "127.0.0.1"), createConnection(port, "127.0.0.1")];
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  const third = await raw(port, `${get}\r\n`);
  assert.equal(third.answer, "");
  for (const socket of sockets) {
    socket.destroy();
  }
});

test("HttpServer: a caller that does not read its answer is let go", async (context) => {
  const { port, server } = await start(context, { sendTimeoutMs: 200 });
  const socket = createConnection(port, "127.0.0.1");
  socket.on("error", () => {});
  socket.pause();
  socket.write("GET /bytes/12 HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(40));
  await allClosed(server);
  socket.destroy();
});

test("HttpServer: an answer that fails half way is cut off", async (context) => {
  const { url } = await start(context);
  const whole = await (await fetch(`${url}/bytes/12`)).arrayBuffer();
  assert.equal(whole.byteLength, 12 * 65536);
  await assert.rejects(async () => (await fetch(`${url}/bytes/20`)).arrayBuffer());
});

test("HttpServer: a stop waits for answers under way, not for who only sits there", async (context) => {
  const { url, port, server } = await start(context, { closeGraceMs: 60_000 });
  const sitting = createConnection(port, "127.0.0.1");
  await once(sitting, "connect");
  sitting.on("error", () => {});
  gate = new Gate();
  const slow = fetch(`${url}/slow`);
  await gate.reached.promise;
  const started = performance.now();
  const closed = server.close();
  setTimeout(() => gate.opened.resolve(), 200);
  assert.equal((await slow).status, 200);
  await closed;
  assert.ok(performance.now() - started < 30_000);
});

test("HttpServer: a stop does not wait for who has not yet shown which protocol it speaks", async (context) => {
  const server = new HttpServer({
    component: "test",
    routes: [],
    metrics: { contentType: "text/plain", text: () => "" },
    logger: new RecordingLogger(),
    listenHost: "127.0.0.1",
    limits: { closeGraceMs: 60_000 },
    otherProtocol: { preface: "PRI * HTTP/2.0", serve: (socket) => socket.destroy() },
  });
  const port = await server.listen("127.0.0.1", 0);
  context.after(() => server.close());
  const sitting = createConnection(port, "127.0.0.1");
  sitting.on("error", () => {});
  sitting.write("PRI");
  await once(sitting, "connect");
  await sleep(50);
  const started = performance.now();
  await server.close();
  assert.ok(performance.now() - started < 30_000);
});

test("HttpServer: a stop does not wait for ever", async (context) => {
  const { url, server } = await start(context, { closeGraceMs: 100 });
  gate = new Gate();
  const slow = fetch(`${url}/slow`);
  await gate.reached.promise;
  await Promise.all([assert.rejects(slow), server.close()]);
});

test("HttpServer: metrics count by declared route and status", async (context) => {
  const { url } = await start(context);
  await fetch(`${url}/echo/all`);
  await fetch(`${url}/fail/conflict`);
  await fetch(`${url}/whatever/${Math.random()}`);
  const text = await (await fetch(`${url}/metrics`)).text();
  assert.match(text, /^own_metric 1\n/);
  assert.match(text, /http_requests_total\{method="GET",route="\/echo\/all",status="200"\} 1\n/);
  assert.match(
    text,
    /http_requests_total\{method="GET",route="\/fail\/\{kind\}",status="409"\} 1\n/,
  );
  assert.match(text, /http_requests_total\{method="none",route="none",status="404"\} 1\n/);
  assert.match(text, /http_request_duration_seconds_count\{method="GET",route="\/echo\/all"\} 1\n/);
});

test("HttpServer: a request that breaks off is not counted as answered well", async (context) => {
  const { url, port, logger, server } = await start(context);
  const arrived = once(server.node, "request");
  const socket = createConnection(port, "127.0.0.1");
  socket.write(
    "POST /echo/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
      'Content-Length: 100\r\n\r\n{"count": ',
  );
  await arrived;
  socket.destroy();
  await allAnswered(logger, 1);
  const text = await (await fetch(`${url}/metrics`)).text();
  assert.match(text, /route="\/echo\/\{name\}",status="400"\} 1\n/);
  assert.doesNotMatch(text, /status="20/);
});

test("HttpServer: authorize sees the scope before anything is done", async (context) => {
  const scopes: string[] = [];
  const { url } = await start(context, {}, (_request, scope) => {
    scopes.push(scope);
    if (scope === "admin") {
      throw new StorageError("forbidden", "no-admin", "not for you");
    }
  });
  assert.equal((await fetch(`${url}/echo/all`)).status, 403);
  assert.equal((await fetch(`${url}/metrics`)).status, 200);
  await fetch(`${url}/echo/x`, { method: "POST", headers: JSON_TYPE });
  assert.deepEqual(scopes, ["admin", "public", "tenant"]);
});

test("HTTP errors: a code with a status of its own is of the same kind on the other side", () => {
  for (const code of ["has-unarchived-children", "ancestor-archived"]) {
    const refusal = new StorageError("invalid", code, "not in this order");
    assert.equal(statusOfError(refusal), 412);
    assert.equal(kindOfStatus(412, code), "invalid");
  }
  assert.equal(kindOfStatus(412, "stale-generation"), "fenced");
});

test("HttpClient: kinds, codes and messages come back as they were sent", async (context) => {
  const { port } = await start(context);
  const client = new HttpClient({
    component: "test",
    address: `127.0.0.1:${port}`,
    timeoutMs: 5000,
  });
  for (const kind of ["invalid", "forbidden", "not-found", "conflict", "fenced", "unsupported"]) {
    await assert.rejects(client.call("GET", `/fail/${kind}`), {
      kind,
      code: `is-${kind}`,
      message: `test 127.0.0.1:${port}: it is ${kind}`,
    });
  }
  const alone = new HttpClient({
    ...{ component: "test", address: `127.0.0.1:${port}`, timeoutMs: 5000 },
    isOnlyOne: true,
  });
  await assert.rejects(alone.call("GET", "/fail/conflict"), { message: "it is conflict" });
  await assert.rejects(client.call("GET", "/fail/bug"), { kind: "internal", code: "internal" });
  assert.deepEqual(await client.call("POST", "/echo/x", { body: { count: 1 } }), {
    name: "x",
    twice: false,
    count: 1,
  });
  assert.equal(await client.call("GET", "/echo/all"), undefined);
  gate = new Gate();
  await assert.rejects(client.call("GET", "/slow", { timeoutMs: 50 }), {
    kind: "unavailable",
    code: "test-unreachable",
    message: /GET \/slow: .*timeout/,
  });
  gate.opened.resolve();
});

test("HttpClient: an answer that breaks off, and none, are unavailable; a bad one is corrupt", async (context) => {
  const { port } = await start(context);
  const client = new HttpClient({
    component: "test",
    address: `http://127.0.0.1:${port}/`,
    timeoutMs: 5000,
  });
  await assert.rejects(client.call("GET", "/bytes/20"), { code: "test-unreachable" });
  await assert.rejects(client.call("GET", "/bytes/1"), { kind: "corrupt", code: "bad-answer" });
  const nobody = new HttpClient({ component: "test", address: "127.0.0.1:1", timeoutMs: 5000 });
  await assert.rejects(nobody.call("GET", "/"), { kind: "unavailable", message: /ECONNREFUSED/ });
});

test("HttpClient: GET uses connections again and survives stale ones; changes go out once", async (context) => {
  const seen: string[] = [];
  let connections = 0;
  let breakNext = false;
  const server = createServer((request, response) => {
    seen.push(request.method!);
    if (breakNext) {
      breakNext = false;
      request.socket.destroy();
    } else {
      response.end("1");
    }
  });
  server.on("connection", () => connections++);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => server.close());
  const { port } = server.address() as { port: number };
  const client = new HttpClient({
    component: "test",
    address: `127.0.0.1:${port}`,
    timeoutMs: 5000,
  });
  await client.call("GET", "/");
  await client.call("GET", "/");
  assert.equal(connections, 1);
  // As if the server had gone just when the request went out.
  breakNext = true;
  assert.equal(await client.call("GET", "/"), 1);
  assert.equal(connections, 2);
  breakNext = true;
  await assert.rejects(client.call("POST", "/"), { kind: "unavailable" });
  assert.deepEqual(seen, ["GET", "GET", "GET", "GET", "POST"]);
});
