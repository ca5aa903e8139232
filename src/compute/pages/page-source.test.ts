import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import type { RelationSize } from "../../pageserver/api.ts";
import { parseRelationPath, type RelationPath } from "../../postgres/relation-path.ts";
import type { CheckPoint, RelationFork, SlruKind } from "../../wal-decoder/record-sink.ts";
import type { PagePiece } from "../shim/shim-server.ts";
import { type PageClient, PageSource } from "./page-source.ts";
import { WrittenBlocks } from "./written-blocks.ts";

/** The file that a path in a data directory names. */
const fileAt = (path: string) => parseRelationPath(path)!;

const LSN = toLsn(0x1234500);
const CHECK_POINT: CheckPoint = {
  redo: LSN,
  timeLineId: 1,
  prevTimeLineId: 1,
  fullPageWrites: false,
  walLevel: 1,
  nextFullXid: 2n ** 32n + 2_500_000n,
  nextOid: 20_000,
  nextMulti: 70_000,
  nextMultiOffset: 200_000,
  oldestXid: 1_100_000,
  oldestXidDb: 1,
  oldestMulti: 66_000,
  oldestMultiDb: 1,
  time: 0n,
  oldestCommitTsXid: 0,
  newestCommitTsXid: 0,
  oldestActiveXid: 0,
};

/** A pageserver with the given sizes (`relNumber/fork`); a page says which one it is. */
class FakePageserver {
  readonly sizes: Record<string, number>;
  readonly asked: string[] = [];
  readonly silences: number[] = [];
  /** Requests that the first connection answers; all later connections answer any number. */
  breakAfter = Number.POSITIVE_INFINITY;
  down = false;
  /** As of which all must be asked, and before which there is nothing any more. */
  lsn: Lsn = LSN;
  oldestLsn: Lsn = toLsn(0);
  /** Blocks of which there is no page. */
  readonly bad = new Set<number>();
  /** Pages that have come in since the start. */
  readonly written = new Map<number, Uint8Array>();

  constructor(sizes: Record<string, number>) {
    this.sizes = sizes;
  }

  get connections(): number {
    return this.silences.length;
  }

  connect(silenceMs: number): Promise<PageClient> {
    this.silences.push(silenceMs);
    let closed = false;
    let left = this.connections === 1 ? this.breakAfter : Number.POSITIVE_INFINITY;
    const answer = async <T>(what: string, value: T | undefined, lsn: Lsn): Promise<T> => {
      if (lsn < this.oldestLsn && !what.startsWith("size")) {
        throw new StorageError("invalid", "lsn-too-old", what);
      }
      assert.ok(lsn === this.lsn || (what.startsWith("size") && lsn === LSN), what);
      this.asked.push(what);
      await sleep(1);
      if (closed || this.down || --left < 0) {
        closed = true;
        throw new StorageError("unavailable", "connection-lost", "connection lost");
      }
      if (value === undefined) {
        throw new StorageError("not-found", "no-such-thing", what);
      }
      return value;
    };
    const getPage = (rel: RelationFork, blkno: number, lsn: Lsn) => {
      const page = new Uint8Array(8192);
      new DataView(page.buffer).setUint32(0, blkno, true);
      page[4] = rel.fork;
      page[5] = rel.dbOid;
      page[6] = rel.relNumber;
      page.set(this.written.get(blkno) ?? []);
      const stored = this.bad.has(blkno) ? undefined : page;
      return answer(`page ${rel.relNumber}/${rel.fork}/${blkno}`, stored, lsn);
    };
    const sizeOf = (rel: RelationFork) => this.sizes[`${rel.relNumber}/${rel.fork}`];
    return Promise.resolve({
      get closed() {
        return closed;
      },
      close: () => undefined,
      relSize: (rel: RelationFork, lsn: Lsn) =>
        answer(`size ${rel.relNumber}/${rel.fork}`, sizeOf(rel), lsn),
      getPage,
      getPages: async (rel: RelationFork, blkno: number, lsn: Lsn, into: Uint8Array) => {
        const get = async (_: unknown, i: number) => {
          into.set(await getPage(rel, blkno + i, lsn), i * 8192);
        };
        await Promise.all(Array.from({ length: into.length / 8192 }, get));
        return into;
      },
      slruSegment: async (kind: SlruKind, segno: number, lsn: Lsn) => {
        const blocks = this.sizes[`slru ${kind}/${segno}`];
        const data = blocks === undefined ? undefined : new Uint8Array(blocks * 8192);
        // Offsets of multixacts: 7 a multixact.
        if (kind === 2 && data !== undefined) {
          new Uint32Array(data.buffer).forEach((_, i, all) => {
            all[i] = (segno * 65_536 + i) * 7 - 400_000;
          });
        }
        return answer(`slru ${kind}/${segno}`, data && { blocks: blocks!, data }, lsn);
      },
    });
  }

