// Every HTTP port of every daemon: what a stranger, or a web page, may send to it.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { createLogger } from "../../src/base/log.ts";
import type { EndpointSpec } from "../../src/compute/api.ts";
import type { ComputeControl } from "../../src/compute/compute-control.ts";
import { HttpListener } from "../../src/compute/http-listener.ts";
import type { HttpLimits } from "../../src/http/limits.ts";
import { Pageserver } from "../../src/pageserver/pageserver.ts";
import { startSafekeeper } from "../../src/safekeeper/safekeeper.ts";
import { BrokerServer } from "../../src/storage-broker/server.ts";
import { DaemonProcess } from "../../testing/compute/compute-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { freePort } from "../../testing/free-port.ts";

const ID = "0123456789abcdef0123456789abcdef";
const TIMELINE = `/v1/tenant/${ID}/timeline/${ID}`;
const JSON_TYPE = "Content-Type: application/json";

interface Port {
  readonly name: string;
  readonly daemon: DaemonProcess;
  readonly port: number;
  /** Answers 200 to a good caller. */
  readonly status: string;
  /** Requests that change something. */
  readonly changes: readonly string[];
}

const directory = mkdtempSync(join(tmpdir(), "strata-http-"));
const ports: Port[] = [];

before(async () => {
  const dead = `127.0.0.1:${await freePort()}`;
  const listen = async (kind: string, changes: readonly string[], options: string[] = []) => {
    const port = await freePort();
    const isBroker = kind === "storage-broker";
    const daemon = new DaemonProcess(kind, kind, join(directory, kind), [
      ...(isBroker ? ["--listen"] : ["--listen-http"]),
      `127.0.0.1:${port}`,
      ...options,
    ]);
    const status = isBroker || kind === "proxy" ? "/status" : "/v1/status";
    ports.push({ name: kind, daemon, port, status, changes });
  };
  const wire = async () => ["--listen-pg", `127.0.0.1:${await freePort()}`];
  await listen("storage-broker", []);
  await listen("proxy", [], await wire());
  await listen("pageserver", ["POST /v1/tenant", `DELETE ${TIMELINE}`], await wire());
  await listen(
    "safekeeper",
    [`DELETE /v1/tenant/${ID}`, `POST ${TIMELINE}/term_bump`, "POST /v1/tenant/timeline"],
    await wire(),
  );
  const agent = new DaemonProcess("compute", "compute", join(directory, "compute"), []);
  // A start that never gets further, as its storage is not there.
  const spec: EndpointSpec = {
    endpointId: "main",
    tenantId: ID,
    timelineId: ID,
    mode: "primary",
    pgVersion: 17,
    pgHost: "127.0.0.1",
    pgPort: await freePort(),
    internalHttpPort: await freePort(),
    pageserver: { pgAddr: dead, httpAddr: dead },
    safekeepers: [{ id: 1, pgAddr: dead, httpAddr: dead }],
    settings: {},
  };
  writeFileSync(join(agent.workdir, "endpoint.json"), JSON.stringify(spec));
  const port = spec.internalHttpPort;
  ports.push({
    name: "compute",
    daemon: agent,
    port,
    status: "/status",
    changes: ["POST /terminate"],
  });
  for (const each of ports) {
    each.daemon.start();
  }
  for (const each of ports) {
    await eventually(`${each.name} to answer`, () => answers(each));
  }
});

after(async () => {
  for (const { daemon } of ports) {
    await daemon.kill("SIGKILL");
  }
  rmSync(directory, { recursive: true, force: true });
});

async function answers({ port, status }: Port): Promise<boolean> {
  return (await fetch(`http://127.0.0.1:${port}${status}`)).status === 200;
}

/** The status of the answer to `bytes`; 0 where the connection is closed, or silent for so long, without one. */
function send(port: number, bytes: string | Uint8Array, silenceMs = 30_000): Promise<number> {
  return new Promise((resolve) => {
    const socket = createConnection(port, "127.0.0.1");
    let text = "";
    const done = () => {
      socket.destroy();
      resolve(Number(/^HTTP\/1\.1 (\d{3}) /.exec(text)?.[1] ?? 0));
    };
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (text.includes("\r\n\r\n")) {
        done();
      }
    });
    socket.on("error", done);
    socket.on("close", done);
    socket.setTimeout(silenceMs, done);
    socket.write(bytes);
  });
}

