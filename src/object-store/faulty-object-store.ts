// Puts faults in front of another object store: errors, delays, bodies that end early, lost replies.

import { turn } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import type { SeededRandom } from "../base/random.ts";
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
} from "./object-store.ts";

/** Shares of the calls that are hit, in [0, 1]. */
export interface FaultRates {
  /** Fails before anything happens. */
  readonly error?: number;
  /** Happens, but the caller gets an error. */
  readonly lostReply?: number;
  /** A get's body ends early: in an error, or as if it were whole. */
  readonly partialRead?: number;
  /** Happens some turns of the event loop later. */
  readonly delay?: number;
}

const MAX_DELAY_TURNS = 20;

export class FaultyObjectStore implements ObjectStore {
  readonly location: string;
  readonly #inner: ObjectStore;
  readonly #random: SeededRandom;
  rates: FaultRates;
  /** Every call fails. */
  down = false;
  /** Calls that were made, and how many of them were hit. */
  calls = 0;
  faults = 0;

  constructor(inner: ObjectStore, random: SeededRandom, rates: FaultRates = {}) {
    this.#inner = inner;
    this.#random = random;
    this.location = inner.location;
    this.rates = rates;
  }

  put(key: string, body: Uint8Array | ObjectSource, options?: PutOptions): Promise<void> {
    return this.#call(`put ${key}`, options, () => this.#inner.put(key, body, options));
  }

  async get(key: string, options?: GetOptions): Promise<ObjectBody> {
    const body = await this.#call(`get ${key}`, options, () => this.#inner.get(key, options));
    if (!this.#hit(this.rates.partialRead)) {
      return body;
    }
    const length = this.#random.int(body.lengthBytes);
    return { ...body, chunks: cutOff(key, body.chunks, length, this.#random.bool()) };
  }

  head(key: string, options?: StoreCallOptions): Promise<ObjectInfo> {
    return this.#call(`head ${key}`, options, () => this.#inner.head(key, options));
  }

  list(options: ListOptions): Promise<ListPage> {
    return this.#call(`list ${options.prefix}`, options, () => this.#inner.list(options));
  }

  delete(keys: readonly string[], options?: StoreCallOptions): Promise<void> {
    return this.#call("delete", options, () => this.#inner.delete(keys, options));
  }

  copy(from: string, to: string, options?: StoreCallOptions): Promise<void> {
    return this.#call(`copy ${from}`, options, () => this.#inner.copy(from, to, options));
  }

  async #call<T>(
    doing: string,
    options: StoreCallOptions | undefined,
    run: () => Promise<T>,
  ): Promise<T> {
    this.calls++;
    if (this.#hit(this.rates.delay)) {
      for (let turns = this.#random.int(MAX_DELAY_TURNS); turns > 0; turns--) {
        await turn();
        options?.signal?.throwIfAborted();
      }
    }
    if (this.down || this.#hit(this.rates.error)) {
      throw unavailable(`${doing}: service unavailable`);
    }
    const result = await run();
    if (this.#hit(this.rates.lostReply)) {
      throw unavailable(`${doing}: connection lost`);
    }
    return result;
  }

  #hit(rate: number | undefined): boolean {
    const hit = rate !== undefined && this.#random.bool(rate);
    this.faults += hit ? 1 : 0;
    return hit;
  }
}

function unavailable(message: string): StorageError {
  return new StorageError("unavailable", "object-store-error", message);
}

async function* cutOff(
  key: string,
  chunks: AsyncIterable<Uint8Array>,
  lengthBytes: number,
  silently: boolean,
): AsyncIterable<Uint8Array> {
  let left = lengthBytes;
  for await (const chunk of chunks) {
    if (chunk.length >= left) {
      yield chunk.subarray(0, left);
      break;
    }
    left -= chunk.length;
    yield chunk;
  }
  if (!silently) {
    throw unavailable(`get ${key}: connection reset`);
  }
}
