import assert from "node:assert/strict";
import { createConnection } from "node:net";
import { after, test } from "node:test";
import pg from "pg";
import { inSteadyTime } from "../../../simulation/simulated-time.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { connectWire, parseHostPort } from "./wire-client.ts";
import { cstring, encodeMessage, MessageReader, ReceiveBudget } from "./wire-messages.ts";
import { WireServer } from "./wire-server.ts";

process.env["STRATA_LOG"] ??= "silent";

/** What the handler of `keep` was lent, and its copies of that. */
const lent: Uint8Array[] = [];
const copies: Uint8Array[] = [];

const server = new WireServer({
  logger: createLogger("wire-test"),
  async onQuery(session, sql) {
    if (sql === "echo") {
      const channel = session.copyBoth();
      channel.onData((payload) => channel.send(payload.slice()));
      await new Promise<void>((resolve) => channel.onClose(() => resolve()));
      return;
    }
    if (sql === "keep") {
      const channel = session.copyBoth();
      channel.onData((payload) => {
        lent.push(payload);
        copies.push(payload.slice());
        channel.send(new Uint8Array(1));
      });
      await new Promise<void>((resolve) => channel.onClose(() => resolve()));
      return;
    }
    if (sql === "fail") {
      throw new StorageError("not-found", "no-such", "no such thing");
    }
    const text = session.options.get("tenant_id") ?? null;
    session.sendRows(["sql", "tenant"], [[sql, text]], "SELECT 1");
  },
});
const { port } = await server.listen("127.0.0.1", 0);
after(() => server.close());

test("WireServer: answers rows to our client and to node-postgres alike", async () => {
  const parameters = { options: "-c tenant_id=abc timeline_id=def" };
  const ours = await connectWire({ host: "127.0.0.1", port, parameters });
  assert.deepEqual(await ours.query("hello"), {
    columns: ["sql", "tenant"],
    rows: [["hello", "abc"]],
  });
  ours.close();
  const theirs = new pg.Client({ host: "127.0.0.1", port, user: "x" });
  await theirs.connect();
  assert.deepEqual((await theirs.query("hello")).rows, [{ sql: "hello", tenant: null }]);
  await theirs.end();
});

test("WireConnection: an error keeps its kind and the connection goes on", async () => {
  const connection = await connectWire({ host: "127.0.0.1", port });
  await assert.rejects(connection.query("fail"), (error: StorageError) => {
    return error.kind === "not-found" && error.code === "no-such";
  });
  assert.equal((await connection.query("again")).rows[0]![0], "again");
  connection.close();
});

test("CopyChannel: payloads come back whole and in order, from 0 to 1 MB", async () => {
  const connection = await connectWire({ host: "127.0.0.1", port });
  const channel = await connection.copyBoth("echo");
  const sizes = [0, 1, 5, 8192, 70_000, 1_000_000, 3];
  const received: number[] = [];
  const done = new Promise<void>((resolve) => {
    channel.onData((payload) => {
      assert.ok(payload.every((byte) => byte === (payload.length & 0xff)));
      received.push(payload.length);
      if (received.length === sizes.length) {
        resolve();
      }
    });
  });
  for (const size of sizes) {
    const bytes = new Uint8Array(size).fill(size & 0xff);
    channel.send(bytes.subarray(0, size >> 1), bytes.subarray(size >> 1));
  }
  await done;
  assert.deepEqual(received, sizes);
  connection.close();
});

test("connectWire: nobody listening is unavailable, at once", async () => {
  await assert.rejects(
    connectWire({ host: "127.0.0.1", port: 1 }),
    (error: StorageError) => error.kind === "unavailable" && /127\.0\.0\.1:1/.test(error.message),
  );
});

