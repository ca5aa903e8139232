// One simulated run of pageservers with an object store, from a seed: lives, takeovers, and what is left at the end.

import assert from "node:assert/strict";
import { join } from "node:path";
import { sleep } from "../../src/base/clock.ts";
import { errorMessage, StorageError } from "../../src/base/errors.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { newestIndexes, parseRemoteKey } from "../../src/pageserver/remote/remote-paths.ts";
import { decodeIndexPart, INDEX_PART_NAME } from "../../src/pageserver/storage/index-part.ts";
import { SimulatedCrash } from "../simulated-disk.ts";
import { inSimulatedTime } from "../simulated-time.ts";
import { Life, type Machine, WORKDIR } from "./life.ts";
import { type Trace, World } from "./world.ts";

const MAX_LIVES = 7;
const MAX_STEPS = 26;
/** Later than everything that is on its way in the store. */
const SETTLED_MS = 200_000;

export interface RunResult {
  readonly counts: ReadonlyMap<string, number>;
  readonly violation: Error | undefined;
}

/** The same seed is the same run. */
export async function runPageservers(
  seed: number,
  trace: Trace = () => undefined,
): Promise<RunResult> {
  let counts: ReadonlyMap<string, number> = new Map();
  try {
    await inSimulatedTime(async () => {
      const world = new World(new SeededRandom(seed), trace);
      counts = world.counts;
      await new Run(world).all();
    });
    return { counts, violation: undefined };
  } catch (error) {
    return { counts, violation: new Error(`seed ${seed}: ${messages(error)}`, { cause: error }) };
  }
}

function messages(error: unknown): string {
  const cause =
    error instanceof Error && error.cause !== undefined ? `: ${messages(error.cause)}` : "";
  return errorMessage(error).split("\n")[0] + (cause === "" ? "" : cause);
}

class Run {
  readonly #world: World;
  /** Replaced by others, and not aware of it. */
  #stale: Life[] = [];

  constructor(world: World) {
    this.#world = world;
  }

  async all(): Promise<void> {
    const { random } = this.#world;
    let machine = 0;
    for (let lives = 2 + random.int(MAX_LIVES - 1); lives > 0; lives--) {
      machine = await this.#oneLife(machine);
    }
    this.#killStale();
    await sleep(SETTLED_MS);
    await this.#end();
  }

