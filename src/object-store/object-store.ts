// The interface of an object store: whole objects under keys, as S3 and its relatives have them.

import { StorageError } from "../base/errors.ts";

/*
 * What every implementation promises (object-store.test.ts runs one suite against all of them):
 *
 * - An object appears and is replaced as a whole, and is durable when `put` resolves.
 * - Strong consistency: what was put is found by every get, head and list that begins afterwards.
 * - Every call may have happened although it failed (a lost reply), so a caller repeats only what
 *   may happen twice. All calls here may: a repeated `put` with `ifAbsent` may then find its own
 *   object.
 *
 * Errors, by StorageError kind: `not-found` (`object-not-found`), `conflict` (`object-exists`: the
 * condition of a put is not met), `unavailable` (transient; try again), `invalid` (a key or range
 * that no store can have), and whatever reason an aborted signal carries.
 */

export interface ObjectInfo {
  readonly key: string;
  readonly sizeBytes: number;
  /** Milliseconds since the Unix epoch. */
  readonly lastModifiedMs: number;
  /** Another one for each content that was ever put under the key. */
  readonly etag: string;
}

/** Bytes `[start, end)`; an end beyond the object means its end. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** An upload whose bytes need not be in memory at once; `open` is called again for each attempt. */
export interface ObjectSource {
  readonly sizeBytes: number;
  /** A synced file with just these bytes that nobody will change: a store on the same disk may take it as it is. */
  readonly path?: string;
  open(): AsyncIterable<Uint8Array>;
}

export interface StoreCallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface PutOptions extends StoreCallOptions {
  /** Fail with `object-exists` where there is an object: the first one wins. */
  readonly ifAbsent?: boolean;
}

export interface GetOptions extends StoreCallOptions {
  readonly range?: ByteRange;
}

export interface ObjectBody {
  /** Of the whole object. */
  readonly info: ObjectInfo;
  /** How many bytes `chunks` brings, unless the connection breaks: count them (`readObject` does). */
  readonly lengthBytes: number;
  /** Read once; to leave the loop early ends the transfer. */
  readonly chunks: AsyncIterable<Uint8Array>;
}

export interface ListOptions extends StoreCallOptions {
  /** Keys that begin so, whatever is in them; empty: all. */
  readonly prefix: string;
  /** Keys above this one (`next` of the page before). */
  readonly after?: string | undefined;
  /** Keys a page, at most 1000, the default. */
  readonly limit?: number;
}

export interface ListPage {
  /** In ascending order of their bytes. */
  readonly objects: readonly ObjectInfo[];
  /** Where the next page begins; undefined on the last one. */
  readonly next: string | undefined;
}

export interface ObjectStore {
  /** For messages: where it is, without secrets. */
  readonly location: string;
  put(key: string, body: Uint8Array | ObjectSource, options?: PutOptions): Promise<void>;
  get(key: string, options?: GetOptions): Promise<ObjectBody>;
  head(key: string, options?: StoreCallOptions): Promise<ObjectInfo>;
  list(options: ListOptions): Promise<ListPage>;
  /** Removes objects; those that are not there are fine. At most 1000 keys. */
  delete(keys: readonly string[], options?: StoreCallOptions): Promise<void>;
  /** Replaces `to` by the content of `from`, inside the store. */
  copy(from: string, to: string, options?: StoreCallOptions): Promise<void>;
}

export const MAX_PAGE = 1000;
const MAX_KEY_LENGTH = 900;
const MAX_PART_LENGTH = 240;
const PART = /^[A-Za-z0-9_=+,@-][A-Za-z0-9._=+,@-]*$/;

/**
 * Parts between slashes, of letters, digits and `._=+,@-`, not beginning with a dot: no store and no
 * file system has trouble with these, and no key can leave its directory. StorageError `invalid`.
 */
export function checkObjectKey(key: string): void {
  const parts = key.split("/");
  if (
    key.length > MAX_KEY_LENGTH ||
    !parts.every((part) => PART.test(part) && part.length <= MAX_PART_LENGTH)
  ) {
    const shown = JSON.stringify(key.slice(0, 200));
    throw new StorageError("invalid", "bad-object-key", `not an object key: ${shown}`);
  }
}

