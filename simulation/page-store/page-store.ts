// A pageserver's storage on a simulated disk, through lives that end anywhere, beside a model of what it owes.

import assert from "node:assert/strict";
import { basename, join } from "node:path";
import { sleep } from "../../src/base/clock.ts";
import {
  parseTenantId,
  parseTimelineId,
  type TenantId,
  type TimelineId,
} from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { type Lsn, maxLsn, toLsn } from "../../src/base/lsn.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import { relSizePrefix } from "../../src/pageserver/layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../../src/pageserver/layers/layer-format.ts";
import { LayerWriter } from "../../src/pageserver/layers/layer-writer.ts";
import { INDEX_PART_NAME } from "../../src/pageserver/storage/index-part.ts";
import { TenantManager } from "../../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../../src/pageserver/storage/timeline.ts";
import { SimulatedCrash, SimulatedDisk, type Tear } from "../simulated-disk.ts";

/*
 * Owed, after any end of the process and any power cut:
 *  1. what was answered as created is there and loads; what was answered as deleted is not there
 *  2. a timeline is readable up to an LSN that is not below the one it last told as on its disk, and
 *     every version at or below that LSN is what was written
 *  3. with the WAL above it taken in again, as from the safekeepers, all of it is, on branches too
 *  4. nothing unfinished is left in the directories of timelines
 */

const WORKDIR = "/pageserver";
const SCRATCH = "/scratch";
const START = toLsn(0x1_0000_1000);
const KEY = relSizePrefix(1663, 5, 16384, 0);
const KEYS = 20;
const RECORD_BYTES = 8;

type State = "being-created" | "there" | "being-deleted" | "gone";

/** What the model knows of one timeline. */
interface Known {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly number: number;
  readonly ancestor: Known | undefined;
  /** Where it begins, and where its WAL ends. */
  readonly start: Lsn;
  end: Lsn;
  /** What it last told. */
  diskConsistentLsn: Lsn;
  state: State;
}

/** One kind of file each, whose names Failpoints uses. */
export function kindOfFile(path: string): string {
  const name = basename(path);
  if (path.startsWith(SCRATCH)) {
    return "import";
  }
  if (name.startsWith(INDEX_PART_NAME)) {
    return "index";
  }
  if (name.startsWith("layer-") || name.includes("__")) {
    return "layer";
  }
  const depth = path.split("/").length;
  return ["", "", "workdir", "tenants", "tenant", "timelines", "timeline"][depth] ?? "unknown";
}

/** Record `lsn` of a timeline writes this at key `keyOf(lsn)`. */
function writtenValue(timeline: Known, lsn: Lsn): Buffer {
  const value = Buffer.alloc(20 + ((lsn / RECORD_BYTES) % 700), timeline.number);
  value.writeBigUInt64LE(BigInt(lsn));
  return value;
}

const keyOf = (lsn: Lsn) => ((lsn - START) / RECORD_BYTES) % KEYS;

export class PageStore implements AsyncDisposable {
  disk: SimulatedDisk;
  readonly timelines: Known[] = [];
  readonly #random: SeededRandom;
  readonly tenants: TenantId[] = [];
  #manager: TenantManager | undefined;

  constructor(random: SeededRandom) {
    this.#random = random;
    this.disk = new SimulatedDisk(random);
    for (const directory of [WORKDIR, SCRATCH]) {
      this.disk.makeDirectory(directory);
    }
    this.disk.fsyncDirectory("/");
  }

  get #store(): TenantManager {
    assert.ok(this.#manager !== undefined, "it is not open");
    return this.#manager;
  }

  /** One process from its start on: rejects with a SimulatedCrash as soon as that ends, whatever still waits. */
  async live(steps: number): Promise<void> {
    const { promise: end, reject } = Promise.withResolvers<never>();
    this.disk.onCrash = () => reject(new SimulatedCrash("the process has ended"));
    const life = async () => {
      await this.open();
      await this.check();
      this.look();
      for (let step = 0; step < steps; step++) {
        await this.step();
      }
    };
    await Promise.race([life(), end]);
  }

