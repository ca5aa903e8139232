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
import { parseRelationPath, storagePath } from "../../postgres/relation-path.ts";
import {
  encodeRequest,
  type ShimRequest,
  ShimRequestReader,
  STATUS_ERROR,
} from "./shim-protocol.ts";
import { type PlacedFile, type ShimHandlers, ShimServer } from "./shim-server.ts";

/** The file that a path in a data directory names. */
const fileAt = (path: string) => parseRelationPath(path)!;

const REQUESTS: readonly { readonly bytes: Uint8Array; readonly request: ShimRequest }[] = [
  { bytes: encodeRequest("hello", { a: 77 }), request: { type: "hello", pid: 77 } },
  {
    bytes: encodeRequest("stat", { of: fileAt("base/1/2_vm.7") }),
    request: { type: "stat", file: fileAt("base/1/2_vm.7") },
  },
  {
    bytes: encodeRequest("read", { of: fileAt("global/1262"), b: 5, c: 32 }),
    request: { type: "read", file: fileAt("global/1262"), blkno: 5, count: 32 },
  },
  {
    bytes: encodeRequest("prefetch", { of: fileAt("base/4294967295/4294967294"), b: 131071, c: 1 }),
    request: {
      type: "prefetch",
      file: fileAt("base/4294967295/4294967294"),
      blkno: 131071,
      count: 1,
    },
  },
  {
    bytes: encodeRequest("stat", { of: fileAt("pg_multixact/members/14078") }),
    request: { type: "stat", file: fileAt("pg_multixact/members/14078") },
  },
  {
    bytes: encodeRequest("list", { of: { kind: "relation", spcOid: 1664, dbOid: 0 } }),
    request: { type: "list", directory: { kind: "relation", spcOid: 1664, dbOid: 0 } },
  },
  {
    bytes: encodeRequest("list", { of: { kind: "slru", slru: 3 } }),
    request: { type: "list", directory: { kind: "slru", slru: 3 } },
  },
  {
    bytes: encodeRequest("compare", { of: fileAt("base/1/2"), a: 0x8000_0001, b: 131_040, c: 32 }),
    request: { type: "compare", file: fileAt("base/1/2"), blkno: 131_040, blocks: 0x8000_0001 },
  },
  {
    bytes: encodeRequest("flush-wal", { a: 2 ** 32 + 1, b: 8192 }),
    request: { type: "flush-wal", segno: 2 ** 32 + 1, endOffset: 8192 },
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

/** A request of `bytes` after `change`, which must be refused. */
function refused(bytes: Uint8Array, change: (view: DataView) => void = () => undefined): void {
  const copy = bytes.slice();
  change(new DataView(copy.buffer));
  assert.throws(
    () => [...new ShimRequestReader().feed(copy)],
    (error) => error instanceof StorageError && error.kind === "corrupt",
  );
}

test("ShimRequestReader: refuses what is no message of ours", () => {
  const read = encodeRequest("read", { of: fileAt("global/1262"), b: 5, c: 32 });
  const changes: readonly ((view: DataView) => void)[] = [
    ...[0, 47, 49, 2 ** 32 - 1].map(
      (length) => (view: DataView) => view.setUint32(0, length, true),
    ),
    (view) => view.setUint8(4, 9),
    (view) => view.setUint8(5, 2),
    // An LSN has no meaning yet.
    (view) => view.setUint8(31, 1),
    // Pages: none, too many, behind the segment's end.
    (view) => view.setUint32(44, 0, true),
    (view) => view.setUint32(44, 33, true),
    (view) => view.setUint32(40, 131_072 - 31, true),
    (view) => view.setUint32(40, 2 ** 32 - 1, true),
    // Keys: kind, fork, tablespace, database, relation, segment.
    (view) => view.setUint8(6, 0),
    (view) => view.setUint8(6, 2),
    (view) => view.setUint8(6, 3),
    (view) => view.setUint8(7, 4),
    (view) => view.setUint32(8, 1663, true),
    (view) => view.setUint32(8, 16_400, true),
    (view) => view.setUint32(12, 5, true),
    (view) => view.setUint32(16, 0, true),
    (view) => view.setUint32(20, 2 ** 29, true),
  ];
  for (const change of changes) {
    refused(read, change);
  }
  const slru = encodeRequest("stat", { of: fileAt("pg_xact/0001") });
  refused(slru, (view) => view.setUint32(16, 4, true));
  refused(slru, (view) => view.setUint32(20, 2 ** 28, true));
  refused(slru, (view) => view.setUint32(8, 1663, true));
  refused(slru, (view) => view.setUint8(7, 1));
  // A file where a directory belongs, and the other way round; a file where none belongs.
  refused(encodeRequest("list", { of: fileAt("base/5/7") }));
  refused(encodeRequest("stat", { of: { kind: "relation", spcOid: 1663, dbOid: 5 } }));
  refused(encodeRequest("hello", { of: fileAt("base/5/7"), a: 77 }));
  refused(encodeRequest("flush-wal", { of: fileAt("base/5/7"), a: 1, b: 8192 }));
  // WAL of no segment that there can be.
  refused(encodeRequest("flush-wal", { a: 2 ** 40, b: 8192 }));
  refused(encodeRequest("wal-written", { a: 1, b: 2 ** 30, c: 1 }));
  refused(encodeRequest("prefetch", { of: fileAt("base/5/7"), b: 1, c: 131_072 }));
  // Blocks that are compared: too many, none, past a segment's end, and a set with one that is not among them.
  refused(encodeRequest("compare", { of: fileAt("base/5/7"), a: 1, c: 33 }));
  refused(encodeRequest("compare", { of: fileAt("base/5/7"), a: 0 }));
  refused(encodeRequest("compare", { of: fileAt("base/5/7"), a: 1, b: 131_071, c: 2 }));
  refused(encodeRequest("compare", { of: fileAt("base/5/7"), a: 4, c: 2 }));
});

test("ShimRequestReader: random bytes, and valid requests with random faults, end in an error or in requests", () => {
  const random = new SeededRandom(11);
  let refusals = 0;
  for (let round = 0; round < 4000; round++) {
    const reader = new ShimRequestReader();
    try {
      for (let i = 0; i < 5; i++) {
        const bytes =
          round % 2 === 0
            ? Uint8Array.from({ length: random.int(100) }, () => random.int(256))
            : REQUESTS[random.int(REQUESTS.length)]!.bytes.slice();
        if (round % 2 === 1 && random.int(2) === 0) {
          bytes[random.int(bytes.length)] = random.int(256);
        }
        for (const request of reader.feed(bytes)) {
          if (request.type === "read") {
            assert.ok(request.count >= 1 && request.count <= 32);
            assert.ok(request.blkno + request.count <= 131_072);
          }
          if ("file" in request) {
            // A path that a data directory may have: storagePath() asserts the rest.
            assert.match(storagePath(request.file), /^(base|global|pg_)/);
          }
        }
      }
    } catch (error) {
      assert.ok(error instanceof StorageError);
      refusals++;
    }
  }
  assert.ok(refusals > 1000, String(refusals));
});

test("ShimServer: a hostile connection is ended, and the others go on", async () => {
  await withServer({ stat: async () => 8192 }, async (_server, open) => {
    const [hostile, good] = [await open(), await open()];
    const ended = new Promise((resolve) => hostile.once("close", resolve));
    hostile.write(encodeRequest("read", { of: fileAt("base/1/2"), b: 0, c: 33 }));
    await ended;
    good.write(encodeRequest("stat", { of: fileAt("base/1/2") }));
    assert.equal((await nextChunk(good)).readBigUInt64LE(8), 8192n);
  });
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
        file: fileAt("base/5/7"),
        bytes: 3 * 8192,
        runs: [
          [0, 1],
          [2, 1],
        ],
      },
      { file: fileAt("pg_xact/0008"), bytes: undefined, runs: [] },
    ]);
    const bytes = await answer;
    assert.equal(bytes.readUInt32LE(0), bytes.length);
    assert.equal(bytes.readBigUInt64LE(8), 2n);
    assert.equal(
      bytes.subarray(16).toString("hex"),
      [
        ...["01", "00", "0200", "7f060000", "05000000", "07000000", "00000000", "00000000"],
        ...["0060000000000000", "00000000", "01000000", "02000000", "01000000"],
        ...["02", "00", "0000", "00000000", "00000000", "00000000", "08000000", "00000000"],
        "ffffffffffffffff",
      ].join(""),
    );
  });
});

