// What becomes of claims on blocks and paths when processes meet, a write is cut short, or a process ends while it waits.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { CAN_STOP, type ShimChange, stopAt } from "../../../testing/compute/broken-shim.ts";
import { NO_COMPILER as skip } from "../../../testing/compute/shim-program.ts";
import {
  playScene,
  runScene,
  SCENE_PATH,
  type Scene,
  withBrokenShim,
} from "../../../testing/compute/shim-scenes.ts";
import type { RelationPath } from "../../postgres/relation-path.ts";
import { findShim } from "./shim-loader.ts";
import type { PlacedFile } from "./shim-server.ts";

const PAGE_BYTES = 8192;
const workdir = mkdtempSync(join(tmpdir(), "strata-shim-"));
after(() => rmSync(workdir, { recursive: true }));

const SCENES: readonly {
  readonly scene: string;
  readonly holds?: Scene["holds"];
  /** A process stops before it. */
  readonly stop?: string;
  /** What each block holds. */
  readonly page?: Uint8Array;
  readonly claim: string;
  /** Each a shim with one rule broken, and what the scene says of it. */
  readonly canaries: readonly (readonly [canary: string, change: ShimChange, says: RegExp])[];
}[] = [
  {
    scene: "write",
    claim: "what was written is there, and of a part of a block the rest",
    canaries: [
      [
        "a writer that does not claim",
        ["    return claim(file, block, 1, WRITING) == 1;", "    return true;"],
        /a block that was written is lost/,
      ],
      [
        "a write in the middle of a block that does not fetch the rest",
        ["bool first = at % BLOCK != 0,", "bool first = false,"],
        /the rest of a block is lost/,
      ],
      [
        "a write that ends in a block that does not fetch the rest",
        [", last = ((u64)at + n) % BLOCK != 0 && to > from;", ", last = false;"],
        /scene: write/,
      ],
      [
        "a fetch that writes nothing",
        [
          "result = pwrite_all(target, pages, (size_t)count * BLOCK, (off_t)block * BLOCK);",
          "result = 0;",
        ],
        /the rest of a block is lost/,
      ],
    ],
  },
  {
    scene: "cut",
    claim: "what was cut off does not come back",
    canaries: [
      [
        "a truncation that forgets no blocks",
        ["u32 old = used_end(file), now = load(&file->nremote);", "u32 old = 0, now = 0;"],
        /a block that was cut off is back/,
      ],
    ],
  },
  {
    scene: "fetch-read",
    holds: "read",
    claim: "a reader waits for another's fetch",
    canaries: [
      [
        "a reader that does not wait",
        [
          "      if (!wait_block(file, from)) {\n        return give_up();\n      }\n      continue;",
          "      from++;\n      continue;",
        ],
        /not what the agent has/,
      ],
    ],
  },
  {
    scene: "fetch-write",
    holds: "read",
    claim: "a writer waits for another's fetch",
    canaries: [
      [
        "a fetch that comes after a write",
        ["return state == FILLING || state == WRITING ||", "return state == WRITING ||"],
        /a block that was written is lost/,
      ],
    ],
  },
  {
    scene: "fetch-truncate",
    holds: "read",
    claim: "a truncation waits for the fetch of a block that it cuts off",
    canaries: [
      [
        "a truncation that does not wait",
        ["wait_block(file, block); /* and look again */", "block++;"],
        /a block that was cut off is back/,
      ],
    ],
  },
  {
    scene: "short-write",
    claim: "a write that the disk took a part of leaves the rest absent",
    canaries: [
      [
        "a short write that marks all its blocks present",
        [
          "if (((u64)block + 1) * BLOCK <= done && swap_if(",
          "if (done > (u64)held_blocks.from * BLOCK && swap_if(",
        ],
        /not what the agent has/,
      ],
    ],
  },
  {
    scene: "short-write-continued",
    claim: "what goes on after a short write takes nothing of it away",
    canaries: [
      [
        "a short write that tells of a part of a block",
        ["    written = (ssize_t)((u64)last * BLOCK - (u64)at);\n", ""],
        /a part that was written is lost/,
      ],
    ],
  },
  {
    scene: "exit-reading",
    holds: "read",
    claim: "a process that exits out of a signal handler leaves no claim on a block",
    canaries: [
      [
        "an exit that keeps claims on blocks",
        ["void give_back_all(void) {\n  give_back_blocks();", "void give_back_all(void) {"],
        /the next one could not do it/,
      ],
    ],
  },
  {
    scene: "exit-listing",
    holds: "list",
    claim: "a process that exits out of a signal handler leaves no claim on a path",
    canaries: [
      [
        "an exit that keeps the lock of a path",
        [
          "    settle(held_slots[held_slot_count].slot, held_slots[held_slot_count].was);\n  }",
          "  }",
        ],
        /the next one could not do it/,
      ],
    ],
  },
  {
    scene: "read-on-exit",
    holds: "read",
    claim: "a signal handler on its way to exit may read what it interrupted",
    canaries: [
      [
        "a handler that waits for its own process's claim",
        [
          "  if (talking || held_blocks.file != NULL || held_slot_count > expected_slots) {",
          "  if (false) {",
        ],
        /who was to end has not ended well/,
      ],
    ],
  },
  {
    scene: "fetch-copy",
    holds: "read",
    claim: "a copy waits for nothing behind the end of its source",
    canaries: [
      [
        "a copy that claims all that it is asked for",
        ["    step = bytes_left(in, from, step);\n", ""],
        /a copy waits for what it does not come to/,
      ],
    ],
  },
  {
    scene: "sync-on-exit",
    stop: "  size_t payload = reply->length - sizeof *reply;",
    page: Buffer.concat(Array.from({ length: PAGE_BYTES / 16 }, () => replyHeader(16, 0, "F"))),
    claim: "a sync of WAL takes nothing of an answer that its handler has interrupted for its own",
    canaries: [
      [
        "a question that is asked in the middle of an answer",
        ["  if (talking) {\n    disconnect();\n  }\n", ""],
        /a sync of WAL has succeeded without a quorum/,
      ],
    ],
  },
  {
    scene: "exit-naming",
    stop: "      slot->key = *key;\n",
    claim: "a process that exits out of a signal handler leaves no path without its name",
    canaries: [
      [
        "a name that a handler can leave half written",
        [
          "    hold_signals(&signals);\n    bool claimed =",
          "    sigprocmask(SIG_SETMASK, NULL, &signals);\n    bool claimed =",
        ],
        /the next one could not do it/,
      ],
    ],
  },
];

