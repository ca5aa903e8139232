// Runs src/compute/shim/claim_stress.c, many processes against one file, under a shim; and shims with a rule broken, until it sees that.

import assert from "node:assert/strict";
import { closeSync, mkdirSync, mkdtempSync, openSync, readSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "../../src/base/clock.ts";
import { createLogger } from "../../src/base/log.ts";
import { SeededRandom } from "../../src/base/random.ts";
import {
  type CacheUsage,
  makeCacheCounters,
  readCacheUsage,
} from "../../src/compute/shim/cache-counters.ts";
import { ShimServer } from "../../src/compute/shim/shim-server.ts";
import { storagePath } from "../../src/postgres/relation-path.ts";
import { brokenShim, type ShimChange, type ShimSubject } from "./broken-shim.ts";
import { runUnderShim } from "./shim-program.ts";

const PROCESSES = 8;
export const STRESS_PAGE_BYTES = 8192;
const SECTOR_BYTES = 512;
const PATH = "base/5/100";

export interface StressLoad {
  readonly blocks: number;
  /** Of each of eight processes. */
  readonly operations: number;
  /** How often they go through the file. */
  readonly passes: number;
  /** One operation of so many is a write. */
  readonly writes: number;
  /** The agent answers within so many milliseconds. */
  readonly answerMs: number;
  /** Of the cache; absent: there is none. */
  readonly limitBlocks?: number;
  /** Of the blocks, those that the agent has: absent, all. The others are added; with 0 the file is made. */
  readonly storedBlocks?: number;
}

export const ONE_PASS: StressLoad = {
  ...{ blocks: 8000, operations: 2000, passes: 1, writes: 3, answerMs: 3 },
};
/** A limit of the cache far below what is read, so that blocks come and go. */
export const LIMITED = {
  ...{ blocks: 3000, operations: 1500, passes: 5, writes: 200, answerMs: 1 },
  limitBlocks: 300,
} satisfies StressLoad;
/** And far below what is written. */
export const REWRITTEN = {
  ...LIMITED,
  ...{ operations: 500, writes: 4, limitBlocks: 200 },
} satisfies StressLoad;

/** No rule is broken: a process stays longer where another one may get between. */
export const SLOWLY: readonly ShimChange[] = [
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

/** As SLOWLY, where blocks are compared and given back. */
export const WRITTEN_SLOWLY: readonly ShimChange[] = [
  ...SLOWLY,
  [
    "  ssize_t done = count < 0 ? sys_pwrite(fd, data, n, at)",
    "  pause_ms(file != NULL && at / BLOCK % 2 == 0 ? 4 : 0);\n  ssize_t done = count < 0 ? sys_pwrite(fd, data, n, at)",
  ],
];

export interface Stressed {
  readonly code: number | null;
  readonly stderr: string;
  /** How often a process waited for another one's block. */
  readonly waits: number;
  readonly usage: CacheUsage | undefined;
  /** What is on the disk of the file. */
  readonly storedBytes: number;
}

/** Version 1 of blocks, as claim_stress.c stamps them. */
function stampedPages(blkno: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count * STRESS_PAGE_BYTES);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    const block = blkno + Math.floor(at / STRESS_PAGE_BYTES);
    const index = (at % STRESS_PAGE_BYTES) / SECTOR_BYTES;
    bytes.fill(1, at, at + SECTOR_BYTES);
    view.setBigUint64(at, 0x73747261746121n, true);
    view.setUint32(at + 8, block, true);
    view.setUint32(at + 12, index, true);
    view.setUint32(at + 16, 1, true);
    view.setUint32(at + 20, block * 31 + index * 7 + 1, true);
  }
  return bytes;
}

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
      bytes.set(page ?? [], i * STRESS_PAGE_BYTES);
    }
    return bytes;
  }

  async compare(blkno: number, blocks: number): Promise<number> {
    let same = 0;
    const fd = openSync(this.#path, "r");
    for (let i = 0; i < 32; i++) {
      if (((blocks >>> i) & 1) === 1 && this.#random.int(4) > 0) {
        const page = new Uint8Array(STRESS_PAGE_BYTES);
        readSync(fd, page, 0, STRESS_PAGE_BYTES, (blkno + i) * STRESS_PAGE_BYTES);
        this.#written.set(blkno + i, page);
        same |= 1 << i;
      }
    }
    closeSync(fd);
    await sleep(this.#random.int(3));
    return same >>> 0;
  }
}

async function run(subject: ShimSubject, seed: number, load: StressLoad, workdir: string) {
  const { blocks, operations, passes, writes, limitBlocks } = load;
  const args = [PATH, blocks, PROCESSES, operations, seed, passes, writes].map(String);
  const limit = limitBlocks === undefined ? undefined : limitBlocks * STRESS_PAGE_BYTES;
  const options = {
    wal: "quorum" as const,
    cacheCountersPath: join(workdir, "counters"),
    ...(limit === undefined ? {} : { localCacheBytes: limit }),
  };
  const environment = { STRESS_DIR: workdir };
  const { code, stdout, stderr } = await runUnderShim(
    subject,
    "claim_stress",
    args,
    workdir,
    options,
    environment,
  );
  return { code, stderr, waits: Number(stdout) };
}

/** Runs the stress; what it printed and whether it was content. */
export async function stress(
  subject: ShimSubject,
  seed: number,
  load: StressLoad,
): Promise<Stressed> {
  const stored = load.storedBlocks ?? load.blocks;
  const random = new SeededRandom(seed);
  const workdir = mkdtempSync(join(tmpdir(), "strata-stress-"));
  const storage = new ComparingStorage(join(workdir, PATH), random);
  const server = new ShimServer({
    socketPath: join(workdir, "s"),
    logger: createLogger("test", "silent"),
    handlers: {
      stat: async (file) =>
        storagePath(file) === PATH && stored > 0 ? stored * STRESS_PAGE_BYTES : undefined,
      readPages: async (_file, blkno, count) => {
        await sleep(random.int(load.answerMs));
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
    mkdirSync(join(workdir, "base", "5"), { recursive: true });
    makeCacheCounters(join(workdir, "counters"));
    await server.listen();
    const ended = await run(subject, seed, load, workdir);
    const storedBytes = statSync(join(workdir, PATH)).blocks * 512;
    return { ...ended, usage: readCacheUsage(join(workdir, "counters")), storedBytes };
  } finally {
    await server.close();
    rmSync(workdir, { recursive: true, force: true });
  }
}

/** That the shim's counts are what is on the disk, but for blocks that Postgres adds itself. */
export function expectCountedRight({ usage, storedBytes }: Stressed, load: StressLoad): void {
  const counted = usage!.cleanBytes + usage!.keptBytes;
  // The first 64 of what was added.
  const own = (load.storedBlocks ?? load.blocks) < load.blocks ? 64 : 0;
  const ownBytes = own * STRESS_PAGE_BYTES;
  assert.ok(
    storedBytes >= counted && storedBytes <= counted + ownBytes + 64 * 1024,
    `${storedBytes} on the disk, counted ${counted}`,
  );
}

/** A shim with one rule broken, which the stress must see. */
export interface StressCanary {
  readonly name: string;
  readonly change: ShimChange;
}

/** Races of memory, which the thread sanitizer must see. */
export const RACES: readonly StressCanary[] = [
  {
    name: "states of blocks that are read as others change them",
    change: [
      "u64 eight = load((const eight_states *)state);",
      "u64 eight = *(const eight_states *)state;",
    ],
  },
  {
    name: "two that make room at once",
    change: ["bool mine = swap_if(&region->evicting, 0, 1);", "bool mine = true;"],
  },
];

export interface CanaryOptions {
  readonly load: StressLoad;
  /** The first run's; each further one has the next. */
  readonly seed: number;
  /** Runs, after which a canary that was not seen is an error. */
  readonly mostRuns: number;
  /** Told of each that was seen: in which run, and as what. */
  readonly onSeen: (canary: StressCanary, runs: number, stderr: string) => void;
}

/** That the stress sees each canary in one of the first runs under it, which are `slowly` as well: who gets between whom is chance. */
export async function eachIsSeen(
  canaries: readonly StressCanary[],
  slowly: readonly ShimChange[],
  { load, seed, mostRuns, onSeen }: CanaryOptions,
): Promise<void> {
  for (const canary of canaries) {
    const directory = mkdtempSync(join(tmpdir(), "strata-canary-"));
    try {
      const shim = brokenShim(directory, ...slowly, canary.change);
      for (let runs = 1; ; runs++) {
        assert.ok(
          runs <= mostRuns,
          `${canary.name}: not seen in ${mostRuns} runs from seed ${seed}`,
        );
        const { code, stderr } = await stress(shim, seed + runs - 1, load);
        if (code === 0) {
          continue;
        }
        assert.equal(code, 1, stderr);
        assert.match(
          stderr,
          /claim_stress: (zeros|lost write|foreign bytes|torn|resurrected|short write)/,
        );
        onSeen(canary, runs, stderr.trim());
        break;
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  }
}

const NO_CLAIM = "if ((state == CUT || state == PRESENT) && !file->evictable) {";
const TAKEN_ANYWAY: ShimChange = [
  "  if (!swap_if(state_of(file, block), COMPARING, CLEAN)) {",
  "  store(state_of(file, block), CLEAN);\n  if (false) {",
];

/** By the loads that see them. */
export const STRESS_CANARIES: readonly {
  readonly load: StressLoad;
  readonly slowly: readonly ShimChange[];
  readonly canaries: readonly StressCanary[];
}[] = [
  {
    load: ONE_PASS,
    slowly: [],
    canaries: [
      {
        name: "a writer that does not claim",
        change: ["    return claim(file, block, 1, WRITING) == 1;", "    return true;"],
      },
      {
        name: "a partial write that does not fetch the rest",
        change: ["bool first = at % BLOCK != 0,", "bool first = false,"],
      },
      {
        name: "a reader that does not wait for another's fill",
        change: [
          "      if (!wait_block(file, from)) {\n        return give_up();\n      }\n      continue;",
          "      from++;\n      continue;",
        ],
      },
      {
        name: "a fill that writes nothing",
        change: [
          "result = pwrite_all(target, pages, (size_t)count * BLOCK, (off_t)block * BLOCK);",
          "result = 0;",
        ],
      },
      {
        name: "a truncation that forgets no blocks",
        change: ["u32 old = used_end(file), now = load(&file->nremote);", "u32 old = 0, now = 0;"],
      },
    ],
  },
  {
    load: LIMITED,
    slowly: SLOWLY,
    canaries: [
      {
        name: "a reader that does not look whether what it read was given back",
        change: ["if (evictions_of(file, at, n) == evictions) {", "if (true) {"],
      },
      {
        name: "an eviction that raises no count",
        change: ["add(evictions_at(file, block), 1);", "add(evictions_at(file, block), 0);"],
      },
      {
        name: "a writer that leaves its block to be given back",
        change: [
          NO_CLAIM,
          "if (state == CLEAN || ((state == CUT || state == PRESENT) && !file->evictable)) {",
        ],
      },
      {
        name: "a partial write whose rest is given back before it",
        change: [
          "if (state == ABSENT && ((first && block == from) || (last && block == to - 1))) {",
          "if (false) {",
        ],
      },
      {
        name: "a hand that takes what was written",
        change: [
          "static bool take(struct file *file, u32 block) {\n",
          "static bool take(struct file *file, u32 block) {\n  if (swap_if(state_of(file, block), PRESENT, EVICTING)) {\n    return true;\n  }\n",
        ],
      },
    ],
  },
  {
    load: REWRITTEN,
    slowly: WRITTEN_SLOWLY,
    canaries: [
      {
        name: "a writer that leaves its block to who compares it",
        change: [NO_CLAIM, "if (state == COMPARING || (state == CUT && !file->evictable)) {"],
      },
      {
        name: "a writer that does not claim what is there",
        change: [NO_CLAIM, "if (state == PRESENT || (state == CUT && !file->evictable)) {"],
      },
      {
        name: "a block that goes though it was written while it was compared",
        change: TAKEN_ANYWAY,
      },
      {
        name: "a block that goes though storage has it otherwise",
        change: ["if ((claimed & same) >> i & 1) {", "if (claimed >> i & 1) {"],
      },
    ],
  },
];
