// A pageserver's disk and object store with a tenant of three branches, to be copied for each try, and what must be readable of it.

import assert from "node:assert/strict";
import { type ChildProcess, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, renameSync, rmSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, nowMs } from "../../src/base/clock.ts";
import { parseTenantId, parseTimelineId, type TimelineId } from "../../src/base/ids.ts";
import { formatLsn, type Lsn, parseLsn, toLsn } from "../../src/base/lsn.ts";
import { DirectoryObjectStore } from "../../src/object-store/directory-object-store.ts";
import type { ObjectStore } from "../../src/object-store/object-store.ts";
import { PagestreamClient } from "../../src/pageserver/client.ts";
import { DELETED_INDEX_NAME } from "../../src/pageserver/storage/tenant-layers.ts";
import { eventually } from "../eventually.ts";
import { StockCluster } from "../stock-cluster.ts";
import { WalBuilder } from "../wal-builder.ts";
import {
  FailingPageserver,
  type PageserverHome,
  type PreparedPageserver,
} from "./failing-pageserver.ts";
import type { Failpoint, LivesProcess } from "./hooked-process.ts";
import { BLOCKS, PageWal, PD_LSN_BYTES, REL } from "./page-wal.ts";
import { isOfStore, type StoreRequests } from "./store-requests.ts";
import type { SourceTimeline, WalSource } from "./wal-source.ts";

export const TENANT = parseTenantId("a0".repeat(16));
/** A root, a branch of its past, and a branch of that one's head. */
export const MAIN = parseTimelineId("b1".repeat(16));
export const DEV = parseTimelineId("b2".repeat(16));
export const LEAF = parseTimelineId("b3".repeat(16));

/** Nothing happens but what is asked for. */
const QUIET_ARGS = ["--compaction-period-ms", "0", "--scrub-period-ms", "86400000"];
/** Layers of main: enough for a compaction. */
const FLUSHES = 12;
const RECORDS = 4;
const DEADLINE_MS = 60_000;
/** Background work that pauses for longer counts as done. */
const QUIET_MS = 250;
const CHECKED_LSNS = 5;
const DAY_MS = 86_400_000;

/** What a process that is not at work has of a disk. */
const DISK_NAMES = [
  "deletions",
  "generation",
  "initdb",
  "pageserver.pid",
  "strata.lock",
  "tenants",
];
const TENANT_NAMES = ["offloaded_timelines.json", "tenant_config.json", "timelines"];

/** Waits until `test` finds no problem; an error of its own, as of a pageserver that has ended, ends the waiting. */
export async function settled(what: string, test: () => Promise<string | undefined>) {
  const isOver = async () => {
    const found = await test().then(
      (problem) => ({ problem }),
      (error: unknown) => ({ problem: undefined, error }),
    );
    if (found.problem !== undefined) {
      throw new Error(found.problem);
    }
    return found;
  };
  const found = await eventually(what, isOver, { timeoutMs: DEADLINE_MS });
  if ("error" in found) {
    throw found.error;
  }
}

/** Absent: a new process. */
interface Where {
  readonly lives?: LivesProcess | undefined;
  readonly prepared?: PreparedPageserver | undefined;
}

export interface HomeOptions {
  /** Of the process. */
  readonly args?: readonly string[];
  /** Deletions are put together for a fifth of a second, not for ten. */
  readonly hurries?: boolean;
  /** A creation waits for the store for 600 ms, not for 30 s. */
  readonly asksBriefly?: boolean;
  /** The files of a store that is a directory are copies, as if it lay on another file system. */
  readonly ownStore?: boolean;
}

export class PageHome {
  static #stock: Promise<StockCluster> | undefined;
  readonly directory: string;
  readonly source: WalSource;
  readonly timelines: Map<TimelineId, SourceTimeline>;
  /** Where the store is S3's; else it is a directory of the home. */
  readonly requests: StoreRequests | undefined;
  /** Of that, when the home was built. */
  #objects: ReturnType<StoreRequests["save"]> | undefined;
  readonly #options: HomeOptions;
  #process: ChildProcess | undefined;
  /** Of main, when the home was copied. */
  readonly copiedVersions: number;
  /** LSNs that stay readable, whatever is collected. */
  readonly leases: { readonly timelineId: TimelineId; readonly lsn: Lsn }[] = [];
  /** On other machines, with the same store. */
  readonly others: FailingPageserver[] = [];

