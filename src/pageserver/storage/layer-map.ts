// The layers of a timeline and of its ancestors as one flat list, newest first.

import assert from "node:assert/strict";
import { addLsn, type Lsn, MAX_LSN, minLsn } from "../../base/lsn.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import { OpenLayer } from "../layers/open-layer.ts";

/** One layer that a read may have to look at. */
export interface PathStep {
  readonly layer: OpenLayer | LayerFile;
  /** Versions above it belong to the ancestor's own future: not visible here. */
  readonly capLsn: Lsn;
  /** The map that owns the layer: who wrote the version. */
  readonly owner: LayerMap;
}

let nextOwnerId = 1;

/**
 * Own layers: one open (writable), frozen ones that wait for their flush, files. A read walks `path`,
 * which also has the ancestors' layers with an LSN cap each, so that depth of branching costs
 * nothing. The path is a cache: any change of layers here drops it here and in all descendants.
 *
 * Order: own layers before the ancestor's; within one timeline by descending end LSN, so a key's
 * versions are met newest first. An image layer at LSN X lies before every layer that ends at or
 * below X.
 */
export class LayerMap {
  /** Never used twice in a process: part of page cache keys. */
  readonly ownerId: number;
  readonly ancestor: LayerMap | undefined;
  /** Versions of the ancestor at or below it are visible here. */
  readonly ancestorLsn: Lsn;
  /** End of the last whole record: versions above it may still be incomplete. */
  lastRecordLsn: Lsn;
  open: OpenLayer;
  /** Oldest first: the order of flushing. */
  readonly frozen: OpenLayer[] = [];
  readonly #files: LayerFile[] = [];
  readonly #children = new Set<LayerMap>();
  #path: readonly PathStep[] | undefined;

  /** `lastRecordLsn`: the first own version will be above it. */
  constructor(lastRecordLsn: Lsn, ancestor?: { map: LayerMap; lsn: Lsn }) {
    this.ownerId = nextOwnerId++;
    this.lastRecordLsn = lastRecordLsn;
    this.open = new OpenLayer(addLsn(lastRecordLsn, 1));
    this.ancestor = ancestor?.map;
    this.ancestorLsn = ancestor?.lsn ?? (0 as Lsn);
    this.ancestor?.adopt(this);
  }

  get files(): readonly LayerFile[] {
    return this.#files;
  }

  /** Takes this timeline out of its ancestor's list; it must have no children itself. */
  detach(): void {
    assert.equal(this.#children.size, 0);
    this.ancestor?.disown(this);
  }

  private adopt(child: LayerMap): void {
    this.#children.add(child);
  }

  private disown(child: LayerMap): void {
    this.#children.delete(child);
  }

  addFile(file: LayerFile): void {
    this.#files.push(file);
    this.#files.sort(newestFirst);
    this.invalidate();
  }

  /** The flush of a frozen layer is done: the file takes its place in one step. */
  replaceFrozen(frozen: OpenLayer, files: readonly LayerFile[]): void {
    const at = this.frozen.indexOf(frozen);
    assert.ok(at >= 0);
    this.frozen.splice(at, 1);
    this.#files.push(...files);
    this.#files.sort(newestFirst);
    this.invalidate();
  }

  /** Makes the open layer immutable, up to and with lastRecordLsn, and starts the next. */
  freezeOpen(prevRecordLsn: Lsn): void {
    this.open.freeze(this.lastRecordLsn, prevRecordLsn);
    this.frozen.push(this.open);
    this.open = new OpenLayer(this.open.lsnEnd);
    this.invalidate();
  }

  /** To be called on every change of layers, and when the open layer gets its first value. */
  invalidate(): void {
    const pending: LayerMap[] = [this];
    for (let map = pending.pop(); map !== undefined; map = pending.pop()) {
      map.#path = undefined;
      // One by one: as arguments of one call, very many would not fit the stack.
      for (const child of map.#children) {
        pending.push(child);
      }
    }
  }

  get path(): readonly PathStep[] {
    this.#path ??= this.#buildPath();
    return this.#path;
  }

  #buildPath(): PathStep[] {
    const steps: PathStep[] = [];
    let capLsn = MAX_LSN;
    for (let map: LayerMap | undefined = this; map !== undefined; map = map.ancestor) {
      const owner = map;
      const add = (layer: OpenLayer | LayerFile) => {
        if (layer.lsnStart <= capLsn) {
          steps.push({ layer, capLsn, owner });
        }
      };
      // An empty layer stays out, so that a branch without writes costs its descendants nothing.
      if (owner.open.entryCount > 0) {
        add(owner.open);
      }
      for (let i = owner.frozen.length - 1; i >= 0; i--) {
        if (owner.frozen[i]!.entryCount > 0) {
          add(owner.frozen[i]!);
        }
      }
      for (const file of owner.files) {
        add(file);
      }
      capLsn = minLsn(capLsn, owner.ancestorLsn);
    }
    return steps;
  }
}

function newestFirst(a: LayerFile, b: LayerFile): number {
  return b.lsnEnd - a.lsnEnd || b.lsnStart - a.lsnStart;
}