/** So that a scene hears of a process that waits for the lock of a path, or for its name, too. */
const COUNTS_ALL_WAITS = [
  "    wait_word(&slot->state, state);",
  "      syscall(SYS_sched_yield);",
].map((wait): ShimChange => [wait, `    add(&region->waits, 1);\n${wait}`]);

for (const { scene, holds, stop, page, claim, canaries } of SCENES) {
  const played = { scene, ...(holds === undefined ? {} : { holds }) };
  const pageOf = page === undefined ? undefined : () => page;
  const changes = [...COUNTS_ALL_WAITS, ...(stop === undefined ? [] : [CAN_STOP, stopAt(stop)])];
  test(`claims: ${claim}`, { skip }, () =>
    withBrokenShim(changes, async (shim) => {
      const { code, stderr } = await playScene(shim, played, pageOf);
      assert.equal(code, 0, stderr);
    }),
  );

  for (const [canary, change, says] of canaries) {
    test(`claims: the scene sees ${canary}`, { skip }, () =>
      withBrokenShim([...changes, change], async (shim) => {
        const { code, stderr } = await playScene(shim, played, pageOf);
        assert.notEqual(code, 0);
        assert.match(stderr, says);
      }),
    );
  }
}

/** What a compute makes and removes without end takes no room for good. */
const FEW_PATHS = [
  ["#define SLOTS (1u << 24)", "#define SLOTS (1u << 4)"],
  ["#define ABSENT_PATHS (1u << 20)", "#define ABSENT_PATHS (1u << 6)"],
] as const;

test(
  "paths: files that are made and removed need no room for good, and storage's stay what they are",
  {
    skip,
  },
  () =>
    withBrokenShim(FEW_PATHS, async (shim) => {
      const { code, stderr } = await playScene(shim, { scene: "churn" });
      assert.equal(code, 0, stderr);
    }),
);

test("paths: of a relation that storage does not have one file is asked for; a fork alone is found", {
  skip,
}, async () => {
  const { code, stderr, asked } = await playScene(findShim(workdir), { scene: "forks" });
  assert.equal(code, 0, stderr);
  assert.deepEqual(asked, [`${SCENE_PATH}1`, `${SCENE_PATH}2`, `${SCENE_PATH}2_fsm`]);
});

test("paths: of all relations that storage does not have from a number on, one is asked for", {
  skip,
}, async () => {
  const { code, stderr, asked } = await playScene(findShim(workdir), { scene: "new-numbers" });
  assert.equal(code, 0, stderr);
  const inOther = ["base/6/10055", "global/10055", "base/6/10056", "pg_xact/FFFFFFF"];
  assert.deepEqual(asked, ["base/5/10055", "base/5/10054", ...inOther]);
});

test("announcements: who is ahead enough tells them together, and none of what was read already", {
  skip,
}, async () => {
  const { code, stderr, blocks } = await playScene(findShim(workdir), { scene: "announce" });
  assert.equal(code, 0, stderr);
  const announced = (...which: number[]) => which.map((block) => `announced ${block}`);
  assert.deepEqual(blocks, [
    ...announced(0, 1, 2, 3, 4, 5, 6, 7),
    "read 0",
    ...announced(7, 6, 5),
    "read 4",
    ...announced(0, 1, 2, 3, 0, 1, 2, 3),
    "read 1",
    ...announced(5, 7),
    "read 6",
  ]);
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
    says: /scene: open/,
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
  test(`paths: the scene sees ${canary}`, { skip }, () =>
    withBrokenShim([...FEW_PATHS, [text, by]], async (shim) => {
      const { code, stderr } = await playScene(shim, { scene: "churn" });
      assert.notEqual(code, 0);
      assert.match(stderr, says);
    }),
  );
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
  for (const { lie, placed, text } of LIES) {
    const { code, stderr } = await playScene(findShim(workdir), { scene: "short-write", placed });
    assert.equal(code, 2, lie);
    assert.match(stderr, text, lie);
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
  for (const { what, bytes } of HOSTILE_REPLIES) {
    const directory = await mkdtemp(join(workdir, "hostile-"));
    const agent = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.once("data", () => socket.write(bytes));
    });
    await new Promise<void>((resolve) => agent.listen(join(directory, "s"), resolve));
    try {
      const { code, stderr } = await runScene(
        findShim(workdir),
        { scene: "short-write" },
        directory,
      );
      assert.equal(code, 2, what);
      assert.match(stderr, /strata shim: the agent/, what);
    } finally {
      await new Promise((resolve) => agent.close(resolve));
    }
  }
});