test("WireServer: garbage and lying lengths end the connection, others go on", async () => {
  for (const bytes of [
    Buffer.from([0, 0, 0, 0, 0, 0, 0, 0]),
    Buffer.from([0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0]),
    Buffer.from([0, 0, 0, 9, 0, 3, 0, 0, 0, 0x51, 0xff, 0xff, 0xff, 0xff]),
  ]) {
    const socket = createConnection({ host: "127.0.0.1", port });
    const closed = new Promise<void>((resolve) => socket.on("close", () => resolve()));
    socket.on("error", () => {});
    socket.resume();
    socket.write(bytes);
    await closed;
  }
  const connection = await connectWire({ host: "127.0.0.1", port });
  assert.equal((await connection.query("alive")).rows[0]![0], "alive");
  connection.close();
});

test("MessageReader: any chunking gives the same messages", () => {
  const stream = Buffer.concat([
    encodeMessage("a"),
    encodeMessage("b", Buffer.from("hello")),
    encodeMessage("c", Buffer.alloc(300, 7)),
  ]);
  for (let seed = 0; seed < 200; seed++) {
    const random = new SeededRandom(seed);
    const reader = new MessageReader();
    const seen: string[] = [];
    for (let at = 0; at < stream.length; ) {
      const size = 1 + random.int(random.bool() ? 4 : 200);
      reader.push(stream.subarray(at, at + size), (type, body) => {
        seen.push(`${String.fromCharCode(type)}${body.length}`);
        return true;
      });
      at += size;
    }
    assert.deepEqual(seen, ["a0", "b5", "c300"]);
  }
});

test("MessageReader: memory of finished messages is used again, not while they are lent", () => {
  const message = (length: number, byte: number) => encodeMessage("d", Buffer.alloc(length, byte));
  const begun = (bytes: Buffer) => {
    const reader = new MessageReader();
    reader.push(bytes.subarray(0, 1000), () => assert.fail("half a message"));
    return (onMessage: (body: Uint8Array) => void) =>
      reader.push(bytes.subarray(1000), (_type, body) => onMessage(body));
  };
  const used = new Set<ArrayBufferLike>();
  for (let i = 0; i < 20; i++) {
    const length = 100_000 + (i % 2) * 60_000;
    begun(message(length, i))((body) => {
      begun(message(20_000, 99))((other) => {
        assert.ok(other.length === 20_000 && other.every((byte) => byte === 99));
      });
      assert.ok(body.length === length && body.every((byte) => byte === i), `message ${i}`);
      used.add(body.buffer);
    });
  }
  assert.ok(used.size <= 5, `${used.size} pieces of memory for 20 messages`);
});

test("WireServer: memory of what was read is freed; a copy of what was lent stays", async () => {
  const connection = await connectWire({ host: "127.0.0.1", port });
  const channel = await connection.copyBoth("keep");
  for (let i = 0; i < 20; i++) {
    const answered = new Promise<void>((resolve) => channel.onData(() => resolve()));
    channel.send(new Uint8Array(20_000).fill(i));
    await answered;
  }
  assert.equal(copies.length, 20);
  copies.forEach((copy, i) => {
    assert.ok(copy.length === 20_000 && copy.every((byte) => byte === i), `message ${i}`);
  });
  // A message that came in two pieces was put together in memory that stays.
  assert.ok(lent.some(({ length }) => length === 0));
  channel.close();
});

test("MessageReader: an unfinished message holds what has arrived, not what it claims", () => {
  const budget = new ReceiveBudget(8 * 2 ** 20);
  const reader = new MessageReader(undefined, budget);
  const message = encodeMessage("d", Buffer.alloc(3_000_000, 5));
  const seen: number[] = [];
  const push = (from: number, to: number) =>
    reader.push(message.subarray(from, to), (_type, body) => {
      assert.ok(body.every((byte) => byte === 5));
      seen.push(body.length);
    });
  push(0, 10);
  assert.equal(budget.usedBytes, 256 * 1024);
  for (let at = 10; at < message.length - 1; at += 1000) {
    push(at, Math.min(at + 1000, message.length - 1));
    assert.ok(budget.usedBytes <= Math.max(256 * 1024, 2 * (at + 1000)), `${at}`);
  }
  assert.deepEqual(seen, []);
  push(message.length - 1, message.length);
  assert.deepEqual(seen, [3_000_000]);
  assert.equal(budget.usedBytes, 0);
});