const request = (line: string, ...headers: string[]) =>
  `${line} HTTP/1.1\r\n${["Host: localhost", ...headers].join("\r\n")}\r\n\r\n`;

/** What no route can be found for. */
const BAD_TARGETS = [
  ...["//[", "//%", "///", "//", "/%", "/%zz", "/%c3%28", "/a//b", "//evil.example/status", "*"],
  ...["http://[", "http://evil.example/status", "\\", "/\\..\\", "/[", "/{tenant}", "/a|b", "a"],
  ...["/v1/tenant/%", "/status%", "/metrics?x=1&x=2", "/?__proto__=1&__proto__=2"],
];

const HOSTILE: (string | Uint8Array)[] = [
  ...["", "\0", "\r\n\r\n", "GET", "GET /", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"],
  ...[
    "PRI",
    "PRI * HTTP/2.0\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PRI * HTTP/2.1\r\n\r\n",
  ],
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
  Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Buffer.alloc(65536, 0x41)]),
  Buffer.alloc(100_000, 0xff),
  `GET /${"a".repeat(100_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`,
  request("GET /status", `X: ${"x".repeat(100_000)}`),
  request("GET /status", ...Array.from({ length: 3000 }, (_, i) => `X${i}: 1`)),
  request("CONNECT evil.example:443"),
  request("OPTIONS *"),
  request("TRACE /status"),
  request("BREW /status"),
  request("GET /status", "Upgrade: websocket", "Connection: Upgrade"),
  request(
    "GET /status",
    "Upgrade: h2c",
    "Connection: Upgrade, HTTP2-Settings",
    "HTTP2-Settings: A",
  ),
  request("GET /status", "Expect: 100-continue"),
  request("GET /status", "Expect: nonsense"),
  `${request("GET /status", "Content-Length: 5")}hello`,
  request("GET /status", "Content-Length: -1"),
  request("GET /status", "Content-Length: 1", "Content-Length: 2"),
  `${request("GET /status", "Content-Length: 3", "Transfer-Encoding: chunked")}0\r\n\r\n`,
  `${request("GET /status", "Transfer-Encoding: chunked")}ffffffffffffffffff\r\n`,
  request("GET /status", "X-Request-Id: \u00e9\u0001"),
  request("GET /status", "Host: evil.example"),
  request("GET /status", "Cookie: a=b; ".repeat(500)),
  request("POST /terminate?mode=%", JSON_TYPE, "Content-Length: 999999999999"),
  ...["{", "[".repeat(100_000), "null", '"\\ud800"', '{"__proto__": {"x": 1}}', "\xff"].flatMap(
    (body) =>
      [`POST /v1/tenant`, `POST /v1/tenant/timeline`, `PUT ${TIMELINE}/membership`].map(
        (line) => request(line, JSON_TYPE, `Content-Length: ${Buffer.byteLength(body)}`) + body,
      ),
  ),
  request("GET /v1/tenant/%00/timeline/%2e%2e%2f"),
  request("GET /v1/debug_dump?dump_all=x&tenant_id[]=1"),
  request(`GET ${TIMELINE}/digest?from_lsn=FFFFFFFF/FFFFFFFF&until_lsn=`),
  request("GET /metrics").repeat(200),
];

test("no request ends a daemon: bad targets are 400, all others are answered or refused", async () => {
  for (const port of ports) {
    const { pid } = port.daemon;
    for (const target of BAD_TARGETS) {
      assert.equal(await send(port.port, request(`GET ${target}`)), 400, `${port.name} ${target}`);
    }
    await Promise.all(HOSTILE.map((bytes) => send(port.port, bytes, 500)));
    assert.ok(await answers(port), `${port.name} answers`);
    assert.ok(port.daemon.running && port.daemon.pid === pid, `${port.name} is alive`);
    const errors = port.daemon.log.split("\n").filter((line) => line.includes('"level":"error"'));
    assert.deepEqual(errors, [], port.name);
  }
});

