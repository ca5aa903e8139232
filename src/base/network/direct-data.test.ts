import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { emitDataDirectly } from "./direct-data.ts";

/** Both ends of a connection, of which the accepted one emits directly, and what it has received. */
async function setUp(context: TestContext) {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const accepted = once(server, "connection");
  const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const [socket] = (await accepted) as [Socket];
  context.after(() => {
    client.destroy();
    socket.destroy();
    server.close();
  });
  let received = "";
  emitDataDirectly(socket);
  socket.on("data", (chunk: Buffer) => {
    received += chunk.toString("latin1");
  });
  return { client, socket, received: () => received };
}

test("emitDataDirectly: data is emitted by the call that reads it, and the end is told", async (context) => {
  const { client, socket, received } = await setUp(context);
  const calls: string[] = [];
  const { push } = socket;
  socket.push = (chunk: Buffer | null) => {
    const before = received().length;
    const result = push.call(socket, chunk);
    calls.push(chunk === null ? "end" : `${received().length - before} of ${chunk.length}`);
    return result;
  };
  for (const text of ["a", "bc", "def"]) {
    client.write(text);
    await eventually("it came", () => received().endsWith(text));
  }
  const ended = once(socket, "end");
  client.end();
  await ended;
  assert.equal(received(), "abcdef");
  assert.deepEqual(calls, ["1 of 1", "2 of 2", "3 of 3", "end"]);
});

test("emitDataDirectly: nothing comes while it is paused, all of it in order afterwards, and not without end into memory", async (context) => {
  const { client, socket, received } = await setUp(context);
  let sent = "";
  const send = (bytes: number) => {
    const text = String.fromCharCode(97 + (sent.length % 26)).repeat(bytes);
    sent += text;
    client.write(text, "latin1");
  };
  send(10);
  await eventually("the first came", () => received() === sent);
  for (let round = 0; round < 3; round++) {
    const before = received();
    socket.pause();
    for (let i = 0; i < 40; i++) {
      send(100_001);
    }
    await eventually("some wait", () => socket.readableLength > 0, { timeoutMs: 10_000 });
    assert.equal(received(), before);
    assert.ok(socket.readableLength < 1_000_000, `${socket.readableLength} of 4 MB`);
    socket.resume();
    // While what was held back is handed out more may come.
    send(7);
    await eventually("all came", () => received().length === sent.length);
    assert.ok(received() === sent, "in order");
  }
});
