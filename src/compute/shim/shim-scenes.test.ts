// What becomes of claims on blocks and paths when a write is cut short, or a process ends while it waits.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { brokenShim } from "../../../testing/compute/broken-shim.ts";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { loaderEnvironment } from "../../postgres/installation.ts";
import { type RelationPath, storagePath } from "../../postgres/relation-path.ts";
import { type CacheUsage, makeCacheCounters, readCacheUsage } from "./cache-counters.ts";
import { findShim, shimEnvironment } from "./shim-loader.ts";
import { type PlacedFile, ShimServer } from "./shim-server.ts";

const SOURCE = join(import.meta.dirname, "claim_scenes.c");
const PROGRAMS = mkdtempSync(join(tmpdir(), "strata-scenes-"));
const PROGRAM = join(PROGRAMS, "claim_scenes");
const PAGE_BYTES = 8192;
const PATH = "base/5/100";
const BLOCKS = 8;

interface Ended {
  readonly code: number | null;
  readonly stderr: string;
  readonly usage: CacheUsage | undefined;
  /** Files whose size was asked for. */
  readonly asked: readonly string[];
}

/** Of the scenes about a cache that has one; of the one in which nothing is given back. */
const LIMIT_BLOCKS = 4;
const WIDE_LIMIT_BLOCKS = 64;

type Scene =
  | "exit-reading"
  | "exit-listing"
  | "read-on-exit"
  | "short-write"
  | "short-write-continued"
  | "truncate"
  | "churn"
  | "forks"
  | "evict-truncate"
  | "evict-remove"
  | "evict-none"
  | "evict-hints"
  | "evict-hints-truncate";

/** Which question's first answer is late, and by how much. */
const HELD: Readonly<Record<Scene, { question: "list" | "read"; ms: number } | undefined>> = {
  "exit-reading": { question: "read", ms: Number.POSITIVE_INFINITY },
  "exit-listing": { question: "list", ms: Number.POSITIVE_INFINITY },
  "read-on-exit": { question: "read", ms: Number.POSITIVE_INFINITY },
  "short-write": undefined,
  "short-write-continued": undefined,
  truncate: { question: "read", ms: 500 },
  churn: undefined,
  forks: undefined,
  "evict-truncate": undefined,
  "evict-remove": undefined,
  "evict-none": undefined,
  "evict-hints": undefined,
  "evict-hints-truncate": undefined,
};

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

/** Plays a scene with an agent that has all blocks of the file; `placed` as it says them in its hello. */
async function play(
  shim: string,
  scene: Scene,
  placed: readonly PlacedFile[] = [],
): Promise<Ended> {
  const workdir = await mkdtemp(join(tmpdir(), "strata-scene-"));
  const asked: string[] = [];
  let held = HELD[scene];
  const answer = async (question: "list" | "read"): Promise<void> => {
    if (held?.question === question) {
      const { ms } = held;
      held = undefined;
      await (ms === Number.POSITIVE_INFINITY ? new Promise(() => undefined) : sleep(ms));
    }
  };
  const server = new ShimServer({
    socketPath: join(workdir, "s"),
    logger: createLogger("test", "silent"),
    placed: Promise.resolve(placed),
    handlers: {
      lacksRelation: async ({ relNumber }) => `base/5/${relNumber}` === `${PATH}1`,
      stat: async (file) => {
        asked.push(storagePath(file));
        const isStored = [PATH, `${PATH}.1`, `${PATH}9999`, `${PATH}2_fsm`, "base/6/100"].includes(
          storagePath(file),
        );
        return isStored ? BLOCKS * PAGE_BYTES : undefined;
      },
      readPages: async (_file, blkno, count) => {
        await answer("read");
        return Buffer.concat(
          Array.from({ length: count }, (_, i) =>
            scene.startsWith("evict-hints")
              ? pageWithTuple(blkno + i === BLOCKS - 1 ? 8 : 0)
              : Buffer.alloc(PAGE_BYTES, blkno + i + 1),
          ),
        );
      },
      listDirectory: async () => {
        await answer("list");
        return [];
      },
      prefetch: () => undefined,
      walWritten: () => undefined,
      flushWal: () => Promise.resolve(),
    },
  });
  try {
    await server.listen();
    return { ...(await run(shim, scene, workdir)), asked };
  } finally {
    await server.close();
    rmSync(workdir, { recursive: true, force: true });
  }
}

/** The program that plays the scenes, built once. */
function program(): string {
  if (!existsSync(PROGRAM)) {
    const built = spawnSync("cc", ["-O1", "-Wall", "-Werror", "-o", PROGRAM, SOURCE]);
    assert.equal(built.status, 0, String(built.stderr));
  }
  return PROGRAM;
}