  /** A new process. */
  async open(): Promise<void> {
    this.#manager = await TenantManager.open({
      workdir: WORKDIR,
      logger: createLogger("page-store", "silent"),
      config: {
        checkpointDistanceBytes: 6000,
        flushRetryMs: 1,
        levelAfterLayers: 3,
        minCompactionBytes: 4000,
        imageLayerBytes: this.#random.pick([1, 4000, 1 << 25]),
      },
      disk: this.disk,
    });
  }

  /** An orderly end, without a flush; what nobody waits for has a while. */
  async stop(): Promise<void> {
    await this.#store.close({ flush: false });
    await sleep(1000);
    this.#manager = undefined;
    this.disk = this.disk.nextLife();
  }

  /** The process ends as by kill -9; with a tear the power goes too. */
  async crash(tear?: Tear): Promise<void> {
    const next = this.disk.nextLife(tear);
    await this.#manager?.close({ flush: false }).catch(() => undefined);
    this.#manager = undefined;
    this.disk = next;
  }

  /** No process of it goes on; a failed test would not end otherwise. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.crash();
  }

  /** The kinds of steps, in equal parts but for writing. */
  async step(): Promise<void> {
    const kind = this.#random.int(28);
    if (this.tenants.length === 0 || kind === 0) {
      await this.createTenant();
    } else if (this.#there().length === 0 || kind === 1) {
      await this.createRoot(this.newRoot(this.#random.pick(this.tenants)));
    } else if (kind < 4) {
      await this.createBranch(this.newBranch(this.#random.pick(this.#there())));
    } else if (kind === 4) {
      await this.deleteOne(this.#random.pick(this.#there()));
    } else if (kind === 5) {
      await this.detach(this.#random.pick(this.#there()));
    } else if (kind === 6) {
      await this.collect(this.#random.pick(this.#there()));
    } else if (kind < 11) {
      await this.compact(this.#random.pick(this.#there()));
    } else if (kind < 13) {
      await this.checkpoint(this.#random.pick(this.#there()));
    } else {
      await this.write(this.#random.pick(this.#there()), 1 + this.#random.int(40));
    }
    this.look();
  }

  #there(): Known[] {
    return this.timelines.filter(({ state }) => state === "there");
  }

  /** May be tried again, with the id of the first try. */
  async createTenant(tenantId = parseTenantId(this.#newId())): Promise<TenantId> {
    await this.#store.createTenant(tenantId);
    this.tenants.push(tenantId);
    return tenantId;
  }

  #newId(): string {
    return Buffer.from(Array.from({ length: 16 }, () => this.#random.int(256))).toString("hex");
  }

  #note(tenantId: TenantId, ancestor: Known | undefined, start: Lsn): Known {
    const known: Known = {
      tenantId,
      timelineId: parseTimelineId(this.#newId()),
      number: this.timelines.length,
      ancestor,
      start,
      end: start,
      diskConsistentLsn: start,
      state: "being-created",
    };
    this.timelines.push(known);
    return known;
  }

  /** A timeline that is still to be created. */
  newRoot(tenantId: TenantId): Known {
    return this.#note(tenantId, undefined, START);
  }

  /** As an import does: layers in a directory of their own first, then the timeline. May be tried again. */
  async createRoot(known: Known): Promise<void> {
    const writer = await LayerWriter.create(SCRATCH, LAYER_KIND_IMAGE, this.disk);
    const layer = await writer.finish({
      kind: LAYER_KIND_IMAGE,
      keyStart: FIRST_KEY,
      keyEnd: LAST_KEY,
      lsnStart: START,
      lsnEnd: toLsn(START + 1),
    });
    const path = join(SCRATCH, layer.fileName);
    await this.#store.tenant(known.tenantId).createRoot({
      timelineId: known.timelineId,
      pgVersion: 17,
      dataChecksums: false,
      systemId: 1n,
      walSegmentSize: 1 << 24,
      startLsn: START,
      prevRecordLsn: toLsn(START - RECORD_BYTES),
      layerPaths: [{ path, sizeBytes: layer.sizeBytes }],
    });
    known.state = "there";
  }

  newBranch(ancestor: Known): Known {
    const lsn = this.#readableLsn(ancestor);
    return this.#note(ancestor.tenantId, ancestor, lsn);
  }

  async createBranch(known: Known): Promise<void> {
    await this.#store.tenant(known.tenantId).createBranch({
      timelineId: known.timelineId,
      ancestorTimelineId: known.ancestor!.timelineId,
      ancestorLsn: known.start,
    });
    known.state = "there";
  }

  /** Branches of it stay. */
  async deleteOne(known: Known): Promise<void> {
    known.state = "being-deleted";
    const { tenantId, timelineId } = known;
    await this.#store.tenant(tenantId).deleteTimeline(timelineId);
    known.state = "gone";
  }

  /** Of its own history. */
  #readableLsn(known: Known): Lsn {
    const from = Math.max(known.start, this.#timeline(known).minReadableLsn);
    const records = (known.end - from) / RECORD_BYTES;
    return toLsn(from + this.#random.int(records + 1) * RECORD_BYTES);
  }

  async collect(known: Known): Promise<void> {
    await this.#timeline(known).advanceGcCutoff(this.#readableLsn(known));
  }

  /** Until there is nothing to do. */
  async compact(known: Known): Promise<void> {
    while (await this.#timeline(known).compact()) {
      // Each step may make the next one possible.
    }
  }

  async detach(known: Known): Promise<void> {
    await this.#timeline(known).detachFromAncestor();
  }

  async write(known: Known, records: number): Promise<void> {
    const timeline = this.#timeline(known);
    for (let i = 0; i < records; i++) {
      await timeline.ingestReady();
      known.end = toLsn(known.end + RECORD_BYTES);
      put(timeline, known, known.end);
    }
  }

  /** Everything written is on disk then. */
  async checkpoint(known: Known): Promise<void> {
    const timeline = this.#timeline(known);
    await timeline.checkpoint();
    assert.equal(timeline.diskConsistentLsn, timeline.lastRecordLsn);
  }

  #timeline(known: Known): Timeline {
    return this.#store.timeline(known.tenantId, known.timelineId);
  }

  /** Takes down what each timeline tells as durable: safekeepers may forget their WAL up to there. */
  look(): void {
    for (const known of this.#there()) {
      const told = this.#timeline(known).remoteConsistentLsn;
      known.diskConsistentLsn = maxLsn(known.diskConsistentLsn, told);
    }
  }

  /** After `open`: that what is owed is there. Takes the lost WAL in again. */
  async check(): Promise<void> {
    for (const tenant of this.#store.tenants) {
      for (const [timelineId, error] of tenant.brokenTimelines) {
        assert.fail(`timeline ${timelineId} does not load: ${error.message}`);
      }
    }
    for (const known of this.timelines) {
      await this.#checkOne(known);
    }
    for (const tenant of this.#store.tenants) {
      await tenant.swept;
    }
    this.checkAll();
  }

  /** Of the living process. */
  checkAll(): void {
    for (const known of this.#there()) {
      this.#checkVersions(known, known.end);
    }
    for (const { tenantId } of this.#store.tenants) {
      this.#checkFiles(tenantId);
    }
  }

  async #checkOne(known: Known): Promise<void> {
    const isThere = this.#exists(known);
    const name = `timeline ${known.number}`;
    switch (known.state) {
      case "there":
        assert.ok(isThere, `${name} is not there`);
        break;
      case "gone":
        assert.ok(!isThere, `${name} is there again`);
        return;
      default:
        // Nobody was told how it went.
        known.state = isThere ? "there" : "gone";
        if (!isThere) {
          return;
        }
    }
    const timeline = this.#timeline(known);
    const { diskConsistentLsn } = timeline;
    assert.ok(diskConsistentLsn >= known.diskConsistentLsn, `${name} has lost what it had on disk`);
    assert.equal(timeline.lastRecordLsn, diskConsistentLsn);
    if (diskConsistentLsn > known.start) {
      assert.equal(timeline.prevRecordLsn, diskConsistentLsn - RECORD_BYTES);
    }
    if (known.ancestor === undefined) {
      this.#checkVersions(known, diskConsistentLsn);
    }
    await timeline.prepareIngest();
    for (let lsn = diskConsistentLsn + RECORD_BYTES; lsn <= known.end; lsn += RECORD_BYTES) {
      await timeline.ingestReady();
      put(timeline, known, toLsn(lsn));
    }
  }

  #exists({ tenantId, timelineId }: Known): boolean {
    const tenant = this.#store.tenants.find((one) => one.tenantId === tenantId);
    return tenant?.hasTimeline(timelineId) === true;
  }

  #checkVersions(known: Known, end: Lsn): void {
    const timeline = this.#timeline(known);
    const from = Math.max(known.start, timeline.minReadableLsn);
    for (let lsn = from; lsn <= end; lsn += RECORD_BYTES) {
      // All keys as of a few LSNs; of each LSN the key that it changed.
      const all = lsn >= end - RECORD_BYTES;
      for (let key = 0; key < KEYS; key++) {
        if (all || key === keyOf(toLsn(lsn))) {
          const value = timeline.readValue(KEY, key, toLsn(lsn));
          assert.deepEqual(value && Buffer.from(value), expectedValue(known, key, toLsn(lsn)));
        }
      }
    }
  }

  /** Every layer that a timeline reads has its file, and every file its reader. */
  #checkFiles(tenantId: TenantId): void {
    const timelines = this.#store.tenant(tenantId).timelines;
    const used = new Set(timelines.flatMap(({ layers }) => layers.map(({ path }) => path)));
    const missing = new Set(used);
    const directory = join(WORKDIR, "tenants", tenantId, "timelines");
    for (const timelineId of this.disk.list(directory)) {
      assert.match(timelineId, /^[0-9a-f]{32}$/);
      const maker = timelines.find((timeline) => timeline.timelineId === timelineId);
      for (const name of this.disk.list(join(directory, timelineId))) {
        const path = join(directory, timelineId, name);
        missing.delete(path);
        // A layer that is being flushed again has no place in the index yet.
        const ours = name.startsWith(INDEX_PART_NAME) || name.startsWith("layer-");
        const mayBeNew = maker !== undefined && this.isFlushing(maker);
        assert.ok(ours || used.has(path) || mayBeNew, `${path} is left`);
      }
    }
    assert.deepEqual([...missing], [], "layers without their files");
  }

  isFlushing(timeline: Timeline): boolean {
    return timeline.diskConsistentLsn < timeline.lastRecordLsn;
  }
}

function put(timeline: Timeline, known: Known, lsn: Lsn): void {
  timeline.putImage(KEY, keyOf(lsn), lsn, writtenValue(known, lsn));
  timeline.advance(lsn, toLsn(lsn - RECORD_BYTES));
}

/** The newest value of the key at or below the LSN, of the timeline or of those it came from. */
function expectedValue(timeline: Known, key: number, at: Lsn): Buffer | undefined {
  let lsn: number = at;
  for (let known: Known | undefined = timeline; known !== undefined; known = known.ancestor) {
    for (; lsn > known.start; lsn -= RECORD_BYTES) {
      if (keyOf(toLsn(lsn)) === key) {
        return writtenValue(known, toLsn(lsn));
      }
    }
  }
  return undefined;
}