  hasRelationsFrom({ dbOid, relNumber }: { dbOid: number; relNumber: number }): Promise<boolean> {
    this.asked.push(`from ${relNumber} of ${dbOid}`);
    if (this.down) {
      return Promise.reject(new StorageError("unavailable", "connection-lost", "down"));
    }
    const numbers = Object.keys(this.sizes).map((key) => Number(key.split("/")[0]));
    return Promise.resolve(dbOid === 5 && numbers.some((number) => number >= relNumber));
  }

  listRelations(): Promise<RelationSize[]> {
    return Promise.resolve(
      Object.entries(this.sizes).map(([key, blocks]) => {
        const [relNumber, fork] = key.split("/").map(Number);
        return { relNumber: relNumber!, fork: fork!, blocks };
      }),
    );
  }
}

function pageSource(
  service: FakePageserver,
  checkPoint: Partial<CheckPoint> = {},
  written?: WrittenBlocks,
): PageSource {
  return new PageSource({
    service,
    ...{ lsn: LSN, written },
    checkPoint: { ...CHECK_POINT, ...checkPoint },
    logger: createLogger("test", "silent"),
    giveUpAfterMs: 500,
    maxPagesAhead: 512,
  });
}

/** Says which blocks they are, and releases them. */
function blocksOf(pieces: readonly PagePiece[]): number[] {
  const bytes = Buffer.concat(pieces.map((piece) => piece.bytes));
  for (const piece of pieces) {
    piece.bytes.fill(0xff);
    piece.release();
  }
  return Array.from({ length: bytes.length / 8192 }, (_, i) => bytes.readUInt32LE(i * 8192));
}

/** How long a pageserver may be away is a matter of time: of ours, and not of the machine's. */
function testInSimulatedTime(name: string, work: () => Promise<void>): void {
  test(name, () => inSimulatedTime(work));
}

