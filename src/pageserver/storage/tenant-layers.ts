// The layer files of one tenant, each open once however many of its timelines read it; the last to leave removes it.

import { dirname, join } from "node:path";
import { diskError } from "../../base/disk.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { type Lsn, MAX_LSN, minLsn } from "../../base/lsn.ts";
import { LayerFile, LayerNotResident } from "../layers/layer-file.ts";
import { mayHaveMetadata, parseLayerFileName } from "../layers/layer-format.ts";
import type { TenantRemote } from "../remote/tenant-remote.ts";
import { DiskRemovals } from "../transfers/disk-removals.ts";
import { INDEX_PART_NAME } from "./index-part.ts";
import type { SetLayer } from "./layer-set.ts";
import type { StorageResources } from "./storage-resources.ts";

/** A directory that is on its way out, as versions before had them; loading removes it. */
export const DELETED_SUFFIX = ".___deleted";
/**
 * What the index of a deleted timeline is called, until the directory is empty: its layers may be in use by others. A
 * directory that has neither lost its index otherwise, and nothing of it is removed.
 */
export const DELETED_INDEX_NAME = `${INDEX_PART_NAME}${DELETED_SUFFIX}`;

type OwnedLayer = Pick<SetLayer, "file" | "maker">;

/** Of a timeline that is only in the object store: `<maker>/<file name>` of layers that it names and others made. */
interface OffloadedLayers {
  readonly timelineId: TimelineId;
  readonly borrowed: readonly string[];
}

/** A timeline, and those below whose branch points it reads on. */
interface Descendant {
  readonly ancestor: Descendant | undefined;
  readonly ancestorLsn: Lsn;
  readonly ownedLayers: readonly SetLayer[];
}

/** A layer of this size comes whole at once: a few calls for parts of it cost as much. */
const WHOLE_LAYER_BYTES = 1 << 20;
/** When one such part of it was read, the rest is worth having. */
const MUCH_OF_A_LAYER = 16;
/** Index, filter and footer, of a layer of 128 MiB, lie in the last so many bytes. */
const TAIL_BYTES = 512 << 10;
/** Blocks that are asked for next are likely the ones behind. */
const AHEAD_BYTES = 128 << 10;

/** What is fetched where a read needs [start, end). */
function rangeAround(sizeBytes: number, start: number, end: number) {
  return start >= sizeBytes - TAIL_BYTES
    ? { start: Math.max(0, sizeBytes - TAIL_BYTES), end: sizeBytes }
    : { start, end: Math.min(sizeBytes, Math.max(end, start + AHEAD_BYTES)) };
}

interface Shared {
  readonly layer: OwnedLayer;
  /** Timelines whose set has it. */
  users: number;
}

export interface TenantLayersOptions {
  readonly timelinesDirectory: string;
  readonly resources: StorageResources;
  /** Absent: the local disk is all there is. */
  readonly remote?: TenantRemote | undefined;
  /** Whether every index of the tenant could be read, and who has what is known. */
  readonly mayRemove?: () => boolean;
}

/**
 * A layer belongs to the tenant. It lies in the directory of the timeline that made it, which may be gone; or only in the
 * object store.
 */
export class TenantLayers {
  readonly #timelinesDirectory: string;
  readonly #resources: StorageResources;
  readonly #remote: TenantRemote | undefined;
  readonly #shared = new Map<string, Shared>();
  /** Paths of layers that indexes name and the disk does not have. */
  #absent: ReadonlySet<string> = new Set();
  /** Layers of others that offloaded timelines read, which stay in the store: how many do. */
  readonly #borrowed = new Map<string, number>();
  /** Timelines that are only in the store. */
  readonly #offloaded = new Set<TimelineId>();
  readonly #removals: DiskRemovals;

  readonly #mayRemove: () => boolean;

  constructor(options: TenantLayersOptions) {
    this.#timelinesDirectory = options.timelinesDirectory;
    this.#resources = options.resources;
    this.#remote = options.remote;
    this.#mayRemove = options.mayRemove ?? (() => true);
    this.#removals = new DiskRemovals(options.resources.disk);
  }

  /** Before the first is acquired: those that are not on the disk. Without an object store they are lost, which a read tells. */
  setAbsent(paths: ReadonlySet<string>): void {
    this.#absent = this.#remote === undefined ? new Set() : paths;
  }

  /** Of a timeline that is loaded after all, whose index in the store names them: those that are not on the disk are there. */
  expectStored(layers: readonly { readonly maker: TimelineId; readonly fileName: string }[]): void {
    const absent = layers
      .map(({ maker, fileName }) => join(this.directoryOf(maker), fileName))
      .filter((path) => !this.isUsed(path) && !this.#isOnDisk(path));
    this.#absent = new Set([...this.#absent, ...absent]);
  }

  /** A file that is leaving is as good as gone. */
  #isOnDisk(path: string): boolean {
    return !this.#removals.isLeaving(path) && this.#resources.disk.exists(path);
  }

