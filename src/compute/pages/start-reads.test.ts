import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { parseRelationPath, type StorageFile, storagePath } from "../../postgres/relation-path.ts";
import type { PlacedFile } from "../shim/shim-protocol.ts";
import type { FileContent } from "./page-source.ts";
import { FilePlacement, StartReads } from "./start-reads.ts";

/** The file that a path in a data directory names. */
const VERSION = "PG_17_1";
const fileAt = (path: string) => parseRelationPath(path)!;

const directory = mkdtempSync(join(tmpdir(), "strata-start-reads-"));
let records = 0;

after(() => rmSync(directory, { recursive: true }));

function newRecord(content?: unknown): string {
  const path = join(directory, `record-${++records}`);
  if (content !== undefined) {
    writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  }
  return path;
}

function readsOf(...files: [string, ...number[]][]): StartReads {
  return new StartReads(newRecord({ version: 1, files }), VERSION);
}

describe("StartReads", () => {
  test("each start adds what it had to ask for", () => {
    const path = newRecord();
    const first = new StartReads(path, VERSION);
    assert.deepEqual(first.files, []);
    first.note(fileAt("base/5/1259"));
    first.note(fileAt("base/5/1259"), 4, 2);
    first.note(fileAt("base/5/1249_vm"));
    first.note(fileAt("base/5/1259"), 0, 1);
    first.save();
    first.note(fileAt("base/5/16384"), 0, 1);
    first.save();
    const second = new StartReads(path, VERSION);
    assert.deepEqual(second.files, [
      ["base/5/1259", [0, 4, 5]],
      ["base/5/1249_vm", []],
    ]);
    second.note(fileAt("global/1262"), 0, 1);
    second.note(fileAt("base/5/1259"), 4, 3);
    second.save();
    assert.deepEqual(new StartReads(path, VERSION).files, [
      ["base/5/1259", [0, 4, 5, 6]],
      ["base/5/1249_vm", []],
      ["global/1262", [0]],
    ]);
  });

  test("a start that asked for nothing leaves the record alone", () => {
    const path = newRecord({ version: 1, files: [["global/1262", 0]] });
    const before = readFileSync(path, "utf8");
    new StartReads(path, VERSION).save();
    assert.equal(readFileSync(path, "utf8"), before);
  });

  test("what starts do not read any more leaves the record: soon what is new, later what was used", () => {
    const path = newRecord({
      version: 1,
      files: [
        ["base/5/1259", 0],
        ["base/5/1249", 1],
      ],
    });
    const start = (used: Record<string, boolean>, ...asked: string[]) => {
      const reads = new StartReads(path, VERSION);
      for (const file of asked) {
        reads.note(fileAt(file), 0, file.endsWith("_vm") ? 0 : 1);
      }
      reads.save(new Map(Object.entries(used)));
      return new StartReads(path, VERSION).files.map(([file]) => file);
    };
    const [old, gone, once, its] = ["base/5/1259", "base/5/1249", "base/9/2619", "base/9/2619_vm"];
    assert.deepEqual(start({ [old]: true, [gone]: true }, once, its), [old, gone, once, its]);
    assert.deepEqual(start({ [old]: true, [gone]: false, [once]: false }), [old, gone, once, its]);
    // The second start that has not used it; a fork goes with its relation.
    assert.deepEqual(start({ [old]: true, [gone]: false, [once]: false }), [old, gone]);
    // A file system that keeps no times says nothing.
    assert.deepEqual(start({ [old]: false, [gone]: false }), [old, gone]);
    assert.deepEqual(start({ [old]: true, [gone]: true }), [old, gone]);
    for (const expected of [[old, gone], [old, gone], [old]]) {
      assert.deepEqual(start({ [old]: true, [gone]: false }), expected);
    }
  });

  test("what has been used again stays where what is new does not fit beside it", () => {
    const path = newRecord({ version: 1, files: [["base/5/1259", 0]] });
    const reads = (used: boolean, from: number, count: number) => {
      const start = new StartReads(path, VERSION);
      for (let block = from; block < from + count; block += 32) {
        start.note(fileAt("base/9/16384"), block, 32);
      }
      start.save(new Map([["base/5/1259", used]]));
      return new StartReads(path, VERSION).files.map(([file, blocks]) => [file, blocks.length]);
    };
    assert.deepEqual(reads(true, 0, 480), [
      ["base/5/1259", 1],
      ["base/9/16384", 480],
    ]);
    // 480 and 320 are too many: those of before have not been used again.
    assert.deepEqual(reads(true, 480, 320), [
      ["base/5/1259", 1],
      ["base/9/16384", 320],
    ]);
    // As much as is noted at all: one too many.
    assert.deepEqual(reads(true, 5000, 768), [
      ["base/5/1259", 1],
      ["base/9/16384", 767],
    ]);
  });

  test("is bounded: first come stay; a full record begins anew", () => {
    const path = newRecord();
    const scan = new StartReads(path, VERSION);
    for (let block = 0; block < 10_000; block += 32) {
      scan.note(fileAt("base/5/16384"), block, 32);
    }
    scan.save();
    const [[, blocks]] = new StartReads(path, VERSION).files as [[string, number[]]];
    assert.deepEqual([blocks.length, blocks[0], blocks.at(-1)], [768, 0, 767]);
    const next = new StartReads(path, VERSION);
    next.note(fileAt("base/5/1259"), 7, 1);
    next.save();
    assert.deepEqual(new StartReads(path, VERSION).files, [["base/5/1259", [7]]]);
  });

  test("what a process reads of another database than its own is a copy of it, and not noted", () => {
    const path = newRecord();
    const reads = new StartReads(path, VERSION);
    const [session, other] = [{}, {}];
    reads.note(fileAt("global/1262"), 0, 1, session);
    reads.note(fileAt("base/5/1259"), 0, 1, session);
    reads.note(fileAt("base/1/1259"), 0, 14, session);
    reads.note(fileAt("base/1/2619_init"), 0, 0, session);
    reads.note(fileAt("pg_xact/0000"), 0, 1, session);
    reads.note(fileAt("global/1260"), 0, 1, session);
    reads.note(fileAt("base/5/1249"), 2, 1, session);
    reads.note(fileAt("base/1/1255"), 3, 1, other);
    reads.save();
    assert.deepEqual(new StartReads(path, VERSION).files, [
      ["global/1262", [0]],
      ["base/5/1259", [0]],
      ["pg_xact/0000", [0]],
      ["global/1260", [0]],
      ["base/5/1249", [2]],
      ["base/1/1255", [3]],
    ]);
  });

  test("in a user's database without a record a session is taken to read what one reads elsewhere", () => {
    const files = [
      ["base/5/1259", 0, 1],
      ["base/5/2662", 3],
      ["base/5/1259_vm"],
      ["base/5/1249_fsm", 1],
      ["base/5/16384", 7],
      ["base/1/1255", 4],
      ["global/1262", 0],
    ];
    const path = newRecord({ version: 1, files });
    const databases = (...oids: number[]) => oids.map((dbOid) => ({ spcOid: 1663, dbOid }));
    const guessed = (...oids: number[]) =>
      new StartReads(path, VERSION, databases(1, 4, 5, ...oids)).files.slice(files.length);
    assert.deepEqual(guessed(), []);
    assert.deepEqual(guessed(16392), [
      ["base/16392/1259", [0, 1]],
      ["base/16392/2662", [3]],
    ]);
    assert.equal(guessed(16392, 16393).length, 4);
    // Of many nobody knows which one it will be.
    assert.deepEqual(guessed(16392, 16393, 16394), []);
    assert.deepEqual(
      new StartReads(path, VERSION, [{ spcOid: 16400, dbOid: 16392 }]).files.length,
      files.length,
    );
    // What proves wrong leaves the record as anything that is new; then it is guessed no more.
    const start = (isUsed: boolean) => {
      const reads = new StartReads(path, VERSION, databases(16392));
      reads.save(new Map(reads.files.map(([file]) => [file, isUsed || !file.includes("2662")])));
      return new StartReads(path, VERSION, databases(16392)).files.map(([file]) => file);
    };
    assert.ok(start(false).includes("base/16392/2662"));
    const left = start(false);
    assert.ok(left.includes("base/16392/1259") && !left.includes("base/16392/2662"), `${left}`);
  });

  test("what one start has read of initdb's database is taken to be read of the user's instead, until it is read again", () => {
    const files = [
      ["base/5/1259", 0, 1],
      ["base/5/2662", 3],
      ["base/5/1259_vm"],
      ["global/1262", 0],
    ];
    const once = files.map(([file]) => [file, 1]);
    const filesOf = (unused: unknown[], dbOid: number) =>
      new StartReads(newRecord({ version: 1, files, unused }), VERSION, [
        { spcOid: 1663, dbOid },
      ]).files.map(([file]) => file);
    assert.deepEqual(filesOf(once, 16392), ["global/1262", "base/16392/1259", "base/16392/2662"]);
    // With none of the user's, or after a start that has read it too, it stays.
    assert.equal(filesOf(once, 5).length, files.length);
    assert.equal(filesOf(once.slice(1), 16392).length, files.length + 2);
  });

  test("a record that makes no sense is none", () => {
    const many = Array.from({ length: 800 }, (_, block) => block);
    for (const content of [
      "",
      "null",
      "[",
      { version: 2, files: [["base/5/1259", 0]] },
      { version: 1, files: { length: 1 } },
      { version: 1, files: [["base/5/1259", ...many]] },
      { version: 1, files: [["../../etc/passwd", 0], ["pg_wal/000000010000000000000001"], [5], 7] },
      {
        version: 1,
        files: [
          ["base/5/1259", -1],
          ["base/5/1249", 0.5],
          ["base/5/1255", "0"],
        ],
      },
    ]) {
      assert.deepEqual(
        new StartReads(newRecord(content), VERSION).files,
        [],
        JSON.stringify(content),
      );
    }
    assert.deepEqual(new StartReads(directory, VERSION).files, []);
  });
});

