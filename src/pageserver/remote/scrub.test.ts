import assert from "node:assert/strict";
import { test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { nowMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId, type TimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { FaultyObjectStore } from "../../object-store/faulty-object-store.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import type { ListOptions, ListPage } from "../../object-store/object-store.ts";
import { indexKey, layerKey, manifestKey } from "./remote-paths.ts";
import { type NamedLayer, type ScrubFix, type ScrubReport, scrubTenant } from "./scrub.ts";

const TENANT = parseTenantId("11".repeat(16));
const A = parseTimelineId("aa".repeat(16));
const B = parseTimelineId("bb".repeat(16));
const RANGE = `${"0".repeat(36)}-${"F".repeat(36)}__0000000000000001-0000000000000002`;
const HOUR_MS = 3_600_000;
const FIX: ScrubFix = { validate: async () => true, isInUse: () => false };

const layer = (generation: number, sequence: number) => {
  const hex = (value: number) => value.toString(16).padStart(8, "0");
  return layerKey(TENANT, A, `${RANGE}-${hex(generation)}-${hex(sequence)}`);
};

class Store extends MemoryObjectStore {
  /** Called after each listing. */
  onList: () => void = () => undefined;

  override async list(options: ListOptions): Promise<ListPage> {
    const page = await super.list(options);
    this.onList();
    return page;
  }
}

class World {
  readonly store = new Store(new SeededRandom(3), nowMs);
  readonly faulty = new FaultyObjectStore(this.store, new SeededRandom(4));

  put(key: string, bytes = 10): void {
    this.store.call({ type: "put", key, bytes: new Uint8Array(bytes), ifAbsent: false });
  }

  index(key: string, layers: readonly NamedLayer[] | "damaged"): void {
    const bytes = Buffer.from(JSON.stringify(layers));
    this.store.call({ type: "put", key, bytes, ifAbsent: false });
  }

  /** As settleGeneration leaves it. */
  settle(...indexes: readonly (readonly [TimelineId, readonly NamedLayer[] | "damaged"])[]): void {
    for (const [timelineId, layers] of indexes) {
      this.index(indexKey(TENANT, timelineId, 5), layers);
    }
    this.put(manifestKey(TENANT, 5));
  }

  scrub(fix?: ScrubFix, generation = 5): Promise<ScrubReport> {
    return scrubTenant({
      store: this.faulty,
      logger: createLogger("test", "silent"),
      signal: new AbortController().signal,
      randomInt: (limit) => limit - 1,
      tenantId: TENANT,
      generation,
      minAgeMs: HOUR_MS,
      layersOf: (bytes, key) => {
        const parsed: unknown = JSON.parse(Buffer.from(bytes).toString());
        if (!Array.isArray(parsed)) {
          throw new StorageError("corrupt", "corrupt-index", `index ${key}: damaged`);
        }
        return parsed as NamedLayer[];
      },
      ...(fix === undefined ? {} : { fix }),
    });
  }
}

const keysOf = (layers: readonly NamedLayer[]) => layers.map(({ key }) => key);
const simulated = (name: string, work: () => Promise<void>) =>
  test(name, () => inSimulatedTime(work));

simulated("scrubTenant: a layer that was replaced meanwhile is not missing", async () => {
  const world = new World();
  const named = (...keys: string[]) => keys.map((key) => ({ key, sizeBytes: 10 }));
  world.put(layer(5, 2));
  world.settle([A, named(layer(5, 1), layer(5, 3))]);
  const head = world.store.head.bind(world.store);
  world.store.head = async (...call) => {
    // A compaction is over between the reading of the index and the looking for its layers.
    world.index(indexKey(TENANT, A, 5), named(layer(5, 2), layer(5, 3)));
    return head(...call);
  };
  const report = await world.scrub();
  assert.deepEqual(keysOf(report.missing), [layer(5, 3)]);
});

simulated(
  "scrubTenant: finds what is missing, differs, and is named by nobody; changes nothing unless asked",
  async () => {
    const world = new World();
    for (const one of [layer(1, 1), layer(1, 2), layer(1, 3), layer(5, 1)]) {
      world.put(one);
    }
    world.put("tenants/unknown");
    world.put(`tenants/${TENANT}/timelines/${A}/something`);
    world.index(indexKey(TENANT, A, 1), [{ key: layer(1, 3), sizeBytes: 10 }]);
    world.index(indexKey(TENANT, A, 2), [{ key: layer(1, 3), sizeBytes: 10 }]);
    world.index(indexKey(TENANT, A, 5), [{ key: layer(1, 1), sizeBytes: 10 }]);
    world.index(indexKey(TENANT, B, 5), [
      { key: layer(1, 2), sizeBytes: 11 },
      { key: layer(1, 9), sizeBytes: 10 },
    ]);
    for (const generation of [1, 2, 5]) {
      world.put(manifestKey(TENANT, generation));
    }
    await sleep(HOUR_MS);
    world.put(layer(2, 1));
    world.faulty.rates = { error: 0.2, delay: 0.3, partialRead: 0.2 };
    const before = world.store.keys;
    const report = await world.scrub();
    assert.equal(report.timelines, 2);
    assert.equal(report.objects, before.length - 1);
    const orphans = [manifestKey(TENANT, 1), layer(1, 3), indexKey(TENANT, A, 1)];
    assert.deepEqual(keysOf(report.orphans), orphans);
    assert.deepEqual(report.missing, [
      { key: layer(1, 9), sizeBytes: 10, indexKey: indexKey(TENANT, B, 5) },
    ]);
    assert.deepEqual(report.differing, [
      { key: layer(1, 2), sizeBytes: 11, indexKey: indexKey(TENANT, B, 5), storedBytes: 10 },
    ]);
    assert.deepEqual(report.unknown, [`tenants/${TENANT}/timelines/${A}/something`]);
    assert.deepEqual(report.deleted, []);
    assert.deepEqual(world.store.keys, before);
    const fixed = await world.scrub(FIX);
    assert.deepEqual(fixed.deleted, orphans);
    assert.deepEqual(
      world.store.keys,
      before.filter((key) => !orphans.includes(key)),
    );
  },
);

simulated("scrubTenant: where an index is damaged nothing is an orphan", async () => {
  const world = new World();
  world.put(layer(1, 1));
  world.settle([A, []], [B, "damaged"]);
  await sleep(2 * HOUR_MS);
  const report = await world.scrub(FIX);
  assert.deepEqual([...report.damaged.keys()], [B]);
  assert.deepEqual([report.orphans, report.deleted], [[], []]);
});

simulated("scrubTenant: in a generation that is not current nothing is deleted", async () => {
  const world = new World();
  world.put(layer(1, 1));
  world.settle([A, []]);
  await sleep(2 * HOUR_MS);
  const isKind = (kind: string) => (error: unknown) =>
    error instanceof StorageError && error.kind === kind;
  const stale = world.scrub({ ...FIX, validate: async () => false });
  await assert.rejects(stale, isKind("fenced"));
  await assert.rejects(world.scrub(FIX, 3), isKind("conflict"));
  assert.ok(world.store.keys.includes(layer(1, 1)));
});

simulated("scrubTenant: what a timeline that is open names is left", async () => {
  const world = new World();
  world.put(layer(1, 1));
  world.put(layer(1, 2));
  world.settle();
  await sleep(2 * HOUR_MS);
  const report = await world.scrub({ ...FIX, isInUse: (key) => key === layer(1, 1) });
  assert.deepEqual(report.deleted, [layer(1, 2)]);
  assert.deepEqual(world.store.keys, [manifestKey(TENANT, 5), layer(1, 1)]);
});

simulated("scrubTenant: indexes that change while they are read are read again", async () => {
  const world = new World();
  const named = [{ key: layer(1, 1), sizeBytes: 10 }];
  world.put(layer(1, 1));
  world.settle([A, named]);
  await sleep(2 * HOUR_MS);
  // The layer goes from one timeline to a new one when the indexes were listed, and before they are read.
  let listings = 0;
  world.store.onList = () => {
    if (++listings === 2) {
      world.index(indexKey(TENANT, B, 5), named);
      world.index(indexKey(TENANT, A, 5), []);
    }
  };
  const report = await world.scrub(FIX);
  assert.deepEqual(report.orphans, []);
  assert.deepEqual(world.store.keys.filter((key) => key === layer(1, 1)).length, 1);
  world.store.onList = () => world.index(indexKey(TENANT, B, 5), named);
  await assert.rejects(world.scrub(), /changes while it is looked at/);
});

simulated("scrubTenant: in a generation that is not settled nothing is deleted", async () => {
  const world = new World();
  world.put(layer(1, 1));
  world.index(indexKey(TENANT, A, 4), []);
  await sleep(2 * HOUR_MS);
  assert.deepEqual(keysOf((await world.scrub()).orphans), [layer(1, 1)]);
  await assert.rejects(world.scrub(FIX), /settle generation 5 first/);
  assert.ok(world.store.keys.includes(layer(1, 1)));
});

simulated("scrubTenant: an index that came too late is an orphan, and names nothing", async () => {
  const world = new World();
  world.put(layer(1, 1));
  world.settle([A, []]);
  world.index(indexKey(TENANT, B, 4), [{ key: layer(1, 1), sizeBytes: 10 }]);
  await sleep(2 * HOUR_MS);
  assert.deepEqual((await world.scrub(FIX)).deleted, [layer(1, 1), indexKey(TENANT, B, 4)]);
});
