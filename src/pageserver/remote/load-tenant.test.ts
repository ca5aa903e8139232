import assert from "node:assert/strict";
import { test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId, type TimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { FaultyObjectStore } from "../../object-store/faulty-object-store.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { loadTenant } from "./load-tenant.ts";
import { indexKey, layerKey, manifestKey } from "./remote-paths.ts";

const TENANT = parseTenantId("11".repeat(16));
const RANGE = `${"0".repeat(36)}-${"F".repeat(36)}__0000000000000001-0000000000000002`;

const timeline = (number: number): TimelineId =>
  parseTimelineId(number.toString(16).padStart(32, "0"));

class World {
  readonly store = new MemoryObjectStore(new SeededRandom(3));
  readonly faulty = new FaultyObjectStore(this.store, new SeededRandom(4));
  readonly stop = new AbortController();

  put(key: string, text = key): void {
    this.store.call({ type: "put", key, bytes: Buffer.from(text), ifAbsent: false });
  }

  load(generation: number) {
    const access = {
      store: this.faulty,
      logger: createLogger("test", "silent"),
      signal: this.stop.signal,
      randomInt: (limit: number) => limit - 1,
    };
    return loadTenant(access, TENANT, generation, (bytes, key) => {
      const text = Buffer.from(bytes).toString();
      if (text === "damaged") {
        throw new StorageError("corrupt", "corrupt-index", `index ${key}: no checksum`);
      }
      return text;
    });
  }
}

const simulated = (name: string, work: () => Promise<void>) =>
  test(name, () => inSimulatedTime(work));

simulated(
  "loadTenant: every timeline that has an index, by its newest, over failures",
  async () => {
    const world = new World();
    world.faulty.rates = { error: 0.2, partialRead: 0.2, delay: 0.5 };
    for (let number = 0; number < 60; number++) {
      world.put(indexKey(TENANT, timeline(number), 1));
      world.put(indexKey(TENANT, timeline(number), 2 + (number % 3)));
    }
    world.put(manifestKey(TENANT, 2));
    world.put(layerKey(TENANT, timeline(99), `${RANGE}-00000001-00000001`));
    world.put(indexKey(parseTenantId("22".repeat(16)), timeline(0), 9));
    const { timelines, damaged } = await world.load(4);
    assert.equal(damaged.size, 0);
    assert.deepEqual(
      timelines.map(({ timelineId, generation, index }) => [timelineId, generation, index]),
      Array.from({ length: 60 }, (_, number) => {
        const generation = 2 + (number % 3);
        return [timeline(number), generation, indexKey(TENANT, timeline(number), generation)];
      }),
    );
  },
);

simulated("loadTenant: the layers of a large timeline are not listed page by page", async () => {
  const world = new World();
  for (let number = 0; number < 3; number++) {
    for (let layer = 0; layer < 5000; layer++) {
      const sequence = layer.toString(16).padStart(8, "0");
      world.put(layerKey(TENANT, timeline(number), `${RANGE}-00000001-${sequence}`), "");
    }
    world.put(indexKey(TENANT, timeline(number), 1));
  }
  const { timelines } = await world.load(1);
  assert.equal(timelines.length, 3);
  // Three reads; two pages a timeline at most.
  assert.ok(world.faulty.calls <= 3 + 6, `${world.faulty.calls} calls`);
});

simulated("loadTenant: a damaged index names its object and leaves the others alone", async () => {
  const world = new World();
  world.put(indexKey(TENANT, timeline(1), 1));
  world.put(indexKey(TENANT, timeline(2), 1));
  world.put(indexKey(TENANT, timeline(2), 3), "damaged");
  const { timelines, damaged } = await world.load(3);
  assert.deepEqual(
    timelines.map(({ timelineId }) => timelineId),
    [timeline(1)],
  );
  assert.deepEqual([...damaged.keys()], [timeline(2)]);
  const error = damaged.get(timeline(2))!;
  assert.equal(error.kind, "corrupt");
  assert.ok(error.message.includes(indexKey(TENANT, timeline(2), 3)), error.message);
});

simulated(
  "loadTenant: an index of a higher generation is a conflict, a store that is away unavailable",
  async () => {
    const world = new World();
    world.put(indexKey(TENANT, timeline(1), 1));
    world.put(indexKey(TENANT, timeline(2), 7));
    const isKind = (kind: string) => (error: unknown) =>
      error instanceof StorageError && error.kind === kind;
    await assert.rejects(world.load(6), isKind("conflict"));
    assert.equal((await world.load(7)).timelines.length, 2);
    world.faulty.down = true;
    await assert.rejects(world.load(7), isKind("unavailable"));
    assert.equal((await new World().load(1)).timelines.length, 0);
    world.stop.abort(new Error("stopping"));
    await assert.rejects(world.load(7), /stopping/);
  },
);