function content(blocks: readonly number[]): FileContent {
  return {
    bytes: 5 * 8192,
    runs: blocks.map((block) => [block, 1] as const),
    pages: blocks.map((block) => new Uint8Array(8192).fill(block + 1)),
  };
}

function newDataDirectory(): string {
  const path = join(directory, `data-${++records}`);
  mkdirSync(join(path, "base", "5"), { recursive: true });
  return path;
}

function placed(
  data: string,
  source: ConstructorParameters<typeof FilePlacement>[0],
  reads: StartReads,
): Promise<readonly PlacedFile[]> {
  const placement = new FilePlacement(source, reads);
  placement.into(data);
  return placement.finish();
}

describe("FilePlacement", () => {
  test("sparse files of full size with the blocks in place; what is not there is said", async () => {
    const data = newDataDirectory();
    const source = {
      fileContent: async (file: StorageFile, blocks: readonly number[]) =>
        storagePath(file).endsWith("_vm") ? undefined : content(blocks),
    };
    const reads = readsOf(["base/5/7", 1, 3], ["base/5/7_vm"]);
    assert.deepEqual(await placed(data, source, reads), [
      {
        file: fileAt("base/5/7"),
        bytes: 5 * 8192,
        runs: [
          [1, 1],
          [3, 1],
        ],
      },
      { file: fileAt("base/5/7_vm"), bytes: undefined, runs: [] },
    ]);
    const bytes = readFileSync(join(data, "base/5/7"));
    assert.deepEqual(
      [0, 1, 2, 3, 4].map((block) => bytes[block * 8192 + 8191]),
      [0, 2, 0, 4, 0],
    );
    assert.equal(bytes.length, 5 * 8192);
  });

  test("what cannot be had, or is late, is left out and never written", async () => {
    const data = newDataDirectory();
    const late = Promise.withResolvers<FileContent>();
    const source = {
      fileContent: async (file: StorageFile, blocks: readonly number[]) => {
        const path = storagePath(file);
        if (path === "base/5/8") {
          throw new StorageError("corrupt", "damaged", "damaged");
        }
        return path === "base/5/9" ? late.promise : content(blocks);
      },
    };
    const reads = readsOf(["base/5/9", 0], ["base/5/8", 0], ["base/5/7", 0]);
    const files = await placed(data, source, reads);
    late.resolve(content([0]));
    await sleep(10);
    assert.deepEqual(
      files.map(({ file }) => storagePath(file)),
      ["base/5/7"],
    );
    assert.equal(existsSync(join(data, "base/5/8")), false);
    assert.equal(existsSync(join(data, "base/5/9")), false);
  });

  test("used: what somebody has read of since it was placed", async () => {
    const data = newDataDirectory();
    const source = {
      fileContent: async (_file: StorageFile, blocks: readonly number[]) => content(blocks),
    };
    const placement = new FilePlacement(
      source,
      readsOf(["base/5/7", 0], ["base/5/8", 0], ["base/5/9", 0], ["base/5/10"]),
    );
    placement.into(data);
    await placement.finish();
    readFileSync(join(data, "base/5/8"));
    rmSync(join(data, "base/5/9"));
    assert.deepEqual(Object.fromEntries(placement.used()), {
      "base/5/7": false,
      "base/5/8": true,
      "base/5/9": false,
    });
  });

  test("cancelled: nothing is written", async () => {
    const data = newDataDirectory();
    const source = {
      fileContent: async (_file: StorageFile, blocks: readonly number[]) => content(blocks),
    };
    const placement = new FilePlacement(source, readsOf(["base/5/7", 0]));
    placement.into(data);
    placement.cancel();
    assert.deepEqual(await placement.finish(), []);
    assert.equal(existsSync(join(data, "base/5/7")), false);
  });

  test("a file that cannot be written is left out", async () => {
    const source = {
      fileContent: async (_file: StorageFile, blocks: readonly number[]) => content(blocks),
    };
    const reads = readsOf(["base/6/7", 0], ["base/5/7", 0]);
    const files = await placed(newDataDirectory(), source, reads);
    assert.deepEqual(
      files.map(({ file }) => storagePath(file)),
      ["base/5/7"],
    );
  });
});