  private constructor(
    directory: string,
    source: WalSource,
    timelines: Iterable<SourceTimeline>,
    options: HomeOptions,
    requests: StoreRequests | undefined,
  ) {
    this.directory = directory;
    this.source = source;
    this.requests = requests;
    this.timelines = new Map([...timelines].map((one) => [one.timelineId, one]));
    this.#options = options;
    this.copiedVersions = this.timelines.get(MAIN)?.wal.versions.length ?? 0;
    mkdirSync(directory, { recursive: true });
    source.serve(this.timelines.values());
  }

  /** Stopped in order. */
  static async build(
    directory: string,
    source: WalSource,
    requests?: StoreRequests,
  ): Promise<PageHome> {
    const home = new PageHome(directory, source, [], {}, requests);
    const pageserver = await home.start();
    try {
      const { http } = pageserver;
      await http.createTenant(TENANT);
      await home.createRoot(pageserver, MAIN);
      for (let flush = 0; flush < FLUSHES; flush++) {
        await home.writeAndFlush(pageserver, MAIN, RECORDS);
        if (flush === FLUSHES / 2) {
          await home.createBranch(pageserver, DEV, MAIN, home.wal(MAIN).endLsn);
        }
      }
      await home.writeAndFlush(pageserver, DEV, RECORDS);
      await home.createBranch(pageserver, LEAF, DEV, home.wal(DEV).endLsn);
      await pageserver.stop("SIGTERM");
    } finally {
      await pageserver.stop();
    }
    home.#objects = requests?.save();
    return home;
  }

