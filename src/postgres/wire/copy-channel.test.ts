import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { test } from "node:test";
import { CopyChannel } from "./copy-channel.ts";

test("CopyChannel.send: a small message leaves at once, and none overtakes another", async () => {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  assert.ok(typeof address === "object" && address !== null);
  const socket = connect(address.port, "127.0.0.1");
  const [peer] = (await once(server, "connection")) as [Socket];
  try {
    if (socket.connecting) {
      await once(socket, "connect");
    }
    const channel = new CopyChannel(socket);
    channel.send(Buffer.from("one"), Buffer.from("!"));
    assert.equal(channel.writableLength, 0, "the kernel has it when send returns");
    const large = [Buffer.alloc(9000, 1), Buffer.alloc(300_000, 2)];
    channel.send(...large);
    channel.send(Buffer.from("two"));
    const payloads = [Buffer.from("one!"), Buffer.concat(large), Buffer.from("two")];
    const expected = Buffer.concat(
      payloads.flatMap((payload) => {
        const header = Buffer.alloc(5, "d");
        header.writeInt32BE(payload.length + 4, 1);
        return [header, payload];
      }),
    );
    const chunks: Buffer[] = [];
    for await (const chunk of peer) {
      chunks.push(chunk as Buffer);
      if (chunks.reduce((sum, { length }) => sum + length, 0) >= expected.length) {
        break;
      }
    }
    assert.ok(Buffer.concat(chunks).equals(expected));
  } finally {
    socket.destroy();
    peer.destroy();
    server.close();
  }
});
