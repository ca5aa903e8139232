// The layer files of one tenant, each open once however many of its timelines read it; the last to leave removes it.

import { join } from "node:path";
import { errorMessage } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { LayerFile } from "../layers/layer-file.ts";
import { parseLayerFileName } from "../layers/layer-format.ts";
import type { StorageResources } from "./storage-resources.ts";

interface Shared {
  readonly file: LayerFile;
  /** Timelines whose set has it. */
  users: number;
}

/** A layer belongs to the tenant. It lies in the directory of the timeline that made it, which may be gone. */
export class TenantLayers {
  readonly #timelinesDirectory: string;
  readonly #resources: StorageResources;
  readonly #shared = new Map<string, Shared>();

  constructor(timelinesDirectory: string, resources: StorageResources) {
    this.#timelinesDirectory = timelinesDirectory;
    this.#resources = resources;
  }

  /** Where timeline `maker`'s layers lie. */
  directoryOf(maker: TimelineId): string {
    return join(this.#timelinesDirectory, maker);
  }

  /** For one timeline more, which an index that is durable, or will be, names it for. */
  acquire(maker: TimelineId, fileName: string, sizeBytes: number): LayerFile {
    const path = join(this.directoryOf(maker), fileName);
    const shared = this.#shared.get(path);
    if (shared !== undefined) {
      shared.users++;
      return shared.file;
    }
    const name = parseLayerFileName(fileName);
    if (name === undefined) {
      throw new Error(`not a layer's name: ${fileName}`);
    }
    const file = new LayerFile(path, name, sizeBytes, this.#resources);
    this.#shared.set(path, { file, users: 1 });
    return file;
  }

  /** Another timeline reads a layer that somebody has. */
  share(file: LayerFile): void {
    this.#shared.get(file.path)!.users++;
  }

  isUsed(path: string): boolean {
    return this.#shared.has(path);
  }

  /** A timeline no longer reads it; the file stays. */
  leave(file: LayerFile): void {
    const shared = this.#shared.get(file.path)!;
    shared.users--;
    if (shared.users === 0) {
      this.#shared.delete(file.path);
      file.close();
    }
  }

  /**
   * Removes those that nobody reads any more; for layers that a durable index has just ceased to name. A failure is
   * logged, and the next load removes what is left.
   */
  removeUnused(paths: Iterable<string>): void {
    for (const path of paths) {
      if (!this.isUsed(path)) {
        this.#remove(path);
      }
    }
  }

  #remove(path: string): void {
    this.#resources.disk.background.removeTree(path).catch((error: unknown) => {
      this.#resources.logger.warn({ path, error: errorMessage(error) }, "layer is not removed");
    });
  }
}
