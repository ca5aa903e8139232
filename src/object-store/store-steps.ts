// Work on an object store as steps: a generator says what is to be called next, whoever drives it calls.

import assert from "node:assert/strict";
import { turn } from "../base/clock.ts";
import { type ByteRange, listAll, type ObjectStore, readObject } from "./object-store.ts";

/*
 * So the same code runs against a real store, waiting for it (`carryOut`), and in a simulation that has a
 * clock of its own and lets anything happen between two calls. A call that fails is thrown into the
 * generator at its `yield`, as `await` would.
 */

export type StoreCall =
  | {
      readonly type: "put";
      readonly key: string;
      readonly bytes: Uint8Array;
      /** As PutOptions'. */
      readonly ifAbsent: boolean;
    }
  | {
      readonly type: "get";
      readonly key: string;
      readonly range?: ByteRange | undefined;
      readonly maxBytes?: number | undefined;
    }
  | { readonly type: "head"; readonly key: string }
  | { readonly type: "list"; readonly prefix: string }
  | { readonly type: "delete"; readonly key: string }
  /** Nothing: others may have their turn. */
  | { readonly type: "pause" };

/** Bytes of a get, size of a head, keys of a list. */
export type StoreAnswer = Uint8Array | number | readonly string[] | undefined;

export type StoreSteps<T = void> = Generator<StoreCall, T, StoreAnswer>;

/** Steps that give bytes on their way; that is answered with nothing. */
export type StoreStream = Generator<StoreCall | Uint8Array, void, StoreAnswer>;

export function* put(key: string, bytes: Uint8Array, ifAbsent = false): StoreSteps {
  yield { type: "put", key, bytes, ifAbsent };
}

/** As `readObject`. */
export function* get(
  key: string,
  options: { readonly range?: ByteRange; readonly maxBytes?: number } = {},
): StoreSteps<Uint8Array> {
  return (yield { type: "get", key, ...options }) as Uint8Array;
}

/** The object's size in bytes. */
export function* head(key: string): StoreSteps<number> {
  return (yield { type: "head", key }) as number;
}

/** The keys below a prefix. */
export function* list(prefix: string): StoreSteps<readonly string[]> {
  return (yield { type: "list", prefix }) as readonly string[];
}

/** One that is not there is fine. */
export function* remove(key: string): StoreSteps {
  yield { type: "delete", key };
}

export function* pause(): StoreSteps {
  yield { type: "pause" };
}

/** Drives steps with a real store; each call gets a signal of its own. */
export async function carryOut<T>(
  steps: StoreSteps<T>,
  store: ObjectStore,
  signal: () => AbortSignal | undefined,
): Promise<T> {
  let step = steps.next();
  while (step.done !== true) {
    let answer: StoreAnswer;
    try {
      answer = await callStore(store, step.value, signal());
    } catch (error) {
      step = steps.throw(error);
      continue;
    }
    step = steps.next(answer);
  }
  return step.value;
}

/**
 * As `carryOut`: the bytes of a stream as they come. `store` may be absent where the steps want nothing of
 * it. Whoever stops reading ends the steps.
 */
export async function* carryOutStream(
  stream: StoreStream,
  store: ObjectStore | undefined,
  signal: () => AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  try {
    let step = stream.next();
    while (step.done !== true) {
      let answer: StoreAnswer;
      if (step.value instanceof Uint8Array) {
        yield step.value;
      } else {
        try {
          answer = await callStore(store, step.value, signal());
        } catch (error) {
          step = stream.throw(error);
          continue;
        }
      }
      step = stream.next(answer);
    }
  } finally {
    stream.return();
  }
}

async function callStore(
  store: ObjectStore | undefined,
  call: StoreCall,
  signal: AbortSignal | undefined,
): Promise<StoreAnswer> {
  if (call.type === "pause") {
    await turn();
    return undefined;
  }
  assert(store !== undefined, `${call.type} without an object store`);
  switch (call.type) {
    case "put": {
      const { key, bytes, ifAbsent } = call;
      await store.put(key, bytes, { ifAbsent, signal });
      return undefined;
    }
    case "get": {
      const { key, range, maxBytes } = call;
      return readObject(store, key, {
        signal,
        ...(range === undefined ? {} : { range }),
        ...(maxBytes === undefined ? {} : { maxBytes }),
      });
    }
    case "head":
      return (await store.head(call.key, { signal })).sizeBytes;
    case "list": {
      const keys: string[] = [];
      for await (const { key } of listAll(store, call.prefix, signal)) {
        keys.push(key);
      }
      return keys;
    }
    case "delete":
      await store.delete([call.key], { signal });
      return undefined;
  }
}
