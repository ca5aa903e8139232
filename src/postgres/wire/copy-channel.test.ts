import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { test } from "node:test";
import { turn } from "../../base/clock.ts";
import { CopyChannel } from "./copy-channel.ts";

/** A channel and the socket at its other end, closed at the end. */
async function connected() {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  assert.ok(typeof address === "object" && address !== null);
  const socket = connect(address.port, "127.0.0.1");
  const [peer] = (await once(server, "connection")) as [Socket];
  if (socket.connecting) {
    await once(socket, "connect");
  }
  return {
    channel: new CopyChannel(socket),
    peer,
    [Symbol.dispose]() {
      socket.destroy();
      peer.destroy();
      server.close();
    },
  };
}

/** The bytes of CopyData messages. */
function framed(payloads: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    payloads.flatMap((payload) => {
      const header = Buffer.alloc(5, "d");
      header.writeInt32BE(payload.length + 4, 1);
      return [header, payload];
    }),
  );
}

/** So many bytes as they arrive. */
async function received(peer: Socket, length: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let count = 0;
  for await (const chunk of peer) {
    chunks.push(chunk as Buffer);
    count += (chunk as Buffer).length;
    if (count >= length) {
      break;
    }
  }
  return Buffer.concat(chunks);
}

test("CopyChannel.send: a small message leaves at once, and none overtakes another", async () => {
  using pair = await connected();
  const { channel, peer } = pair;
  channel.send(Buffer.from("one"), Buffer.from("!"));
  assert.equal(channel.writableLength, 0, "the kernel has it when send returns");
  const large = [Buffer.alloc(9000, 1), Buffer.alloc(300_000, 2)];
  channel.send(...large);
  channel.send(Buffer.from("two"));
  const expected = framed([Buffer.from("one!"), Buffer.concat(large), Buffer.from("two")]);
  assert.ok((await received(peer, expected.length)).equals(expected));
});

test("CopyChannel.sendOwned: memory is freed when the kernel has it, not before", async () => {
  using pair = await connected();
  const { channel, peer } = pair;
  // Much more than both ends' socket buffers, while nobody reads.
  const bodies = Array.from({ length: 200 }, (_, i) => new Uint8Array(131_072).fill(i));
  const expected = framed(bodies.map((body) => Buffer.concat([Buffer.from("head"), body])));
  for (const body of bodies) {
    channel.sendOwned(Buffer.from("head"), body);
  }
  assert.equal(bodies.at(-1)!.length, 131_072);
  assert.ok((await received(peer, expected.length)).equals(expected));
  await channel.drained();
  await turn();
  assert.ok(bodies.every(({ length }) => length === 0));
});

test("CopyChannel.sendCopy: parts may change at once, and nothing overtakes another", async () => {
  using two = await connected();
  using one = await connected();
  const head = Buffer.from("head");
  const page = Buffer.alloc(8192);
  const expected: Uint8Array[][] = [[], []];
  for (let i = 0; i < 100; i++) {
    head[0] = i;
    page.fill(i);
    for (const [at, { channel }] of [two, one].entries()) {
      page[0] = at;
      channel.sendCopy(head, page);
      expected[at]!.push(Buffer.concat([head, page]));
    }
    if (i % 7 === 0) {
      const small = Buffer.from(`small ${i}`);
      one.channel.send(small);
      expected[1]!.push(small);
    }
  }
  one.channel.close();
  for (const [at, { peer }] of [two, one].entries()) {
    const bytes = framed(expected[at]!);
    assert.ok((await received(peer, bytes.length)).equals(bytes), `channel ${at}`);
  }
});

test("CopyChannel.sendCopy: what the kernel has not taken is not written over", async () => {
  using pair = await connected();
  using other = await connected();
  const { channel, peer } = pair;
  const page = Buffer.alloc(8192);
  const expected: Uint8Array[] = [];
  // Much more than both ends' socket buffers, while nobody reads.
  for (let i = 0; i < 2000; i++) {
    page.fill(i);
    channel.sendCopy(page.subarray(0, 10), page);
    expected.push(Buffer.concat([page.subarray(0, 10), page]));
  }
  await turn();
  assert.ok(channel.writableLength > 0, "the kernel has not taken everything");
  page.fill(255);
  for (let i = 0; i < 100; i++) {
    other.channel.sendCopy(page, page);
  }
  const bytes = framed(expected);
  assert.ok((await received(peer, bytes.length)).equals(bytes));
});