  /** With WAL of its own: what either gets from now on the other has not. */
  copy(directory: string, options: HomeOptions = {}): PageHome {
    rmSync(directory, { recursive: true, force: true });
    const links = options.ownStore === true ? "--no-preserve=links" : "--preserve=links";
    const copied = spawnSync("cp", ["-a", links, this.directory, directory], { encoding: "utf8" });
    assert.equal(copied.status, 0, copied.stderr);
    const wals = new Map<PageWal, PageWal>();
    const copyOf = (wal: PageWal): PageWal => {
      const ancestor = wal.ancestor && { ...wal.ancestor, wal: copyOf(wal.ancestor.wal) };
      const copy = wals.get(wal) ?? wal.fork(ancestor);
      wals.set(wal, copy);
      return copy;
    };
    const timelines = [...this.timelines.values()].map((one) => ({ ...one, wal: copyOf(one.wal) }));
    if (this.#objects !== undefined) {
      this.requests!.restore(this.#objects);
    }
    return new PageHome(directory, this.source, timelines, options, this.requests);
  }

  async openStore(): Promise<ObjectStore> {
    return (await this.requests?.open()) ?? new DirectoryObjectStore(join(this.directory, "store"));
  }

  emptyStore(): void {
    this.requests?.restore(new Map());
    rmSync(join(this.directory, "store"), { recursive: true, force: true });
  }

  /** As `ownStore`, of a home that is there. */
  separateStore(): void {
    if (this.requests !== undefined) {
      return;
    }
    const [store, copy] = [join(this.directory, "store"), join(this.directory, "store-copy")];
    cpSync(store, copy, { recursive: true });
    rmSync(store, { recursive: true });
    renameSync(copy, store);
  }

  /** In a process of its own, or as one of `lives`. */
  async start(
    failpoint: Failpoint = "none",
    { lives, prepared }: Where = {},
  ): Promise<FailingPageserver> {
    const ofStore = isOfStore(failpoint);
    if (ofStore) {
      this.#armStore(failpoint);
    }
    const onBegin = (process: ChildProcess) => {
      this.#process = process;
    };
    const home = { ...this.#processHome(this.directory, this.#options), lives, onBegin };
    return FailingPageserver.start(home, ofStore ? "none" : failpoint, prepared);
  }

  /** A process for a copy at `directory`. */
  prepare(directory: string, options: HomeOptions = {}): Promise<PreparedPageserver> {
    return FailingPageserver.prepare(this.#processHome(directory, options));
  }

  #processHome(directory: string, options: HomeOptions): PageserverHome {
    const { args = [] } = options;
    return {
      directory,
      store: this.requests?.location ?? join(directory, "store"),
      broker: this.source.brokerAddress,
      hurries: this.hurriesOf(options),
      args: [...QUIET_ARGS, ...args],
    };
  }

  /** The disk's new directory; in its place is an empty one, with what initdb made. */
  giveDiskAway(): string {
    const [disk, given] = [join(this.directory, "disk"), join(this.directory, "other")];
    mkdirSync(given);
    renameSync(disk, join(given, "disk"));
    cpSync(join(given, "disk", "initdb"), join(disk, "initdb"), { recursive: true });
    return given;
  }

  /** Where `directory` has its disk. */
  async startOther(directory: string): Promise<FailingPageserver> {
    const home = this.#processHome(directory, this.#options);
    const store = this.requests?.location ?? join(this.directory, "store");
    const other = await FailingPageserver.start({ ...home, store });
    this.others.push(other);
    return other;
  }

  async stopOthers(): Promise<void> {
    for (const other of this.others.splice(0)) {
      await other.stop();
    }
  }

  /** Timers that a process hurries, in milliseconds. */
  hurriesOf({ hurries, asksBriefly }: HomeOptions): readonly number[] {
    return [...(hurries === true ? [10_000] : []), ...(asksBriefly === true ? [30_000] : [])];
  }

  /** Counts from the next step on. */
  async arm(pageserver: FailingPageserver, failpoint: Failpoint): Promise<void> {
    if (isOfStore(failpoint)) {
      this.#armStore(failpoint);
    } else {
      this.requests?.arm("none", () => undefined);
      await pageserver.arm(failpoint);
    }
  }

  #armStore(failpoint: Failpoint): void {
    this.requests!.arm(failpoint, () => this.#process!.kill("SIGKILL"));
  }

  /** What was come to while something was armed, a line a step; what did not happen ends in ` !`. */
  trace(pageserver: FailingPageserver): readonly string[] {
    return [...pageserver.trace(), ...(this.requests?.trace ?? [])];
  }

  wal(timelineId: TimelineId): PageWal {
    return this.timelines.get(timelineId)!.wal;
  }

  async createRoot({ http }: FailingPageserver, timelineId: TimelineId): Promise<void> {
    const info = await http.createTimeline(TENANT, { new_timeline_id: timelineId });
    const builder = new WalBuilder({
      startLsn: parseLsn(info.last_record_lsn)!,
      prevLsn: parseLsn(info.prev_record_lsn)!,
      systemId: BigInt(info.system_id),
      segmentSize: info.wal_seg_size,
    });
    this.#add(timelineId, new PageWal(builder));
  }

  /** May be asked again, with the same. */
  async createBranch(
    { http }: FailingPageserver,
    timelineId: TimelineId,
    ancestorId: TimelineId,
    lsn: Lsn,
  ): Promise<void> {
    const ancestor = { wal: this.wal(ancestorId), lsn };
    await http.createTimeline(TENANT, {
      new_timeline_id: timelineId,
      ancestor_timeline_id: ancestorId,
      ancestor_start_lsn: formatLsn(lsn),
    });
    if (!this.timelines.has(timelineId)) {
      const { builder } = ancestor.wal;
      this.#add(timelineId, new PageWal(builder.fork(lsn), ancestor, this.timelines.size + 100));
    }
  }

  #add(timelineId: TimelineId, wal: PageWal): void {
    this.timelines.set(timelineId, { tenantId: TENANT, timelineId, wal, told: toLsn(0) });
    this.source.serve(this.timelines.values());
  }

  forget(timelineId: TimelineId): void {
    this.timelines.delete(timelineId);
    this.source.serve(this.timelines.values());
  }

  forgetAll(): void {
    this.timelines.clear();
    this.source.serve([]);
  }

  /** One for all homes: what is imported. */
  stockCluster(): Promise<StockCluster> {
    PageHome.#stock ??= StockCluster.create();
    return PageHome.#stock;
  }

  static async destroyStockCluster(): Promise<void> {
    await (await PageHome.#stock)?.destroy();
    PageHome.#stock = undefined;
  }

  /** Resolves when the pageserver has taken in all that there is. */
  async takenIn({ http }: FailingPageserver, timelineId: TimelineId): Promise<void> {
    const end = formatLsn(this.wal(timelineId).endLsn);
    await settled(`WAL of ${timelineId} up to ${end}`, async () => {
      const { last_record_lsn: last, walreceiver } = await http.getTimeline(TENANT, timelineId);
      return last === end ? undefined : `at ${last}: ${JSON.stringify(walreceiver)}`;
    });
  }

  /** Resolves when all that was taken in is on the disk, and in the store where it had to be put there by this process. */
  async flush(pageserver: FailingPageserver, timelineId: TimelineId): Promise<void> {
    const { http } = pageserver;
    await this.takenIn(pageserver, timelineId);
    await http.checkpoint(TENANT, timelineId);
    const end = this.wal(timelineId).endLsn;
    await settled(`${timelineId} in the store`, async () => {
      const { remote_consistent_lsn: remote } = await http.getTimeline(TENANT, timelineId);
      // Zero until something is put: the index of an earlier life counts.
      return parseLsn(remote)! >= end || remote === "0/0" ? undefined : `at ${remote}`;
    });
  }

  async writeAndFlush(
    pageserver: FailingPageserver,
    timelineId: TimelineId,
    records: number,
  ): Promise<void> {
    this.wal(timelineId).write(records);
    await this.flush(pageserver, timelineId);
  }

  /** Resolves when the process does nothing more, or has ended. */
  async quiet(pageserver: FailingPageserver, quietMs = QUIET_MS): Promise<void> {
    let quietSinceMs = monotonicMs();
    let last = -1;
    await settled("background work", async () => {
      const count = (await pageserver.status()).count + (this.requests?.count ?? 0);
      if (count !== last) {
        quietSinceMs = monotonicMs();
        last = count;
      }
      const isQuiet = pageserver.end !== undefined || monotonicMs() - quietSinceMs > quietMs;
      return isQuiet ? undefined : `step ${count}`;
    });
  }

  /** All of it, after all WAL was taken in; then that nothing lies about that nobody names. */
  async check(pageserver: FailingPageserver): Promise<void> {
    for (const timelineId of this.timelines.keys()) {
      await this.takenIn(pageserver, timelineId);
      await this.#checkPages(pageserver, timelineId);
    }
    assert.deepEqual(this.source.broken, []);
    await this.#checkStore(pageserver);
    await settled("what nobody names on the disk", async () => {
      const strays = await this.strays(pageserver);
      return strays.length === 0 ? undefined : strays.join(", ");
    });
    if (this.requests === undefined) {
      this.#checkTemporary();
      await this.#checkDirectories();
    }
  }

  async #checkPages(pageserver: FailingPageserver, timelineId: TimelineId): Promise<void> {
    const wal = this.wal(timelineId);
    const info = await pageserver.http.getTimeline(TENANT, timelineId);
    const oldest = parseLsn(info.min_readable_lsn)!;
    const held = this.leases.filter((lease) => lease.timelineId === timelineId);
    const lsns = new Set(held.map(({ lsn }) => lsn));
    const { versions } = wal;
    for (let i = 1; i <= CHECKED_LSNS && versions.length > 0; i++) {
      const { lsn } = versions[Math.ceil((versions.length * i) / CHECKED_LSNS) - 1]!;
      if (lsn >= oldest) {
        lsns.add(lsn);
      }
    }
    lsns.add(wal.endLsn);
    const timeline = { tenantId: TENANT, timelineId };
    const client = await PagestreamClient.connect(pageserver.pgAddr, timeline);
    try {
      for (const lsn of lsns) {
        for (let blkno = 0; blkno < BLOCKS; blkno++) {
          const expected = wal.pageAt(blkno, lsn);
          if (expected !== undefined) {
            const page = await client.getPage(REL, blkno, lsn);
            const where = `${timelineId}, block ${blkno} at ${formatLsn(lsn)}`;
            const view = new DataView(page.buffer, page.byteOffset);
            const pageLsn = view.getUint32(0, true) * 2 ** 32 + view.getUint32(4, true);
            assert.equal(formatLsn(toLsn(pageLsn)), formatLsn(expected.lsn), where);
            const bytes = Buffer.from(page).subarray(PD_LSN_BYTES);
            assert.ok(bytes.equals(expected.page.subarray(PD_LSN_BYTES)), where);
          }
        }
      }
    } finally {
      client.close();
    }
  }

  async #checkStore({ http }: FailingPageserver): Promise<void> {
    await settled("scrub", async () => {
      for (const { id } of await http.listTenants()) {
        await http.scrub(id, { fix: true, min_age_s: 0 });
        const report = await http.scrub(id, { fix: false, min_age_s: 0 });
        const { missing, differing, damaged, unknown, orphans } = report;
        const found = { missing, differing, damaged, unknown, orphans };
        if (Object.values(found).some((list) => list.length > 0)) {
          return JSON.stringify(found);
        }
      }
      return undefined;
    });
  }

