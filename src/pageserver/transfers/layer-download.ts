// Brings layers from the object store to the local disk, whole, once for all who wait, and reads ranges of them.

import { basename, dirname } from "node:path";
import { type Disk, diskError } from "../../base/disk.ts";
import { errorMessage, StorageError, withContext } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { type ByteRange, type ObjectStore, readObject } from "../../object-store/object-store.ts";
import { parseLayerFileName } from "../layers/layer-format.ts";
import { readLayerIndex } from "../layers/layer-index.ts";
import { ASKED_ATTEMPTS, layerCallMs, retrying, withDeadline } from "./store-calls.ts";
import type { TransferSlots } from "./transfer-slots.ts";

/*
 * The bytes go to a temporary name, are counted, their header, footer, block index and key filter checked, and
 * synced; only then does the file get its name. So a file with a layer's name is whole, also after a power cut.
 * What has a temporary name at a start is left over, and whoever loads the directory removes it.
 */

export interface RemoteLayer {
  readonly tenantId: TenantId;
  readonly key: string;
  /** As the index has it. */
  readonly sizeBytes: number;
  /** Of the index that names it: for messages. */
  readonly indexKey: string;
}

export interface DownloadResources {
  readonly store: ObjectStore;
  readonly disk: Disk;
  readonly logger: Logger;
  /** Shared by all that downloads. */
  readonly slots: TransferSlots;
  /** A whole number in [0, limit). */
  readonly randomInt: (limit: number) => number;
}

/** Of a downloaded file that is not whole yet. */
export const DOWNLOAD_SUFFIX = ".download.___temp";

const FINAL_CODES = ["object-not-found", "disk-full"];
const MAX_RANGE_BYTES = 256 * 1024 * 1024;

interface Running {
  done: Promise<void>;
  /** Someone waits for it. */
  isUrgent: boolean;
}

export class LayerDownloads {
  readonly #resources: DownloadResources;
  readonly #stopping = new AbortController();
  /** By the path on the local disk. */
  readonly #running = new Map<string, Running>();

  constructor(resources: DownloadResources) {
    this.#resources = resources;
  }

  /** Downloads that are under way or wait for their turn. */
  get pending(): number {
    return this.#running.size;
  }

  /**
   * Resolves when the whole layer is at `path`, whose directory is there; asked for again meanwhile, it is the
   * same download. `foreground`: someone waits for it. StorageErrors: `unavailable` (`disk-full`, naming the path;
   * a store that stays away; `download-stopped`), `corrupt` where object and index do not fit together.
   */
  download(layer: RemoteLayer, path: string, priority: "foreground" | "background"): Promise<void> {
    const isUrgent = priority === "foreground";
    const before = this.#running.get(path);
    if (before !== undefined) {
      before.isUrgent ||= isUrgent;
      return before.done;
    }
    const running: Running = { isUrgent, done: Promise.resolve() };
    this.#running.set(path, running);
    running.done = this.#download(layer, path, () => running.isUrgent);
    const settled = () => void this.#running.delete(path);
    running.done.then(settled, settled);
    return running.done;
  }