test("ShimServer: pages in parts arrive whole; too few are an error to the asker", async () => {
  const pieces = [1, 2].map((block) => ({
    bytes: new Uint8Array(8192).fill(block),
    release: () => undefined,
  }));
  await withServer({ readPages: async () => pieces }, async (_server, open) => {
    const socket = await open();
    socket.write(encodeRequest("read", { of: fileAt("base/1/2"), b: 0, c: 2 }));
    let received = Buffer.alloc(0);
    while (received.length < 16 + 2 * 8192) {
      received = Buffer.concat([received, await nextChunk(socket)]);
    }
    assert.equal(received.readUInt32LE(0), 16 + 2 * 8192);
    assert.equal(received[16 + 8191], 1);
    assert.equal(received[16 + 8192], 2);
  });
});

test("ShimServer: pages are released when they have left, not before", async () => {
  const answers = 16;
  const length = 16 + 32 * 8192;
  let released = 0;
  const readPages = async () => {
    const bytes = new Uint8Array(32 * 8192).fill(7);
    const release = () => {
      released++;
      bytes.fill(0);
    };
    return [{ bytes, release }];
  };
  await withServer({ readPages }, async (_server, open) => {
    const socket = await open();
    socket.pause();
    for (let i = 0; i < answers; i++) {
      socket.write(encodeRequest("read", { of: fileAt("base/1/2"), b: 0, c: 32 }));
    }
    await sleep(50);
    assert.ok(released < answers, "nobody reads, and the kernel does not take all");
    let received = 0;
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      for (const byte of chunk) {
        assert.ok(received % length < 16 || byte === 7, `byte ${received} is ${byte}`);
        received++;
      }
      if (received === answers * length) {
        break;
      }
    }
    assert.equal(released, answers);
  });
});

