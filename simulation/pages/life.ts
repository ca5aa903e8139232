// One process of a simulated pageserver, on a machine's disk and the store that all share; it can end at any operation.

import { createLogger } from "../../src/base/log.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import type { FaultRates } from "../../src/object-store/faulty-object-store.ts";
import type { MemoryObjectStore } from "../../src/object-store/memory-object-store.ts";
import type { StorageConfig } from "../../src/pageserver/storage/storage-resources.ts";
import { TenantManager } from "../../src/pageserver/storage/tenant-manager.ts";
import { LifeStore } from "../remote-store/life-store.ts";
import { SimulatedCrash, SimulatedDisk } from "../simulated-disk.ts";

export const WORKDIR = "/pageserver";
export const SCRATCH = "/scratch";

const FAULTS: FaultRates = { error: 0.05, lostReply: 0.05, partialRead: 0.1, delay: 0.2 };
export const NO_FAULTS: FaultRates = {};

/** A disk that outlives the processes on it. */
export class Machine {
  readonly number: number;
  readonly #random: SeededRandom;
  disk: SimulatedDisk;

  constructor(number: number, random: SeededRandom) {
    this.number = number;
    this.#random = random;
    this.disk = this.emptyDisk();
  }

  emptyDisk(): SimulatedDisk {
    this.disk = new SimulatedDisk(this.#random);
    for (const directory of [WORKDIR, SCRATCH]) {
      this.disk.makeDirectory(directory);
    }
    this.disk.fsyncDirectory("/");
    return this.disk;
  }
}

export interface LifeOptions {
  readonly machine: Machine;
  readonly store: MemoryObjectStore;
  readonly random: SeededRandom;
  /** Operations on disk and store before it ends. */
  readonly operations: number;
  readonly hasFaults: boolean;
}

export class Life {
  readonly machine: Machine;
  readonly disk: SimulatedDisk;
  readonly store: LifeStore;
  readonly #random: SeededRandom;
  /** Rejects with a SimulatedCrash when the process ends. */
  readonly ended: Promise<never>;
  readonly #end: (error: unknown) => void;
  #operationsLeft: number;
  #manager: TenantManager | undefined;
  isDead = false;

  constructor({ machine, store, random, operations, hasFaults }: LifeOptions) {
    this.machine = machine;
    this.disk = machine.disk;
    this.#random = random;
    this.#operationsLeft = operations;
    const faults = hasFaults ? FAULTS : NO_FAULTS;
    const slowShare = hasFaults ? random.pick([2, 2, 20]) : 0;
    const latency = () => (hasFaults ? this.#latencyMs(slowShare) : 0);
    this.store = new LifeStore(store, random, faults, () => this.#goesOn(), latency);
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => undefined);
    this.ended = promise;
    this.#end = reject;
    this.disk.onOperation = () => {
      if (!this.#goesOn()) {
        throw new SimulatedCrash("the process has ended");
      }
    };
  }

  /** `slowShare` of 100 take long. */
  #latencyMs(slowShare: number): number {
    const dice = this.#random.int(100);
    return dice < slowShare ? this.#random.int(40_000) : dice < 40 ? this.#random.int(300) : 0;
  }

  #goesOn(): boolean {
    if (!this.isDead && --this.#operationsLeft < 0) {
      this.kill();
    }
    return !this.isDead;
  }

  get isOpen(): boolean {
    return this.#manager !== undefined;
  }

  get tenants(): TenantManager {
    if (this.#manager === undefined) {
      throw new Error("it is not open");
    }
    return this.#manager;
  }

  get generation(): number {
    return this.tenants.resources.generation.number;
  }

  /** Rejects as TenantManager.open does. */
  async open(config: Partial<StorageConfig>): Promise<void> {
    this.#manager = await TenantManager.open({
      workdir: WORKDIR,
      logger: createLogger("pages", "silent"),
      config,
      disk: this.disk,
      store: this.store,
      randomInt: (limit) => this.#random.int(limit),
    });
  }

  /** As by kill -9; the power may go too. */
  kill(): void {
    if (this.isDead) {
      return;
    }
    this.isDead = true;
    const tear = this.#random.bool() ? this.disk.pickTear() : undefined;
    this.machine.disk = this.disk.nextLife(tear);
    this.#end(new SimulatedCrash("the process has ended"));
    // What it still waits for ends, so that its timers do.
    const manager = this.#manager;
    manager?.close({ flush: false }).catch(() => undefined);
    manager?.resources.remote?.close().catch(() => undefined);
  }

  /** An orderly end; the disk stays. */
  async close(flush: boolean): Promise<void> {
    await Promise.race([this.tenants.close({ flush }), this.ended]);
    this.isDead = true;
    this.machine.disk = this.disk.nextLife();
  }
}
