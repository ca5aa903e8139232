// An object store in a directory: one file an object, its key is its path.

import { mkdirSync, readdirSync, statSync, unlinkSync } from "node:fs";
import {
  type FileHandle,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  rmdir,
  unlink,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { nowMs } from "../base/clock.ts";
import { fsyncDirectoryAsync } from "../base/disk.ts";
import { errnoCode, errorMessage, StorageError } from "../base/errors.ts";
import { randomBytes } from "../base/random.ts";
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

/*
 * A put writes a file in `.tmp`, syncs it, and renames it (for `ifAbsent`: links it, which fails
 * where the name exists) to its place; then it syncs every directory that got a new entry, so that
 * neither content nor name can vanish in a power cut. A source that is a file of the same disk is linked instead of
 * copied: it costs no space while both names are there. Several processes may work in one directory.
 * What a crash left in `.tmp` is removed when a store is opened a day later, directories without objects when they are listed.
 *
 * Unlike in S3, `a` and `a/b` cannot both be objects: StorageError `invalid`.
 */

const TEMPORARY = ".tmp";
const READ_BYTES = 256 * 1024;
/** Entries of a directory that are looked at together. */
const WALKED_AT_ONCE = 32;
/** A directory that a delete removed under a put is made again, so often. */
const ATTEMPTS = 10;
const ABANDONED_AFTER_MS = 24 * 60 * 60 * 1000;

export class DirectoryObjectStore implements ObjectStore {
  readonly location: string;
  readonly #root: string;
  /** Directories whose own entry is known to be on disk. */
  readonly #durable = new Set<string>();

  /** Makes the directory where it is missing. StorageError `unavailable` where that fails. */
  constructor(root: string) {
    this.#root = root;
    this.location = root;
    try {
      mkdirSync(join(root, TEMPORARY), { recursive: true });
      removeAbandoned(join(root, TEMPORARY));
    } catch (error) {
      throw storeError(error, `open object store ${root}`);
    }
  }

  async put(key: string, body: Uint8Array | ObjectSource, options: PutOptions = {}): Promise<void> {
    checkObjectKey(key);
    await this.#guard(`put ${key}`, options, async () => {
      const temporary =
        (await this.#linkTemporary(body)) ??
        (await this.#writeTemporary(sourceChunks(key, body, options.signal)));
      await this.#install(temporary, key, options);
    });
  }

  /** Undefined where the source is no file, or one that cannot be linked here. */
  async #linkTemporary(body: Uint8Array | ObjectSource): Promise<string | undefined> {
    if (body instanceof Uint8Array || body.path === undefined) {
      return undefined;
    }
    const temporary = this.#temporaryPath();
    try {
      await link(body.path, temporary);
    } catch {
      // Another file system, or one without links: the bytes are copied, and any other trouble is found then.
      return undefined;
    }
    if ((await lstat(temporary)).size !== body.sizeBytes) {
      await rm(temporary, { force: true });
      return undefined;
    }
    return temporary;
  }

  #temporaryPath(): string {
    return join(this.#root, TEMPORARY, randomBytes(12).toString("hex"));
  }

  async get(key: string, options: GetOptions = {}): Promise<ObjectBody> {
    checkObjectKey(key);
    return this.#guard(`get ${key}`, options, async () => {
      const info = await this.#existing(key);
      const { start, end } = clampRange(options.range, info.sizeBytes, key);
      return { info, lengthBytes: end - start, chunks: this.#chunks(info, start, end, options) };
    });
  }

  async head(key: string, options: StoreCallOptions = {}): Promise<ObjectInfo> {
    checkObjectKey(key);
    return this.#guard(`head ${key}`, options, () => this.#existing(key));
  }

  async list(options: ListOptions): Promise<ListPage> {
    return this.#guard(`list ${options.prefix}`, options, async () => {
      const limit = Math.min(options.limit ?? MAX_PAGE, MAX_PAGE);
      const objects: ObjectInfo[] = [];
      const complete = await this.#walk("", { ...options, limit }, objects);
      return { objects, next: complete ? undefined : objects.at(-1)!.key };
    });
  }

  async delete(keys: readonly string[], options: StoreCallOptions = {}): Promise<void> {
    checkDelete(keys);
    await this.#guard("delete objects", options, async () => {
      const directories = new Set<string>();
      for (const key of keys) {
        try {
          await unlink(join(this.#root, key));
          directories.add(dirname(key));
        } catch (error) {
          if (!["ENOENT", "ENOTDIR", "EISDIR", "EPERM"].includes(errnoCode(error) ?? "")) {
            throw error;
          }
        }
      }
      for (const directory of directories) {
        await fsyncIfExists(join(this.#root, directory));
        await this.#removeEmpty(directory);
      }
    });
  }

  async copy(from: string, to: string, options: StoreCallOptions = {}): Promise<void> {
    checkObjectKey(to);
    const { chunks } = await this.get(from, options);
    await this.#guard(`copy ${from} to ${to}`, options, async () => {
      await this.#install(await this.#writeTemporary(chunks), to, {});
    });
  }

  async #guard<T>(doing: string, options: StoreCallOptions, run: () => Promise<T>): Promise<T> {
    options.signal?.throwIfAborted();
    try {
      return await run();
    } catch (error) {
      options.signal?.throwIfAborted();
      throw storeError(error, `${doing} in object store ${this.location}`);
    }
  }

  async #writeTemporary(chunks: AsyncIterable<Uint8Array>): Promise<string> {
    const path = this.#temporaryPath();
    const file = await open(path, "wx", 0o600);
    try {
      for await (const chunk of chunks) {
        await writeAll(file, chunk);
      }
      await file.sync();
    } catch (error) {
      await file.close();
      await rm(path, { force: true });
      throw error;
    }
    await file.close();
    return path;
  }

  /** Moves a finished file to its place, durably. */
  async #install(temporary: string, key: string, options: PutOptions): Promise<void> {
    const path = join(this.#root, key);
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          await this.#makeDirectory(dirname(key));
          options.signal?.throwIfAborted();
          await (options.ifAbsent === true ? link(temporary, path) : rename(temporary, path));
          await fsyncIfExists(dirname(path));
          return;
        } catch (error) {
          if (errnoCode(error) === "EEXIST" && (await this.#info(key)) !== undefined) {
            throw objectExists(key, this.location);
          }
          if (errnoCode(error) !== "ENOENT" || attempt === ATTEMPTS) {
            throw error;
          }
        }
      }
    } finally {
      await rm(temporary, { force: true });
    }
  }

  async #makeDirectory(relative: string): Promise<void> {
    let path = this.#root;
    for (const part of relative === "." ? [] : relative.split("/")) {
      const child = join(path, part);
      let isDurable = this.#durable.has(child);
      try {
        await mkdir(child);
        isDurable = false;
      } catch (error) {
        if (errnoCode(error) !== "EEXIST") {
          throw error;
        }
      }
      if (!isDurable) {
        // Also where it was there: who made it may not have got so far as to sync it.
        await fsyncDirectoryAsync(path);
        this.#durable.add(child);
      }
      path = child;
    }
  }

  async #removeEmpty(relative: string): Promise<void> {
    for (let at = relative; at !== "."; at = dirname(at)) {
      try {
        await rmdir(join(this.#root, at));
      } catch {
        // Not empty, or gone.
        return;
      }
    }
  }

  /** The file is open only while it is read: a body that nobody reads holds nothing. */
  async *#chunks(
    info: ObjectInfo,
    start: number,
    end: number,
    { signal }: StoreCallOptions,
  ): AsyncIterable<Uint8Array> {
    let file: FileHandle | undefined;
    try {
      file = await open(join(this.#root, info.key), "r");
      if (infoOf(info.key, await file.stat({ bigint: true }))?.etag !== info.etag) {
        throw new StorageError("unavailable", "object-changed", "replaced while it was read");
      }
      for (let at = start; at < end; ) {
        signal?.throwIfAborted();
        const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, end - at));
        const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
        if (bytesRead === 0) {
          return;
        }
        at += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    } catch (error) {
      signal?.throwIfAborted();
      throw storeError(error, `read ${info.key} in object store ${this.location}`);
    } finally {
      await file?.close();
    }
  }

  async #existing(key: string): Promise<ObjectInfo> {
    const info = await this.#info(key);
    if (info === undefined) {
      throw objectNotFound(key, this.location);
    }
    return info;
  }

  /** A root that is gone is a store that is away, not an empty one. */
  async #checkRoot(): Promise<void> {
    await lstat(join(this.#root, TEMPORARY));
  }

  async #info(key: string): Promise<ObjectInfo | undefined> {
    try {
      return infoOf(key, await lstat(join(this.#root, key), { bigint: true }));
    } catch (error) {
      if (isMissing(error)) {
        await this.#checkRoot();
        return undefined;
      }
      throw error;
    }
  }

  /** Depth first in the order of keys; false where the page was full before the end. */
  async #walk(
    directory: string,
    options: ListOptions & { limit: number },
    found: ObjectInfo[],
  ): Promise<boolean> {
    const { prefix, after = "", limit } = options;
    options.signal?.throwIfAborted();
    const names: string[] = [];
    try {
      const entries = await readdir(join(this.#root, directory), { withFileTypes: true });
      if (entries.length === 0 && directory !== "") {
        // A delete was ended before it came to this; a put that is under way makes it again.
        await this.#removeEmpty(directory.slice(0, -1));
        return true;
      }
      for (const entry of entries) {
        if (entry.isDirectory() ? entry.name !== TEMPORARY || directory !== "" : entry.isFile()) {
          names.push(`${directory}${entry.name}${entry.isDirectory() ? "/" : ""}`);
        }
      }
    } catch (error) {
      if (errnoCode(error) === "ENOENT" && directory !== "") {
        return true;
      }
      throw error;
    }
    const isWanted = (name: string) =>
      name.endsWith("/")
        ? (name.startsWith(prefix) || prefix.startsWith(name)) &&
          (name > after || after.startsWith(name))
        : name.startsWith(prefix) && name > after;
    // A directory sorts as its keys do: "a-b" < "a/c" < "aa".
    const wanted = names.filter(isWanted).sort(compareText);
    for (let at = 0; at < wanted.length; ) {
      // Some at once, for each waits for the disk; not many more than the page has room for.
      const some = wanted.slice(at, at + Math.min(WALKED_AT_ONCE, limit - found.length + 1));
      at += some.length;
      for (const { objects, isWhole } of await Promise.all(
        some.map((name) => this.#look(name, options)),
      )) {
        const room = limit - found.length;
        found.push(...objects.slice(0, room));
        if (objects.length > room || !isWhole) {
          return false;
        }
      }
    }
    return true;
  }

  /** What one name of a directory stands for: an object, or those below it. */
  async #look(
    name: string,
    options: ListOptions & { limit: number },
  ): Promise<{ objects: ObjectInfo[]; isWhole: boolean }> {
    if (name.endsWith("/")) {
      const objects: ObjectInfo[] = [];
      return { isWhole: await this.#walk(name, options, objects), objects };
    }
    const info = await this.#info(name);
    return { objects: info === undefined ? [] : [info], isWhole: true };
  }
}

function removeAbandoned(directory: string): void {
  for (const name of readdirSync(directory)) {
    const path = join(directory, name);
    const modifiedMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
    if (modifiedMs !== undefined && modifiedMs < nowMs() - ABANDONED_AFTER_MS) {
      unlinkSync(path);
    }
  }
}

const compareText = (a: string, b: string) => (a < b ? -1 : 1);

const isMissing = (error: unknown) => ["ENOENT", "ENOTDIR"].includes(errnoCode(error) ?? "");

interface FileStatus {
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly ino: bigint;
  isFile(): boolean;
}

function infoOf(key: string, status: FileStatus): ObjectInfo | undefined {
  if (!status.isFile()) {
    return undefined;
  }
  return {
    key,
    sizeBytes: Number(status.size),
    lastModifiedMs: Number(status.mtimeNs / 1_000_000n),
    etag: `${status.ino.toString(16)}-${status.mtimeNs.toString(16)}-${status.size.toString(16)}`,
  };
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done)).bytesWritten;
  }
}

async function fsyncIfExists(path: string): Promise<void> {
  try {
    await fsyncDirectoryAsync(path);
  } catch (error) {
    if (errnoCode(error) !== "ENOENT") {
      throw error;
    }
  }
}

function storeError(error: unknown, doing: string): StorageError {
  if (error instanceof StorageError) {
    return error;
  }
  const code = errnoCode(error);
  if (code === "EISDIR" || code === "EEXIST" || code === "ENOTEMPTY") {
    const message = `${doing}: one key is the directory of another`;
    return new StorageError("invalid", "key-is-directory", message, { cause: error });
  }
  return new StorageError("unavailable", "object-store-error", `${doing}: ${errorMessage(error)}`, {
    cause: error,
  });
}
