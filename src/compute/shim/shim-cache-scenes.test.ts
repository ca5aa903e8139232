// What becomes of blocks that are given back to the disk when another process comes to them at that moment.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { CAN_STOP, type ShimChange, stopAt } from "../../../testing/compute/broken-shim.ts";
import { NO_COMPILER as skip } from "../../../testing/compute/shim-program.ts";
import {
  playScene,
  SCENE_BLOCKS,
  SCENE_PATH,
  type Scene,
  withBrokenShim,
} from "../../../testing/compute/shim-scenes.ts";
import { PD_FLAGS } from "../../postgres/page.ts";
import type { CacheUsage } from "./cache-counters.ts";
import { findShim } from "./shim-loader.ts";

const PAGE_BYTES = 8192;
const workdir = mkdtempSync(join(tmpdir(), "strata-shim-"));
after(() => rmSync(workdir, { recursive: true }));

/** The hand takes what it comes to first. */
const TAKES_ALL: readonly ShimChange[] = [
  ["#define USED_ONCE 1", "#define USED_ONCE 0"],
  ["#define MOST_USED 2", "#define MOST_USED 0"],
];

const LOST = /a block that was written is lost/;
const NOT_STORED = /not what the agent has/;
const DIED = /the child did not end well/;
const NO_CLAIM = "if ((state == CUT || state == PRESENT) && !file->evictable) {";
const TAKEN_ANYWAY: ShimChange = [
  "  if (!swap_if(state_of(file, block), COMPARING, CLEAN)) {",
  "  store(state_of(file, block), CLEAN);\n  if (false) {",
];
const BEFORE_READ = "    got = syscall(SYS_pread64, fd, into, n, at);";
const BEFORE_PUNCH = "  do {\n    result = syscall(SYS_fallocate,";
const BEFORE_MAKING =
  "    int made = (flags & O_CREAT) ? create_tracked(key, path, flags, mode) : 0;";
const BEFORE_WRITE = "  ssize_t done = count < 0 ? sys_pwrite(fd, data, n, at)";

/** A page with one tuple, 64 bytes before its end, and `specialBytes` of an index's own. */
function pageWithTuple(specialBytes: number): Buffer {
  const page = Buffer.alloc(PAGE_BYTES);
  const tuple = PAGE_BYTES - 64;
  page.writeUInt32LE(7, 4); // pd_lsn
  page.writeUInt16LE(28, 12);
  page.writeUInt16LE(tuple, 14);
  page.writeUInt16LE(PAGE_BYTES - specialBytes, 16);
  page.writeUInt16LE(PAGE_BYTES | 4, 18);
  page.writeUInt32LE(((40 << 17) | (1 << 15) | tuple) >>> 0, 24);
  page.writeUInt16LE(0x0802, tuple + 20); // HEAP_XMAX_INVALID, HEAP_HASVARWIDTH
  return page;
}

/** bufpage.h */
const PD_PAGE_FULL = 0x0002;

/** The last block is an index's. */
const tuplePage = (blkno: number): Buffer => pageWithTuple(blkno === SCENE_BLOCKS - 1 ? 8 : 0);