test("MessageReader: unfinished messages of all connections together are bounded", () => {
  const budget = new ReceiveBudget(2 ** 20);
  const readers = [1, 2, 3, 4, 5].map(() => new MessageReader(undefined, budget));
  const begin = encodeMessage("d", Buffer.alloc(300_000)).subarray(0, 100);
  const push = (reader: MessageReader) => reader.push(begin, () => undefined);
  const [first, second, third, fourth, fifth] = readers as [R, R, R, R, R];
  for (const reader of [first, second, third, fourth]) {
    push(reader);
  }
  assert.throws(() => push(fifth), { code: "too-much-unfinished" });
  first.release();
  first.release();
  assert.equal(budget.usedBytes, 3 * 256 * 1024);
  push(new MessageReader(undefined, budget));
});
type R = MessageReader;

/** A client that never closes its side, and sends on whatever it is told. */
function stubbornClient(at: number, bytes: Uint8Array) {
  const socket = createConnection({ host: "127.0.0.1", port: at, allowHalfOpen: true });
  const received: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => received.push(chunk));
  socket.on("error", () => {});
  socket.write(bytes);
  const sending = setInterval(() => socket.write("x"), 20);
  const gone = new Promise<string>((resolve) => {
    socket.on("close", () => {
      clearInterval(sending);
      resolve(Buffer.concat(received).toString("latin1"));
    });
  });
  return { gone };
}

const STARTUP = Buffer.from([0, 0, 0, 9, 0, 3, 0, 0, 0]);

test("WireServer: after an error all of the connection is closed, though the client goes on", async () => {
  const commands = Array.from({ length: 200 }, () => encodeMessage("Q", cstring("hello")));
  const messages = [encodeMessage("B", cstring("bind")), ...commands, encodeMessage("X")];
  const clients = [messages.slice(0, 1), messages.slice(1, -1), messages.slice(-1)].map((bytes) =>
    stubbornClient(port, Buffer.concat([STARTUP, ...bytes])),
  );
  const [unknown, busy, ended] = await Promise.all(clients.map(({ gone }) => gone));
  assert.match(unknown!, /FATAL.*bad-message/s);
  assert.match(busy!, /FATAL.*too-many-commands/s);
  assert.equal(ended, "");
});

test("WireServer: who sends no command in time is told so and cut off", async (t) => {
  inSteadyTime(t);
  const impatient = new WireServer(
    {
      logger: createLogger("wire-test"),
      onQuery: async (session) => session.sendRows([], [], "OK"),
    },
    { startupTimeoutMs: 300 },
  );
  const listening = await impatient.listen("127.0.0.1", 0);
  t.after(() => impatient.close());
  const busy = await connectWire({ host: "127.0.0.1", port: listening.port });
  await busy.query("hello");
  for (const bytes of [new Uint8Array(0), STARTUP.subarray(0, 6), STARTUP]) {
    const socket = createConnection({ host: "127.0.0.1", port: listening.port });
    const received: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => received.push(chunk));
    socket.write(bytes);
    await new Promise<void>((resolve) => socket.on("close", () => resolve()));
    assert.match(Buffer.concat(received).toString(), /FATAL.*no command within 300 ms/s);
  }
  await busy.query("still here");
  busy.close();
});

test("parseHostPort: accepts names and IPv6, refuses the rest", () => {
  assert.deepEqual(parseHostPort("127.0.0.1:80"), { host: "127.0.0.1", port: 80 });
  assert.deepEqual(parseHostPort("[::1]:80"), { host: "::1", port: 80 });
  for (const text of ["", "x", ":1", "x:99999", "x:y"]) {
    assert.throws(() => parseHostPort(text), StorageError, text);
  }
});
