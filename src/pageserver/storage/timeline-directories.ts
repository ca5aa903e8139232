// The directories of one tenant's timelines: which are there, what their indexes say, what a crash has left in them.

import { join } from "node:path";
import { type Disk, diskError } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTimelineId, type TenantId, type TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { parseLayerFileName } from "../layers/layer-format.ts";
import { TEMPORARY_SUFFIX } from "../layers/layer-writer.ts";
import { INDEX_PART_NAME, type IndexPart, readIndexPart } from "./index-part.ts";
import { DELETED_INDEX_NAME, DELETED_SUFFIX } from "./tenant-layers.ts";

/** Index parts that are read and made durable at the same time. */
const LOADS_AT_ONCE = 16;

export interface LocalTimelines {
  readonly parts: Map<TimelineId, IndexPart>;
  /** Those whose index cannot be read, and why. */
  readonly broken: ReadonlyMap<TimelineId, unknown>;
}

export interface Swept {
  /** Paths of layers that are named and not on the disk. */
  readonly absent: ReadonlySet<string>;
  /** Timelines that have an index, and of which nothing is named. */
  readonly left: readonly TimelineId[];
}

/** Which layers of the tenant are in use, and how what is not leaves the disk. */
export interface UsedLayers {
  isUsed(path: string): boolean;
  removeFile(path: string): Promise<void>;
  /** Of a deleted timeline: once nothing is in it. */
  removeEmptied(directory: string): Promise<void>;
}

export class TimelineDirectories {
  /** Of all. */
  readonly path: string;
  readonly #tenantId: TenantId;
  readonly #disk: Disk;
  readonly #logger: Logger;

  constructor(path: string, tenantId: TenantId, disk: Disk, logger: Logger) {
    this.path = path;
    this.#tenantId = tenantId;
    this.#disk = disk;
    this.#logger = logger;
  }

  of(timelineId: TimelineId): string {
    return join(this.path, timelineId);
  }

  /** Makes the directory of all where it is not there. */
  async make(): Promise<void> {
    const { background } = this.#disk;
    const parent = join(this.path, "..");
    try {
      await background.makeDirectory(this.path);
      await background.fsyncDirectory(parent);
      // A killed process may have left renames, of creations and deletions, that nobody synced.
      await background.fsyncDirectory(this.path);
    } catch (error) {
      throw diskError(error, `create tenant directory ${parent}`);
    }
  }

  /** `mayLackIndex`: a directory without an index is none's. */
  async load(mayLackIndex: boolean): Promise<LocalTimelines> {
    const parts = new Map<TimelineId, IndexPart>();
    const broken = new Map<TimelineId, unknown>();
    const loads: (() => Promise<void>)[] = [];
    for (const name of this.#disk.list(this.path)) {
      const path = join(this.path, name);
      if (name.endsWith(TEMPORARY_SUFFIX) || name.endsWith(DELETED_SUFFIX)) {
        await this.#disk.background.removeTree(path);
      } else if (/^[0-9a-f]{32}$/.test(name)) {
        const timelineId = parseTimelineId(name);
        loads.push(async () => {
          try {
            const part = await this.#loadIndexPart(timelineId, path, mayLackIndex);
            if (part !== undefined) {
              parts.set(timelineId, part);
            }
          } catch (error) {
            if (this.#disk.isDirectory(path)) {
              broken.set(timelineId, error);
            } else {
              this.#warn(path);
            }
          }
        });
      } else {
        this.#warn(path);
      }
    }
    await someAtOnce(loads);
    return { parts, broken };
  }