const SCENES: readonly (Scene & {
  readonly claim: string;
  /** A process stops before it. */
  readonly stop?: string;
  readonly page?: typeof tuplePage;
  readonly usage: Partial<CacheUsage>;
  /** Each a shim with one rule broken, and what the scene says of it. */
  readonly canaries: readonly (readonly [canary: string, change: ShimChange, says: RegExp])[];
})[] = [
  {
    scene: "evict-written",
    claim: "what was written stays, and counts for the limit",
    usage: { keptBytes: PAGE_BYTES, cleanBytes: 4 * PAGE_BYTES },
    canaries: [
      [
        "a hand that takes what was written",
        [
          "static bool take(struct file *file, u32 block) {\n",
          "static bool take(struct file *file, u32 block) {\n  if (swap_if(state_of(file, block), PRESENT, EVICTING)) {\n    return true;\n  }\n",
        ],
        LOST,
      ],
    ],
  },
  {
    scene: "evict-map",
    path: `${SCENE_PATH}_vm`,
    claim: "a map of a relation is never given back",
    usage: { cleanBytes: 0, evictedBytes: 0, keptBytes: SCENE_BLOCKS * PAGE_BYTES },
    canaries: [],
  },
  {
    scene: "evict-read",
    claim: "a reader whose block goes reads again",
    stop: BEFORE_READ,
    usage: { repeatedReads: 1 },
    canaries: [
      [
        "a reader that does not look whether what it read was given back",
        ["if (evictions_of(file, at, n) == evictions) {", "if (true) {"],
        NOT_STORED,
      ],
      [
        "an eviction that raises no count",
        ["add(evictions_at(file, block), 1);", "add(evictions_at(file, block), 0);"],
        NOT_STORED,
      ],
      [
        "a read that is not repeated",
        [
          "    got = syscall(SYS_pread64, fd, into, n, at);\n  } while (evicted_since(fd, at, n, evictions));",
          "    got = syscall(SYS_pread64, fd, into, n, at);\n  } while (false);",
        ],
        NOT_STORED,
      ],
    ],
  },
  {
    scene: "evict-read-vector",
    claim: "so does a reader into several parts",
    stop: "    got = syscall(SYS_preadv, fd, parts, (long)count, at, 0L);",
    usage: { repeatedReads: 1 },
    canaries: [
      [
        "a read into several parts that is not repeated",
        [
          "(long)count, at, 0L);\n  } while (evicted_since(fd, at, n, evictions));",
          "(long)count, at, 0L);\n  } while (false);",
        ],
        NOT_STORED,
      ],
    ],
  },
  {
    scene: "evict-copy",
    claim: "so does who copies it",
    stop: "    off64_t in_here = from, out_here = to;",
    usage: { repeatedReads: 1 },
    canaries: [
      [
        "a copy that is not repeated",
        ["if (!evicted_since(in, from, step, evictions)) {", "if (true) {"],
        NOT_STORED,
      ],
    ],
  },
  {
    scene: "evict-write",
    claim: "a block that is being written does not go",
    stop: BEFORE_WRITE,
    usage: { keptBytes: PAGE_BYTES },
    canaries: [
      [
        "a writer that leaves its block to be given back",
        [
          NO_CLAIM,
          "if (state == CLEAN || ((state == CUT || state == PRESENT) && !file->evictable)) {",
        ],
        LOST,
      ],
    ],
  },
  {
    scene: "evict-write-part",
    claim: "a block that goes before a part of it is written is fetched again",
    stop: "    int result = claim_all_to_write(",
    usage: { keptBytes: PAGE_BYTES, fetchedAgainBytes: PAGE_BYTES },
    canaries: [
      [
        "a partial write whose rest is given back before it",
        [
          "if (state == ABSENT && ((first && block == from) || (last && block == to - 1))) {",
          "if (false) {",
        ],
        DIED,
      ],
    ],
  },
  {
    scene: "evict-twice",
    claim: "one process at a time makes room",
    stop: BEFORE_PUNCH,
    usage: {},
    canaries: [
      [
        "two that make room at once",
        ["bool mine = swap_if(&region->evicting, 0, 1);", "bool mine = true;"],
        DIED,
      ],
    ],
  },
  {
    scene: "evict-truncate",
    claim: "a truncation waits for a block that is being given back",
    stop: BEFORE_PUNCH,
    usage: { keptBytes: SCENE_BLOCKS * PAGE_BYTES },
    canaries: [
      [
        "a truncation that does not wait for a block that is being given back",
        [" || state == EVICTING;", ";"],
        LOST,
      ],
    ],
  },
  {
    scene: "evict-hints-truncate",
    claim: "a truncation waits for a write of hints",
    stop: "    done = sys_pwrite(fd, now, BLOCK, at);",
    page: tuplePage,
    usage: { cleanBytes: 0, keptBytes: SCENE_BLOCKS * PAGE_BYTES },
    canaries: [
      [
        "a truncation that does not wait for a write of hints",
        [" || state == HINTING || state == EVICTING;", " || state == EVICTING;"],
        LOST,
      ],
    ],
  },
  {
    scene: "evict-remove",
    claim: "a file that was removed and made anew loses nothing",
    stop: "  int fd = sys_open(path, O_WRONLY | O_CLOEXEC, 0);\n  if (fd < 0) {\n    return -1;",
    usage: { evictedBytes: 0, keptBytes: 0 },
    canaries: [
      [
        "a file that is taken for the one whose name it has",
        [
          "if (load(&file->slot->state) != SLOT_LAZY) {\n    sys_close(fd);",
          "if (false) {\n    sys_close(fd);",
        ],
        LOST,
      ],
    ],
  },
  {
    scene: "compare-write",
    holds: "compare",
    claim: "a block that is written while it is compared stays",
    usage: { writtenEvictedBytes: 2 * PAGE_BYTES },
    canaries: [
      [
        "a writer that leaves its block to who compares it",
        [NO_CLAIM, "if (state == COMPARING || (state == CUT && !file->evictable)) {"],
        LOST,
      ],
      ["a block that goes though it was written while it was compared", TAKEN_ANYWAY, LOST],
    ],
  },
  {
    scene: "compare-writing",
    stop: BEFORE_WRITE,
    claim: "a block that is being written again is not compared",
    usage: { writtenEvictedBytes: 2 * PAGE_BYTES },
    canaries: [
      [
        "a writer that does not claim what is there",
        [NO_CLAIM, "if (state == PRESENT || (state == CUT && !file->evictable)) {"],
        LOST,
      ],
    ],
  },
  {
    scene: "compare-unlike",
    unlike: 1,
    claim: "a block that storage has otherwise stays",
    usage: { writtenEvictedBytes: 2 * PAGE_BYTES, unlikeComparisons: 1 },
    canaries: [
      [
        "a block that goes though storage has it otherwise",
        ["if ((claimed & same) >> i & 1) {", "if (claimed >> i & 1) {"],
        LOST,
      ],
    ],
  },
  {
    scene: "compare-regrown",
    claim:
      "what was cut off and is written anew goes, too, where the file gets no longer than it was",
    usage: {},
    canaries: [],
  },
  {
    scene: "compare-read-across",
    stop: BEFORE_READ,
    // Block 7, which is read with what goes.
    unlike: 1 << 7,
    claim:
      "a reader of the last block that storage has, and of the first one that was added, which goes, reads again",
    usage: { repeatedReads: 1 },
    canaries: [
      [
        "a reader that does not look at what follows on the blocks that storage has",
        ["    from = stored && from > file->capacity ? file->capacity : from;\n", ""],
        DIED,
      ],
    ],
  },
  {
    scene: "compare-read-added",
    stop: BEFORE_READ,
    unlike: 1 << 7,
    claim: "so does a reader of blocks that were added, of which the last one goes",
    usage: { repeatedReads: 1 },
    canaries: [
      [
        "a reader that looks for counts of what was added where those of storage's would be",
        ["    u32 first = stored ? 0 : file->capacity;", "    u32 first = 0;"],
        DIED,
      ],
    ],
  },
  {
    scene: "evict-added",
    claim: "what a replica adds, where no process compares, takes no room from what is read",
    usage: { keptBytes: 0, cleanBytes: 5 * PAGE_BYTES, evictedBytes: PAGE_BYTES },
    canaries: [
      [
        "a file of a replica's that is taken for one whose blocks may go",
        ["  if (!wal_hook || add(&region->tracked_new, 1)", "  if (add(&region->tracked_new, 1)"],
        /a file that was made and removed is no spare/,
      ],
    ],
  },
  {
    scene: "compare-killed",
    holds: "compare",
    claim: "the process that compares may be killed: another one goes on",
    usage: {},
    canaries: [],
  },
  {
    scene: "compare-idle",
    claim: "what was written goes, too, while nobody needs room",
    usage: {},
    canaries: [
      [
        "room that is made by who brings a block alone",
        ["  make_room_when_idle();\n", ""],
        /nothing is given back/,
      ],
    ],
  },
  {
    scene: "compare-files",
    claim: "the process that compares has no file of the postmaster's open",
    usage: {},
    canaries: [],
  },
  {
    scene: "compare-full",
    claim: "blocks that were to be added to a file, and had no room, do not count",
    usage: { keptBytes: 2 * PAGE_BYTES },
    canaries: [
      [
        "blocks behind the end of a file that count",
        ["    } else if ((u64)block * BLOCK < end) {", "    } else if (true) {"],
        /blocks that were not added count/,
      ],
    ],
  },
  {
    scene: "compare-made",
    stop: BEFORE_MAKING,
    claim: "who opens a file that is made at that moment reads what went of it",
    usage: {},
    canaries: [
      [
        "a file that is opened as it is made and taken for a plain one",
        [
          "    int plain = known_slot(key) != NULL ? -1 : sys_open(path, flags, mode);\n",
          "    int plain = sys_open(path, flags, mode);\n    if (plain >= 0) {\n      return plain;\n    }\n",
        ],
        DIED,
      ],
    ],
  },
  {
    scene: "compare-made-twice",
    stop: BEFORE_MAKING,
    claim: "of two that make one file at once, and nobody else, one has made it",
    usage: {},
    canaries: [
      [
        "a file that two have made",
        ["made ? flags & ~O_EXCL : flags, mode, file)", "flags & ~O_EXCL, mode, file)"],
        /two have made one file/,
      ],
    ],
  },
  {
    scene: "compare-ended",
    // Nothing of what is written goes meanwhile.
    unlike: 0xffffffff,
    stop: BEFORE_WRITE,
    claim: "blocks that a process was about to add when it ended do not count",
    usage: {},
    canaries: [
      [
        "blocks that count though nobody has added them",
        ["    if (block < held_blocks.from_cut) {", "    if (block < held_blocks.to) {"],
        /blocks that were not added count/,
      ],
    ],
  },
];