/** Runs the program in `workdir`, where somebody listens at the socket `s`. */
async function run(shim: string, scene: Scene, workdir: string): Promise<Omit<Ended, "asked">> {
  for (const database of ["5", "6"]) {
    mkdirSync(join(workdir, "base", database), { recursive: true });
  }
  const cacheCountersPath = join(workdir, "counters");
  makeCacheCounters(cacheCountersPath);
  const limit = scene.startsWith("evict-hints") ? WIDE_LIMIT_BLOCKS : LIMIT_BLOCKS;
  const child = spawn(program(), [scene, PATH], {
    env: {
      ...shimEnvironment({
        shimPath: shim,
        dataDirectory: workdir,
        socketPath: join(workdir, "s"),
        wal: "none",
        walSegmentSize: 1 << 24,
        versionDirectory: "PG_17_1",
        cacheCountersPath,
        ...(scene.startsWith("evict") ? { localCacheBytes: limit * PAGE_BYTES } : {}),
      }),
      ...loaderEnvironment(shim),
      STRATA_SHIM_PROGRAM: "claim_scenes",
      SCENE_DIR: workdir,
    },
  });
  let stderr = "";
  child.stderr.on("data", (chunk) => {
    stderr += String(chunk);
  });
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, stderr, usage: readCacheUsage(cacheCountersPath) };
}

after(() => rmSync(PROGRAMS, { recursive: true }));

const skip = spawnSync("cc", ["--version"]).status === 0 ? false : "no C compiler";

const SCENES: readonly {
  readonly scene: Scene;
  readonly claim: string;
  readonly canary: string;
  readonly text: string;
  readonly by: string;
}[] = [
  {
    scene: "short-write",
    claim: "a write that the disk took a part of leaves the rest absent",
    canary: "a short write that marks all its blocks present",
    text: "if (((u64)block + 1) * BLOCK <= done && swap_if(",
    by: "if (done > (u64)held_blocks.from * BLOCK && swap_if(",
  },
  {
    scene: "short-write-continued",
    claim: "what goes on after a short write takes nothing of it away",
    canary: "a short write that tells of a part of a block",
    text: "    written = (ssize_t)((u64)last * BLOCK - (u64)at);\n",
    by: "",
  },
  {
    scene: "exit-reading",
    claim: "a process that exits out of a signal handler leaves no claim on a block",
    canary: "an exit that keeps claims on blocks",
    text: "void give_back_all(void) {\n  give_back_blocks();",
    by: "void give_back_all(void) {",
  },
  {
    scene: "exit-listing",
    claim: "a process that exits out of a signal handler leaves no claim on a path",
    canary: "an exit that keeps the lock of a path",
    text: "    settle(held_slots[held_slot_count].slot, held_slots[held_slot_count].was);\n  }",
    by: "  }",
  },
  {
    scene: "read-on-exit",
    claim: "a signal handler on its way to exit may read what it interrupted",
    canary: "a handler that waits for its own process's claim",
    text: "  if (talking || held_blocks.file != NULL || held_slot_count > expected_slots) {",
    by: "  if (false) {",
  },
  {
    scene: "truncate",
    claim: "a truncation waits for the fetch of a block that it cuts off",
    canary: "a truncation that does not wait",
    text: "wait_block(file, block); /* and look again */",
    by: "block++;",
  },
];

