import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createConnection, createServer } from "node:net";
import { type TestContext, test } from "node:test";
import { freePort } from "../../../testing/free-port.ts";
import { describeProcess, outgoingPorts, portHolder } from "../proc.ts";
import { canListen, requireFree } from "./ports.ts";

async function listenSomewhere(t: TestContext, host = "127.0.0.1"): Promise<number> {
  const server = createServer((socket) => socket.on("error", () => {}));
  t.after(() => server.close());
  server.listen(0, host);
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

test("canListen: not where somebody listens, on this address or on all; again when it is gone", async (t) => {
  for (const host of ["127.0.0.1", "0.0.0.0"]) {
    const server = createServer();
    t.after(() => server.close());
    // Not one of the kernel's choice: somebody else would be given it when it is free again.
    const port = await freePort();
    server.listen(port, host);
    await once(server, "listening");
    assert.equal(await canListen("127.0.0.1", port), false);
    assert.equal(await canListen("0.0.0.0", port), false);
    assert.equal(await canListen("localhost", port), false);
    server.close();
    await once(server, "close");
    for (const asked of ["127.0.0.1", "0.0.0.0", "localhost"]) {
      assert.equal(await canListen(asked, port), true, asked);
    }
    server.listen(port, "127.0.0.1");
    await once(server, "listening");
  }
});

test("canListen: not where the near end of an outgoing connection is, which is named", async (t) => {
  const port = await listenSomewhere(t);
  const outgoing = createConnection({ host: "127.0.0.1", port });
  t.after(() => outgoing.destroy());
  await once(outgoing, "connect");
  const near = outgoing.localPort!;
  assert.equal(await canListen("127.0.0.1", near), false);
  const { pid } = process;
  await assert.rejects(requireFree("127.0.0.1", near, "start it"), {
    kind: "conflict",
    message: new RegExp(
      `^start it: 127\\.0\\.0\\.1:${near} is already in use by the connection to 127\\.0\\.0\\.1:${port} of pid ${pid} \\(`,
    ),
  });
});

test("requireFree: a listener is named with its pid and its whole command", async (t) => {
  const port = await listenSomewhere(t);
  await assert.rejects(requireFree("127.0.0.1", port, "start it"), (error: Error) => {
    assert.ok(error.message.endsWith(`in use by ${describeProcess(process.pid)}`), error.message);
    return true;
  });
  assert.match(
    describeProcess(process.pid),
    new RegExp(`^pid ${process.pid} \\(.*ports\\.test\\.ts`),
  );
  const { pid } = process;
  assert.deepEqual(portHolder(port), { pid, name: describeProcess(pid), isEnding: false });
});

test("outgoingPorts: a range that an outgoing connection's near end lies in", async (t) => {
  const port = await listenSomewhere(t);
  const outgoing = createConnection({ host: "127.0.0.1", port });
  t.after(() => outgoing.destroy());
  await once(outgoing, "connect");
  const { first, last } = outgoingPorts();
  assert.ok(first <= outgoing.localPort! && outgoing.localPort! <= last, `${first} ${last}`);
});
