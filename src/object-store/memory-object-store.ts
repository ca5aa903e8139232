// An object store in memory, for tests and simulations: calls take effect and answer in a seeded order.

import { turn } from "../base/clock.ts";
import type { SeededRandom } from "../base/random.ts";
import {
  checkDelete,
  checkObjectKey,
  clampRange,
  type GetOptions,
  type ListOptions,
  type ListPage,
  MAX_PAGE,
  type ObjectBody,
  type ObjectInfo,
  type ObjectSource,
  type ObjectStore,
  objectExists,
  objectNotFound,
  type PutOptions,
  type StoreCallOptions,
  sourceChunks,
} from "./object-store.ts";
import type { StoreAnswer, StoreCall } from "./store-steps.ts";

const MAX_TURNS = 4;

interface StoredObject {
  readonly bytes: Uint8Array;
  readonly info: ObjectInfo;
}

export class MemoryObjectStore implements ObjectStore {
  readonly location = "memory";
  readonly #objects = new Map<string, StoredObject>();
  readonly #random: SeededRandom | undefined;
  readonly #now: () => number;
  /** In order; undefined where it has changed since. */
  #keys: readonly string[] | undefined;
  #version = 0;

  /**
   * With `random`, each call waits some turns of the event loop before it takes effect and again
   * before it answers, so that calls overtake each other. `now` in Unix milliseconds.
   */
  constructor(random?: SeededRandom, now: () => number = () => 0) {
    this.#random = random;
    this.#now = now;
  }

  /** What is there now: keys in order. */
  get keys(): readonly string[] {
    this.#keys ??= [...this.#objects.keys()].sort();
    return this.#keys;
  }

  async put(key: string, body: Uint8Array | ObjectSource, options: PutOptions = {}): Promise<void> {
    checkObjectKey(key);
    const chunks: Uint8Array[] = [];
    for await (const chunk of sourceChunks(key, body, options.signal)) {
      chunks.push(chunk.slice());
    }
    await this.#effect(options, () => {
      if (options.ifAbsent === true && this.#objects.has(key)) {
        throw objectExists(key, this.location);
      }
      this.#store(key, Buffer.concat(chunks));
    });
  }

  async get(key: string, options: GetOptions = {}): Promise<ObjectBody> {
    checkObjectKey(key);
    return this.#effect(options, () => {
      const { bytes, info } = this.#find(key);
      const { start, end } = clampRange(options.range, bytes.length, key);
      return { info, lengthBytes: end - start, chunks: inTwoChunks(bytes.slice(start, end)) };
    });
  }

  async head(key: string, options: StoreCallOptions = {}): Promise<ObjectInfo> {
    checkObjectKey(key);
    return this.#effect(options, () => this.#find(key).info);
  }

  async list(options: ListOptions): Promise<ListPage> {
    return this.#effect(options, () => {
      const limit = Math.min(options.limit ?? MAX_PAGE, MAX_PAGE);
      const keys = this.keys.filter(
        (key) => key.startsWith(options.prefix) && key > (options.after ?? ""),
      );
      const objects = keys.slice(0, limit).map((key) => this.#find(key).info);
      return { objects, next: keys.length > limit ? objects.at(-1)!.key : undefined };
    });
  }

  async delete(keys: readonly string[], options: StoreCallOptions = {}): Promise<void> {
    checkDelete(keys);
    await this.#effect(options, () => {
      for (const key of keys) {
        this.#remove(key);
      }
    });
  }

  async copy(from: string, to: string, options: StoreCallOptions = {}): Promise<void> {
    checkObjectKey(from);
    checkObjectKey(to);
    await this.#effect(options, () => this.#store(to, this.#find(from).bytes));
  }

  /** A call at once and without a promise: for simulations, whose clock is their own. */
  call(call: StoreCall): StoreAnswer {
    switch (call.type) {
      case "put":
        checkObjectKey(call.key);
        if (call.ifAbsent && this.#objects.has(call.key)) {
          throw objectExists(call.key, this.location);
        }
        this.#store(call.key, call.bytes.slice());
        return undefined;
      case "get": {
        const { bytes } = this.#find(call.key);
        const { start, end } = clampRange(call.range, bytes.length, call.key);
        return bytes.slice(start, end);
      }
      case "head":
        return this.#find(call.key).bytes.length;
      case "list":
        return this.keys.filter((key) => key.startsWith(call.prefix));
      case "delete":
        this.#remove(call.key);
        return undefined;
      case "pause":
        return undefined;
    }
  }

  async #effect<T>({ signal }: StoreCallOptions, effect: () => T): Promise<T> {
    await this.#delay();
    signal?.throwIfAborted();
    const result = effect();
    await this.#delay();
    signal?.throwIfAborted();
    return result;
  }

  async #delay(): Promise<void> {
    for (let turns = this.#random?.int(MAX_TURNS) ?? 0; turns > 0; turns--) {
      await turn();
    }
  }

  #find(key: string): StoredObject {
    const object = this.#objects.get(key);
    if (object === undefined) {
      throw objectNotFound(key, this.location);
    }
    return object;
  }

  #remove(key: string): void {
    this.#objects.delete(key);
    this.#keys = undefined;
  }

  #store(key: string, bytes: Uint8Array): void {
    this.#version++;
    if (!this.#objects.has(key)) {
      this.#keys = undefined;
    }
    this.#objects.set(key, {
      bytes,
      info: {
        key,
        sizeBytes: bytes.length,
        lastModifiedMs: this.#now(),
        etag: String(this.#version),
      },
    });
  }
}

async function* inTwoChunks(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  const half = bytes.length >> 1;
  yield bytes.subarray(0, half);
  yield bytes.subarray(half);
}