  /** Returns the machine of the next one. */
  async #oneLife(number: number): Promise<number> {
    const world = this.#world;
    const { random } = world;
    const machine = world.machines[number]!;
    if (random.bool(0.2)) {
      machine.emptyDisk();
      world.count("empty disk");
    }
    const operations = random.bool(0.6)
      ? random.int(random.pick([60, 200, 600]))
      : Number.POSITIVE_INFINITY;
    const life = this.#newLife(machine, operations);
    const survived = await this.#lives(life, async () => {
      await this.#start(life);
      await this.#live(life);
    });
    world.count(survived ? "survived" : "crash");
    const isTakenOver = survived && random.bool(0.6);
    if (isTakenOver) {
      world.count("takeover");
      this.#stale.push(life);
      void this.#goOn(life);
    }
    if (survived && !isTakenOver && random.bool(0.3)) {
      world.count("stop");
      await this.#lives(life, () => life.close(random.bool()));
    }
    const next = isTakenOver || random.bool(0.3) ? 1 - number : number;
    if (!isTakenOver) {
      life.kill();
    }
    // One process a disk.
    for (const one of this.#stale.filter((stale) => stale.machine.number === next)) {
      one.kill();
    }
    this.#stale = this.#stale.filter(({ isDead }) => !isDead);
    if (random.bool(0.3)) {
      await sleep(random.int(2 * SETTLED_MS));
    }
    return next;
  }

  #newLife(machine: Machine, operations: number, hasFaults = true): Life {
    const { store, random } = this.#world;
    return new Life({ machine, store, random, operations, hasFaults });
  }

  async #start(life: Life): Promise<void> {
    const world = this.#world;
    world.trace(`machine ${life.machine.number} starts`);
    await life.open(world.config);
    world.trace(`machine ${life.machine.number} is open in generation ${life.generation}`);
    world.checkLoaded(life);
    world.look(life);
  }

  async #live(life: Life): Promise<void> {
    const world = this.#world;
    if (world.random.bool(0.8)) {
      await world.catchUp(life);
      await world.checkAll(life, 4);
    }
    for (let steps = world.random.int(MAX_STEPS); steps > 0; steps--) {
      await world.step(life);
    }
  }

  /** A pageserver that was replaced: nothing that it says counts. */
  async #goOn(life: Life): Promise<void> {
    const world = this.#world;
    await this.#lives(life, async () => {
      for (let steps = world.random.int(MAX_STEPS); steps > 0 && !life.isDead; steps--) {
        await world.step(life);
        await sleep(world.random.int(2000));
      }
    }).catch((error: unknown) => {
      world.violation ??= error instanceof Error ? error : new Error(String(error));
    });
  }

  #killStale(): void {
    for (const life of this.#stale.splice(0)) {
      life.kill();
    }
  }

  /** False where the process ended meanwhile. */
  async #lives(life: Life, work: () => Promise<void>): Promise<boolean> {
    try {
      await Promise.race([work(), life.ended]);
      return true;
    } catch (error) {
      if (life.isDead && (error instanceof SimulatedCrash || isOfTheDead(error))) {
        this.#world.trace(`machine ${life.machine.number} ends`);
        return false;
      }
      if (isAway(error) && !life.isOpen) {
        // It could not start: whoever watches over it starts it again.
        this.#world.trace(`machine ${life.machine.number}: ${errorMessage(error)}`);
        life.kill();
        return false;
      }
      throw error;
    }
  }

  /** The store works, nobody ends: all that is left comes to its end. */
  async #end(): Promise<void> {
    const world = this.#world;
    const first = world.machines[world.random.int(2)]!;
    const last = await this.#quietLife(first);
    await world.catchUp(last);
    await world.checkAll(last, 20);
    await this.#settle(last);
    await last.close(true);
    // What the disk of the other one has, and then what the store alone has.
    const other = await this.#quietLife(world.machines[1 - first.number]!);
    await world.checkAll(other, 10);
    await this.#settle(other);
    this.#checkDisk(other);
    await other.close(false);
    first.emptyDisk();
    const anew = await this.#quietLife(first);
    await world.unarchiveAll(anew);
    await world.catchUp(anew);
    for (const model of world.timelines) {
      const timeline = world.loaded(anew, model);
      assert.ok(
        timeline === undefined || timeline.lastRecordLsn === model.end,
        `${model.name} is behind`,
      );
    }
    await world.checkAll(anew, 20);
    await this.#settle(anew);
    this.#checkStore(anew);
    this.#checkDisk(anew);
    await anew.close(false);
  }

  async #quietLife(machine: Machine): Promise<Life> {
    const life = this.#newLife(machine, Number.POSITIVE_INFINITY, false);
    await this.#start(life);
    return life;
  }

  /** All is in the store, and all that is superfluous is gone there. */
  async #settle(life: Life): Promise<void> {
    const world = this.#world;
    for (const tenant of life.tenants.tenants) {
      for (const timeline of tenant.timelines) {
        await timeline.prepareIngest();
        await timeline.checkpoint();
        await timeline.makeDurable();
      }
    }
    await sleep(SETTLED_MS);
    world.look(life);
    for (const model of world.timelines) {
      const timeline = world.loaded(life, model);
      const { end, name } = model;
      assert.ok(
        timeline === undefined || timeline.remoteConsistentLsn === end,
        `${name} is not in the store`,
      );
    }
    await life.tenants.resources.remote!.deletions.flush();
    for (const tenant of life.tenants.tenants) {
      const { report } = await tenant.scrub({ fix: true, minAgeMs: 1 });
      assert.deepEqual([...report.missing, ...report.differing, ...report.damaged], []);
    }
    await life.tenants.resources.remote!.deletions.flush();
    world.checkWhole(life);
  }

  /** Nothing but what an index names, and the indexes before. */
  #checkStore(life: Life): void {
    const { store } = this.#world;
    const newest = newestIndexes(store.keys, life.generation);
    const named = new Set<string>();
    for (const { key } of newest.values()) {
      const text = Buffer.from(store.call({ type: "get", key }) as Uint8Array).toString("utf8");
      const { tenantId, layers } = decodeIndexPart(text, key);
      for (const { maker, fileName } of layers) {
        named.add(`tenants/${tenantId}/timelines/${maker}/${fileName}`);
      }
    }
    for (const key of store.keys) {
      const object = parseRemoteKey(key);
      if (object !== undefined) {
        life.tenants.tenant(object.tenantId);
      }
      if (object?.kind === "layer") {
        assert.ok(named.delete(key), `${key} is left in the store`);
      } else if (object?.kind === "index") {
        const tenant = life.tenants.tenant(object.tenantId);
        const { timelineId } = object;
        const isThere = tenant.hasTimeline(timelineId) || tenant.archived.has(timelineId);
        assert.ok(isThere, `${key} is left in the store`);
      }
    }
    assert.deepEqual([...named], [], "layers that the store does not have");
  }

  #checkDisk({ disk, tenants }: Life): void {
    const used = new Set<string>();
    for (const tenant of tenants.tenants) {
      for (const { path, isResident } of tenant.layerFiles) {
        if (isResident) {
          used.add(path);
        }
      }
    }
    for (const tenant of disk.list(join(WORKDIR, "tenants"))) {
      const timelines = join(WORKDIR, "tenants", tenant, "timelines");
      for (const timeline of disk.list(timelines)) {
        for (const name of disk.list(join(timelines, timeline))) {
          const path = join(timelines, timeline, name);
          const isOurs = name.startsWith(INDEX_PART_NAME) || used.delete(path);
          assert.ok(isOurs, `${path} is left on the disk`);
        }
      }
    }
    assert.deepEqual([...used], [], "layers without their files");
    assert.deepEqual(disk.list(join(WORKDIR, "deletions")), [], "lists of deletions");
  }
}

/** The store did not answer, or another one has begun meanwhile. */
function isAway(error: unknown): boolean {
  return error instanceof StorageError && ["unavailable", "conflict"].includes(error.kind);
}

function isOfTheDead(error: unknown): boolean {
  return error instanceof StorageError && (isAway(error) || error.cause instanceof SimulatedCrash);
}
