// A tenant whose layers live in an object store, through lives of pageservers that end, stall and take over from each other.

import assert from "node:assert/strict";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { StorageError } from "../../src/base/errors.ts";
import { parseTenantId, parseTimelineId, type TimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { INVALID_LSN, type Lsn, toLsn } from "../../src/base/lsn.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import { MemoryObjectStore } from "../../src/object-store/memory-object-store.ts";
import { DeletionQueue, type GenerationClaim } from "../../src/pageserver/remote/deletion-queue.ts";
import { loadTenant } from "../../src/pageserver/remote/load-tenant.ts";
import {
  indexKey,
  layerKey,
  manifestKey,
  newestIndexes,
  parseRemoteKey,
} from "../../src/pageserver/remote/remote-paths.ts";
import {
  type NamedLayer,
  type ScrubReport,
  scrubTenant,
} from "../../src/pageserver/remote/scrub.ts";
import { settleGeneration } from "../../src/pageserver/remote/settle-generation.ts";
import { LayerUploads } from "../../src/pageserver/transfers/layer-uploads.ts";
import type { StoreAccess } from "../../src/pageserver/transfers/store-calls.ts";
import { TransferSlots } from "../../src/pageserver/transfers/transfer-slots.ts";
import { UploadQueue } from "../../src/pageserver/transfers/upload-queue.ts";
import { SimulatedCrash, SimulatedDisk } from "../simulated-disk.ts";
import { LifeStore, never } from "./life-store.ts";

/*
 * Owed, at the beginning of every life and after every step of the current one:
 *  1. what the newest index of a timeline names is in the store, with the bytes that were uploaded
 *  2. its LSN is not below the remote_consistent_lsn that was last told in a generation that was current
 *  3. at the end, after a scrub, nothing is there that nobody names, but the indexes before the newest
 */

const TENANT = parseTenantId("11".repeat(16));
const TIMELINES: readonly TimelineId[] = ["a1", "a2", "a3"].map((byte) =>
  parseTimelineId(byte.repeat(16)),
);
const RANGE = `${"0".repeat(36)}-${"F".repeat(36)}__0000000000000001-0000000000000002`;
const FAULTS = { error: 0.1, lostReply: 0.1, partialRead: 0.1, delay: 0.3 };
const HOUR_MS = 3_600_000;

interface Index {
  readonly lsn: Lsn;
  readonly layers: readonly NamedLayer[];
}

function decodeIndex(bytes: Uint8Array): Index {
  return JSON.parse(Buffer.from(bytes).toString()) as Index;
}

/** Of a layer: its key repeated. */
function contentOf(key: string): Uint8Array {
  return Buffer.from(key.repeat(1 + (key.charCodeAt(key.length - 1) % 4)));
}

interface ModelTimeline {
  readonly timelineId: TimelineId;
  readonly queue: UploadQueue;
  lsn: Lsn;
  readonly layers: Map<string, NamedLayer>;
}

export class RemoteWorld {
  readonly store: MemoryObjectStore;
  readonly random: SeededRandom;
  /** Two machines. */
  readonly disks: SimulatedDisk[];
  generation = 0;
  /** Told as remote_consistent_lsn. */
  readonly told = new Map<TimelineId, Lsn>();
  /** What happened in this run. */
  readonly seen = new Set<string>();

  constructor(random: SeededRandom) {
    this.random = random;
    this.store = new MemoryObjectStore(random, () => monotonicMs());
    this.disks = [new SimulatedDisk(random), new SimulatedDisk(random)];
  }

  readonly validate = async (claims: readonly GenerationClaim[]): Promise<readonly boolean[]> => {
    await sleep(this.random.int(50));
    return claims.map(({ generation }) => generation === this.generation);
  };

  /** Rule 1 and 2, on the store as it is. */
  async check(): Promise<void> {
    for (const { key, timelineId } of newestIndexes(this.store.keys, this.generation).values()) {
      const { lsn, layers } = decodeIndex(this.#peek(key));
      const told = this.told.get(timelineId) ?? INVALID_LSN;
      assert.ok(lsn >= told, `${key} is at ${lsn}, told ${told}`);
      for (const layer of layers) {
        assert.ok(this.store.keys.includes(layer.key), `${key} names ${layer.key}`);
        assert.deepEqual(Buffer.from(this.#peek(layer.key)), contentOf(layer.key));
      }
    }
  }

  #peek(key: string): Uint8Array {
    return this.store.call({ type: "get", key }) as Uint8Array;
  }

  /** Rule 3. */
  async scrub(): Promise<ScrubReport> {
    // Nothing is on its way any more.
    await sleep(HOUR_MS);
    const generation = ++this.generation;
    // As a life that puts all indexes again would leave it.
    for (const { key, timelineId } of newestIndexes(this.store.keys, generation).values()) {
      const copy = indexKey(TENANT, timelineId, generation);
      this.store.call({ type: "put", key: copy, bytes: this.#peek(key), ifAbsent: false });
    }
    const manifest = manifestKey(TENANT, generation);
    this.store.call({ type: "put", key: manifest, bytes: Buffer.from("x"), ifAbsent: false });
    const report = await scrubTenant({
      store: this.store,
      logger: createLogger("world", "silent"),
      signal: new AbortController().signal,
      randomInt: (limit) => this.random.int(limit),
      tenantId: TENANT,
      generation,
      layersOf: (bytes) => decodeIndex(bytes).layers,
      minAgeMs: 60_000,
      fix: { validate: async () => true, isInUse: () => false },
    });
    await this.check();
    const named = new Set<string>();
    for (const { key } of newestIndexes(this.store.keys, generation).values()) {
      for (const layer of decodeIndex(this.#peek(key)).layers) {
        named.add(layer.key);
      }
    }
    assert.deepEqual(report.missing, []);
    assert.deepEqual(report.differing, []);
    for (const key of this.store.keys) {
      const isLayer = parseRemoteKey(key)?.kind === "layer";
      assert.ok(!isLayer || named.has(key), `${key} is left`);
    }
    return report;
  }
}

/** One process. */
export class Life {
  readonly #world: RemoteWorld;
  readonly #machine: number;
  readonly #disk: SimulatedDisk;
  readonly generation: number;
  readonly #store: LifeStore;
  readonly ended: Promise<never>;
  readonly #end: (error: unknown) => void;
  /** Operations on disk and store that are left; the one after them ends it. */
  #operationsLeft: number;
  operations = 0;
  isDead = false;
  #deletions!: DeletionQueue;
  readonly #timelines = new Map<TimelineId, ModelTimeline>();
  #uploads!: LayerUploads;
  #access!: StoreAccess;
  #settled: Promise<void> | undefined;
  readonly #pushes: Promise<void>[] = [];
  #sequence = 0;
  /** Of layers that some timeline does not name any more: when that is durable. */
  readonly #drops = new Map<string, Promise<void>[]>();

  constructor(world: RemoteWorld, machine: number, operationsLeft: number) {
    this.#world = world;
    this.#machine = machine;
    this.#disk = world.disks[machine]!;
    this.#operationsLeft = operationsLeft;
    this.generation = ++world.generation;
    this.#store = new LifeStore(world.store, world.random, FAULTS, () => this.#goesOn());
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => undefined);
    this.ended = promise;
    this.#end = reject;
    this.#disk.onOperation = () => {
      if (!this.#goesOn()) {
        throw new SimulatedCrash("the process has ended");
      }
    };
  }

  #goesOn(): boolean {
    this.operations++;
    if (!this.isDead && --this.#operationsLeft < 0) {
      this.kill();
    }
    return !this.isDead;
  }

  kill(): void {
    if (!this.isDead) {
      this.isDead = true;
      const tear = this.#world.random.bool() ? this.#disk.pickTear() : undefined;
      this.#world.disks[this.#machine] = this.#disk.nextLife(tear);
      this.#end(new SimulatedCrash("the process has ended"));
    }
  }

  async open(): Promise<void> {
    const { random, validate } = this.#world;
    const randomInt = (limit: number) => random.int(limit);
    const logger = createLogger("world", "silent");
    const [store, disk] = [this.#store, this.#disk];
    const slots = new TransferSlots(3);
    this.#uploads = new LayerUploads({ store, disk, logger, slots, randomInt });
    disk.makeDirectory("/layers");
    this.#deletions = await DeletionQueue.open({
      directory: "/deletions",
      uploads: this.#uploads,
      validate: (claims) => (this.isDead ? never() : validate(claims)),
      attached: new Map([[TENANT, this.generation]]),
    });
    this.#access = { store, logger, randomInt, signal: new AbortController().signal };
    const tenant = await loadTenant(this.#access, TENANT, this.generation, decodeIndex);
    assert.deepEqual([...tenant.damaged], []);
    for (const { timelineId, index } of tenant.timelines) {
      const told = this.#world.told.get(timelineId) ?? INVALID_LSN;
      assert.ok(index.lsn >= told, `loaded at ${index.lsn}, told ${told}`);
      this.#addTimeline(timelineId, index);
    }
  }

  #addTimeline(timelineId: TimelineId, { lsn, layers }: Index): ModelTimeline {
    const timeline = {
      timelineId,
      queue: new UploadQueue({
        tenantId: TENANT,
        timelineId,
        generation: this.generation,
        remoteConsistentLsn: lsn,
        uploads: this.#uploads,
      }),
      lsn,
      layers: new Map(layers.map((layer) => [layer.key, layer])),
    };
    this.#timelines.set(timelineId, timeline);
    return timeline;
  }

  async run(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) {
      await this.#step();
      this.look();
    }
  }

  /** Takes down what is told to the safekeepers, which is asked for only in the current generation. */
  look(): void {
    if (this.generation !== this.#world.generation || this.isDead) {
      return;
    }
    for (const { timelineId, queue } of this.#timelines.values()) {
      const before = this.#world.told.get(timelineId) ?? INVALID_LSN;
      assert.ok(queue.remoteConsistentLsn >= before, "what was told is taken back");
      this.#world.told.set(timelineId, queue.remoteConsistentLsn);
    }
  }

  async #step(): Promise<void> {
    const { random, seen } = this.#world;
    const timeline = [...this.#timelines.values()][random.int(this.#timelines.size)];
    const kind = random.int(10);
    if (timeline === undefined || kind === 0) {
      this.#branch(timeline);
    } else if (kind < 4) {
      this.#flush(timeline);
    } else if (kind < 6) {
      this.#compact(timeline);
    } else if (kind === 6) {
      seen.add("flushed deletions");
      await Promise.race([this.#deletions.flush(), sleep(random.int(20_000))]);
    } else if (kind === 7) {
      seen.add("waited for durability");
      const lsn = timeline.lsn;
      await timeline.queue.waitFor(lsn);
      assert.ok(timeline.queue.remoteConsistentLsn >= lsn);
    } else {
      await sleep(random.int(random.bool() ? 100 : 30_000));
    }
  }

  #branch(parent: ModelTimeline | undefined): void {
    const timelineId = TIMELINES.find((one) => !this.#timelines.has(one));
    if (timelineId !== undefined) {
      const layers = parent === undefined ? [] : [...parent.layers.values()];
      const lsn = this.#world.told.get(timelineId) ?? toLsn(1);
      void this.#putIndex(this.#addTimeline(timelineId, { lsn: INVALID_LSN, layers }), lsn);
      this.#world.seen.add(layers.length > 0 ? "branch with layers" : "new timeline");
    }
  }

  #flush(timeline: ModelTimeline): void {
    this.#newLayer(timeline);
    void this.#putIndex(timeline, toLsn(timeline.lsn + 8));
  }

  #compact(timeline: ModelTimeline): void {
    const old = [...timeline.layers.keys()].slice(0, 3);
    this.#newLayer(timeline);
    for (const key of old) {
      timeline.layers.delete(key);
    }
    const durable = this.#putIndex(timeline, timeline.lsn);
    for (const key of old) {
      const drops = this.#drops.get(key) ?? [];
      drops.push(durable);
      this.#drops.set(key, drops);
    }
    const isNamed = (key: string) =>
      [...this.#timelines.values()].some((one) => one.layers.has(key));
    const keys = old.filter((key) => !isNamed(key));
    if (keys.length > 0) {
      const isOld = keys.some((key) => parseRemoteKey(key)!.generation < this.generation);
      const drops = keys.flatMap((key) => this.#drops.get(key)!);
      const dropped = Promise.all([...drops, isOld ? this.#settle() : undefined]);
      const { generation } = this;
      this.#pushes.push(this.#deletions.push({ tenantId: TENANT, generation, keys }, dropped));
      this.#world.seen.add("compacted");
    }
  }

  #settle(): Promise<void> {
    this.#settled ??= settleGeneration(
      this.#access,
      TENANT,
      this.generation,
      [...this.#timelines.values()].map((timeline) => this.#putIndex(timeline, timeline.lsn)),
      Buffer.from("manifest"),
    );
    return this.#settled;
  }

  #newLayer(timeline: ModelTimeline): void {
    const hex = (value: number) => value.toString(16).padStart(8, "0");
    const name = `${RANGE}-${hex(this.generation)}-${hex(this.#sequence++)}`;
    const key = layerKey(TENANT, timeline.timelineId, name);
    const path = `/layers/${name}`;
    const bytes = contentOf(key);
    const fd = this.#disk.open(path, "w");
    this.#disk.write(fd, bytes, 0);
    this.#disk.close(fd);
    timeline.layers.set(key, { key, sizeBytes: bytes.length });
    void timeline.queue.uploadLayer(path, key, bytes.length);
  }

  #putIndex(timeline: ModelTimeline, lsn: Lsn): Promise<void> {
    timeline.lsn = lsn;
    const index: Index = { lsn, layers: [...timeline.layers.values()] };
    const keys = index.layers.map(({ key }) => key);
    return timeline.queue.uploadIndex(Buffer.from(JSON.stringify(index)), lsn, keys);
  }

  /** An orderly end. */
  async shutdown(): Promise<void> {
    for (const { queue, lsn } of this.#timelines.values()) {
      assert.ok(await queue.shutdown(10 * HOUR_MS), "not everything was uploaded");
      assert.equal(queue.remoteConsistentLsn, lsn);
    }
    this.look();
    await Promise.all(this.#pushes);
    await this.#deletions.flush();
    assert.equal(this.#deletions.counts.pending, 0);
    await this.#deletions.stop();
  }
}

/** Works until it is done or the life ends; false in the latter case. */
export async function lives(life: Life, work: () => Promise<void>): Promise<boolean> {
  try {
    await Promise.race([work(), life.ended]);
    return true;
  } catch (error) {
    if (life.isDead && (error instanceof SimulatedCrash || isOfDeadDisk(error))) {
      return false;
    }
    throw error;
  }
}

function isOfDeadDisk(error: unknown): boolean {
  return error instanceof StorageError && error.cause instanceof SimulatedCrash;
}
