// What becomes of claims on blocks and paths when a write is cut short, or a process ends while it waits.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { findShim, SHIM_COMPILER_FLAGS, SHIM_SOURCE, shimEnvironment } from "./shim-loader.ts";
import { ShimServer } from "./shim-server.ts";

const SOURCE = join(import.meta.dirname, "claim_scenes.c");
const PAGE_BYTES = 8192;
const PATH = "base/5/100";
const BLOCKS = 8;

type Scene = "exit-reading" | "exit-opening" | "read-on-exit" | "short-write" | "truncate";

/** Which question's first answer is late, and by how much. */
const HELD: Readonly<Record<Scene, { question: "stat" | "read"; ms: number } | undefined>> = {
  "exit-reading": { question: "read", ms: Number.POSITIVE_INFINITY },
  "exit-opening": { question: "stat", ms: Number.POSITIVE_INFINITY },
  "read-on-exit": { question: "read", ms: Number.POSITIVE_INFINITY },
  "short-write": undefined,
  truncate: { question: "read", ms: 500 },
};

async function play(shim: string, scene: Scene): Promise<{ code: number | null; stderr: string }> {
  const workdir = await mkdtemp(join(tmpdir(), "strata-scene-"));
  let held = HELD[scene];
  const answer = async (question: "stat" | "read"): Promise<void> => {
    if (held?.question === question) {
      const { ms } = held;
      held = undefined;
      await (ms === Number.POSITIVE_INFINITY ? new Promise(() => undefined) : sleep(ms));
    }
  };
  const server = new ShimServer({
    socketPath: join(workdir, "s"),
    logger: createLogger("test", "silent"),
    handlers: {
      stat: async (path) => {
        await answer("stat");
        return path === PATH ? BLOCKS * PAGE_BYTES : undefined;
      },
      readPages: async (_path, blkno, count) => {
        await answer("read");
        return Array.from({ length: count }, (_, i) =>
          new Uint8Array(PAGE_BYTES).fill(blkno + i + 1),
        );
      },
      listDirectory: async () => [],
      prefetch: () => undefined,
      walWritten: () => undefined,
      flushWal: () => Promise.resolve(),
    },
  });
  try {
    const program = join(workdir, "claim_scenes");
    const built = spawnSync("cc", ["-O1", "-Wall", "-Werror", "-o", program, SOURCE]);
    assert.equal(built.status, 0, String(built.stderr));
    mkdirSync(join(workdir, "base", "5"), { recursive: true });
    await server.listen();
    const child = spawn(program, [scene, PATH], {
      env: {
        ...shimEnvironment({
          shimPath: shim,
          dataDirectory: workdir,
          socketPath: join(workdir, "s"),
          wal: "none",
          walSegmentSize: 1 << 24,
        }),
        STRATA_SHIM_PROGRAM: "claim_scenes",
        SCENE_DIR: workdir,
      },
    });
    let stderr = "";
    child.stderr.on("data", (chunk) => {
      stderr += String(chunk);
    });
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    return { code, stderr };
  } finally {
    await server.close();
    rmSync(workdir, { recursive: true, force: true });
  }
}

const skip = spawnSync("cc", ["--version"]).status === 0 ? false : "no C compiler";

/** A shim with `text` replaced, which a scene must notice. */
function brokenShim(directory: string, text: string, by: string): string {
  const source = readFileSync(SHIM_SOURCE, "utf8");
  assert.equal(source.split(text).length, 2, "the text to break is there once");
  const broken = join(directory, "broken.c");
  writeFileSync(broken, source.replace(text, by));
  const shim = join(directory, "broken.so");
  const flags = SHIM_COMPILER_FLAGS.filter((flag) => flag !== "-Werror");
  const built = spawnSync("cc", [...flags, "-w", "-o", shim, broken]);
  assert.equal(built.status, 0, String(built.stderr));
  return shim;
}

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
    text: "((u64)block + 1) * BLOCK <= done; block++",
    by: "written > 0; block++",
  },
  {
    scene: "exit-reading",
    claim: "a process that exits out of a signal handler leaves no claim on a block",
    canary: "an exit that keeps claims on blocks",
    text: "static void give_back_all(void) {\n  give_back_blocks();",
    by: "static void give_back_all(void) {",
  },
  {
    scene: "exit-opening",
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
      const { code } = await play(brokenShim(directory, text, by), scene);
      assert.notEqual(code, 0);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}