test("every daemon describes its API", async () => {
  for (const { name, port, status } of ports) {
    const answer = await fetch(`http://127.0.0.1:${port}/api/openapi.json`);
    const document = (await answer.json()) as { openapi: string; paths: Record<string, unknown> };
    assert.match(document.openapi, /^3\.1\./, name);
    assert.ok(document.paths[status], name);
  }
});

test("a page whose name was given our address gets nothing and changes nothing", async () => {
  for (const { name, port, status, changes } of ports) {
    for (const line of [`GET ${status}`, "GET /metrics", ...changes]) {
      const evil = `${line} HTTP/1.1\r\nHost: evil.example:${port}\r\n${JSON_TYPE}\r\n\r\n`;
      assert.equal(await send(port, evil), 403, `${name} ${line}`);
    }
    assert.equal(await send(port, `GET ${status} HTTP/1.0\r\n\r\n`), 400, name);
  }
});

test("a page of another site changes nothing, with any body that a browser sends unasked", async () => {
  for (const port of ports) {
    for (const line of port.changes) {
      const types = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
      ];
      for (const headers of [[], ...types.map((type) => [`Content-Type: ${type}`])]) {
        assert.equal(await send(port.port, request(line, ...headers)), 415, `${port.name} ${line}`);
      }
      const foreign = request(line, JSON_TYPE, "Origin: https://evil.example");
      assert.equal(await send(port.port, foreign), 403, `${port.name} ${line}`);
    }
    for (const headers of [["Origin: null"], ["Sec-Fetch-Site: cross-site"]]) {
      assert.equal(
        await send(port.port, request(`GET ${port.status}`, ...headers)),
        403,
        port.name,
      );
    }
    assert.ok(await answers(port), port.name);
  }
});

test("the broker's RPCs: its own name only, and no type that a page can send", async () => {
  const { port } = ports.find(({ name }) => name === "storage-broker")!;
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  session.on("error", () => {});
  try {
    const rpc = { ":method": "POST", ":path": "/storage_broker.BrokerService/PublishOne" };
    const good = { "content-type": "application/grpc", te: "trailers" };
    const status = (headers: Record<string, string>) => http2Status(session, headers);
    // An empty message names no timeline: the broker itself says so, in gRPC's own way.
    assert.equal(await status({ ...rpc, ...good }), 200);
    assert.equal(await status({ ...rpc, ...good, ":authority": "evil.example" }), 403);
    assert.equal(await status({ ...rpc, ...good, origin: "http://evil.example" }), 403);
    assert.equal(await status({ ...rpc, "content-type": "text/plain" }), 415);
    assert.equal(await status({ ...rpc, "content-type": "application/json" }), 415);
    assert.equal(await status({ ":path": "/metrics", ":authority": "evil.example" }), 403);
    assert.equal(await status({ ":path": "//[" }), 400);
    assert.equal(await status({ ":path": "/status" }), 200);
  } finally {
    session.destroy();
  }
});

/** Over HTTP/2: what has no path, no host, another method, and messages that claim more than they bring. */
const HOSTILE_HTTP2: readonly Record<string, string>[] = [
  { ":method": "CONNECT", ":authority": "evil.example:1" },
  { ":method": "OPTIONS", ":path": "*" },
  { ":method": "BREW", ":path": "/status" },
  { ":path": "" },
  { ":path": "//%" },
  { ":path": "/status", ":authority": "[" },
  { ":path": "/status", ":scheme": "[" },
  { ":path": "/status", expect: "nonsense" },
  ...[
    "%",
    "[",
    "//",
    "\\",
    "PublishOne?x",
    "PublishOne/",
    "SubscribeByFilter",
    "PublishSafekeeperInfo",
  ]
    .map((path) => `/storage_broker.BrokerService/${path}`)
    .flatMap((path) => [
      { ":path": path },
      { ":path": path, ":method": "POST", "content-type": "application/grpc", te: "trailers" },
    ]),
];

