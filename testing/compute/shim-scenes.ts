// Plays single scenes of src/compute/shim/*_scenes.c under a shim, with an agent whose storage holds one file of eight blocks.

import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "../../src/base/clock.ts";
import { createLogger } from "../../src/base/log.ts";
import {
  type CacheUsage,
  makeCacheCounters,
  readCacheUsage,
} from "../../src/compute/shim/cache-counters.ts";
import {
  type PlacedFile,
  type ShimHandlers,
  ShimServer,
} from "../../src/compute/shim/shim-server.ts";
import { storagePath } from "../../src/postgres/relation-path.ts";
import { brokenShim, type ShimChange, type ShimSubject } from "./broken-shim.ts";
import { runUnderShim } from "./shim-program.ts";

export const SCENE_PATH = "base/5/100";
export const SCENE_BLOCKS = 8;
const PAGE_BYTES = 8192;
/** Blocks that the cache may hold in scenes about its limit, and in those in which nothing is given back. */
const LIMIT_BLOCKS = 4;
const WIDE_LIMIT_BLOCKS = 64;

/** Storage has no relation in base/5 with this number or a higher one, in the scene about it. */
const NEW_FROM = 10_055;

export interface Scene {
  /** With `evict-` there is a limit of the cache, with `compare-` also a process that compares; with `sync-` another compute owns the timeline. */
  readonly scene: string;
  /** Which question's answer is held back: the first one since the scene asked for that. */
  readonly holds?: "list" | "read" | "compare";
  /** The file that storage has. */
  readonly path?: string;
  /** What the agent says in its hello that it has made. */
  readonly placed?: readonly PlacedFile[];
  /** Blocks that storage has otherwise than the file, as a bit set: when it is asked to compare them. */
  readonly unlike?: number;
  /** Of which major the data directory is, where that counts. */
  readonly versionDirectory?: string;
  /** What is to be looked at in the data directory in the end. */
  readonly afterwards?: (directory: string) => void;
}

export interface Ended {
  readonly code: number | null;
  readonly stderr: string;
  readonly usage: CacheUsage | undefined;
}

export interface Asked {
  /** Files whose size was asked for. */
  readonly asked: readonly string[];
  /** Blocks that were announced and read, in the order in which the agent heard of them. */
  readonly blocks: readonly string[];
}

const isOfCache = (name: string) => name.startsWith("evict-") || name.startsWith("compare-");

/** The name of the program that has the scene. */
export function sceneProgram({ scene }: Scene): string {
  return isOfCache(scene)
    ? "cache_scenes"
    : scene.startsWith("spare-")
      ? "spare_scenes"
      : "claim_scenes";
}

/** Runs the program in `workdir`, where somebody listens at the socket `s`. */
export async function runScene(
  subject: ShimSubject,
  scene: Scene,
  workdir: string,
): Promise<Ended> {
  const { scene: name, path = SCENE_PATH } = scene;
  for (const database of ["5", "6"]) {
    mkdirSync(join(workdir, "base", database), { recursive: true });
  }
  const cacheCountersPath = join(workdir, "counters");
  makeCacheCounters(cacheCountersPath);
  const limit = name.startsWith("evict-hints") ? WIDE_LIMIT_BLOCKS : LIMIT_BLOCKS;
  const options = {
    wal:
      name.startsWith("compare-") || name.startsWith("sync-")
        ? ("quorum" as const)
        : ("none" as const),
    cacheCountersPath,
    ...(isOfCache(name) ? { localCacheBytes: limit * PAGE_BYTES } : {}),
    ...(scene.versionDirectory === undefined ? {} : { versionDirectory: scene.versionDirectory }),
  };
  const environment = { SCENE_DIR: workdir };
  const { code, stderr } = await runUnderShim(
    subject,
    sceneProgram(scene),
    [name, path],
    workdir,
    options,
    environment,
  );
  return { code, stderr, usage: readCacheUsage(cacheCountersPath) };
}

/** Storage that has a file, block N full of bytes N + 1; and, of blocks that were compared and are the same, what was in the file. */
class SceneAgent {
  readonly #scene: Scene;
  readonly #workdir: string;
  readonly #page: (blkno: number) => Uint8Array;
  readonly #written = new Map<string, Uint8Array>();
  #ended = false;

