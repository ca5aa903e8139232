// Durable file operations: what must survive a power cut goes through here.
//
// Two flavours, because a sync can take as long as the disk likes: the plain ones block, for small
// processes and for paths where each wake-up costs latency; those named `...Async` do not, for
// processes that serve others meanwhile.

import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { open, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { errnoCode, StorageError } from "./errors.ts";

/** Makes a rename, creation or removal inside `path` durable. */
export function fsyncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** As `fsyncDirectory`, without blocking the event loop. */
export async function fsyncDirectoryAsync(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/**
 * Replaces `path` by `bytes`, all or nothing, durable when it returns: temporary file, fsync,
 * rename, fsync of the directory (without the last, the rename itself can vanish).
 * StorageError `unavailable` where the disk is full.
 */
export function writeFileDurably(path: string, bytes: Uint8Array | string): void {
  const temporary = `${path}.tmp`;
  const data = typeof bytes === "string" ? Buffer.from(bytes) : bytes;
  try {
    const fd = openSync(temporary, "w", 0o600);
    try {
      writeFully(fd, data, 0);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
    fsyncDirectory(dirname(path));
  } catch (error) {
    throw diskError(error, `write ${path}`);
  }
}

/**
 * As `writeFileDurably`, without blocking the event loop; durable when it resolves. One caller a path
 * at a time.
 */
export async function writeFileDurablyAsync(
  path: string,
  bytes: Uint8Array | string,
  temporary = `${path}.tmp`,
): Promise<void> {
  try {
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await fsyncDirectoryAsync(dirname(path));
  } catch (error) {
    throw diskError(error, `write ${path}`);
  }
}

/** Writes every byte at `position`; a short write is continued. */
export function writeFully(fd: number, bytes: Uint8Array, position: number): void {
  let done = 0;
  while (done < bytes.length) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
}

/** The file's bytes, or undefined where there is no such file. */
export function readFileIfExists(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (errnoCode(error) === "ENOENT") {
      return undefined;
    }
    throw error;
  }
}

/** Turns a Node file-system error into one that says what to do: a full disk is worth a retry. */
export function diskError(error: unknown, doing: string): StorageError {
  if (error instanceof StorageError) {
    return error;
  }
  const code = errnoCode(error);
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new StorageError("unavailable", "disk-full", `${doing}: no space left on device`, {
      cause: error,
    });
  }
  const message = error instanceof Error ? error.message : String(error);
  return new StorageError("internal", "disk-error", `${doing}: ${message}`, { cause: error });
}
