// A layer file on the local disk as the source of an upload, and beside the object that may be there already.

import { type Disk, diskError } from "../../base/disk.ts";
import { errnoCode, StorageError } from "../../base/errors.ts";
import type { ObjectSource, ObjectStore } from "../../object-store/object-store.ts";

const READ_BYTES = 256 * 1024;

/**
 * Reads the file anew each time. `corrupt` where it is missing or has another size than `sizeBytes`:
 * damage must not reach the store.
 */
export function layerSource(path: string, sizeBytes: number, disk: Disk): ObjectSource {
  return {
    sizeBytes,
    path,
    async *open() {
      const fd = openLayer(path, sizeBytes, disk);
      try {
        for (let at = 0; at < sizeBytes; ) {
          const chunk = readLayer(fd, path, at, Math.min(READ_BYTES, sizeBytes - at), disk);
          yield chunk;
          at += chunk.length;
        }
      } finally {
        disk.close(fd);
      }
    },
  };
}

/** Whether the object has the source's bytes. What `get` throws, and what reading the source does. */
export async function isSameContent(
  store: ObjectStore,
  key: string,
  source: ObjectSource,
  signal: AbortSignal,
): Promise<boolean> {
  const { info, lengthBytes, chunks } = await store.get(key, { signal });
  if (info.sizeBytes !== source.sizeBytes) {
    return false;
  }
  const local = source.open()[Symbol.asyncIterator]();
  let compared = 0;
  let rest: Uint8Array = new Uint8Array(0);
  try {
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length; ) {
        if (rest.length === 0) {
          const next = await local.next();
          rest = next.done === true ? rest : next.value;
        }
        const length = Math.min(rest.length, chunk.length - at);
        if (
          length === 0 ||
          Buffer.compare(rest.subarray(0, length), chunk.subarray(at, at + length)) !== 0
        ) {
          return false;
        }
        rest = rest.subarray(length);
        at += length;
        compared += length;
      }
    }
  } finally {
    await local.return?.();
  }
  if (compared !== lengthBytes) {
    const message = `read of ${key} brought ${compared} bytes instead of ${lengthBytes}`;
    throw new StorageError("unavailable", "short-object-read", message);
  }
  return true;
}

function openLayer(path: string, sizeBytes: number, disk: Disk): number {
  let fd: number;
  try {
    fd = disk.open(path, "r");
  } catch (error) {
    if (errnoCode(error) === "ENOENT") {
      throw badLayer(path, "the file is missing", error);
    }
    throw diskError(error, `read ${path}`);
  }
  const size = disk.size(fd);
  if (size !== sizeBytes) {
    disk.close(fd);
    throw badLayer(path, `it has ${size} bytes instead of ${sizeBytes}`);
  }
  return fd;
}

function readLayer(fd: number, path: string, at: number, length: number, disk: Disk): Uint8Array {
  const chunk = Buffer.allocUnsafe(length);
  let count: number;
  try {
    count = disk.read(fd, chunk, 0, length, at);
  } catch (error) {
    throw diskError(error, `read ${path}`);
  }
  if (count === 0) {
    throw badLayer(path, `it ends at ${at}`);
  }
  return chunk.subarray(0, count);
}

function badLayer(path: string, what: string, cause?: unknown): StorageError {
  const message = `layer ${path} cannot be uploaded: ${what}`;
  return new StorageError("corrupt", "corrupt-layer", message, { cause, fields: { path } });
}