  constructor(scene: Scene, workdir: string, page: (blkno: number) => Uint8Array) {
    this.#scene = scene;
    this.#workdir = workdir;
    this.#page = page;
  }

  end(): void {
    this.#ended = true;
  }

  /** Before an answer: the first one that a scene has asked to be held. */
  async #hold(question: "list" | "read" | "compare"): Promise<void> {
    const armed = join(this.#workdir, "arm");
    if (this.#scene.holds !== question || !existsSync(armed)) {
      return;
    }
    rmSync(armed);
    writeFileSync(join(this.#workdir, "held"), "");
    while (!this.#ended && !existsSync(join(this.#workdir, "go"))) {
      await sleep(1);
    }
  }

  handlers(): Pick<ShimHandlers, "readPages" | "comparePages" | "listDirectory"> {
    return {
      readPages: async (file, blkno, count) => {
        await this.#hold("read");
        const pages = Array.from({ length: count }, (_, i) => {
          return this.#written.get(`${storagePath(file)} ${blkno + i}`) ?? this.#page(blkno + i);
        });
        return Buffer.concat(pages);
      },
      comparePages: async (file, blkno, asked) => {
        const same = (asked & ~(this.#scene.unlike ?? 0)) >>> 0;
        const fd = openSync(join(this.#workdir, storagePath(file)), "r");
        for (let i = 0; i < 32; i++) {
          if (((same >>> i) & 1) === 1) {
            const page = new Uint8Array(PAGE_BYTES);
            readSync(fd, page, 0, PAGE_BYTES, (blkno + i) * PAGE_BYTES);
            this.#written.set(`${storagePath(file)} ${blkno + i}`, page);
          }
        }
        closeSync(fd);
        await this.#hold("compare");
        return same;
      },
      listDirectory: async () => {
        await this.#hold("list");
        return [];
      },
    };
  }
}

/** Plays a scene; `page` makes the file's blocks as storage has them. */
export async function playScene(
  shim: ShimSubject,
  scene: Scene,
  page: (blkno: number) => Uint8Array = (blkno) => Buffer.alloc(PAGE_BYTES, blkno + 1),
): Promise<Ended & Asked> {
  const workdir = mkdtempSync(join(tmpdir(), "strata-scene-"));
  const { path = SCENE_PATH, placed = [] } = scene;
  const stored = [path, `${path}.1`, `${path}9999`, `${path}2_fsm`, "base/6/100"];
  const asked: string[] = [];
  const blocks: string[] = [];
  const agent = new SceneAgent(scene, workdir, page);
  const handlers = agent.handlers();
  const server = new ShimServer({
    socketPath: join(workdir, "s"),
    logger: createLogger("test", "silent"),
    placed: Promise.resolve(placed),
    handlers: {
      ...handlers,
      alsoLacking: async ({ dbOid, relNumber }) => {
        const isNew = scene.scene === "new-numbers" && dbOid === 5;
        return isNew ? NEW_FROM : `base/5/${relNumber}` === `${path}1` ? "relation" : undefined;
      },
      stat: async (file) => {
        asked.push(storagePath(file));
        return stored.includes(storagePath(file)) ? SCENE_BLOCKS * PAGE_BYTES : undefined;
      },
      readPages: (file, blkno, count) => {
        blocks.push(`read ${blkno}`);
        return handlers.readPages(file, blkno, count);
      },
      prefetch: (_, blkno) => {
        blocks.push(`announced ${blkno}`);
      },
      walWritten: () => undefined,
      flushWal: () => Promise.resolve(),
    },
  });
  try {
    await server.listen();
    if (scene.scene.startsWith("sync-")) {
      server.fence();
    }
    const ended = await runScene(shim, scene, workdir);
    scene.afterwards?.(workdir);
    return { ...ended, asked, blocks };
  } finally {
    agent.end();
    await server.close();
    rmSync(workdir, { recursive: true, force: true });
  }
}

/** Builds a shim with `changes`, gives it to `use` and removes it. */
export async function withBrokenShim(
  changes: readonly ShimChange[],
  use: (shim: string) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "strata-canary-"));
  try {
    await use(brokenShim(directory, ...changes));
  } finally {
    rmSync(directory, { recursive: true });
  }
}