  /** Files on the disk that nobody needs. */
  async strays({ http }: FailingPageserver): Promise<string[]> {
    const disk = join(this.directory, "disk");
    const strays = readdirSync(disk).filter((name) => !DISK_NAMES.includes(name));
    strays.push(...readdirSync(join(disk, "initdb")).filter((name) => name.endsWith(".tmp")));
    if (this.#options.hurries === true) {
      strays.push(...readdirSync(join(disk, "deletions")));
    }
    for (const { id, timelines } of await http.listTenants()) {
      const used = new Set<string>();
      for (const timelineId of timelines) {
        used.add(`${timelineId}/index_part.json`);
        const { historic_layers: layers } = await http.listLayers(id, timelineId);
        for (const layer of layers) {
          used.add(`${layer.timeline_id}/${layer.layer_file_name}`);
        }
      }
      const directory = join(disk, "tenants", id);
      strays.push(...readdirSync(directory).filter((name) => !TENANT_NAMES.includes(name)));
      for (const entry of readdirSync(join(directory, "timelines"))) {
        const files = readdirSync(join(directory, "timelines", entry));
        const names = files.map((name) => `${entry}/${name}`);
        const isLeftOver = !names.some((name) => used.has(name));
        strays.push(...(isLeftOver ? [entry] : []));
        // A deleted timeline whose layers others read has a mark in the place of its index.
        const mark = `${entry}/${DELETED_INDEX_NAME}`;
        strays.push(...names.filter((name) => !used.has(name) && name !== mark));
      }
    }
    return strays;
  }

  /** Directories without objects that are there although the store was listed since. */
  async #checkDirectories(): Promise<void> {
    const store = new DirectoryObjectStore(join(this.directory, "store"));
    await store.list({ prefix: "" });
    const entries = readdirSync(join(this.directory, "store"), {
      recursive: true,
      withFileTypes: true,
    });
    const empty = entries
      .filter((entry) => entry.isDirectory() && entry.name !== ".tmp")
      .map((entry) => join(entry.parentPath, entry.name))
      .filter((path) => readdirSync(path).length === 0);
    assert.deepEqual(empty, []);
  }

  /** What a killed process left in the store's temporary directory goes when it is a day old. */
  #checkTemporary(): void {
    const store = join(this.directory, "store");
    const yesterday = (nowMs() - 2 * DAY_MS) / 1000;
    for (const name of readdirSync(join(store, ".tmp"))) {
      utimesSync(join(store, ".tmp", name), yesterday, yesterday);
    }
    new DirectoryObjectStore(store);
    assert.deepEqual(readdirSync(join(store, ".tmp")), []);
  }
}