for (const { scene, claim, canary, text, by } of SCENES) {
  test(`claims: ${claim}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
    try {
      const { code, stderr } = await play(findShim(directory), scene);
      assert.equal(code, 0, stderr);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test(`claims: the scene sees ${canary}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-canary-"));
    try {
      const { code } = await play(brokenShim(directory, [text, by]), scene);
      assert.notEqual(code, 0);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

/** Each takes half a second where another process is to get between, and breaks no rule by that. */
const EVICTIONS: readonly {
  readonly scene: Scene;
  readonly claim: string;
  readonly slowly: readonly [text: string, by: string];
  readonly canary: string;
  readonly text: string;
  readonly by: string;
  readonly usage: Partial<CacheUsage>;
}[] = [
  {
    scene: "evict-truncate",
    claim: "a truncation waits for a block that is being given back",
    slowly: [
      "    result = syscall(SYS_fallocate,",
      "    pause_ms(500), result = syscall(SYS_fallocate,",
    ],
    canary: "a truncation that does not wait for a block that is being given back",
    text: " || state == EVICTING;",
    by: ";",
    usage: { keptBytes: 0 },
  },
  {
    scene: "evict-hints-truncate",
    claim: "a truncation waits for a write of hints",
    slowly: [
      "    done = sys_pwrite(fd, now, BLOCK, at);",
      "    pause_ms(500), done = sys_pwrite(fd, now, BLOCK, at);",
    ],
    canary: "a truncation that does not wait for a write of hints",
    text: " || state == HINTING || state == EVICTING;",
    by: " || state == EVICTING;",
    usage: { cleanBytes: 0, keptBytes: 0 },
  },
  {
    scene: "evict-remove",
    claim: "a file that was removed and made anew loses nothing",
    slowly: [
      "  int fd = sys_open(path, O_WRONLY",
      "  pause_ms(500);\n  int fd = sys_open(path, O_WRONLY",
    ],
    canary: "a file that is taken for the one whose name it has",
    text: 'load(&file->slot->state) != SLOT_LAZY || syscall(SYS_newfstatat, fd, "", &stat, AT_EMPTY_PATH) != 0 ||\n      (u64)stat.st_ino != file->inode',
    by: "false",
    usage: { evictedBytes: 0, keptBytes: 0 },
  },
];

/** The hand takes what it comes to first. */
const TAKES_ALL = ["#define USED_ONCE 1", "#define USED_ONCE 0"] as const;

for (const { scene, claim, slowly, canary, text, by, usage } of EVICTIONS) {
  test(`cache: ${claim}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
    try {
      const played = await play(brokenShim(directory, slowly, TAKES_ALL), scene);
      assert.equal(played.code, 0, played.stderr);
      assert.deepEqual({ ...played.usage, ...usage }, played.usage);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test(`cache: the scene sees ${canary}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-canary-"));
    try {
      const { code, stderr } = await play(
        brokenShim(directory, slowly, TAKES_ALL, [text, by]),
        scene,
      );
      assert.notEqual(code, 0);
      assert.match(stderr, /a block that was written is lost/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

test("cache: only hint bits that are added to a table's page leave a block as storage has it", {
  skip,
}, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const { code, stderr, usage } = await play(findShim(directory), "evict-hints");
    assert.equal(code, 0, stderr);
    assert.equal(usage?.cleanBytes, PAGE_BYTES, "the block with a hint");
    assert.equal(usage.keptBytes, (BLOCKS - 1) * PAGE_BYTES, "the others");
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("cache: what a removed file had does not count", { skip }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const { code, stderr, usage } = await play(findShim(directory), "evict-none");
    assert.equal(code, 0, stderr);
    assert.deepEqual([usage?.cleanBytes, usage?.keptBytes, usage?.evictedBytes], [0, 0, 0]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

/** What a compute makes and removes without end takes no room for good. */
const FEW_PATHS = [
  ["#define SLOTS (1u << 24)", "#define SLOTS (1u << 4)"],
  ["#define ABSENT_PATHS (1u << 20)", "#define ABSENT_PATHS (1u << 6)"],
] as const;

test("paths: files that are made and removed need no room for good, and storage's stay what they are", {
  skip,
}, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const { code, stderr } = await play(brokenShim(directory, ...FEW_PATHS), "churn");
    assert.equal(code, 0, stderr);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("paths: of a relation that storage does not have one file is asked for; a fork alone is found", {
  skip,
}, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const { code, stderr, asked } = await play(findShim(directory), "forks");
    assert.equal(code, 0, stderr);
    assert.deepEqual(asked, [`${PATH}1`, `${PATH}2`, `${PATH}2_fsm`]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

const PATH_CANARIES: readonly { canary: string; text: string; by: string; says: RegExp }[] = [
  {
    canary: "paths that storage lacks and that keep a slot",
    text: "    if (bytes == NOT_THERE) {\n      return slot_of_absent(key);\n    }",
    by: "    if (bytes == NOT_THERE) {\n      settle(find_slot(key), SLOT_LOCAL);\n      return find_slot(key);\n    }",
    says: /out of room for file names/,
  },
  {
    canary: "a path that is taken for another one which storage lacks",
    text: "    if (load(&words[i]) != wanted[i]) {",
    by: "    if (i == 0 && load(&words[i]) != wanted[i]) {",
    says: /claim_scenes: open/,
  },
  {
    canary: "a removed file of storage that is forgotten",
    text: "  unlock_slot(result == 0 ? SLOT_LOCAL : was);",
    by: "  unlock_slot(result == 0 ? SLOT_NEW : was);",
    says: /a removed file of storage is back/,
  },
  {
    canary: "a directory made here that keeps a slot",
    text: "  } else if (made) {\n    note_absent(&key);",
    by: "  } else if (made) {\n    settle(find_slot(&key), SLOT_LOCAL);",
    says: /out of room for file names/,
  },
  {
    canary: "a directory made here that takes a slot when it is listed",
    text: "  if (known_slot(&key) == NULL && is_absent(&key)) {\n    return 0;\n  }\n",
    by: "",
    says: /out of room for file names/,
  },
  {
    canary: "a removed directory of storage that is forgotten",
    text: "    settle(find_slot(&key), SLOT_LOCAL);\n  }\n}\n\n/* Makes every file of a listing",
    by: "    note_absent(&key);\n  }\n}\n\n/* Makes every file of a listing",
    says: /a file of a removed directory of storage is back/,
  },
];

for (const { canary, text, by, says } of PATH_CANARIES) {
  test(`paths: the scene sees ${canary}`, { skip }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "strata-canary-"));
    try {
      const { code, stderr } = await play(brokenShim(directory, ...FEW_PATHS, [text, by]), "churn");
      assert.notEqual(code, 0);
      assert.match(stderr, says);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

const relation = (fields: Partial<RelationPath>): RelationPath => ({
  ...{ kind: "relation", spcOid: 1663, dbOid: 5, relNumber: 200, fork: 0, segment: 0 },
  ...fields,
});
const NOT_A_FILE = /has placed what is no file of storage/;

/** What an agent must not say in its hello. */
const LIES: readonly { lie: string; placed: readonly PlacedFile[]; text: RegExp }[] = [
  ...[
    relation({ fork: 4 }),
    relation({ dbOid: 0 }),
    relation({ spcOid: 1664 }),
    relation({ spcOid: 1665 }),
    relation({ spcOid: 16_400, dbOid: 0 }),
    relation({ relNumber: 0 }),
    relation({ segment: 2 ** 29 }),
    { kind: "slru", slru: 4 as 3, segment: 0 } as const,
    { kind: "slru", slru: 0, segment: 2 ** 28 } as const,
  ].map((file) => ({
    lie: JSON.stringify(file),
    placed: [{ file, bytes: undefined, runs: [] }],
    text: NOT_A_FILE,
  })),
  {
    lie: "a file that it has not made",
    placed: [{ file: relation({}), bytes: PAGE_BYTES, runs: [] }],
    text: /says it has made a file, but has not: base\/5\/200/,
  },
  {
    lie: "a file twice",
    placed: [relation({}), relation({})].map((file) => ({ file, bytes: undefined, runs: [] })),
    text: /names a file twice: base\/5\/200/,
  },
];

test("hello: an agent that lies about files ends the process", { skip }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const shim = findShim(directory);
    for (const { lie, placed, text } of LIES) {
      const { code, stderr } = await play(shim, "short-write", placed);
      assert.equal(code, 2, lie);
      assert.match(stderr, text, lie);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});

/** A reply's header: length, status, type of the question, two bytes, a. */
function replyHeader(length: number, status: number, type: string, a = 0): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(length);
  header.writeUInt8(status, 4);
  header.write(type, 5, "latin1");
  header.writeBigUInt64LE(BigInt(a), 8);
  return header;
}

const HOSTILE_REPLIES: readonly { what: string; bytes: Buffer }[] = [
  { what: "shorter than a header", bytes: replyHeader(15, 0, "H") },
  { what: "an unknown status", bytes: replyHeader(16, 4, "H") },
  { what: "an answer to another question", bytes: replyHeader(16, 0, "G") },
  { what: "fewer entries than it says", bytes: replyHeader(16, 0, "H", 1) },
  {
    what: "more than its entries",
    bytes: Buffer.concat([replyHeader(24, 0, "H"), Buffer.alloc(8)]),
  },
  {
    what: "an entry with more runs than follow",
    bytes: Buffer.concat([
      replyHeader(48, 0, "H", 1),
      Buffer.from("0100ffff", "hex"),
      Buffer.alloc(28),
    ]),
  },
];

test("hello: a reply that makes no sense ends the process", { skip }, async () => {
  const directory = await mkdtemp(join(tmpdir(), "strata-shim-"));
  try {
    const shim = findShim(directory);
    for (const { what, bytes } of HOSTILE_REPLIES) {
      const workdir = await mkdtemp(join(directory, "hostile-"));
      const agent = createServer((socket) => {
        socket.on("error", () => undefined);
        socket.once("data", () => socket.write(bytes));
      });
      await new Promise<void>((resolve) => agent.listen(join(workdir, "s"), resolve));
      try {
        const { code, stderr } = await run(shim, "short-write", workdir);
        assert.equal(code, 2, what);
        assert.match(stderr, /strata shim: the agent/, what);
      } finally {
        await new Promise((resolve) => agent.close(resolve));
      }
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});
