// Durable file operations that do not block the event loop: a sync can take as long as the disk likes.

import { open, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { diskError } from "../base/disk.ts";

/** Makes a rename, creation or removal inside `path` durable. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/**
 * Replaces `path` by `text`, all or nothing, durable when it resolves. One caller a path at a time.
 * `unavailable` where the disk is full.
 */
export async function replaceFile(path: string, text: string, temporary: string): Promise<void> {
  try {
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    // Without this the rename itself can vanish.
    await syncDirectory(dirname(path));
  } catch (error) {
    throw diskError(error, `write ${path}`);
  }
}