test("ShimServer: answers of few pages are whole, also where the kernel takes them later", async () => {
  const answers = 120;
  const length = 16 + 2 * 8192;
  let released = 0;
  const piece = (fill: number) => {
    const bytes = new Uint8Array(8192).fill(fill);
    const release = () => {
      released++;
      bytes.fill(0);
    };
    return { bytes, release };
  };
  const readPages = async (_: unknown, blkno: number) => [piece(blkno), piece(blkno + 1)];
  await withServer({ readPages }, async (_server, open) => {
    const socket = await open();
    socket.pause();
    for (let i = 0; i < answers; i++) {
      socket.write(encodeRequest("read", { of: fileAt("base/1/2"), b: i, c: 2 }));
    }
    while (released < 2 * answers) {
      await sleep(10);
    }
    const received: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      received.push(chunk);
      bytes += chunk.length;
      if (bytes === answers * length) {
        break;
      }
    }
    const all = Buffer.concat(received);
    for (let i = 0; i < answers; i++) {
      const answer = all.subarray(i * length, (i + 1) * length);
      assert.deepEqual([answer.readUInt32LE(0), answer[STATUS_AT]], [length, 0]);
      assert.ok(answer.subarray(16, 16 + 8192).every((byte) => byte === i));
      assert.ok(answer.subarray(16 + 8192).every((byte) => byte === i + 1));
    }
    assert.equal(released, 2 * answers);
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

test("ShimServer: pages that are too few or too many are an error, and none of them is sent", async () => {
  for (const bytes of [2 * 8192 - 1, 2 * 8192 + 1, 8192, 3 * 8192]) {
    const readPages = async () => new Uint8Array(bytes).fill(7);
    await withServer({ readPages }, async (_server, open) => {
      const socket = await open();
      socket.write(encodeRequest("read", { of: fileAt("base/1/2"), b: 0, c: 2 }));
      const answer = await nextChunk(socket);
      assert.equal(answer.length, 16);
      assert.equal(answer[4], STATUS_ERROR);
    });
  }
});