export function checkDelete(keys: readonly string[]): void {
  if (keys.length > MAX_PAGE) {
    throw new StorageError("invalid", "too-many-keys", `${keys.length} keys in one delete`);
  }
  keys.forEach(checkObjectKey);
}

/** The part of an object of `sizeBytes` that a range means. StorageError `invalid`. */
export function clampRange(range: ByteRange | undefined, sizeBytes: number, key: string) {
  if (range === undefined) {
    return { start: 0, end: sizeBytes };
  }
  const { start, end } = range;
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end <= start) {
    throw new StorageError("invalid", "bad-range", `range [${start}, ${end}) of ${key}`);
  }
  if (start >= sizeBytes) {
    throw new StorageError(
      "invalid",
      "bad-range",
      `range [${start}, ${end}) is beyond the ${sizeBytes} bytes of ${key}`,
    );
  }
  return { start, end: Math.min(end, sizeBytes) };
}

export function objectNotFound(key: string, location: string): StorageError {
  return new StorageError("not-found", "object-not-found", `no object ${key} in ${location}`);
}

export function objectExists(key: string, location: string): StorageError {
  return new StorageError("conflict", "object-exists", `object ${key} exists in ${location}`);
}

/** The upload's chunks. StorageError `invalid` at the end where they are not as many bytes as said. */
export async function* sourceChunks(
  key: string,
  body: Uint8Array | ObjectSource,
  signal: AbortSignal | undefined,
): AsyncIterable<Uint8Array> {
  signal?.throwIfAborted();
  if (body instanceof Uint8Array) {
    yield body;
    return;
  }
  let length = 0;
  for await (const chunk of body.open()) {
    signal?.throwIfAborted();
    length += chunk.length;
    yield chunk;
  }
  if (length !== body.sizeBytes) {
    throw new StorageError(
      "invalid",
      "bad-object-source",
      `upload of ${key} has ${length} bytes instead of ${body.sizeBytes}`,
    );
  }
}

/**
 * An object, or a range of it, in one buffer of the caller's own. A body that ends early is
 * StorageError `unavailable`; an answer above `maxBytes` is `invalid` and not read.
 */
export async function readObject(
  store: ObjectStore,
  key: string,
  options: GetOptions & { readonly maxBytes?: number } = {},
): Promise<Uint8Array> {
  const { lengthBytes, chunks } = await store.get(key, options);
  if (lengthBytes > (options.maxBytes ?? Number.MAX_SAFE_INTEGER)) {
    throw new StorageError("invalid", "object-too-large", `${key} has ${lengthBytes} bytes`);
  }
  const bytes = Buffer.allocUnsafe(lengthBytes);
  let done = 0;
  for await (const chunk of chunks) {
    if (done + chunk.length > lengthBytes) {
      throw brokenBody(key, lengthBytes, `more than ${done}`);
    }
    bytes.set(chunk, done);
    done += chunk.length;
  }
  if (done !== lengthBytes) {
    throw brokenBody(key, lengthBytes, `${done}`);
  }
  return bytes;
}

function brokenBody(key: string, expected: number, got: string): StorageError {
  const message = `read of ${key} brought ${got} bytes instead of ${expected}`;
  return new StorageError("unavailable", "short-object-read", message);
}

/** Every object below a prefix, page by page. */
export async function* listAll(
  store: ObjectStore,
  prefix: string,
  signal?: AbortSignal,
): AsyncIterable<ObjectInfo> {
  let after: string | undefined;
  do {
    const page = await store.list({ prefix, after, signal });
    yield* page.objects;
    after = page.next;
  } while (after !== undefined);
}

/** Removes every object below a prefix. */
export async function deleteAll(
  store: ObjectStore,
  prefix: string,
  signal?: AbortSignal,
): Promise<void> {
  for (;;) {
    const { objects, next } = await store.list({ prefix, signal });
    if (objects.length > 0) {
      await store.delete(
        objects.map(({ key }) => key),
        { signal },
      );
    }
    if (next === undefined) {
      return;
    }
  }
}