  #warn(path: string): void {
    this.#logger.warn({ path }, "not a timeline directory, left alone");
  }

  async #loadIndexPart(
    timelineId: TimelineId,
    directory: string,
    mayLackIndex: boolean,
  ): Promise<IndexPart | undefined> {
    const part = readIndexPart(directory, this.#disk);
    if (part === undefined) {
      // Whoever asks again for its deletion takes it for done: the rename must not vanish.
      await this.#disk.background.fsyncDirectory(directory);
    }
    if (part === undefined && (mayLackIndex || isDeleted(this.#disk.list(directory)))) {
      return undefined;
    }
    if (part === undefined || part.timelineId !== timelineId) {
      throw new StorageError("corrupt", "corrupt-index", `no index of its own in ${directory}`, {
        fields: { path: directory },
      });
    }
    if (part.tenantId !== this.#tenantId) {
      const message = `the index in ${directory} belongs to tenant ${part.tenantId}`;
      throw new StorageError("corrupt", "corrupt-index", message);
    }
    return part;
  }

  /** The timeline is gone here when it resolves; its layers may be in use. */
  async markDeleted(timelineId: TimelineId): Promise<void> {
    const directory = this.of(timelineId);
    const index = join(directory, INDEX_PART_NAME);
    const { background } = this.#disk;
    // Not there where a try before this one came as far as here, or where this machine never had it.
    if (this.#disk.exists(index)) {
      await background.rename(index, join(directory, DELETED_INDEX_NAME));
    }
    if (this.#disk.isDirectory(directory)) {
      await background.fsyncDirectory(directory);
    }
  }

  /**
   * Removes what a crash has left: unfinished files; layers without an index, whose WAL comes again; directories of
   * deleted timelines that nobody needs. An index that cannot be read may name any layer: `areAll`, of the indexes, is false then, and all
   * layers stay. Of thousands of timelines most have no layers: what may lie in their directories is left for `removeLeftovers`.
   */
  async sweep(parts: ReadonlyMap<TimelineId, IndexPart>, areAll: boolean): Promise<Swept> {
    const named = new Set<string>();
    // Those that have layers may make some at once, also where all that they have were made by others.
    const busy = new Set<TimelineId>();
    for (const { timelineId, layers } of parts.values()) {
      for (const { maker, fileName } of layers) {
        named.add(join(this.of(maker), fileName));
        busy.add(maker).add(timelineId);
      }
    }
    const absent = new Set(named);
    const left: TimelineId[] = [];
    for (const name of this.#disk.list(this.path)) {
      const timelineId = name as TimelineId;
      if (parts.has(timelineId) && !busy.has(timelineId)) {
        left.push(timelineId);
      } else if (this.#disk.isDirectory(join(this.path, name))) {
        const isNamed = (path: string) => {
          absent.delete(path);
          return named.has(path);
        };
        const removeFile = (path: string) => this.#disk.background.removeTree(path);
        const layers = { isUsed: isNamed, removeFile, removeEmptied: removeFile };
        await this.empty(timelineId, layers, areAll);
      }
    }
    return { absent, left };
  }

  /** Of a timeline of which no layers are named, and which writes none. */
  async removeLeftovers(timelineId: TimelineId, layers: UsedLayers): Promise<void> {
    const directory = this.of(timelineId);
    const isLeftover = (name: string) =>
      parseLayerFileName(name) !== undefined ||
      // The index may just be written.
      (name.endsWith(TEMPORARY_SUFFIX) && !name.startsWith(INDEX_PART_NAME));
    for (const name of this.#disk.list(directory).filter(isLeftover)) {
      await layers.removeFile(join(directory, name));
    }
  }

  /** Of one timeline: what nobody uses goes, and the directory with it where that is all. `areAll` as of `sweep`. */
  async empty(timelineId: TimelineId, layers: UsedLayers, areAll: boolean): Promise<void> {
    const directory = this.of(timelineId);
    let kept = 0;
    for (const name of this.#disk.isDirectory(directory) ? this.#disk.list(directory) : []) {
      const path = join(directory, name);
      const isLayer = parseLayerFileName(name) !== undefined;
      const isNeeded = isLayer ? layers.isUsed(path) || !areAll : !name.endsWith(TEMPORARY_SUFFIX);
      if (!isNeeded) {
        await layers.removeFile(path);
      } else if (name !== DELETED_INDEX_NAME) {
        kept++;
        if (!isLayer && name !== INDEX_PART_NAME) {
          this.#logger.warn({ path }, "not a file of a timeline, left alone");
        }
      }
    }
    if (kept === 0) {
      await layers.removeEmptied(directory);
    }
  }
}

/** Nothing is left where the mark went and the process ended before the directory did. */
function isDeleted(names: readonly string[]): boolean {
  return names.length === 0 || names.includes(DELETED_INDEX_NAME);
}

export async function someAtOnce(works: readonly (() => Promise<void>)[]): Promise<void> {
  for (let i = 0; i < works.length; i += LOADS_AT_ONCE) {
    await Promise.all(works.slice(i, i + LOADS_AT_ONCE).map((work) => work()));
  }
}
