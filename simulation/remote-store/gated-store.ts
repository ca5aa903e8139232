// An object store in which each call waits until the test lets it go, or makes it fail.

import { turn } from "../../src/base/clock.ts";
import { StorageError } from "../../src/base/errors.ts";
import { MemoryObjectStore } from "../../src/object-store/memory-object-store.ts";
import type {
  GetOptions,
  ObjectBody,
  ObjectSource,
  PutOptions,
  StoreCallOptions,
} from "../../src/object-store/object-store.ts";

interface Gate {
  /** `put a/b`, or `delete a b`. */
  readonly call: string;
  readonly open: () => void;
  readonly fail: (error: unknown) => void;
}

export class GatedStore extends MemoryObjectStore {
  #gates: Gate[] = [];
  /** Calls go through at once. */
  isOpen = false;
  /** Every call that was made. */
  readonly calls: string[] = [];

  /** What waits, without the keys' directories. */
  get waiting(): string[] {
    return this.#gates.map(({ call }) => call);
  }

  override async put(
    key: string,
    body: Uint8Array | ObjectSource,
    options: PutOptions = {},
  ): Promise<void> {
    await this.#gate(`put ${nameOf(key)}`, options);
    await super.put(key, body, options);
  }

  override async get(key: string, options: GetOptions = {}): Promise<ObjectBody> {
    await this.#gate(`get ${nameOf(key)}`, options);
    return super.get(key, options);
  }

  override async delete(keys: readonly string[], options: StoreCallOptions = {}): Promise<void> {
    await this.#gate(`delete ${keys.map(nameOf).join(" ")}`, options);
    await super.delete(keys, options);
  }

  /** Lets the first such call go, and all that follows from it at once. */
  async open(call: string): Promise<void> {
    this.#take(call).open();
    await settle();
  }

  /** Lets all go that waits now. */
  openAll(): void {
    for (const { open } of this.#gates.splice(0)) {
      open();
    }
  }

  async fail(call: string): Promise<void> {
    this.#take(call).fail(new StorageError("unavailable", "object-store-error", "away"));
    await settle();
  }

  #take(call: string): Gate {
    const gate = this.#gates.find((one) => one.call === call);
    if (gate === undefined) {
      throw new Error(`no ${call} waits, but ${this.waiting.join(", ") || "nothing"}`);
    }
    this.#gates = this.#gates.filter((one) => one !== gate);
    return gate;
  }

  #gate(call: string, { signal }: StoreCallOptions): Promise<void> {
    this.calls.push(call);
    if (this.isOpen) {
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const gate: Gate = { call, open: resolve, fail: reject };
      this.#gates.push(gate);
      signal?.addEventListener("abort", () => {
        this.#gates = this.#gates.filter((one) => one !== gate);
        reject(signal.reason);
      });
    });
  }
}

const nameOf = (key: string) => key.slice(key.lastIndexOf("/") + 1);

/** Whatever is ready has happened then. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) {
    await turn();
  }
}
