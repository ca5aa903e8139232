// What is leaving a tenant's disk: whoever wants a file again meanwhile does not take it for being there.

import { dirname } from "node:path";
import type { Disk } from "../../base/disk.ts";

export class DiskRemovals {
  readonly #disk: Disk;
  /** By path: of a layer, or of a deleted timeline's directory. */
  readonly #leaving = new Map<string, Promise<void>>();
  /** Directories in which something is being written: how many do so. */
  readonly #written = new Map<string, number>();

  constructor(disk: Disk) {
    this.#disk = disk;
  }

  /** Whether the file may be seen on the disk still, and is about to go, alone or with its directory. */
  isLeaving(path: string): boolean {
    return this.#leaving.has(path) || this.#leaving.has(dirname(path));
  }

  /** Resolves when a removal that has begun, of the file or of its directory, is over, as it may be. */
  async #whenLeft(path: string): Promise<void> {
    while (this.isLeaving(path)) {
      const leaving = this.#leaving.get(path) ?? this.#leaving.get(dirname(path));
      await leaving?.catch(() => undefined);
    }
  }

  /** Begins at once. What the disk throws. */
  remove(path: string): Promise<void> {
    const before = this.#leaving.get(path);
    if (before !== undefined) {
      return before;
    }
    const leaving = this.#disk.background
      .removeTree(path)
      .finally(() => void this.#leaving.delete(path));
    this.#leaving.set(path, leaving);
    return leaving;
  }

  /** A directory in which there is at most `mark`, and where nothing is being written. What the disk throws. */
  async removeEmptied(directory: string, mark: string): Promise<void> {
    if (
      !this.#written.has(directory) &&
      this.#disk.isDirectory(directory) &&
      this.#disk.list(directory).every((name) => name === mark)
    ) {
      await this.remove(directory);
    }
  }

  /** `write` makes the file, and the directory where it is not there; that one stays meanwhile. */
  async write<T>(path: string, write: () => Promise<T>): Promise<T> {
    const directory = dirname(path);
    // Before the wait: a removal of the directory begins no more.
    this.#written.set(directory, (this.#written.get(directory) ?? 0) + 1);
    try {
      await this.#whenLeft(path);
      return await write();
    } finally {
      const left = this.#written.get(directory)! - 1;
      if (left === 0) {
        this.#written.delete(directory);
      } else {
        this.#written.set(directory, left);
      }
    }
  }
}
