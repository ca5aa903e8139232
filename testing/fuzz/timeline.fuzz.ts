// Random histories on a tenant's timelines, checked read by read against a plain model.
//
// Invariants:
// - a read of (timeline, key, LSN) gives what applying that history's versions in order gives,
//   whatever was frozen, flushed, cached, branched or reopened meanwhile;
// - a scan gives exactly the keys that exist, ascending;
// - after a restart without a flush, nothing at or below diskConsistentLsn is missing, and when the
//   lost records are put again everything is as before;
// - compactions and collections change nothing that a branch, a lease or an LSN from the cutoff on reads;
//   what lies below the cutoff is refused;
// - a branch whose ancestor is behind after a restart refuses reads instead of giving wrong ones.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StorageError } from "../../src/base/errors.ts";
import { generateTenantId, generateTimelineId, type TimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { formatLsn, type Lsn, toLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import {
  comparePrefixes,
  KEYSPACE_RELATION_SIZE,
  type KeyPrefix,
  prefixFields,
  relBlockPrefix,
  relSizePrefix,
  samePrefix,
  slruBlockPrefix,
} from "../../src/pageserver/layers/key.ts";
import { recordBoundary } from "../../src/pageserver/storage/retention.ts";
import type { StorageConfig } from "../../src/pageserver/storage/storage-resources.ts";
import { TenantManager } from "../../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../../src/pageserver/storage/timeline.ts";
import { PAGE_SIZE } from "../../src/postgres/page.ts";
import { writeImageLayer } from "../storage-fixture.ts";

const START_LSN = toLsn(0x1_0000_1000);

interface Put {
  readonly prefix: KeyPrefix;
  readonly index: number;
  readonly lsn: Lsn;
  readonly kind: "image" | "delta" | "init" | "tombstone";
  readonly value: Uint8Array;
}

/** Puts by record, in LSN order. */
interface ModelTimeline {
  readonly id: TimelineId;
  readonly ancestor: ModelTimeline | undefined;
  readonly ancestorLsn: Lsn;
  records: { readonly lsn: Lsn; readonly puts: Put[] }[];
}

/** Sets the status bits of transactions, as redo of delta kind 4 does, written here once more. */
function applyClog(page: Uint8Array, delta: Uint8Array): void {
  const view = new DataView(delta.buffer, delta.byteOffset, delta.length);
  for (let at = 4; at < delta.length; at += 4) {
    const slot = view.getUint32(at, true) % 32768;
    const shift = (slot % 4) * 2;
    const byte = Math.floor(slot / 4);
    page[byte] = (page[byte]! & ~(3 << shift)) | (delta[1]! << shift);
  }
}

function modelRead(
  timeline: ModelTimeline,
  prefix: KeyPrefix,
  index: number,
  lsn: number,
): Uint8Array | undefined {
  const below =
    timeline.ancestor &&
    modelRead(timeline.ancestor, prefix, index, Math.min(lsn, timeline.ancestorLsn));
  let state = below;
  for (const record of timeline.records) {
    if (record.lsn > lsn) {
      break;
    }
    for (const put of record.puts) {
      if (samePrefix(put.prefix, prefix) && put.index === index) {
        state = modelApply(state, put);
      }
    }
  }
  return state;
}

function modelApply(state: Uint8Array | undefined, put: Put): Uint8Array | undefined {
  if (put.kind === "tombstone") {
    return undefined;
  }
  if (put.kind === "image") {
    return put.value;
  }
  const page =
    put.kind === "init" || state === undefined ? new Uint8Array(PAGE_SIZE) : state.slice();
  applyClog(page, put.value);
  return page;
}

const PAGE_PREFIXES = [slruBlockPrefix(0, 0), slruBlockPrefix(0, 7)];
const IMAGE_PREFIXES = [relBlockPrefix(1663, 5, 16384, 0), relBlockPrefix(1663, 5, 16384, 2)];
/** Their forks have all these blocks: what lies past a relation's end is in no image layer. */
const FORK_SIZES = [relSizePrefix(1663, 5, 16384, 0), relSizePrefix(1663, 5, 16384, 2)];
const VALUE_PREFIXES = [
  relSizePrefix(1663, 5, 16390, 0),
  relSizePrefix(1663, 5, 16390, 2),
  relSizePrefix(1663, 6, 99, 0),
  relSizePrefix(1664, 0, 1262, 0),
];
const ALL_PREFIXES = [...PAGE_PREFIXES, ...IMAGE_PREFIXES, ...VALUE_PREFIXES];
const INDEXES = [0, 1, 5, 1023, 1024, 70_000, 4_294_967_294];
const SLRU_INDEXES = [0, 1, 5, 31];

class World {
  readonly random: SeededRandom;
  readonly directory: string;
  readonly config: Partial<StorageConfig>;
  readonly tenantId = generateTenantId();
  readonly models = new Map<TimelineId, ModelTimeline>();
  /** Held. */
  readonly leases: { readonly id: TimelineId; readonly lsn: Lsn }[] = [];
  /** Ever: a branch takes over those of an ancestor that goes, and keeps them over a restart. */
  readonly everLeased = new Set<Lsn>();
  manager!: TenantManager;

  constructor(seed: number, directory: string) {
    this.random = new SeededRandom(seed);
    this.directory = directory;
    this.config = {
      checkpointDistanceBytes: this.random.pick([20_000, 200_000, 1 << 30]),
      imageAfterDeltas: this.random.pick([1, 4, 32]),
      imageRotation: this.random.pick([1, 3]),
      cacheAfterDeltas: this.random.pick([1, 8]),
      blockCacheBytes: this.random.pick([1, 60_000, 1 << 24]),
      pageCachePages: this.random.pick([4, 16]),
      stepVersions: this.random.pick([1, 8, 256]),
      maxOpenFiles: this.random.pick([1, 3]),
      flushRetryMs: 1,
      inlineFlushBytes: this.random.pick([0, 1 << 20]),
      levelAfterLayers: this.random.pick([2, 4]),
      minCompactionBytes: this.random.pick([0, 50_000]),
      imageRatio: this.random.pick([0, 1]),
      collectRatio: this.random.pick([0, 0.5]),
      imageLayerBytes: this.random.pick([1, 20_000, 1 << 25]),
    };
  }

  async open(): Promise<void> {
    this.manager = await TenantManager.open({
      workdir: this.directory,
      logger: createLogger("test", "silent"),
      config: this.config,
    });
  }

  timeline(id: TimelineId): Timeline {
    return this.manager.timeline(this.tenantId, id);
  }

  anyModel(): ModelTimeline {
    return this.random.pick([...this.models.values()]);
  }

  async createRoot(): Promise<void> {
    const values: Put[] = [];
    for (const prefix of ALL_PREFIXES.toSorted(comparePrefixes)) {
      for (const index of SLRU_INDEXES) {
        if (this.random.bool(0.6)) {
          const value = this.#value(prefix);
          values.push({ prefix, index, lsn: START_LSN, kind: "image", value });
        }
      }
    }
    for (const prefix of FORK_SIZES) {
      const value = new Uint8Array(4).fill(0xff);
      values.push({ prefix, index: 0, lsn: START_LSN, kind: "image", value });
    }
    values.sort((a, b) => comparePrefixes(a.prefix, b.prefix));
    const layer = await writeImageLayer(this.directory, START_LSN, values);
    const id = generateTimelineId();
    const tenant = await this.manager.createTenant(this.tenantId);
    await tenant.createRoot({
      timelineId: id,
      pgVersion: 17,
      dataChecksums: false,
      systemId: 7_000_000_000_000_000_001n,
      walSegmentSize: 1 << 24,
      startLsn: START_LSN,
      prevRecordLsn: toLsn(START_LSN - 0x50),
      layerPaths: [{ path: join(this.directory, layer.fileName), sizeBytes: layer.sizeBytes }],
    });
    await rm(join(this.directory, layer.fileName));
    this.models.set(id, {
      id,
      ancestor: undefined,
      ancestorLsn: toLsn(0),
      records: [{ lsn: START_LSN, puts: values }],
    });
  }

  #value(prefix: KeyPrefix): Uint8Array {
    const length = VALUE_PREFIXES.includes(prefix) ? this.random.int(700) : PAGE_SIZE;
    const value = new Uint8Array(length);
    for (let i = 0; i < 8 && i < length; i++) {
      value[this.random.int(length)] = this.random.int(256);
    }
    return value;
  }

  #clogDelta(index: number): Uint8Array {
    const count = 1 + this.random.int(4);
    const delta = new Uint8Array(4 + count * 4);
    const view = new DataView(delta.buffer);
    view.setUint8(0, 4);
    view.setUint8(1, 1 + this.random.int(2));
    view.setUint16(2, count, true);
    for (let i = 0; i < count; i++) {
      view.setUint32(4 + i * 4, (index % 32) * 32768 + this.random.int(64), true);
    }
    return delta;
  }

  #randomPut(lsn: Lsn): Put {
    const prefix = this.random.pick(ALL_PREFIXES);
    if (this.random.bool(0.08)) {
      const index = this.random.pick(SLRU_INDEXES);
      return { prefix, index, lsn, kind: "tombstone", value: new Uint8Array(0) };
    }
    if (PAGE_PREFIXES.includes(prefix) && this.random.bool(0.9)) {
      const index = this.random.pick(SLRU_INDEXES);
      const kind = this.random.bool(0.1) ? "init" : "delta";
      return { prefix, index, lsn, kind, value: this.#clogDelta(index) };
    }
    const index = this.random.pick(PAGE_PREFIXES.includes(prefix) ? SLRU_INDEXES : INDEXES);
    return { prefix, index, lsn, kind: "image", value: this.#value(prefix) };
  }

  write(model: ModelTimeline): void {
    const timeline = this.timeline(model.id);
    const lsn = toLsn(timeline.lastRecordLsn + 8 * (1 + this.random.int(40)));
    const puts = Array.from({ length: this.random.int(4) }, () => this.#randomPut(lsn));
    this.#record(model, { lsn, puts });
  }

  /** Many small records on one page. */
  burst(model: ModelTimeline): void {
    const timeline = this.timeline(model.id);
    const prefix = this.random.pick(PAGE_PREFIXES);
    const index = this.random.pick(SLRU_INDEXES);
    for (let i = this.random.int(600); i > 0; i--) {
      const lsn = toLsn(timeline.lastRecordLsn + 8);
      const count = this.random.bool(0.2) ? 2 : 1;
      const puts = Array.from({ length: count }, (): Put => {
        return { prefix, index, lsn, kind: "delta", value: this.#clogDelta(index) };
      });
      this.#record(model, { lsn, puts });
    }
  }

  #record(model: ModelTimeline, record: ModelTimeline["records"][number]): void {
    model.records.push(record);
    this.#putRecord(this.timeline(model.id), record);
  }

  #putRecord(timeline: Timeline, record: ModelTimeline["records"][number]): void {
    for (const { prefix, index, lsn, kind, value } of record.puts) {
      switch (kind) {
        case "image":
          timeline.putImage(prefix, index, lsn, value);
          break;
        case "tombstone":
          timeline.putTombstone(prefix, index, lsn);
          break;
        case "delta":
        case "init":
          timeline.putDelta(prefix, index, lsn, value, kind === "init");
          break;
      }
    }
    timeline.advance(record.lsn, toLsn(record.lsn - 8));
  }

  #randomLsn(timeline: Timeline): Lsn {
    const low = timeline.minReadableLsn;
    const span = timeline.lastRecordLsn - low;
    const leased = this.leases.filter(({ id }) => id === timeline.timelineId);
    if (leased.length > 0 && this.random.bool(0.2)) {
      return this.random.pick(leased).lsn;
    }
    return this.random.bool(0.4)
      ? timeline.lastRecordLsn
      : toLsn(low + Math.floor(this.random.next() * (span + 1)));
  }

  lease(model: ModelTimeline): void {
    const timeline = this.timeline(model.id);
    const lsn = recordBoundary(this.#randomLsn(timeline));
    if (lsn < timeline.minReadableLsn) {
      return;
    }
    timeline.grantLease(lsn, 3_600_000);
    this.leases.push({ id: model.id, lsn });
    this.everLeased.add(lsn);
  }

  async collect(model: ModelTimeline): Promise<void> {
    const timeline = this.timeline(model.id);
    await timeline.advanceGcCutoff(this.#randomLsn(timeline));
    const below = toLsn(timeline.minReadableLsn - 8);
    // Where a branch begins, and below, it is its ancestor that keeps or does not.
    const isAncestors = timeline.ancestor !== undefined && below <= timeline.startLsn;
    if (!isAncestors && !this.everLeased.has(below)) {
      const read = () => timeline.readValue(VALUE_PREFIXES[0]!, 0, below);
      assert.throws(read, { code: "lsn-too-old" });
    }
  }

  read(model: ModelTimeline): void {
    const timeline = this.timeline(model.id);
    const prefix = this.random.pick(ALL_PREFIXES);
    const index = this.random.pick(PAGE_PREFIXES.includes(prefix) ? SLRU_INDEXES : INDEXES);
    const lsn = this.#randomLsn(timeline);
    const expected = modelRead(model, prefix, index, lsn);
    const actual = VALUE_PREFIXES.includes(prefix)
      ? timeline.readValue(prefix, index, lsn)
      : timeline.readPage(prefix, index, lsn);
    const where = `${prefixFields(prefix)}/${index} at ${formatLsn(lsn)} of ${model.id}`;
    assert.deepEqual(actual && Buffer.from(actual), expected && Buffer.from(expected), where);
  }

  scan(model: ModelTimeline): void {
    const timeline = this.timeline(model.id);
    const lsn = this.#randomLsn(timeline);
    const fields = this.random.pick([
      [KEYSPACE_RELATION_SIZE],
      [KEYSPACE_RELATION_SIZE, 1663],
      [KEYSPACE_RELATION_SIZE, 1663, 5, 16390, 2],
      [KEYSPACE_RELATION_SIZE, 1663, 7],
    ]);
    const expected: string[] = [];
    for (const prefix of [...VALUE_PREFIXES, ...FORK_SIZES].sort(comparePrefixes)) {
      for (const index of [...new Set([...INDEXES, ...SLRU_INDEXES])].sort((a, b) => a - b)) {
        const value = modelRead(model, prefix, index, lsn);
        if (value !== undefined && fields.every((f, i) => prefixFields(prefix)[i] === f)) {
          expected.push(`${prefixFields(prefix)}/${index}=${Buffer.from(value).toString("hex")}`);
        }
      }
    }
    const actual = [...timeline.scan(fields, lsn)].map(
      ({ prefix, index, value }) =>
        `${prefixFields(prefix)}/${index}=${Buffer.from(value).toString("hex")}`,
    );
    assert.deepEqual(actual, expected);
  }

  async branch(model: ModelTimeline): Promise<void> {
    const timeline = this.timeline(model.id);
    // Any record end below lastRecordLsn names a state; others are cut down to one.
    const wanted = this.#randomLsn(timeline);
    const id = generateTimelineId();
    const branch = await this.manager.tenant(this.tenantId).createBranch({
      timelineId: id,
      ancestorTimelineId: model.id,
      ancestorLsn: wanted,
    });
    assert.ok(branch.ancestorLsn <= wanted);
    const ancestor = this.models.get(branch.ancestor!.timelineId)!;
    this.models.set(id, { id, ancestor, ancestorLsn: branch.ancestorLsn, records: [] });
  }

  /** Branches of each other, each with something of its own, for reads to pass in one step. */
  async deepen(model: ModelTimeline): Promise<void> {
    let tip = model;
    for (let depth = this.random.int(9); depth > 0; depth--) {
      await this.branch(tip);
      tip = [...this.models.values()].at(-1)!;
      this.write(tip);
      if (this.random.bool()) {
        await this.timeline(tip.id).checkpoint();
      }
    }
  }

  /** Branches of it stay as they are; something must be left to go on with. */
  async deleteOne(model: ModelTimeline): Promise<void> {
    if (this.models.size > 1) {
      await this.manager.tenant(this.tenantId).deleteTimeline(model.id);
      this.models.delete(model.id);
      for (const other of this.models.values()) {
        assert.notEqual(this.timeline(other.id).ancestor?.timelineId, model.id);
      }
    }
  }

  async detach(model: ModelTimeline): Promise<void> {
    await this.timeline(model.id).detachFromAncestor();
  }

  /** A restart; what was not flushed comes again, ancestors in no special order. */
  async reopen(): Promise<void> {
    const flush = this.random.bool(0.3);
    const disk = new Map(
      [...this.models.keys()].map((id) => [id, this.timeline(id).diskConsistentLsn]),
    );
    await this.manager.close({ flush });
    await this.open();
    // Those above the cutoff are forgotten, the others are in the index of whose history it is.
    const kept = this.leases.filter(({ id, lsn }) => {
      let owner = this.models.has(id) ? this.timeline(id) : undefined;
      while (owner?.ancestor !== undefined && lsn < owner.startLsn) {
        owner = owner.ancestor;
      }
      return owner !== undefined && lsn < owner.gcCutoffLsn;
    });
    this.leases.splice(0, this.leases.length, ...kept);
    for (const model of this.models.values()) {
      const timeline = this.timeline(model.id);
      assert.ok(timeline.lastRecordLsn >= disk.get(model.id)!);
      assert.equal(timeline.lastRecordLsn, timeline.diskConsistentLsn);
    }
    const models = [...this.models.values()];
    while (models.length > 0) {
      const model = models.splice(this.random.int(models.length), 1)[0]!;
      const timeline = this.timeline(model.id);
      this.#readBeforeAncestors(timeline);
      for (const record of model.records) {
        if (record.lsn > timeline.lastRecordLsn) {
          this.#putRecord(timeline, record);
        }
      }
    }
  }

  #readBeforeAncestors(timeline: Timeline): void {
    let behind = false;
    for (let at = timeline; at.ancestor !== undefined; at = at.ancestor) {
      behind ||= at.ancestor.lastRecordLsn < at.ancestorLsn;
    }
    const read = () => timeline.readPage(PAGE_PREFIXES[0]!, 0, timeline.lastRecordLsn);
    if (behind) {
      assert.throws(
        read,
        (error) => error instanceof StorageError && error.code === "ancestor-behind",
      );
    } else {
      read();
    }
  }

  async step(): Promise<void> {
    const model = this.anyModel();
    const roll = this.random.int(1000);
    if (roll < 450) {
      this.write(model);
    } else if (roll < 800) {
      this.read(model);
    } else if (roll < 820) {
      this.scan(model);
    } else if (roll < 840) {
      this.burst(model);
    } else if (roll < 880) {
      await this.timeline(model.id).checkpoint();
    } else if (roll < 900) {
      await this.timeline(model.id).ingestReady();
      await new Promise((resolve) => setImmediate(resolve));
    } else {
      await this.#rareStep(model, roll - 900);
    }
  }

  /** `roll`: [0, 100). */
  async #rareStep(model: ModelTimeline, roll: number): Promise<void> {
    if (roll < 20 && this.models.size < 12) {
      await this.branch(model);
    } else if (roll < 28) {
      await this.deleteOne(model);
    } else if (roll < 33) {
      await this.detach(model);
    } else if (roll < 38) {
      await this.reopen();
    } else if (roll < 48) {
      this.lease(model);
    } else if (roll < 60) {
      await this.collect(model);
    } else if (roll < 64 && this.models.size < 16) {
      await this.deepen(model);
    } else if (roll < 80) {
      await this.manager.resources.spanBuilder.settled();
    } else {
      await this.timeline(model.id).compact();
    }
  }
}

/** Runs one history; an error names the seed. */
export async function run(seed: number, steps: number): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "strata-timeline-"));
  const world = new World(seed, directory);
  try {
    await world.open();
    await world.createRoot();
    for (let step = 0; step < steps; step++) {
      await world.step();
    }
    for (const model of world.models.values()) {
      for (let i = 0; i < 30; i++) {
        world.read(model);
      }
    }
  } catch (error) {
    throw new Error(`timeline fuzz, seed ${seed}, steps ${steps}`, { cause: error });
  } finally {
    await world.manager?.close({ flush: false });
    await rm(directory, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const [seed = "1", steps = "2000", count = "1"] = process.argv.slice(2);
  for (let i = 0; i < Number(count); i++) {
    await run(Number(seed) + i, Number(steps));
  }
}
