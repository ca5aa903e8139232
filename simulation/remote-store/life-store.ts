// The object store as one life of a process has it: calls fail, and what was on its way at the end arrives late.

import { setTimer, sleep } from "../../src/base/clock.ts";
import type { SeededRandom } from "../../src/base/random.ts";
import { type FaultRates, FaultyObjectStore } from "../../src/object-store/faulty-object-store.ts";
import type { MemoryObjectStore } from "../../src/object-store/memory-object-store.ts";
import type {
  GetOptions,
  ListOptions,
  ListPage,
  ObjectBody,
  ObjectInfo,
  ObjectSource,
  ObjectStore,
  PutOptions,
  StoreCallOptions,
} from "../../src/object-store/object-store.ts";

const MAX_LATENESS_MS = 120_000;
const DUPLICATES = 0.1;

export class LifeStore implements ObjectStore {
  readonly location = "memory";
  readonly #inner: MemoryObjectStore;
  readonly #faulty: FaultyObjectStore;
  readonly #random: SeededRandom;
  /** Asked before each call; false: the process has ended there. */
  readonly #goesOn: () => boolean;
  /** So long is a call on its way before anything happens. */
  readonly #latencyMs: () => number;

  constructor(
    inner: MemoryObjectStore,
    random: SeededRandom,
    rates: FaultRates,
    goesOn: () => boolean,
    latencyMs: () => number = () => 0,
  ) {
    this.#inner = inner;
    this.#faulty = new FaultyObjectStore(inner, random, rates);
    this.#random = random;
    this.#goesOn = goesOn;
    this.#latencyMs = latencyMs;
  }

  /** From here on as another process would have it. */
  set rates(rates: FaultRates) {
    this.#faulty.rates = rates;
  }

  async put(key: string, body: Uint8Array | ObjectSource, options: PutOptions = {}): Promise<void> {
    const bytes = await bytesOf(body);
    const { ifAbsent = false } = options;
    // One that was sent twice on its way, or is still on its way when its process has ended. Of an index only the
    // latter: one life puts it again and again under the same key.
    const later = () =>
      setTimer(() => {
        void this.#inner.put(key, bytes, { ifAbsent }).catch(() => undefined);
      }, this.#random.int(MAX_LATENESS_MS));
    if (!this.#goesOn()) {
      if (this.#random.bool()) {
        later();
      }
      return never();
    }
    if (ifAbsent && this.#random.bool(DUPLICATES)) {
      later();
    }
    await this.#call(options, () => this.#faulty.put(key, bytes, options));
  }

  get(key: string, options?: GetOptions): Promise<ObjectBody> {
    return this.#call(options, () => this.#faulty.get(key, options));
  }

  head(key: string, options?: StoreCallOptions): Promise<ObjectInfo> {
    return this.#call(options, () => this.#faulty.head(key, options));
  }

  list(options: ListOptions): Promise<ListPage> {
    return this.#call(options, () => this.#faulty.list(options));
  }

  delete(keys: readonly string[], options?: StoreCallOptions): Promise<void> {
    return this.#call(options, () => this.#faulty.delete(keys, options));
  }

  copy(from: string, to: string, options?: StoreCallOptions): Promise<void> {
    return this.#call(options, () => this.#faulty.copy(from, to, options));
  }

  async #call<T>(options: StoreCallOptions | undefined, call: () => Promise<T>): Promise<T> {
    if (!this.#goesOn()) {
      return never();
    }
    const latencyMs = this.#latencyMs();
    if (latencyMs > 0) {
      await sleep(latencyMs, options?.signal);
    }
    return call();
  }
}

/** What a process that has ended gets. */
export function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}

async function bytesOf(body: Uint8Array | ObjectSource): Promise<Uint8Array> {
  if (body instanceof Uint8Array) {
    return body;
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of body.open()) {
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
