import assert from "node:assert/strict";
import { test } from "node:test";
import { GatedStore, settle } from "../../../simulation/remote-store/gated-store.ts";
import { SimulatedDisk } from "../../../simulation/simulated-disk.ts";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { FaultyObjectStore } from "../../object-store/faulty-object-store.ts";
import { relSizePrefix } from "../layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../layers/layer-format.ts";
import { LayerWriter } from "../layers/layer-writer.ts";
import { VALUE_IMAGE } from "../layers/version-chain.ts";
import { DOWNLOAD_SUFFIX, LayerDownloads } from "./layer-download.ts";
import { TransferSlots } from "./transfer-slots.ts";

const TENANT = parseTenantId("11".repeat(16));
const DIRECTORY = "/layers";

/** A layer's file name and bytes. */
async function someLayer(lsn: number): Promise<{ name: string; bytes: Uint8Array }> {
  const disk = new SimulatedDisk(new SeededRandom(1));
  disk.makeDirectory(DIRECTORY);
  const writer = await LayerWriter.create(DIRECTORY, LAYER_KIND_IMAGE, disk);
  for (let index = 0; index < 20; index++) {
    const value = new Uint8Array(100).fill(index);
    await writer.add(relSizePrefix(1663, 5, 16384 + index, 0), 0, toLsn(lsn), VALUE_IMAGE, value);
  }
  const layer = await writer.finish({
    kind: LAYER_KIND_IMAGE,
    keyStart: FIRST_KEY,
    keyEnd: LAST_KEY,
    lsnStart: toLsn(lsn),
    lsnEnd: toLsn(lsn + 1),
  });
  return { name: layer.fileName, bytes: disk.peek(`${DIRECTORY}/${layer.fileName}`)!.slice() };
}

class World {
  readonly store = new GatedStore();
  readonly disk = new SimulatedDisk(new SeededRandom(1));
  readonly faulty: FaultyObjectStore;
  readonly downloads: LayerDownloads;

  constructor({ limit = 8, seed = 1 } = {}) {
    this.faulty = new FaultyObjectStore(this.store, new SeededRandom(seed));
    this.disk.makeDirectory(DIRECTORY);
    this.downloads = new LayerDownloads({
      store: this.faulty,
      disk: this.disk,
      logger: createLogger("test", "silent"),
      slots: new TransferSlots(limit),
      randomInt: () => 0,
    });
  }

  put(key: string, bytes: Uint8Array): void {
    this.store.call({ type: "put", key, bytes, ifAbsent: false });
  }

  layer(key: string, sizeBytes: number) {
    return { tenantId: TENANT, key, sizeBytes, indexKey: "the/index" };
  }

  download(
    key: string,
    name: string,
    sizeBytes: number,
    priority: "foreground" | "background" = "foreground",
  ): Promise<void> {
    const path = `${DIRECTORY}/${name}`;
    return this.downloads.download(this.layer(key, sizeBytes), path, priority);
  }
}

const simulated = (name: string, work: () => Promise<void>) =>
  test(name, () => inSimulatedTime(work));

const isError =
  (kind: string, ...words: readonly RegExp[]) =>
  (error: unknown) => {
    assert.ok(error instanceof StorageError, String(error));
    assert.equal(error.kind, kind, error.message);
    for (const word of words) {
      assert.match(error.message, word);
    }
    return true;
  };

simulated(
  "LayerDownloads: one transfer for all who wait, and the file is durable then",
  async () => {
    const world = new World();
    const { name, bytes } = await someLayer(100);
    world.put("layer", bytes);
    world.disk.fsyncDirectory("/");
    const waiters = [1, 2, 3].map(() => world.download("layer", name, bytes.length, "background"));
    await settle();
    assert.deepEqual(world.store.waiting, ["get layer"]);
    assert.equal(world.downloads.pending, 1);
    await world.store.open("get layer");
    await Promise.all(waiters);
    assert.deepEqual(world.store.calls, ["get layer"]);
    assert.equal(world.downloads.pending, 0);
    const after = world.disk.afterPowerCut();
    assert.deepEqual(after.list(DIRECTORY), [name]);
    assert.deepEqual(after.peek(`${DIRECTORY}/${name}`), bytes);
  },
);

simulated(
  "LayerDownloads: a store that fails and tears transfers brings the layer all the same",
  async () => {
    for (let seed = 1; seed <= 50; seed++) {
      const world = new World({ seed });
      world.store.isOpen = true;
      const { name, bytes } = await someLayer(100);
      world.put("layer", bytes);
      world.faulty.rates = { error: 0.2, partialRead: 0.3, delay: 0.3 };
      await world.download("layer", name, bytes.length);
      assert.deepEqual(world.disk.list(DIRECTORY), [name]);
      assert.deepEqual(world.disk.peek(`${DIRECTORY}/${name}`), bytes);
    }
  },
);

simulated("LayerDownloads: a directory that goes while a layer comes is made anew", async () => {
  const world = new World();
  const { name, bytes } = await someLayer(100);
  world.put("layer", bytes);
  const download = world.download("layer", name, bytes.length);
  await settle();
  world.disk.removeTree(DIRECTORY);
  world.store.isOpen = true;
  await world.store.open("get layer");
  await download;
  assert.deepEqual(world.disk.peek(`${DIRECTORY}/${name}`), bytes);
});

