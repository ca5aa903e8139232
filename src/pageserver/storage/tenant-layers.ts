// The layer files of one tenant, each open once however many of its timelines read it; the last to leave removes it.

import { dirname, join } from "node:path";
import { errorMessage } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { LayerFile } from "../layers/layer-file.ts";
import { parseLayerFileName } from "../layers/layer-format.ts";
import { INDEX_PART_NAME } from "./index-part.ts";
import type { StorageResources } from "./storage-resources.ts";

/** A directory that is on its way out, as versions before had them; loading removes it. */
export const DELETED_SUFFIX = ".___deleted";
/**
 * What the index of a deleted timeline is called, until the directory is empty: its layers may be in use by others. A
 * directory that has neither lost its index otherwise, and nothing of it is removed.
 */
export const DELETED_INDEX_NAME = `${INDEX_PART_NAME}${DELETED_SUFFIX}`;

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

  readonly #mayRemove: () => boolean;

  /** `mayRemove`: whether every index of the tenant could be read. */
  constructor(timelinesDirectory: string, resources: StorageResources, mayRemove = () => true) {
    this.#timelinesDirectory = timelinesDirectory;
    this.#resources = resources;
    this.#mayRemove = mayRemove;
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
   * logged, and the next load removes what is left. While a timeline's index cannot be read all stay: it may name them.
   */
  async removeUnused(paths: Iterable<string>): Promise<void> {
    const unused = this.#mayRemove() ? [...paths].filter((path) => !this.isUsed(path)) : [];
    for (const path of unused) {
      try {
        await this.#resources.disk.background.removeTree(path);
        await this.#removeIfDeleted(dirname(path));
      } catch (error) {
        this.#resources.logger.warn({ path, error: errorMessage(error) }, "layer is not removed");
      }
    }
  }

  /** A deleted timeline's directory goes with the last layer in it that somebody needed. */
  async #removeIfDeleted(directory: string): Promise<void> {
    const { disk } = this.#resources;
    const names = disk.isDirectory(directory) ? disk.list(directory) : [];
    if (names.length === 1 && names[0] === DELETED_INDEX_NAME) {
      await disk.background.removeTree(directory);
    }
  }
}
