// What 10,000 idle branches cost: bytes on disk and in memory each, the start of storage, with a directory as object store, as `strata
// init` makes it; and a flush of 1,000 that were written to.

import assert from "node:assert/strict";
import { rmSync, statSync } from "node:fs";
import { mkdtemp, readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { sleep } from "../src/base/clock.ts";
import { type Disk, REAL_DISK } from "../src/base/disk.ts";
import { generateTimelineId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { DirectoryObjectStore } from "../src/object-store/directory-object-store.ts";
import { MemoryObjectStore } from "../src/object-store/memory-object-store.ts";
import type { ObjectStore } from "../src/object-store/object-store.ts";
import { relBlockPrefix } from "../src/pageserver/layers/key.ts";
import { TenantManager } from "../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";
import { putRecord } from "../testing/storage-fixture.ts";
import { median, progress, type Row } from "./report.ts";
import { makeRoot, UNSYNCED_DISK } from "./store-root.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const ONE_PAGE = [{ prefix: REL, index: 0, value: new Uint8Array(8192) }];
const STARTS = 3;
const STORED_BRANCHES = 200;
const MADE_AT_ONCE = 50;
const FEW_BRANCHES = 100;
const ARCHIVED_BRANCHES = 2000;

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

/** Of JavaScript objects and of buffers outside of them. */
function memoryBytes(): number {
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

function open(workdir: string, disk: Disk, store: ObjectStore): Promise<TenantManager> {
  return TenantManager.open({ workdir, logger: createLogger("bench", "warn"), disk, store });
}

/** Says when each branch's index has been compared with the disk's, as is done in the background after a start. */
class ComparedStore extends DirectoryObjectStore {
  #left = Number.POSITIVE_INFINITY;
  readonly #compared = Promise.withResolvers<void>();

  compared(branches: number): Promise<void> {
    this.#left = branches;
    return this.#compared.promise;
  }

  override async get(...call: Parameters<DirectoryObjectStore["get"]>) {
    const body = await super.get(...call);
    this.#left--;
    if (this.#left === 0) {
      this.#compared.resolve();
    }
    return body;
  }
}

/** Blocks that files and directories have. */
async function diskBytes(directory: string): Promise<number> {
  const names = await readdir(directory, { recursive: true });
  return names.reduce((sum, name) => sum + statSync(join(directory, name)).blocks * 512, 0);
}

/** Seconds until a flush of all is done, and the longest time in which nothing else had its turn, in ms. */
async function flushAll(timelines: readonly Timeline[]): Promise<{ took: number; stall: number }> {
  timelines.forEach((timeline, i) => {
    putRecord(timeline, REL, 0, new Uint8Array(8192).fill(i));
  });
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const began = performance.now();
  // As the manager does it, when they are ten minutes old.
  for (const timeline of timelines) {
    timeline.freezeIfOld(Number.POSITIVE_INFINITY);
  }
  for (const timeline of timelines) {
    await timeline.checkpoint();
  }
  delay.disable();
  return { took: (performance.now() - began) / 1000, stall: delay.max / 1e6 };
}

/** Nothing of the manager that made them is held when it returns. `disk`: bytes of each. */
async function makeBranches(workdir: string, store: ObjectStore, branches: number) {
  const manager = await open(workdir, UNSYNCED_DISK, store);
  const { tenantId, timelineId } = await makeRoot(manager, workdir, ONE_PAGE);
  const memoryBefore = memoryBytes();
  const diskBefore = await diskBytes(workdir);
  for (let made = 0; made < branches; made += MADE_AT_ONCE) {
    const some = Array.from({ length: Math.min(MADE_AT_ONCE, branches - made) }, () =>
      manager.tenant(tenantId).createBranch({
        timelineId: generateTimelineId(),
        ancestorTimelineId: timelineId,
      }),
    );
    await Promise.all(some);
  }
  const disk = ((await diskBytes(workdir)) - diskBefore) / branches;
  await manager.close({ flush: false });
  return { tenantId, disk, memoryBefore };
}

/** Bytes of objects for each of some branches, and then for each after a page of each has changed. */
async function storeBytes(branches: number): Promise<{ idle: number; written: number }> {
  const workdir = await mkdtemp(join(tmpdir(), "strata-bench-idle-"));
  const store = new MemoryObjectStore();
  const sum = async () => {
    let bytes = 0;
    for (const key of store.keys) {
      bytes += (await store.head(key)).sizeBytes;
    }
    return bytes;
  };
  try {
    const manager = await open(workdir, UNSYNCED_DISK, store);
    const { tenantId, timelineId } = await makeRoot(manager, workdir, ONE_PAGE);
    const tenant = manager.tenant(tenantId);
    const before = await sum();
    const made: Timeline[] = [];
    for (let i = 0; i < branches; i++) {
      const ids = { timelineId: generateTimelineId(), ancestorTimelineId: timelineId };
      made.push(await tenant.createBranch(ids));
    }
    const idle = await sum();
    for (const [i, timeline] of made.entries()) {
      putRecord(timeline, REL, 0, new Uint8Array(8192).fill(i));
      await timeline.checkpoint();
      await timeline.makeDurable();
    }
    const written = await sum();
    await manager.close({ flush: false });
    return { idle: (idle - before) / branches, written: (written - before) / branches };
  } finally {
    rmSync(workdir, { recursive: true, force: true });
  }
}

/** Nothing of the manager that made them is held when it resolves, with their bytes on disk. */
async function makeArchived(workdir: string, store: ObjectStore, branches: number) {
  const manager = await open(workdir, UNSYNCED_DISK, store);
  const { tenantId, timelineId } = await makeRoot(manager, workdir, ONE_PAGE);
  const diskBefore = await diskBytes(workdir);
  const tenant = manager.tenant(tenantId);
  for (let i = 0; i < branches; i++) {
    const ids = { timelineId: generateTimelineId(), ancestorTimelineId: timelineId };
    putRecord(await tenant.createBranch(ids), REL, 0, new Uint8Array(8192).fill(i));
    await tenant.archived.archive(ids.timelineId);
  }
  while (tenant.archived.openedTimelines.length > 0) {
    await sleep(100);
  }
  await manager.close({ flush: true });
  return { tenantId, disk: (await diskBytes(workdir)) - diskBefore };
}

/** Of branches that are archived, each with a page of its own: bytes on disk, bytes in memory with all else that a start takes, and the start, in seconds. */
async function archivedCost(branches: number) {
  const workdir = await mkdtemp(join(tmpdir(), "strata-bench-archived-"));
  const directory = await mkdtemp(join(tmpdir(), "strata-bench-store-"));
  try {
    const store = new DirectoryObjectStore(directory);
    const { tenantId, disk } = await makeArchived(workdir, store, branches);
    memoryBytes();
    const memoryBefore = memoryBytes();
    const began = performance.now();
    const manager = await open(workdir, REAL_DISK, store);
    const start = (performance.now() - began) / 1000;
    assert.equal(manager.tenant(tenantId).archived.all.length, branches);
    memoryBytes();
    const memory = memoryBytes() - memoryBefore;
    await manager.close({ flush: false });
    return { memory, disk, start };
  } finally {
    for (const each of [workdir, directory]) {
      rmSync(each, { recursive: true, force: true });
    }
  }
}

export async function benchStoreIdle(branches: number, dirty: number): Promise<Row[]> {
  const root = await mkdtemp(join(tmpdir(), "strata-bench-idle-"));
  const workdir = join(root, "pageserver");
  try {
    const storePath = join(root, "object-store");
    const { tenantId, disk, memoryBefore } = await makeBranches(
      workdir,
      new DirectoryObjectStore(storePath),
      branches,
    );
    const starts: number[] = [];
    const start = async () => {
      const store = new ComparedStore(storePath);
      const compared = store.compared(branches);
      const began = performance.now();
      const opened = await open(workdir, REAL_DISK, store);
      starts.push((performance.now() - began) / 1000);
      await compared;
      return opened;
    };
    for (let i = 1; i < STARTS; i++) {
      await (await start()).close({ flush: false });
    }
    const manager = await start();
    const memory = (memoryBytes() - memoryBefore) / branches;
    const written = manager
      .tenant(tenantId)
      .timelines.filter((timeline) => timeline.ancestor !== undefined)
      .slice(0, dirty);
    const flush = await flushAll(written);
    const stored = await storeBytes(STORED_BRANCHES);
    await manager.close({ flush: false });
    const few = await archivedCost(FEW_BRANCHES);
    const many = await archivedCost(ARCHIVED_BRANCHES);
    const eachOf = (bytes: "memory" | "disk") =>
      ((many[bytes] - few[bytes]) / (ARCHIVED_BRANCHES - FEW_BRANCHES)).toFixed(0);
    progress(`${branches} idle branches: starts ${starts.map((s) => s.toFixed(2)).join(", ")} s`);
    const row = (what: string, ours: string, aim: string): Row => ({
      what,
      ours,
      theirs: "—",
      ratio: "—",
      aim,
    });
    return [
      row(
        `${branches} idle branches: bytes in memory, each, after a start`,
        memory.toFixed(0),
        "≤ 4096",
      ),
      row("  ... blocks on disk, bytes", disk.toFixed(0), "≤ 10240"),
      row("  ... objects in the store, bytes", stored.idle.toFixed(0), "≤ 10240"),
      row("  ... the same when a page of each has changed", stored.written.toFixed(0), ""),
      row(
        "  ... start of storage, with a directory as object store, s",
        median(starts).toFixed(2),
        "≤ 1",
      ),
      row(
        `${ARCHIVED_BRANCHES} archived branches: bytes in memory, each, after a start`,
        eachOf("memory"),
        "",
      ),
      row("  ... on disk, bytes", eachOf("disk"), ""),
      row("  ... start of storage, s", many.start.toFixed(2), ""),
      row(`flush of ${dirty} branches at once, s`, flush.took.toFixed(2), ""),
      row("  ... longest stall of the serving thread, ms", flush.stall.toFixed(0), ""),
    ];
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
