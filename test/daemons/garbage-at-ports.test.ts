// Garbage at every port that any process of a home listens on: that connection ends, and nothing else does.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import { SeededRandom } from "../../src/base/random.ts";
import { TestCluster, type Victim } from "../../testing/cluster.ts";

const random = new SeededRandom(1);
const randomBytes = (length: number) => Buffer.from(Array.from({ length }, () => random.int(256)));
const text = (...lines: string[]) => Buffer.from(`${lines.join("\r\n")}\r\n\r\n`);
const HTTP2_PREFACE = text("PRI * HTTP/2.0", "", "SM");

/** A frame of HTTP/2: length, type, flags, stream. */
function frame(type: number, stream: number, body: Buffer, length = body.length): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, body]);
}

/** A start-up packet of the Postgres protocol that says it has `length` bytes. */
function startup(length: number, code: number, body = ""): Buffer {
  const head = Buffer.alloc(8);
  head.writeInt32BE(length, 0);
  head.writeInt32BE(code, 4);
  return Buffer.concat([head, Buffer.from(body)]);
}

const GARBAGE: Readonly<Record<string, Buffer>> = {
  nothing: Buffer.alloc(0),
  "one zero": Buffer.alloc(1),
  zeros: Buffer.alloc(4096),
  "the same byte": Buffer.alloc(4096, 0xa5),
  "random bytes": randomBytes(4096),
  "a megabyte": Buffer.alloc(1 << 20, randomBytes(4096)),
  "a TLS client": Buffer.concat([Buffer.from("1603010200010001fc0303", "hex"), randomBytes(505)]),
  "HTTP with paths that do not decode": Buffer.concat(
    ["//[", "//%", "///", "/%zz", "/\u0000", "http://[::1", "*"].map((path) =>
      text(`GET ${path} HTTP/1.1`, "Host: 127.0.0.1"),
    ),
  ),
  "HTTP that is no HTTP": text("GET / HTTP/9.9", ": : :", "Content-Length: -1"),
  "HTTP with two lengths": text("POST / HTTP/1.1", "Content-Length: 5", "Content-Length: 7"),
  "HTTP with a huge head": text("GET / HTTP/1.1", `X: ${"x".repeat(200_000)}`),
  "HTTP with a chunk of the wrong size": Buffer.concat([
    text("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"),
    Buffer.from("ffffffffffffffff\r\nx"),
  ]),
  "HTTP/2 and then garbage": Buffer.concat([HTTP2_PREFACE, randomBytes(2000)]),
  "HTTP/2 frames of the wrong size, on the wrong stream": Buffer.concat([
    HTTP2_PREFACE,
    frame(4, 0, Buffer.alloc(0)),
    frame(1, 1, randomBytes(100)),
    frame(0, 2, randomBytes(10), 0xff_ffff),
  ]),
  "Postgres: too long": startup(0x7fff_ffff, 196_608, "user\0x\0\0"),
  "Postgres: negative length": startup(-1, 196_608),
  "Postgres: too short": startup(4, 196_608),
  "Postgres: another protocol": startup(8, 0x7fff_0000),
  "Postgres: TLS, then garbage": Buffer.concat([startup(8, 80_877_103), randomBytes(500)]),
  "Postgres: cancels of nobody": Buffer.concat([startup(16, 80_877_102), randomBytes(8)]),
  "Postgres: names without an end": startup(8 + 3000, 196_608, "user".repeat(750)),
  "Postgres: a start, then garbage": Buffer.concat([
    startup(17, 196_608, "user\0x\0\0\0".slice(0, 9)),
    randomBytes(3000),
  ]),
};

/** Sends it and says that no more comes; whether the other side has closed in time. */
function hangsUp(port: number, bytes: Buffer): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const patience = setTimeout(() => {
      socket.destroy();
      resolve(false);
    }, 30_000);
    // Resets and broken pipes are ways to hang up as well.
    socket.on("error", () => undefined);
    socket.on("close", () => {
      clearTimeout(patience);
      resolve(true);
    });
    socket.resume().end(bytes);
  });
}

/** Sends a part, and is gone without a word. */
function breaksOff(port: number, bytes: Buffer): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => resolve());
    socket.on("close", () => resolve());
    socket.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => socket.resetAndDestroy());
  });
}

/** TCP ports that the process listens on, by proc(5): no list that somebody could forget to extend. */
function portsOf(pid: number): number[] {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      } catch {
        return undefined;
      }
    }),
  );
  const lines = ["tcp", "tcp6"].flatMap((name) =>
    readFileSync(`/proc/${pid}/net/${name}`, "utf8").split("\n").slice(1),
  );
  const listening = lines
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , state]) => state === "0A");
  return listening
    .filter((columns) => inodes.has(columns[9]))
    .map(([, address]) => Number.parseInt(address!.split(":").at(-1)!, 16))
    .sort((a, b) => a - b);
}

/** How many ports each process has. */
const PORTS: Readonly<Partial<Record<Victim, number>>> = {
  pageserver: 2,
  broker: 1,
  "safekeeper-1": 2,
  "agent-main": 1,
  "postgres-main": 1,
};

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t (i int)");
});
after(() => cluster?.[Symbol.asyncDispose]());

/** It is the process that it was, and at work: a commit needs a safekeeper, a new table storage. */
async function isUnharmed(victim: Victim, pid: number): Promise<void> {
  assert.equal(cluster.pid(victim), pid, `${victim} is another process`);
  process.kill(pid, 0);
  await cluster.query("main", "insert into t values (1)");
  assert.equal(cluster.pid(victim), pid, `${victim} is another process`);
}

async function httpAnswers(port: number): Promise<boolean> {
  try {
    const response = await fetch(`http://127.0.0.1:${port}/metrics`, {
      signal: AbortSignal.timeout(10_000),
    });
    return (await response.text()).includes("# HELP");
  } catch {
    return false;
  }
}

for (const [victim, count] of Object.entries(PORTS) as [Victim, number][]) {
  test(`garbage at every port of ${victim} ends that connection only`, async () => {
    const pid = cluster.pid(victim);
    const ports = portsOf(pid);
    assert.equal(ports.length, count, `${victim} listens on ${ports}`);
    const speakHttp = await Promise.all(ports.map(httpAnswers));
    assert.ok(victim === "postgres-main" || speakHttp.includes(true), "no port answers HTTP");
    for (const [index, port] of ports.entries()) {
      for (const [name, bytes] of Object.entries(GARBAGE)) {
        const what = `${victim}, port ${port}, ${name}`;
        assert.ok(await hangsUp(port, bytes), `${what}: it does not hang up`);
        await breaksOff(port, bytes);
        assert.deepEqual(portsOf(pid), ports, what);
        assert.equal(await httpAnswers(port), speakHttp[index], what);
        await isUnharmed(victim, pid);
      }
    }
  });
}