/** What was counted at the end of a scene, of what it says about that. */
function counted(usage: CacheUsage | undefined, said: Partial<CacheUsage>): Partial<CacheUsage> {
  return Object.fromEntries(
    Object.keys(said).map((name) => [name, usage?.[name as keyof CacheUsage]]),
  );
}

for (const { claim, stop, page, usage, canaries, ...scene } of SCENES) {
  const changes = [...TAKES_ALL, CAN_STOP, ...(stop === undefined ? [] : [stopAt(stop)])];
  test(`cache: ${claim}`, { skip }, () =>
    withBrokenShim(changes, async (shim) => {
      const played = await playScene(shim, scene, page);
      assert.equal(played.code, 0, played.stderr);
      assert.deepEqual(counted(played.usage, usage), usage);
    }),
  );

  for (const [canary, change, says] of canaries) {
    test(`cache: the scene sees ${canary}`, { skip }, () =>
      withBrokenShim([...changes, change], async (shim) => {
        const { code, stderr } = await playScene(shim, scene, page);
        assert.notEqual(code, 0);
        assert.match(stderr, says);
      }),
    );
  }
}

test("cache: only hint bits that are added to a table's page leave a block as storage has it", {
  skip,
}, async () => {
  const { code, stderr, usage } = await playScene(
    findShim(workdir),
    { scene: "evict-hints" },
    tuplePage,
  );
  assert.equal(code, 0, stderr);
  assert.equal(usage?.cleanBytes, PAGE_BYTES, "the block with a hint");
  assert.equal(usage.keptBytes, (SCENE_BLOCKS - 1) * PAGE_BYTES, "the others");
});