  /** What it reads stays in the store: its own layers, and those of others that it names. */
  addOffloaded({ timelineId, borrowed }: OffloadedLayers): void {
    this.#offloaded.add(timelineId);
    for (const name of borrowed) {
      this.#borrowed.set(name, (this.#borrowed.get(name) ?? 0) + 1);
    }
  }

  removeOffloaded({ timelineId, borrowed }: OffloadedLayers): void {
    this.#offloaded.delete(timelineId);
    for (const name of borrowed) {
      const count = this.#borrowed.get(name)! - 1;
      if (count === 0) {
        this.#borrowed.delete(name);
      } else {
        this.#borrowed.set(name, count);
      }
    }
  }

  /** Where timeline `maker`'s layers lie. */
  directoryOf(maker: TimelineId): string {
    return join(this.#timelinesDirectory, maker);
  }

  /** Renames and removals in it are durable when it resolves. */
  async syncDirectory(timelineId: TimelineId): Promise<void> {
    const directory = this.directoryOf(timelineId);
    try {
      await this.#resources.disk.background.fsyncDirectory(directory);
    } catch (error) {
      throw diskError(error, `sync ${directory}`);
    }
  }

  /** For one timeline more, which an index that is durable, or will be, names it for. */
  acquire(maker: TimelineId, fileName: string, sizeBytes: number): LayerFile {
    const path = join(this.directoryOf(maker), fileName);
    const shared = this.#shared.get(path);
    if (shared !== undefined) {
      shared.users++;
      return shared.layer.file;
    }
    const name = parseLayerFileName(fileName);
    if (name === undefined) {
      throw new Error(`not a layer's name: ${fileName}`);
    }
    const file = new LayerFile(path, name, sizeBytes, this.#resources);
    // An index names it: what is not on the disk is in the store.
    file.isStored = this.#absent.has(path);
    file.isResident = !file.isStored;
    this.#shared.set(path, { layer: { file, maker }, users: 1 });
    return file;
  }

  /** Another timeline reads a layer that somebody has; `unavailable` where nobody has it any more. */
  share(file: LayerFile): void {
    const shared = this.#shared.get(file.path);
    if (shared === undefined) {
      throw layerGone(file);
    }
    shared.users++;
  }

  /** For a timeline that leaves its ancestors: what it can read of their layers, each with the branch point as cap. */
  shareInherited(timeline: Descendant): SetLayer[] {
    const shared: SetLayer[] = [];
    let cap = timeline.ancestorLsn;
    for (let next = timeline.ancestor; next !== undefined; next = next.ancestor) {
      for (const { file, maker, capLsn } of next.ownedLayers) {
        if (file.lsnStart <= cap) {
          this.share(file);
          shared.push({ file, maker, capLsn: minLsn(capLsn, cap) });
        }
      }
      cap = minLsn(cap, next.ancestorLsn);
    }
    return shared;
  }

  /** Those with metadata that the timeline can read, its ancestors' too, come to the disk. Errors as `fetch`. */
  async fetchMetadata(timeline: Descendant): Promise<void> {
    let cap = MAX_LSN;
    for (let next: Descendant | undefined = timeline; next !== undefined; next = next.ancestor) {
      const needed = next.ownedLayers.filter(
        ({ file }) => !file.isResident && file.lsnStart <= cap && mayHaveMetadata(file.name),
      );
      cap = minLsn(cap, next.ancestorLsn);
      await Promise.all(needed.map(({ file }) => this.fetch(file, "foreground")));
    }
  }

  /** By a timeline that is loaded. */
  isUsed(path: string): boolean {
    return this.#shared.has(path);
  }

  /** The same, or by one that is only in the store, and did not make it. */
  isNamed(maker: TimelineId, fileName: string): boolean {
    const path = join(this.directoryOf(maker), fileName);
    return this.isUsed(path) || this.isBorrowed(maker, fileName);
  }

  /** By one that is only in the store, and did not make it. */
  isBorrowed(maker: TimelineId, fileName: string): boolean {
    return this.#borrowed.has(`${maker}/${fileName}`);
  }

  get files(): Iterable<LayerFile> {
    return this.#shared.values().map(({ layer }) => layer.file);
  }

  /**
   * Resolves when the file is on the disk. What LayerDownloads.download throws; `unavailable` where no timeline has the
   * layer any more.
   */
  async fetch(file: LayerFile, priority: "foreground" | "background"): Promise<void> {
    if (file.isResident) {
      return;
    }
    const shared = this.#shared.get(file.path);
    if (shared === undefined || this.#remote === undefined) {
      throw layerGone(file);
    }
    // It must not go again before the reader has had it.
    file.pins++;
    const remote = this.#remote;
    try {
      await this.#removals.write(file.path, () => remote.download(shared.layer, priority));
      file.lastUse = this.#resources.useClock.now;
      // Or the last one has left it meanwhile: then whoever removes it finds the file.
      file.isResident = true;
      await this.#removeIfUnused(shared.layer);
    } catch (error) {
      // Its timeline may have been deleted meanwhile: then it is no wonder that the store has lost it.
      throw this.isUsed(file.path) ? error : layerGone(file);
    } finally {
      file.pins--;
    }
  }

  /**
   * What `read` gives, fetching what it needs first; `read` is called anew after each fetch. In the foreground that is the part of
   * a layer which the read came to, and a layer of which much is read comes whole behind it.
   */
  async whenResident<T>(
    read: () => T,
    priority: "foreground" | "background" = "foreground",
  ): Promise<T> {
    for (;;) {
      try {
        return read();
      } catch (error) {
        if (!(error instanceof LayerNotResident)) {
          throw error;
        }
        const { layer } = error;
        if (priority === "background" || layer.sizeBytes <= WHOLE_LAYER_BYTES) {
          await this.fetch(layer, priority);
        } else {
          await this.#fetchRange(error);
        }
      }
    }
  }

  async #fetchRange({ layer, start, end }: LayerNotResident): Promise<void> {
    const shared = this.#shared.get(layer.path);
    if (shared === undefined || this.#remote === undefined) {
      throw layerGone(layer);
    }
    const range = rangeAround(layer.sizeBytes, start, end);
    const bytes = await this.#remote.readRange(shared.layer, range).catch((error: unknown) => {
      throw this.isUsed(layer.path) ? error : layerGone(layer);
    });
    layer.takeFetched(range.start, bytes);
    layer.fetchedBytes += bytes.length;
    if (layer.fetchedBytes > layer.sizeBytes / MUCH_OF_A_LAYER) {
      layer.fetchedBytes = 0;
      this.fetch(layer, "background").catch((error: unknown) => {
        const { path } = layer;
        this.#resources.logger.debug({ path, reason: errorMessage(error) }, "layer does not come");
      });
    }
  }

  /** Frees the disk of a layer that the store has. The file may be read on from memory, or fetched again. */
  async evict(file: LayerFile): Promise<void> {
    file.leaveDisk();
    await this.#removals.remove(file.path);
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
  async removeUnused(layers: Iterable<OwnedLayer>): Promise<void> {
    const unused = this.#mayRemove()
      ? [...layers].filter(({ file }) => !this.isUsed(file.path))
      : [];
    // Of an offloaded timeline the index is not here: it may name any layer that the timeline made.
    const isGone = ({ file, maker }: OwnedLayer) =>
      !this.#offloaded.has(maker) && !this.isNamed(maker, file.fileName);
    // The store's are listed for deletion at once: what is still uploaded is deleted afterwards.
    this.#remote?.deleteLayers(unused.filter(isGone));
    await this.#removeFiles(unused);
  }

  /** Of a timeline that is only in the store from here on: files that nobody else reads. */
  async leaveDisk(layers: readonly OwnedLayer[]): Promise<void> {
    await this.#removeFiles(layers.filter(({ file }) => !this.isUsed(file.path)));
  }

  async #removeFiles(layers: readonly OwnedLayer[]): Promise<void> {
    for (const layer of layers) {
      try {
        await this.#remove(layer);
      } catch (error) {
        const { path } = layer.file;
        this.#resources.logger.warn({ path, error: errorMessage(error) }, "layer is not removed");
      }
    }
  }

  async #removeIfUnused(layer: OwnedLayer): Promise<void> {
    if (!this.isUsed(layer.file.path)) {
      await this.#remove(layer);
    }
  }

  async #remove(layer: OwnedLayer): Promise<void> {
    const { path } = layer.file;
    await this.#remote?.uploadEnded(layer);
    await this.removeFile(path);
    await this.removeEmptied(dirname(path));
  }

  /** Of a layer that no timeline that is loaded uses; one that came back from the store meanwhile may. What the disk throws. */
  async removeFile(path: string): Promise<void> {
    if (!this.isUsed(path)) {
      await this.#removals.remove(path);
    }
  }

  /** A deleted timeline's directory goes with the last layer in it that somebody needed. What the disk throws. */
  removeEmptied(directory: string): Promise<void> {
    return this.#removals.removeEmptied(directory, DELETED_INDEX_NAME);
  }

  /** `write` makes the index of a timeline that comes back from the store; its directory, which may have been on its way out, stays. */
  writeIndex(timelineId: TimelineId, write: () => Promise<void>): Promise<void> {
    return this.#removals.write(join(this.directoryOf(timelineId), INDEX_PART_NAME), write);
  }
}

function layerGone({ path }: LayerFile): StorageError {
  return new StorageError("unavailable", "layer-gone", `layer ${path} is not used any more`);
}
