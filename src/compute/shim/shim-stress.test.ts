// The claim protocol of blocks under many processes at once: what Postgres's own locks almost never let happen.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readSync, rmSync, statSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { brokenShim } from "../../../testing/compute/broken-shim.ts";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { loaderEnvironment } from "../../postgres/installation.ts";
import { storagePath } from "../../postgres/relation-path.ts";
import { type CacheUsage, makeCacheCounters, readCacheUsage } from "./cache-counters.ts";
import { findShim, shimEnvironment } from "./shim-loader.ts";
import { ShimServer } from "./shim-server.ts";

const SOURCE = join(import.meta.dirname, "claim_stress.c");
const PAGE_BYTES = 8192;
const SECTOR_BYTES = 512;
const PATH = "base/5/100";

/** Version 1 of blocks, as claim_stress.c stamps them. */
function stampedPages(blkno: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count * PAGE_BYTES);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    const block = blkno + Math.floor(at / PAGE_BYTES);
    const index = (at % PAGE_BYTES) / SECTOR_BYTES;
    bytes.fill(1, at, at + SECTOR_BYTES);
    view.setBigUint64(at, 0x73747261746121n, true);
    view.setUint32(at + 8, block, true);
    view.setUint32(at + 12, index, true);
    view.setUint32(at + 16, 1, true);
    view.setUint32(at + 20, block * 31 + index * 7 + 1, true);
  }
  return bytes;
}

interface Stressed {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly usage: CacheUsage | undefined;
  /** What is on the disk of the file. */
  readonly storedBytes: number;
}

interface Load {
  readonly blocks: number;
  readonly operations: number;
  readonly passes: number;
  /** One operation of so many is a write. */
  readonly writes: number;
  readonly answerMs: number;
  readonly limitBlocks?: number;
  readonly path?: string;
  /** Of the blocks, those that the agent has: absent, all. The others are added; with 0 the file is made. */
  readonly storedBlocks?: number;
}

const ONE_PASS: Load = { blocks: 8000, operations: 2000, passes: 1, writes: 3, answerMs: 3 };
/** A limit of the cache far below what is read, so that blocks come and go. */
const LIMITED: Load = {
  ...{ blocks: 3000, operations: 1500, passes: 5, writes: 200, answerMs: 1 },
  limitBlocks: 300,
};
/** And far below what is written. */
const REWRITTEN: Load = { ...LIMITED, operations: 500, writes: 4, limitBlocks: 200 };

/** Storage that has, of some blocks that it is asked to compare, just what is in the file. */
class ComparingStorage {
  readonly #path: string;
  readonly #random: SeededRandom;
  readonly #written = new Map<number, Uint8Array>();

  constructor(path: string, random: SeededRandom) {
    this.#path = path;
    this.#random = random;
  }

  read(blkno: number, count: number): Uint8Array {
    const bytes = stampedPages(blkno, count);
    for (let i = 0; i < count; i++) {
      const page = this.#written.get(blkno + i);
      bytes.set(page ?? [], i * PAGE_BYTES);
    }
    return bytes;
  }

