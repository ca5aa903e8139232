import assert from "node:assert/strict";
import {
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { fillDisk, mountSmallDisk, unmountSmallDisk } from "../../../testing/small-disk.ts";
import { createLogger, type Logger } from "../../base/log.ts";
import { HOT_BLOCKS_NAME } from "../api.ts";
import { blockRuns, keepHotBlocks, placeHotBlocks } from "./hot-blocks.ts";

const LIST = "<<2>>\n5,1663,1259,0,0\n5,1663,4294967295,2,7\n";

const logger = createLogger("hot-blocks-test", "silent");

let root: string;
let data: string;
let work: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "strata-hot-"));
  data = mkdtempSync(join(root, "data-"));
  work = mkdtempSync(join(root, "work-"));
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

const listIn = (directory: string) => readFileSync(join(directory, HOT_BLOCKS_NAME), "utf8");
const write = (directory: string, text: string) =>
  writeFileSync(join(directory, HOT_BLOCKS_NAME), text);

test("keepHotBlocks, placeHotBlocks: from one data directory into the next; none changes nothing", () => {
  placeHotBlocks(work, data, logger);
  assert.throws(() => listIn(data), { code: "ENOENT" });
  write(data, LIST);
  keepHotBlocks(data, work);
  assert.equal(listIn(work), LIST);
  rmSync(join(data, HOT_BLOCKS_NAME));
  keepHotBlocks(data, work);
  assert.equal(listIn(work), LIST);
  write(data, "of before");
  placeHotBlocks(work, data, logger);
  assert.equal(listIn(data), LIST);
});

test("keepHotBlocks: what is no list is left, and what a link leads to is not read", () => {
  write(work, LIST);
  const other = join(root, "other");
  const bad = [
    ...["", "secret\n", "5,1663,1259,0,0\n", "<<1>>", "<<1234567890>>\n", `${LIST}x`],
    ...[
      "1,2,3",
      "5,1663,1259,0,0,0",
      "5,1663,1259,10,0",
      "5,,1259,0,0",
      "5,1663,12345678901,0,0",
    ].map((line) => `<<1>>\n${line}\n`),
    ...["5,1663,1259,0,0", "5,1663,1259,0,", "5,1663,1259,0"].map((line) => `<<1>>\n${line}`),
  ];
  for (const text of bad) {
    write(data, text);
    keepHotBlocks(data, work);
    assert.equal(listIn(work), LIST, JSON.stringify(text));
  }
  writeFileSync(other, "<<0>>\n");
  for (const link of [symlinkSync, linkSync]) {
    rmSync(join(data, HOT_BLOCKS_NAME));
    link(other, join(data, HOT_BLOCKS_NAME));
    keepHotBlocks(data, work);
    assert.equal(listIn(work), LIST, link.name);
    // Nor is it written through.
    placeHotBlocks(work, data, logger);
    assert.equal(readFileSync(other, "utf8"), "<<0>>\n");
    assert.equal(listIn(data), LIST);
  }
});

test("keepHotBlocks: a full disk keeps the list that there is, and nothing of the new one", () => {
  write(work, LIST);
  write(data, "<<0>>\n");
  symlinkSync("/dev/full", join(work, `${HOT_BLOCKS_NAME}.new`));
  assert.throws(() => keepHotBlocks(data, work), { code: "ENOSPC" });
  assert.deepEqual(readdirSync(work), [HOT_BLOCKS_NAME]);
  assert.equal(listIn(work), LIST);
});

test("placeHotBlocks: a full disk keeps no start from going on, without a list or half of one", (t) => {
  write(work, LIST);
  const noMount = mountSmallDisk(data, 64 * 1024);
  if (noMount !== undefined) {
    t.skip(noMount);
    return;
  }
  const said: string[] = [];
  const warn = (_fields: object, message: string) => void said.push(message);
  try {
    fillDisk(data);
    placeHotBlocks(work, data, { warn } as unknown as Logger);
    assert.deepEqual(readdirSync(data), ["filler"]);
  } finally {
    unmountSmallDisk(data);
  }
  assert.deepEqual(said, ["this start has no list of hot blocks"]);
});

test("blockRuns: neighbours become one, files and forks stay apart", () => {
  const lines = [
    "0,1664,1262,0,0",
    ...["5,1663,100,0,7", "5,1663,100,0,8", "5,1663,100,0,10", "5,1663,100,2,11"],
    ...["5,1663,101,0,12", "5,1663,101,9,13", "6,1663,101,0,13"],
  ];
  const runs = blockRuns(`<<${lines.length}>>\n${lines.join("\n")}\n`);
  assert.deepEqual(
    runs.map((run) => Object.values(run)),
    [
      [0, 1664, 1262, "main", 0, 1],
      [5, 1663, 100, "main", 7, 2],
      [5, 1663, 100, "main", 10, 1],
      [5, 1663, 100, "vm", 11, 1],
      [5, 1663, 101, "main", 12, 1],
      [6, 1663, 101, "main", 13, 1],
    ],
  );
  assert.deepEqual(blockRuns("<<0>>\n"), []);
});

test("keepHotBlocks: as many blocks as a list may have", () => {
  const count = 2 ** 20;
  const lines = Array.from({ length: count }, (_, block) => `5,1663,16384,0,${block}\n`);
  const list = `<<${count}>>\n${lines.join("")}`;
  write(data, list);
  keepHotBlocks(data, work);
  assert.ok(listIn(work) === list);
  assert.deepEqual(
    blockRuns(list).map(({ first, count }) => [first, count]),
    [[0, count]],
  );
});
