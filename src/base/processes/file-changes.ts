// Waits for what another process writes into a small file, such as a pid file: no longer than the system takes to tell of it.

import { type FSWatcher, watch } from "node:fs";
import { sleep } from "../clock.ts";

/** Where the system tells nothing: it has no watches left, or the directory is on one that has none. */
const POLL_MS = 5;

export class FileChanges {
  #watcher: FSWatcher | undefined;
  #hasChanged = false;
  #wake: (() => void) | undefined;

  /** Of the file `name` in `directory`, which is there; the file need not be. Changes count from here on. */
  constructor(directory: string, name: string) {
    try {
      this.#watcher = watch(directory, { persistent: false }, (_, changed) => {
        // Some file systems do not say which.
        if (changed === null || changed === name) {
          this.#hasChanged = true;
          this.#wake?.();
        }
      });
      this.#watcher.on("error", () => this.close());
    } catch {
      // Then it is looked at now and then.
    }
  }

  /** Resolves when it was written or made since the last call, or after `mostMs`: whoever waits looks either way. */
  async next(mostMs: number): Promise<void> {
    if (!this.#hasChanged) {
      const changed = new AbortController();
      this.#wake = () => changed.abort();
      const isTold = this.#watcher !== undefined;
      await sleep(isTold ? mostMs : Math.min(POLL_MS, mostMs), changed.signal).catch(
        () => undefined,
      );
      this.#wake = undefined;
    }
    this.#hasChanged = false;
  }

  close(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }
}