  /** Bytes of a layer, in a buffer of the caller's own, at most 256 MiB. Errors as `download`'s. */
  async readRange(layer: RemoteLayer, range: ByteRange): Promise<Uint8Array> {
    const { store } = this.#resources;
    const options = { range, maxBytes: MAX_RANGE_BYTES };
    return this.#attempts(
      layer,
      `read ${layer.key}`,
      range.end - range.start,
      () => true,
      (signal) => readObject(store, layer.key, { ...options, signal }),
    );
  }

  /** Ends all of it; who waits gets `unavailable` (`download-stopped`). */
  async stop(): Promise<void> {
    const message = "downloads have stopped";
    this.#stopping.abort(new StorageError("unavailable", "download-stopped", message));
    await Promise.allSettled([...this.#running.values()].map(({ done }) => done));
  }

  async #download(layer: RemoteLayer, path: string, isUrgent: () => boolean): Promise<void> {
    const doing = `download ${layer.key} to ${path}`;
    await this.#attempts(layer, doing, layer.sizeBytes, isUrgent, async (signal) => {
      const temporary = path + DOWNLOAD_SUFFIX;
      const { background } = this.#resources.disk;
      try {
        await this.#fetch(layer, temporary, signal);
        this.#check(layer, path, temporary);
        await background.rename(temporary, path);
        await background.fsyncDirectory(dirname(path));
      } catch (error) {
        await background.removeTree(temporary).catch(() => undefined);
        throw diskError(error, "write");
      }
    });
  }

  async #attempts<T>(
    layer: RemoteLayer,
    doing: string,
    sizeBytes: number,
    isUrgent: () => boolean,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { slots, logger, randomInt } = this.#resources;
    const { signal } = this.#stopping;
    const { tenantId, key, indexKey } = layer;
    const retry = {
      doing,
      logger,
      signal,
      randomInt,
      attempts: ASKED_ATTEMPTS,
      finalCodes: FINAL_CODES,
    };
    try {
      return await retrying(retry, () =>
        slots.run({ tenantId, isUrgent, signal }, () =>
          withDeadline(doing, layerCallMs(sizeBytes), signal, work),
        ),
      );
    } catch (error) {
      if (error instanceof StorageError && error.code === "object-not-found") {
        throw damaged(layer, "it is not in the object store", error);
      }
      throw error instanceof StorageError && error.fields["key"] !== undefined
        ? error
        : withFields(withContext(error, doing), { key, indexKey });
    }
  }

  async #fetch(layer: RemoteLayer, temporary: string, signal: AbortSignal): Promise<void> {
    const { store, disk } = this.#resources;
    const { info, lengthBytes, chunks } = await store.get(layer.key, { signal });
    if (info.sizeBytes !== layer.sizeBytes) {
      await discard(chunks);
      throw damaged(layer, `it has ${info.sizeBytes} bytes instead of ${layer.sizeBytes}`);
    }
    // With each attempt: others may remove a deleted timeline's directory while layers in it are still read.
    await disk.background.makeDirectory(dirname(temporary));
    const fd = await disk.background.open(temporary, "w");
    let done = 0;
    try {
      for await (const chunk of chunks) {
        await disk.background.write(fd, chunk, done);
        done += chunk.length;
      }
      if (done !== lengthBytes) {
        const message = `the transfer brought ${done} bytes instead of ${lengthBytes}`;
        throw new StorageError("unavailable", "short-object-read", message);
      }
      await disk.background.fsync(fd);
    } finally {
      await disk.background.close(fd);
    }
  }

  #check(layer: RemoteLayer, path: string, temporary: string): void {
    const { disk } = this.#resources;
    const name = parseLayerFileName(basename(path));
    if (name === undefined) {
      throw damaged(layer, `${basename(path)} is no name of a layer`);
    }
    const fd = disk.open(temporary, "r");
    try {
      const read = (offset: number, length: number) => {
        const bytes = new Uint8Array(length);
        for (let done = 0; done < length; ) {
          const count = disk.read(fd, bytes, done, length - done, offset + done);
          if (count === 0) {
            throw damaged(layer, `it ends at ${offset + done}`);
          }
          done += count;
        }
        return bytes;
      };
      readLayerIndex({ path: layer.key, name, sizeBytes: layer.sizeBytes, read });
    } catch (error) {
      throw error instanceof StorageError && error.code === "corrupt-layer"
        ? damaged(layer, errorMessage(error), error)
        : error;
    } finally {
      disk.close(fd);
    }
  }
}

/** Ends a transfer that nobody reads. */
async function discard(chunks: AsyncIterable<Uint8Array>): Promise<void> {
  await chunks[Symbol.asyncIterator]().return?.();
}

function damaged({ key, indexKey }: RemoteLayer, what: string, cause?: unknown): StorageError {
  const message = `layer ${key}, which ${indexKey} names: ${what}`;
  return new StorageError("corrupt", "corrupt-remote-layer", message, {
    cause,
    fields: { key, indexKey },
  });
}

function withFields(error: StorageError, fields: Record<string, unknown>): StorageError {
  return new StorageError(error.kind, error.code, error.message, {
    cause: error.cause,
    fields: { ...error.fields, ...fields },
  });
}