test("no HTTP/2 request ends the broker", async () => {
  const broker = ports.find(({ name }) => name === "storage-broker")!;
  const bodies = [
    Buffer.alloc(0),
    Buffer.from([0, 255, 255, 255, 255, 1]),
    Buffer.alloc(100_000, 1),
  ];
  const sent = HOSTILE_HTTP2.flatMap((headers) =>
    bodies.map((body) => {
      const session = connectHttp2(`http://127.0.0.1:${broker.port}`);
      return new Promise<void>((resolve) => {
        session.on("error", () => resolve());
        const stream = session.request(headers, { endStream: false });
        stream.on("error", () => resolve());
        stream.on("close", resolve);
        // A stream for publishing is never at its end.
        stream.on("response", () => resolve());
        stream.setTimeout(500, resolve);
        stream.end(body);
      }).finally(() => session.destroy());
    }),
  );
  await Promise.all(sent);
  assert.ok(broker.daemon.running);
  assert.ok(await answers(broker));
});

function http2Status(
  session: ClientHttp2Session,
  headers: Record<string, string>,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers);
    stream.on("response", (answer) => resolve(Number(answer[":status"])));
    stream.on("error", reject);
    stream.resume();
    // A gRPC message of no bytes.
    stream.end(headers[":method"] === "POST" ? Buffer.alloc(5) : undefined);
  });
}

const SHORT: Partial<HttpLimits> = {
  headersTimeoutMs: 200,
  requestTimeoutMs: 400,
  checkIntervalMs: 20,
};
const logger = createLogger("test", "silent");

/** Every component in this process, with time limits that a test can wait for. */
async function shortPorts(context: TestContext): Promise<Map<string, number>> {
  const workdir = mkdtempSync(join(tmpdir(), "strata-http-short-"));
  context.after(() => rmSync(workdir, { recursive: true, force: true }));
  const listenPg = "127.0.0.1:0";
  const listenHttp = "127.0.0.1:0";
  const safekeeper = await startSafekeeper({
    ...{ nodeId: 1, workdir, listenPg, listenHttp, logger },
    broker: undefined,
    httpLimits: SHORT,
  });
  context.after(() => safekeeper.stop());
  const pageserver = await Pageserver.start({
    ...{ id: 1, workdir: join(workdir, "pageserver"), listenPg, listenHttp, logger },
    httpLimits: SHORT,
  });
  context.after(() => pageserver.close({ flush: false }));
  const broker = new BrokerServer({ logger, limits: SHORT });
  context.after(() => broker.close());
  const agent = new HttpListener({} as ComputeControl, logger, { limits: SHORT });
  context.after(() => agent.close());
  const agentPort = await freePort();
  await agent.listen("127.0.0.1", agentPort);
  agent.serveSoon();
  return new Map([
    ["safekeeper", Number(safekeeper.httpAddr.split(":")[1])],
    ["pageserver", pageserver.httpPort],
    ["storage-broker", (await broker.listen("127.0.0.1", 0)).port],
    ["compute", agentPort],
  ]);
}

test("half a request is kept by no daemon", async (context) => {
  const halves = ["", "G", "GET /status HTTP/1.1\r\nHost:"];
  const half = (port: number, bytes: string) =>
    new Promise<string>((resolve) => {
      const socket = createConnection(port, "127.0.0.1");
      let text = "";
      socket.on("data", (chunk) => {
        text += chunk;
      });
      socket.on("error", () => {});
      socket.on("close", () => resolve(text));
      socket.setTimeout(20_000, () => socket.destroy(new Error("still open")));
      socket.write(bytes);
    });
  const waiting = [...(await shortPorts(context))].flatMap(([name, port]) =>
    halves.map(async (bytes) => {
      assert.match(await half(port, bytes), /^HTTP\/1\.1 408 /, `${name} '${bytes}'`);
    }),
  );
  await Promise.all(waiting);
});

test("an HTTP/2 connection that says nothing is not kept by the broker", async (context) => {
  const broker = new BrokerServer({ logger, limits: SHORT });
  context.after(() => broker.close());
  const { port } = await broker.listen("127.0.0.1", 0);
  const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  for (const bytes of ["PR", preface.slice(0, 20), preface, `${preface}\0\0`]) {
    const closed = new Promise<boolean>((resolve) => {
      const socket = createConnection(port, "127.0.0.1");
      socket.on("error", () => {});
      socket.on("close", () => resolve(true));
      socket.setTimeout(20_000, () => resolve(false));
      socket.resume();
      socket.write(bytes);
    });
    assert.ok(await closed, JSON.stringify(bytes));
  }
});
