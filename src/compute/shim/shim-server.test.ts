import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { encodeRequest, type ShimRequest, ShimRequestReader } from "./shim-protocol.ts";
import { type PlacedFile, type ShimHandlers, ShimServer } from "./shim-server.ts";

const REQUESTS: readonly { readonly bytes: Uint8Array; readonly request: ShimRequest }[] = [
  { bytes: encodeRequest("hello", { a: 77 }), request: { type: "hello", pid: 77 } },
  {
    bytes: encodeRequest("stat", { path: "base/1/2" }),
    request: { type: "stat", path: "base/1/2" },
  },
  {
    bytes: encodeRequest("read", { path: "global/1262", b: 5, c: 32 }),
    request: { type: "read", path: "global/1262", blkno: 5, count: 32 },
  },
  {
    bytes: encodeRequest("flush-wal", { a: 2 ** 33 + 1, b: 8192 }),
    request: { type: "flush-wal", segno: 2 ** 33 + 1, endOffset: 8192 },
  },
];

test("ShimRequestReader: any chunking gives the same requests", () => {
  const stream = Buffer.concat(REQUESTS.map(({ bytes }) => bytes));
  for (let size = 1; size <= stream.length; size++) {
    const reader = new ShimRequestReader();
    const requests: ShimRequest[] = [];
    for (let at = 0; at < stream.length; at += size) {
      requests.push(...reader.feed(stream.subarray(at, at + size)));
    }
    assert.deepEqual(
      requests,
      REQUESTS.map(({ request }) => request),
    );
  }
});

test("ShimRequestReader: refuses what is no message of ours", () => {
  const broken = (change: (bytes: Uint8Array) => void) => {
    const bytes = encodeRequest("read", { path: "global/1262", b: 5, c: 32 });
    change(bytes);
    assert.throws(
      () => [...new ShimRequestReader().feed(bytes)],
      (error) => error instanceof StorageError && error.kind === "corrupt",
    );
  };
  broken((bytes) => bytes.fill(0xff, 0, 4));
  broken((bytes) => bytes.fill(0, 0, 4));
  broken((bytes) => bytes.fill(9, 4, 5));
  broken((bytes) => bytes.fill(9, 5, 6));
  broken((bytes) => bytes.fill(1, 6, 8));
  broken((bytes) => bytes.fill(33, 20, 21));
  broken((bytes) => bytes.fill(0, 20, 21));
});

test("ShimRequestReader: random bytes end in an error or wait for more", () => {
  const random = new SeededRandom(11);
  for (let round = 0; round < 2000; round++) {
    const reader = new ShimRequestReader();
    try {
      for (let i = 0; i < 5; i++) {
        const bytes = Uint8Array.from({ length: random.int(60) }, () => random.int(256));
        [...reader.feed(bytes)];
      }
    } catch (error) {
      assert.ok(error instanceof StorageError);
    }
  }
});

async function withServer(
  handlers: Partial<ShimHandlers> & { placed?: Promise<readonly PlacedFile[]> },
  run: (server: ShimServer, open: () => Promise<Socket>) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  const socketPath = join(directory, "s");
  const server = new ShimServer({
    socketPath,
    logger: createLogger("test", "silent"),
    ...(handlers.placed === undefined ? {} : { placed: handlers.placed }),
    handlers: {
      stat: async () => undefined,
      readPages: async () => new Uint8Array(0),
      listDirectory: async () => [],
      prefetch: () => undefined,
      walWritten: () => undefined,
      flushWal: () => Promise.resolve(),
      ...handlers,
    },
  });
  const sockets: Socket[] = [];
  try {
    await server.listen();
    await run(server, async () => {
      const socket = connect(socketPath);
      sockets.push(socket);
      socket.on("error", () => undefined);
      await new Promise((resolve) => socket.once("connect", resolve));
      return socket;
    });
  } finally {
    for (const socket of sockets) {
      socket.destroy();
    }
    await server.close();
    rmSync(directory, { recursive: true });
  }
}

function nextChunk(socket: Socket): Promise<Buffer> {
  return new Promise((resolve) => socket.once("data", resolve));
}

const STATUS_AT = 4;

test("ShimServer: hello is answered when the files are placed, with their list", async () => {
  const { promise: placed, resolve } = Promise.withResolvers<readonly PlacedFile[]>();
  await withServer({ placed }, async (server, open) => {
    const socket = await open();
    let answered = false;
    const answer = nextChunk(socket).then((chunk) => {
      answered = true;
      return chunk;
    });
    socket.write(encodeRequest("hello", { a: 77 }));
    assert.equal(await server.postmaster, 77);
    await sleep(20);
    assert.equal(answered, false);
    resolve([
      {
        path: "base/5/7",
        bytes: 3 * 8192,
        runs: [
          [0, 1],
          [2, 1],
        ],
      },
      { path: "base/5/8", bytes: undefined, runs: [] },
    ]);
    const bytes = await answer;
    assert.equal(bytes.readUInt32LE(0), bytes.length);
    assert.equal(bytes.readBigUInt64LE(8), 2n);
    assert.equal(
      bytes.subarray(16).toString("hex"),
      [
        ...["0060000000000000", "0800", "0200", Buffer.from("base/5/7").toString("hex")],
        ...["00000000", "01000000", "02000000", "01000000"],
        ...["ffffffffffffffff", "0800", "0000", Buffer.from("base/5/8").toString("hex")],
      ].join(""),
    );
  });
});

test("ShimServer: pages in parts arrive whole; too few are an error to the asker", async () => {
  const pages = [new Uint8Array(8192).fill(1), new Uint8Array(8192).fill(2)];
  await withServer({ readPages: async () => pages }, async (_server, open) => {
    const socket = await open();
    socket.write(encodeRequest("read", { path: "base/1/2", b: 0, c: 2 }));
    let received = Buffer.alloc(0);
    while (received.length < 16 + 2 * 8192) {
      received = Buffer.concat([received, await nextChunk(socket)]);
    }
    assert.equal(received.readUInt32LE(0), 16 + 2 * 8192);
    assert.equal(received[16 + 8191], 1);
    assert.equal(received[16 + 8192], 2);
  });
});

test("ShimServer: flushes wait for the handler, and fence() answers all of them", async () => {
  const handlers = { flushWal: () => new Promise<void>(() => undefined) };
  await withServer(handlers, async (server, open) => {
    const [waiting, later] = [await open(), await open()];
    waiting.write(encodeRequest("flush-wal", { a: 1, b: 8192 }));
    const answer = nextChunk(waiting);
    const early = await Promise.race([answer, sleep(50)]);
    assert.equal(early, undefined);
    server.fence();
    assert.equal((await answer)[STATUS_AT], 3);
    later.write(encodeRequest("flush-wal", { a: 1, b: 8192 }));
    assert.equal((await nextChunk(later))[STATUS_AT], 3);
  });
});

test("ShimServer: a handler that says fenced fences", async () => {
  const handlers = {
    flushWal: () => Promise.reject(new StorageError("fenced", "newer-term", "term 5 exists")),
  };
  await withServer(handlers, async (_server, open) => {
    const socket = await open();
    socket.write(encodeRequest("flush-wal", { a: 1, b: 8192 }));
    assert.equal((await nextChunk(socket))[STATUS_AT], 3);
  });
});

test("ShimServer: tells who loaded the shim", async () => {
  await withServer({}, async (server, open) => {
    const socket = await open();
    socket.write(encodeRequest("hello", { a: 4711 }));
    assert.equal(await server.postmaster, 4711);
    assert.equal((await nextChunk(socket))[STATUS_AT], 0);
  });
});