simulated("LayerDownloads: a crash at any operation leaves the whole layer or none", async () => {
  const { name, bytes } = await someLayer(100);
  let crashes = 0;
  for (let operations = 0, survived = false; !survived; operations++) {
    const world = new World();
    world.store.isOpen = true;
    world.put("layer", bytes);
    world.disk.fsyncDirectory("/");
    world.disk.operationsLeft = operations;
    const { promise: ended, reject } = Promise.withResolvers<never>();
    world.disk.onCrash = () => reject(new Error("crash"));
    try {
      await Promise.race([world.download("layer", name, bytes.length), ended]);
      survived = true;
    } catch {
      crashes++;
    }
    const next = world.disk.nextLife(world.disk.pickTear());
    for (const left of next.list(DIRECTORY)) {
      if (left !== name + DOWNLOAD_SUFFIX) {
        assert.equal(left, name);
        assert.deepEqual(next.peek(`${DIRECTORY}/${name}`), bytes);
      }
    }
  }
  assert.ok(crashes >= 5, `${crashes}`);
});

simulated(
  "LayerDownloads: a layer that is missing, of another size, damaged or another's is corrupt, and not kept",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    const { name, bytes } = await someLayer(100);
    const other = await someLayer(200);
    world.put("other", other.bytes);
    world.put("short", bytes.subarray(0, bytes.length - 1));
    for (const at of [0, bytes.length - 1, bytes.length - 30, bytes.length - 70]) {
      const damaged = bytes.slice();
      damaged[at]! ^= 1;
      world.put("damaged", damaged);
      const download = world.download("damaged", name, bytes.length);
      await assert.rejects(download, isError("corrupt", /layer damaged/, /the\/index/));
    }
    const names = [/the\/index/];
    await assert.rejects(
      world.download("missing", name, bytes.length),
      isError("corrupt", /layer missing/, /it is not in the object store/, ...names),
    );
    await assert.rejects(
      world.download("short", name, bytes.length),
      isError("corrupt", /layer short/, /it has \d+ bytes instead of \d+/, ...names),
    );
    await assert.rejects(
      world.download("other", name, other.bytes.length),
      isError("corrupt", /layer other/, /belongs to another layer/, ...names),
    );
    assert.deepEqual(world.disk.list(DIRECTORY), []);
  },
);

simulated(
  "LayerDownloads: a full disk is told at once, names the file and leaves nothing",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    const { name, bytes } = await someLayer(100);
    world.put("layer", bytes);
    world.disk.onOperation = (operation) => {
      world.disk.full = operation.name === "write";
    };
    await assert.rejects(world.download("layer", name, bytes.length), (error) => {
      assert.ok(error instanceof StorageError && error.code === "disk-full");
      return isError("unavailable", new RegExp(`to ${DIRECTORY}/${name}`), /no space left/)(error);
    });
    world.disk.onOperation = undefined;
    world.disk.full = false;
    assert.deepEqual(world.disk.list(DIRECTORY), []);
    assert.equal(world.store.calls.length, 1);
    await world.download("layer", name, bytes.length);
  },
);

simulated("LayerDownloads: a store that stays away is unavailable after ten attempts", async () => {
  const world = new World();
  world.faulty.down = true;
  await assert.rejects(world.download("layer", "name", 10), isError("unavailable", /layer/));
  assert.equal(world.faulty.calls, 10);
});

simulated(
  "LayerDownloads: who waits goes before what is done ahead of time, also once he has come",
  async () => {
    const world = new World({ limit: 1 });
    const layers = await Promise.all([1, 2, 3, 4].map(someLayer));
    for (const [at, { name, bytes }] of layers.entries()) {
      world.put(`l${at}`, bytes);
      const done = world.download(`l${at}`, name, bytes.length, "background");
      done.catch(() => undefined);
    }
    await settle();
    assert.deepEqual(world.store.waiting, ["get l0"]);
    const wanted = world.download("l3", layers[3]!.name, layers[3]!.bytes.length);
    while (world.store.waiting[0] !== "get l3") {
      await world.store.open(world.store.waiting[0] ?? "get l0").catch(() => undefined);
      await settle();
      assert.ok(!world.store.calls.includes("get l1"));
    }
    await world.store.open("get l3");
    await wanted;
    const stopped = world.download("l1", layers[1]!.name, layers[1]!.bytes.length);
    stopped.catch(() => undefined);
    await world.downloads.stop();
    await assert.rejects(stopped, /downloads have stopped/);
    assert.deepEqual(world.store.waiting, []);
    await assert.rejects(world.download("l2", "x", 1), /downloads have stopped/);
  },
);

simulated("LayerDownloads: reads a range, over failures", async () => {
  const world = new World();
  world.store.isOpen = true;
  const { bytes } = await someLayer(100);
  world.put("layer", bytes);
  world.faulty.rates = { error: 0.1, partialRead: 0.2 };
  const layer = world.layer("layer", bytes.length);
  for (let start = 0; start < 50; start++) {
    const range = { start, end: start + 64 };
    const read = await world.downloads.readRange(layer, range);
    assert.deepEqual(Buffer.from(read), Buffer.from(bytes.subarray(start, start + 64)));
  }
  await assert.rejects(
    world.downloads.readRange(world.layer("missing", 100), { start: 0, end: 10 }),
    isError("corrupt", /layer missing/, /the\/index/),
  );
});