test("cache: so do those of its header, that there are rows to prune, or is no room", {
  skip,
}, async () => {
  const { code, stderr, usage } = await playScene(
    findShim(workdir),
    { scene: "evict-hints-header" },
    (blkno) => {
      const page = tuplePage(blkno);
      page[PD_FLAGS]! |= PD_PAGE_FULL;
      return page;
    },
  );
  assert.equal(code, 0, stderr);
  assert.equal(usage?.cleanBytes, 2 * PAGE_BYTES, "the blocks with a hint");
  assert.equal(usage.keptBytes, (SCENE_BLOCKS - 2) * PAGE_BYTES, "the others");
});

const FIRST_HOLE_FAILS = (error: string): ShimChange => [
  BEFORE_PUNCH,
  `  static int holes;\n  do {\n    result = holes++ == 0 ? (errno = ${error}, -1) : syscall(SYS_fallocate,`,
];
const NO_LIMIT = /cannot make holes in files, so the cache has no limit/;

test("cache: a disk that has no space for a hole is no file system without holes", { skip }, () =>
  withBrokenShim([...TAKES_ALL, FIRST_HOLE_FAILS("ENOSPC")], async (shim) => {
    const { code, stderr } = await playScene(shim, { scene: "evict-full" });
    assert.equal(code, 0, stderr);
    assert.doesNotMatch(stderr, NO_LIMIT);
  }),
);

test("cache: where there are no holes in files nothing is given back any more", { skip }, () =>
  withBrokenShim([...TAKES_ALL, FIRST_HOLE_FAILS("EOPNOTSUPP")], async (shim) => {
    const { stderr } = await playScene(shim, { scene: "evict-full" });
    assert.match(stderr, NO_LIMIT);
    assert.match(stderr, /the file has all its blocks/);
  }),
);

test("cache: what a removed file had does not count", { skip }, async () => {
  const { code, stderr, usage } = await playScene(findShim(workdir), { scene: "evict-none" });
  assert.equal(code, 0, stderr);
  assert.deepEqual([usage?.cleanBytes, usage?.keptBytes, usage?.evictedBytes], [0, 0, 0]);
});

test(
  "cache: the process that compares has no file open where the kernel has no close_range either",
  {
    skip,
  },
  () =>
    withBrokenShim([["syscall(SYS_close_range, 3, UINT32_MAX, 0)", "-1"]], async (shim) => {
      const { code, stderr } = await playScene(shim, { scene: "compare-files" });
      assert.equal(code, 0, stderr);
    }),
);

test("cache: where no process can be made that compares, all stays and goes on, and it is tried again", {
  skip,
}, () => {
  const firstFails: ShimChange = [
    "  long pid = syscall(SYS_clone, 0, 0, 0, 0, 0);",
    "  static int tries;\n  long pid = tries++ == 0 ? -1 : syscall(SYS_clone, 0, 0, 0, 0, 0);",
  ];
  return withBrokenShim([...TAKES_ALL, firstFails], async (shim) => {
    const { code, stderr } = await playScene(shim, { scene: "compare-later" });
    assert.equal(code, 0, stderr);
    assert.match(stderr, /cannot start the process that asks whether storage has what was written/);
  });
});