describe("PageSource", () => {
  test("sizes: forks, segments of 1 GiB, and what is not there", async () => {
    const source = pageSource(new FakePageserver({ "7/0": 131_072 + 5, "7/1": 3, "8/0": 0 }));
    assert.equal(await source.stat(fileAt("base/5/7")), 2 ** 30);
    assert.equal(await source.stat(fileAt("base/5/7.1")), 5 * 8192);
    assert.equal(await source.stat(fileAt("base/5/7.2")), undefined);
    assert.equal(await source.stat(fileAt("base/5/7_fsm")), 3 * 8192);
    assert.equal(await source.stat(fileAt("base/5/7_vm")), undefined);
    assert.equal(await source.stat(fileAt("base/5/8")), 0);
    assert.equal(await source.stat(fileAt("global/9")), undefined);
    assert.equal(await source.alsoLacking(fileAt("base/5/7_vm") as RelationPath), undefined);
    assert.equal(await source.alsoLacking(fileAt("base/5/9") as RelationPath), "relation");
    const pages = await source.readPages(fileAt("base/5/7.1"), 3, 2);
    assert.deepEqual(blocksOf(pages), [131_075, 131_076]);
    await assert.rejects(source.readPages(fileAt("base/5/7.1"), 4, 2), /block 131077 was asked/);
  });

  test("relations numbered as new ones are asked for once a directory, where storage has none", async () => {
    const of = (path: string) => fileAt(path) as RelationPath;
    const service = new FakePageserver({ "7/0": 1, "19999/0": 1, "20001/1": 2 });
    const source = pageSource(service);
    assert.equal(await source.stat(fileAt("base/6/20000")), undefined);
    assert.equal(await source.stat(fileAt("base/6/99999_vm.1")), undefined);
    assert.equal(await source.alsoLacking(of("base/6/20001")), 20_000);
    assert.deepEqual(service.asked, ["from 20000 of 6"]);
    assert.equal(await source.stat(fileAt("base/6/19999")), 8192);
    assert.equal(await source.stat(fileAt("base/5/19999")), 8192);
    assert.equal(await source.stat(fileAt("base/5/20001_fsm")), 2 * 8192);
    assert.equal(await source.alsoLacking(of("base/5/20001")), undefined);
    assert.equal(await source.stat(fileAt("base/5/20002")), undefined);
    assert.equal(await source.alsoLacking(of("base/5/20002")), "relation");
    assert.equal(service.asked.filter((what) => what.startsWith("from")).length, 2);
    const none = pageSource(service, { nextOid: 0 });
    assert.equal(await none.alsoLacking(of("base/6/20000")), "relation");
  });

  test("relations numbered as new ones: a pageserver that does not know the question", async () => {
    const service = new FakePageserver({ "20001/0": 2 });
    service.hasRelationsFrom = () => {
      service.asked.push("from");
      return Promise.reject(new StorageError("invalid", "unknown-command", "unknown command"));
    };
    const source = pageSource(service);
    assert.equal(await source.stat(fileAt("base/5/20001")), 2 * 8192);
    assert.equal(await source.stat(fileAt("base/5/20002")), undefined);
    assert.equal(await source.alsoLacking(fileAt("base/5/20002") as RelationPath), "relation");
    assert.equal(service.asked.filter((what) => what === "from").length, 1);
  });

  testInSimulatedTime(
    "relations numbered as new ones: a pageserver that is away is asked again",
    async () => {
      const service = new FakePageserver({});
      const source = pageSource(service);
      service.down = true;
      const late = source.stat(fileAt("base/5/20000"));
      await sleep(60);
      service.down = false;
      assert.equal(await late, undefined);
      assert.ok(service.asked.length > 1);
      assert.equal(await source.alsoLacking(fileAt("base/5/20000") as RelationPath), 20_000);
    },
  );

  test("fileContent: the blocks that there are, in runs, and nothing ahead of them", async () => {
    const service = new FakePageserver({
      "7/0": 131_072 + 5,
      "8/0": 0,
      "16393/0": 9,
      "16393/3": 1,
    });
    const source = pageSource(service);
    const content = await source.fileContent(fileAt("base/5/7.1"), [0, 1, 3, 4, 5, 900]);
    assert.deepEqual(
      {
        ...content,
        pages: content!.pages.map((run) => [
          run.length / 8192,
          Buffer.from(run).readUInt32LE(0),
          Buffer.from(run).readUInt32LE(run.length - 8192),
        ]),
      },
      {
        bytes: 5 * 8192,
        runs: [
          [0, 2],
          [3, 2],
        ],
        pages: [
          [2, 131_072, 131_073],
          [2, 131_075, 131_076],
        ],
      },
    );
    assert.deepEqual(await source.fileContent(fileAt("base/5/8"), [0]), {
      bytes: 0,
      runs: [],
      pages: [],
    });
    assert.equal(await source.fileContent(fileAt("base/5/8_vm"), [0]), undefined);
    const unlogged = await source.fileContent(fileAt("base/5/16393"), [0, 1]);
    assert.deepEqual(
      [unlogged!.bytes, unlogged!.runs, unlogged!.pages[0]![4]],
      [8192, [[0, 1]], 3],
    );
    // Of what initdb has made nothing but that; a session's first question about a relation asks for its maps, too.
    service.asked.length = 0;
    const catalog = pageSource(service);
    await catalog.fileContent(fileAt("base/5/7"), [3]);
    assert.deepEqual(service.asked, ["size 7/0", "page 7/0/3"]);
    await catalog.stat(fileAt("base/5/8"));
    assert.deepEqual(service.asked.slice(2), ["size 8/0", "size 8/1", "size 8/2"]);
  });

  testInSimulatedTime(
    "a relation's other forks are looked up with it, so that they are known in an outage",
    async () => {
      const service = new FakePageserver({ "7/0": 9, "7/2": 1 });
      const source = pageSource(service);
      await source.stat(fileAt("base/5/7"));
      await sleep(20);
      service.down = true;
      assert.equal(await source.stat(fileAt("base/5/7_fsm")), undefined);
      assert.equal(await source.stat(fileAt("base/5/7_vm")), 8192);
      await assert.rejects(source.stat(fileAt("base/5/8")), { kind: "unavailable" });
    },
  );

  test("unlogged relations are what their init fork says", async () => {
    const source = pageSource(
      new FakePageserver({ "16391/0": 9, "16391/1": 3, "16391/2": 1, "16391/3": 1, "16392/0": 2 }),
    );
    assert.equal(await source.stat(fileAt("base/5/16391")), 8192);
    assert.equal(await source.stat(fileAt("base/5/16391_fsm")), undefined);
    assert.equal(await source.stat(fileAt("base/5/16391_init")), 8192);
    const [piece] = await source.readPages(fileAt("base/5/16391"), 0, 1);
    assert.equal(piece!.bytes[4], 3);
    assert.deepEqual(await source.listDirectory({ kind: "relation", spcOid: 1663, dbOid: 5 }), [
      { file: fileAt("base/5/16391"), bytes: 8192 },
      { file: fileAt("base/5/16391_init"), bytes: 8192 },
      { file: fileAt("base/5/16392"), bytes: 2 * 8192 },
    ]);
  });

  test("sequential reads are asked ahead, each page once; random ones are not", async () => {
    const service = new FakePageserver({ "7/0": 5000, "8/0": 5000 });
    const source = pageSource(service);
    for (let block = 0; block < 3000; block += 16) {
      const pages = await source.readPages(fileAt("base/5/7"), block, 16);
      assert.deepEqual(
        blocksOf(pages),
        Array.from({ length: 16 }, (_, i) => block + i),
      );
    }
    const asked = service.asked.filter((what) => what.startsWith("page"));
    assert.equal(new Set(asked).size, asked.length);
    assert.ok(asked.length > 3000 + 100 && asked.length <= 3008 + 256, `${asked.length}`);
    service.asked.length = 0;
    for (const block of [4000, 100, 2000, 50, 3000, 900]) {
      await source.readPages(fileAt("base/5/8"), block, 1);
    }
    assert.equal(service.asked.filter((what) => what.startsWith("page")).length, 6);
  });

  testInSimulatedTime(
    "read-ahead stops at the end, and a hint is answered from memory",
    async () => {
      const service = new FakePageserver({ "7/0": 40 });
      const source = pageSource(service);
      await source.stat(fileAt("base/5/7"));
      source.prefetch(fileAt("base/5/7"), 10, 100);
      await sleep(20);
      assert.equal(service.asked.filter((what) => what.startsWith("page")).length, 30);
      await source.readPages(fileAt("base/5/7"), 10, 20);
      await source.readPages(fileAt("base/5/7"), 30, 10);
      assert.equal(service.asked.filter((what) => what.startsWith("page")).length, 30);
    },
  );

  test("a page that storage cannot give fails alone, also where it was read ahead", async () => {
    const service = new FakePageserver({ "7/0": 200 });
    service.bad.add(77);
    const source = pageSource(service);
    for (let block = 0; block < 200; block++) {
      const read = source.readPages(fileAt("base/5/7"), block, 1);
      if (block === 77) {
        await assert.rejects(read, { kind: "not-found" });
      } else {
        assert.deepEqual(blocksOf(await read), [block]);
      }
    }
  });

  testInSimulatedTime(
    "what is read ahead stays within its bound, and what had to go is asked again",
    async () => {
      const service = new FakePageserver({ "7/0": 5000 });
      const source = pageSource(service);
      for (let block = 0; block < 5000; block += 100) {
        source.prefetch(fileAt("base/5/7"), block, 100);
      }
      await sleep(50);
      service.asked.length = 0;
      const blocks = Array.from({ length: 5000 }, (_, i) => i);
      const pages = await Promise.all(
        blocks.map((block) => source.readPages(fileAt("base/5/7"), block, 1)),
      );
      assert.deepEqual(pages.flatMap(blocksOf), blocks);
      const again = service.asked.filter((what) => what.startsWith("page")).length;
      assert.ok(again >= 5000 - 512, `${again}`);
    },
  );

  test("pages of relations whose low bits of the number are the same", async () => {
    const source = pageSource(new FakePageserver({ "7/0": 9, "71/0": 9, "7/1": 9 }));
    const rels = [
      "base/5/7",
      "base/6/7",
      "base/5/71",
      "base/5/7_fsm",
      "pg_tblspc/17000/PG_17_1/5/7",
    ];
    for (let round = 0; round < 3; round++) {
      for (const path of rels) {
        const file = fileAt(path) as RelationPath;
        const [piece] = await source.readPages(file, 2 * round, 1);
        const { bytes } = piece!;
        assert.deepEqual(
          [bytes[0], bytes[4], bytes[5], bytes[6]],
          [2 * round, file.fork, file.dbOid, file.relNumber],
        );
        bytes.fill(0xff);
        piece!.release();
      }
    }
    await assert.rejects(source.readPages(fileAt("base/5/7"), 9, 1), /block 9 was asked/);
    await assert.rejects(source.readPages(fileAt("base/5/8"), 0, 1), /has 0 blocks/);
  });

  testInSimulatedTime("a lost connection is made anew and the question asked again", async () => {
    const service = new FakePageserver({ "7/0": 1000 });
    const source = pageSource(service);
    service.breakAfter = 20;
    const pages = await source.readPages(fileAt("base/5/7"), 0, 32);
    assert.deepEqual(
      blocksOf(pages),
      Array.from({ length: 32 }, (_, i) => i),
    );
    assert.equal(service.connections, 2);
    service.down = true;
    await assert.rejects(
      source.readPages(fileAt("base/5/7"), 200, 1),
      (error) => error instanceof StorageError && /page 200 of 1663\/5\/7\/0: /.test(error.message),
    );
  });

  testInSimulatedTime(
    "a connection that never answered makes the next one more patient",
    async () => {
      const service = new FakePageserver({ "8/0": 0 });
      const source = pageSource(service);
      service.down = true;
      await assert.rejects(source.stat(fileAt("base/5/7")), { kind: "unavailable" });
      assert.deepEqual(service.silences.slice(0, 4), [10_000, 20_000, 40_000, 80_000]);
      service.down = false;
      assert.equal(await source.stat(fileAt("base/5/8")), 0);
      const before = service.connections;
      service.down = true;
      const failing = assert.rejects(source.stat(fileAt("base/5/9")), { kind: "unavailable" });
      assert.ok(source.waitingReads > 0);
      await failing;
      assert.equal(service.silences[before], 10_000);
    },
  );

  test("SLRU segments: size, pages, and the list that the checkpoint implies", async () => {
    const service = new FakePageserver({ "slru 0/2": 13, "slru 2/1": 32, "slru 1/3": 27 });
    const source = pageSource(service);
    assert.equal(await source.stat(fileAt("pg_xact/0002")), 13 * 8192);
    assert.equal(await source.stat(fileAt("pg_xact/0007")), undefined);
    const [last] = await source.readPages(fileAt("pg_xact/0002"), 12, 1);
    assert.equal(last!.bytes.length, 8192);
    await assert.rejects(async () => source.readPages(fileAt("pg_xact/0002"), 13, 1), /13 blocks/);
    assert.deepEqual(await source.listDirectory({ kind: "slru", slru: 0 }), [
      { file: fileAt("pg_xact/0001"), bytes: 32 * 8192 },
      { file: fileAt("pg_xact/0002"), bytes: 13 * 8192 },
    ]);
    assert.deepEqual(await source.listDirectory({ kind: "slru", slru: 2 }), [
      { file: fileAt("pg_multixact/offsets/0001"), bytes: 32 * 8192 },
    ]);
    // Multixact 66000 has its members from 62000 on, in segment 1.
    assert.deepEqual(await source.listDirectory({ kind: "slru", slru: 1 }), [
      { file: fileAt("pg_multixact/members/0001"), bytes: 32 * 8192 },
      { file: fileAt("pg_multixact/members/0002"), bytes: 32 * 8192 },
      { file: fileAt("pg_multixact/members/0003"), bytes: 27 * 8192 },
    ]);
    assert.deepEqual(await source.listDirectory({ kind: "slru", slru: 3 }), []);
  });

  test("segments of commit timestamps: from the oldest to the one of the next xid", async () => {
    const service = new FakePageserver({ "slru 3/95": 13 });
    const source = pageSource(service, { oldestCommitTsXid: 93 * 32 * 819 + 5 });
    assert.deepEqual(await source.listDirectory({ kind: "slru", slru: 3 }), [
      { file: fileAt("pg_commit_ts/005D"), bytes: 32 * 8192 },
      { file: fileAt("pg_commit_ts/005E"), bytes: 32 * 8192 },
      { file: fileAt("pg_commit_ts/005F"), bytes: 13 * 8192 },
    ]);
    assert.equal(await source.stat(fileAt("pg_commit_ts/005F")), 13 * 8192);
  });

  test("pages of a file that gave back what was written are as of later, also where history goes meanwhile", async () => {
    const service = new FakePageserver({ "7/0": 1000, "16392/3": 5, "9/0": 9 });
    const directory = mkdtempSync(join(tmpdir(), "strata-written-"));
    try {
      let ingested = toLsn(LSN + 0x100);
      const written = new WrittenBlocks({
        ...{ dataDirectory: directory, versionDirectory: "PG_17_1", startLsn: LSN },
        progress: { ingestedLsn: () => ingested, oldestRunningXid: async () => undefined },
      });
      const source = pageSource(service, {}, written);
      const file = fileAt("base/5/7");
      const read = async (blkno: number, count: number) =>
        blocksOf(await source.readPages(file, blkno, count));
      // A scan, so that more is read ahead as of the start.
      for (let block = 0; block < 40; block += 10) {
        await read(block, 10);
      }
      const page = new Uint8Array(8192);
      page.set([40, 0, 0, 0, 0, 0, 0, 0, 0], 0);
      mkdirSync(join(directory, "base/5"), { recursive: true });
      writeFileSync(join(directory, "base/5/7"), Buffer.alloc(40 * 8192));
      writeFileSync(join(directory, "base/5/7"), page, { flag: "a" });
      service.lsn = ingested;
      assert.equal(await source.comparePages(file, 40, 1), 0, "an LSN that cannot be");
      page.set([0, 0, 0, 0, 40, 0, 0, 0], 0);
      writeFileSync(join(directory, "base/5/7"), Buffer.alloc(40 * 8192));
      writeFileSync(join(directory, "base/5/7"), page, { flag: "a" });
      service.written.set(40, page);
      assert.equal(await source.comparePages(file, 40, 1), 1);
      service.asked.length = 0;
      assert.equal((await read(40, 1)).length, 1);
      assert.deepEqual(
        service.asked,
        ["size 7/0", "page 7/0/40"],
        "not what was read ahead before",
      );
      // Storage goes on, and what was before is gone.
      service.lsn = ingested = toLsn(LSN + 0x200);
      service.oldestLsn = ingested;
      assert.deepEqual(await read(50, 2), [50, 51]);
      // What was made here grows with storage, of which the start knows nothing.
      service.sizes["10/0"] = 3;
      service.written.set(2, page);
      writeFileSync(join(directory, "base/5/10"), Buffer.alloc(2 * 8192));
      writeFileSync(join(directory, "base/5/10"), page, { flag: "a" });
      assert.equal(await source.stat(fileAt("base/5/11")), undefined);
      assert.equal(await source.comparePages(fileAt("base/5/10"), 0, 0b100), 0b100);
      assert.equal((await source.readPages(fileAt("base/5/10"), 2, 1)).length, 1);
      await assert.rejects(source.readPages(fileAt("base/5/10"), 3, 1), /has 3 blocks/);
      // Others are as of the start, and an unlogged relation's rows are not storage's.
      service.lsn = LSN;
      service.oldestLsn = toLsn(0);
      assert.deepEqual(blocksOf(await source.readPages(fileAt("base/5/9"), 3, 1)), [3]);
      for (const path of ["base/5/16392", "base/5/7_vm", "pg_xact/0000"]) {
        assert.equal(await source.comparePages(fileAt(path), 0, 1), undefined, path);
      }
      source.close();
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