  async compare(blkno: number, blocks: number): Promise<number> {
    let same = 0;
    const fd = openSync(this.#path, "r");
    for (let i = 0; i < 32; i++) {
      if (((blocks >>> i) & 1) === 1 && this.#random.int(4) > 0) {
        const page = new Uint8Array(PAGE_BYTES);
        readSync(fd, page, 0, PAGE_BYTES, (blkno + i) * PAGE_BYTES);
        this.#written.set(blkno + i, page);
        same |= 1 << i;
      }
    }
    closeSync(fd);
    await sleep(this.#random.int(3));
    return same >>> 0;
  }
}

/** Runs the stress under `shim`; what it printed and whether it was content. */
async function stress(shim: string, seed: number, load = ONE_PASS): Promise<Stressed> {
  const { blocks, operations, passes, writes, answerMs, limitBlocks, path = PATH } = load;
  const stored = load.storedBlocks ?? blocks;
  const random = new SeededRandom(seed);
  const workdir = await mkdtemp(join(tmpdir(), "strata-stress-"));
  const storage = new ComparingStorage(join(workdir, path), random);
  const server = new ShimServer({
    socketPath: join(workdir, "s"),
    logger: createLogger("test", "silent"),
    handlers: {
      stat: async (file) =>
        storagePath(file) === path && stored > 0 ? stored * PAGE_BYTES : undefined,
      readPages: async (_file, blkno, count) => {
        await sleep(random.int(answerMs));
        return storage.read(blkno, count);
      },
      comparePages: (_file, blkno, asked) => storage.compare(blkno, asked),
      listDirectory: async () => [],
      prefetch: () => undefined,
      walWritten: () => undefined,
      flushWal: () => Promise.resolve(),
    },
  });
  try {
    const program = join(workdir, "claim_stress");
    const built = spawnSync("cc", ["-O1", "-Wall", "-Werror", "-o", program, SOURCE, "-ldl"]);
    assert.equal(built.status, 0, String(built.stderr));
    mkdirSync(join(workdir, "base", "5"), { recursive: true });
    await server.listen();
    const countersPath = join(workdir, "counters");
    makeCacheCounters(countersPath);
    const args = [path, blocks, 8, operations, seed, passes, writes].map(String);
    const child = spawn(program, args, {
      env: {
        ...shimEnvironment({
          shimPath: shim,
          dataDirectory: workdir,
          socketPath: join(workdir, "s"),
          wal: "quorum",
          walSegmentSize: 1 << 24,
          versionDirectory: "PG_17_1",
          cacheCountersPath: countersPath,
          ...(limitBlocks === undefined ? {} : { localCacheBytes: limitBlocks * PAGE_BYTES }),
        }),
        ...loaderEnvironment(shim),
        STRATA_SHIM_PROGRAM: "claim_stress",
        STRESS_DIR: workdir,
      },
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk) => {
      stdout += String(chunk);
    });
    child.stderr.on("data", (chunk) => {
      stderr += String(chunk);
    });
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    const storedBytes = statSync(join(workdir, path)).blocks * 512;
    return { code, stdout, stderr, usage: readCacheUsage(countersPath), storedBytes };
  } finally {
    await server.close();
    rmSync(workdir, { recursive: true, force: true });
  }
}

/** Who gets between whom is chance: what the stress says of a broken shim in the first of a few runs that sees it. */
async function seen(shim: string, load: Load): Promise<string> {
  for (let seed = 1; seed <= 8; seed++) {
    const { code, stderr } = await stress(shim, seed, load);
    if (code !== 0) {
      assert.equal(code, 1, stderr);
      return stderr;
    }
  }
  assert.fail("not seen in eight runs");
}

const compiler = spawnSync("cc", ["--version"]).status === 0;
const skip = compiler ? false : "no C compiler";

test("claims: no write is lost and no zero is read, whatever runs at once", { skip }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const shim = findShim(directory);
    for (const seed of [1, 2]) {
      const { code, stdout, stderr } = await stress(shim, seed);
      assert.equal(code, 0, `seed ${seed}: ${stderr}`);
      assert.ok(Number(stdout) > 50, `only ${stdout} waits: the test does not test`);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});

/** Faults put into the shim, each of which the stress must see. */
const CANARIES: readonly { name: string; text: string; by: string }[] = [
  {
    name: "a writer that does not claim",
    text: "    return claim(file, block, 1, WRITING) == 1;",
    by: "    return true;",
  },
  {
    name: "a partial write that does not fetch the rest",
    text: "bool first = at % BLOCK != 0,",
    by: "bool first = false,",
  },
  {
    name: "a reader that does not wait for another's fill",
    text: "      if (!wait_block(file, from)) {\n        return give_up();\n      }\n      continue;",
    by: "      from++;\n      continue;",
  },
  {
    name: "a fill that writes nothing",
    text: "result = pwrite_all(target, pages, (size_t)count * BLOCK, (off_t)block * BLOCK);",
    by: "result = 0;",
  },
  {
    name: "a truncation that forgets no blocks",
    text: "u32 old = used_end(file), now = load(&file->nremote);",
    by: "u32 old = 0, now = 0;",
  },
];

for (const { name, text, by } of CANARIES) {
  test(`claims: the stress sees ${name}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-canary-"));
    try {
      const shim = brokenShim(directory, [text, by]);
      const stderr = await seen(shim, ONE_PASS);
      assert.match(
        stderr,
        /claim_stress: (zeros|lost write|foreign bytes|torn sector|resurrected)/,
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

/** No rule is broken: a process stays longer where another one may get between. */
const SLOWLY: readonly (readonly [text: string, by: string])[] = [
  [
    "    got = syscall(SYS_pread64, fd, into, n, at);",
    "    pause_ms(at / BLOCK % 4 == 0);\n    got = syscall(SYS_pread64, fd, into, n, at);",
  ],
  [
    "    got = syscall(SYS_preadv, fd, parts, (long)count, at, 0L);",
    "    pause_ms(at / BLOCK % 4 == 0);\n    got = syscall(SYS_preadv, fd, parts, (long)count, at, 0L);",
  ],
  [
    "    int result = claim_all_to_write(",
    "    pause_ms(n % BLOCK != 0 ? 30 : 1);\n    int result = claim_all_to_write(",
  ],
];

for (const how of ["as it is", "slowed where others may get between"]) {
  test(`cache: blocks come and go under eight processes, and all that is read is right (${how})`, {
    skip,
  }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
    try {
      const isSlow = how !== "as it is";
      const shim = isSlow ? brokenShim(directory, ...SLOWLY) : findShim(directory);
      const { code, stderr, usage, storedBytes } = await stress(shim, isSlow ? 2 : 1, LIMITED);
      assert.equal(code, 0, stderr);
      assert.ok(usage !== undefined);
      const { cleanBytes, keptBytes, evictedBytes, fetchedAgainBytes, repeatedReads } = usage;
      const allBytes = LIMITED.blocks * PAGE_BYTES;
      assert.ok(fetchedAgainBytes > 5 * allBytes, `the test does not test: ${evictedBytes}`);
      assert.ok(fetchedAgainBytes <= evictedBytes, `${fetchedAgainBytes} of ${evictedBytes}`);
      assert.ok(!isSlow || repeatedReads > 10, `only ${repeatedReads} reads met an eviction`);
      // At the end one process alone has read all. Written blocks count; an eighth is for others anyway.
      const limitBytes = LIMITED.limitBlocks! * PAGE_BYTES;
      const roomBytes = Math.max(limitBytes - keptBytes, limitBytes / 8);
      assert.ok(cleanBytes <= roomBytes + 32 * PAGE_BYTES, `${cleanBytes} beside ${keptBytes}`);
      // Blocks that were cut off and written anew are Postgres's own, and not counted.
      const ownBytes = (LIMITED.blocks / 64 + 1) * PAGE_BYTES;
      const counted = cleanBytes + keptBytes;
      assert.ok(
        storedBytes >= counted && storedBytes <= counted + ownBytes + 64 * 1024,
        `${storedBytes} on the disk, counted ${counted}`,
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

test("cache: a map of a relation is never given back", { skip }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const load = { ...LIMITED, operations: 100, path: `${PATH}_vm` };
    const { code, stderr, usage } = await stress(findShim(directory), 1, load);
    assert.equal(code, 0, stderr);
    assert.deepEqual([usage?.cleanBytes, usage?.evictedBytes], [0, 0]);
    assert.ok(usage!.keptBytes > 1000 * PAGE_BYTES);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

const CACHE_CANARIES: readonly { name: string; text: string; by: string }[] = [
  {
    name: "a reader that does not look whether what it read was given back",
    text: "if (evictions_of(file, at, n) == evictions) {",
    by: "if (true) {",
  },
  {
    name: "an eviction that raises no count",
    text: "add(evictions_at(file, block), 1);",
    by: "add(evictions_at(file, block), 0);",
  },
  {
    name: "a writer that leaves its block to be given back",
    text: "if ((state == CUT && file->added == NULL) || (state == PRESENT && !file->evictable)) {",
    by: "if ((state == CUT && file->added == NULL) || state == CLEAN || (state == PRESENT && !file->evictable)) {",
  },
  {
    name: "a partial write whose rest is given back before it",
    text: "if (state == ABSENT && ((first && block == from) || (last && block == to - 1))) {",
    by: "if (false) {",
  },
  {
    name: "a hand that takes what was written",
    text: "static bool take(struct file *file, u32 block) {\n",
    by: "static bool take(struct file *file, u32 block) {\n  if (swap_if(state_of(file, block), PRESENT, EVICTING)) {\n    return true;\n  }\n",
  },
];

for (const { name, text, by } of CACHE_CANARIES) {
  test(`cache: the stress sees ${name}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-canary-"));
    try {
      const shim = brokenShim(directory, ...SLOWLY, [text, by]);
      const stderr = await seen(shim, LIMITED);
      assert.match(stderr, /claim_stress: (zeros|lost write|foreign bytes|torn|short write)/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

/** As SLOWLY, where blocks are compared and given back. */
const WRITTEN_SLOWLY = [
  ...SLOWLY,
  [
    "  ssize_t done = count < 0 ? sys_pwrite(fd, data, n, at)",
    "  pause_ms(file != NULL && at / BLOCK % 2 == 0 ? 4 : 0);\n  ssize_t done = count < 0 ? sys_pwrite(fd, data, n, at)",
  ],
] as const;

for (const { name, storedBlocks } of [
  { name: "", storedBlocks: 3000 },
  { name: ", also what was added", storedBlocks: 1000 },
  { name: ", also of a file that was made here", storedBlocks: 0 },
]) {
  test(`cache: what was written goes once storage has it, under eight processes, and all that is read is right${name}`, {
    skip,
  }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
    try {
      const shim = brokenShim(directory, ...WRITTEN_SLOWLY);
      const { code, stderr, usage, storedBytes } = await stress(shim, 3, {
        ...REWRITTEN,
        storedBlocks,
      });
      assert.equal(code, 0, stderr);
      const { writtenEvictedBytes, unlikeComparisons, keptBytes, cleanBytes } = usage!;
      const allBytes = REWRITTEN.blocks * PAGE_BYTES;
      assert.ok(writtenEvictedBytes > allBytes / 2, `only ${writtenEvictedBytes} were given back`);
      assert.ok(unlikeComparisons > 50, `${unlikeComparisons}: the test does not test`);
      const limitBytes = REWRITTEN.limitBlocks! * PAGE_BYTES;
      assert.ok(keptBytes < 2 * limitBytes, `${keptBytes} were kept`);
      const ownBytes = (REWRITTEN.blocks / 64 + 1) * PAGE_BYTES;
      const counted = cleanBytes + keptBytes;
      assert.ok(
        storedBytes >= counted && storedBytes <= counted + ownBytes + 64 * 1024,
        `${storedBytes} on the disk, counted ${counted}`,
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

const WRITTEN_CANARIES: readonly { name: string; text: string; by: string }[] = [
  {
    name: "a writer that leaves its block to who compares it",
    text: "if ((state == CUT && file->added == NULL) || (state == PRESENT && !file->evictable)) {",
    by: "if ((state == CUT && file->added == NULL) || state == COMPARING) {",
  },
  {
    name: "a writer that does not claim what is there",
    text: "if ((state == CUT && file->added == NULL) || (state == PRESENT && !file->evictable)) {",
    by: "if ((state == CUT && file->added == NULL) || state == PRESENT) {",
  },
  {
    name: "a block that goes though it was written while it was compared",
    text: "swap_if(state_of(file, first + end), COMPARING, EVICTING)) {",
    by: "(store(state_of(file, first + end), EVICTING), true)) {",
  },
  {
    name: "a block that goes though storage has it otherwise",
    text: "(claimed & same) >> end & 1",
    by: "claimed >> end & 1",
  },
];

for (const { name, text, by } of WRITTEN_CANARIES) {
  test(`cache: the stress sees ${name}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-canary-"));
    try {
      const shim = brokenShim(directory, ...WRITTEN_SLOWLY, [text, by]);
      const stderr = await seen(shim, REWRITTEN);
      assert.match(stderr, /claim_stress: (zeros|lost write|foreign bytes|torn|short write)/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}
