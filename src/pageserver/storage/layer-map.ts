// Where a timeline's versions are: in memory, in its layer files, and below its branch point in its ancestor.

import assert from "node:assert/strict";
import { addLsn, type Lsn, minLsn } from "../../base/lsn.ts";
import type { KeyPrefix } from "../layers/key.ts";
import { OpenLayer } from "../layers/open-layer.ts";
import type { VersionChain } from "../layers/version-chain.ts";
import { LayerSet } from "./layer-set.ts";

/** An ancestor's versions at or below an LSN: what a branch sees of it. */
export interface Inheritance {
  readonly map: LayerMap;
  readonly capLsn: Lsn;
}

let nextOwnerId = 1;
/** Greater each time that some map loses its ancestor: then what was skipped before may be closed. */
let cutsMade = 0;

/**
 * One open layer (writable), frozen ones that wait for their flush, and the set of files. Nothing here
 * is copied into branches: a read goes from a map to `inherited`, and past ancestors without versions
 * in one step, however many there are.
 */
export class LayerMap {
  /** Never used twice in a process: part of page cache keys. */
  readonly ownerId: number;
  /** End of the last whole record: versions above it may still be incomplete. */
  lastRecordLsn: Lsn;
  open: OpenLayer;
  /** Oldest first: the order of flushing. */
  readonly frozen: OpenLayer[] = [];
  files: LayerSet = LayerSet.EMPTY;
  #parent: Inheritance | undefined;
  /** What `inherited` found, after so many cuts. */
  #inherited: Inheritance | undefined;
  #inheritedAfter = -1;

  /** `lastRecordLsn`: the first own version will be above it. */
  constructor(lastRecordLsn: Lsn, ancestor?: Inheritance) {
    this.ownerId = nextOwnerId++;
    this.lastRecordLsn = lastRecordLsn;
    this.open = new OpenLayer(addLsn(lastRecordLsn, 1));
    this.#parent = ancestor;
  }

  /**
   * The nearest ancestor that may have a version of anything. What lies at or below a cap stays as it
   * is once the ancestor has got there, so what was skipped once is skipped for good.
   */
  get inherited(): Inheritance | undefined {
    let next = this.#inheritedAfter === cutsMade ? this.#inherited : this.#parent;
    while (next?.map.isEmptyUpTo(next.capLsn) === true) {
      const above: Inheritance = next;
      const below: Inheritance | undefined = above.map.#parent;
      next = below && { map: below.map, capLsn: minLsn(below.capLsn, above.capLsn) };
    }
    this.#inherited = next;
    this.#inheritedAfter = cutsMade;
    return next;
  }

  /** From here on `files` has all that was the ancestor's. */
  cutOff(files: LayerSet): void {
    this.files = files;
    this.#parent = undefined;
    cutsMade++;
  }

  /** Whether nothing is here at or below `lsn`, nor will be. */
  private isEmptyUpTo(lsn: Lsn): boolean {
    return (
      this.lastRecordLsn >= lsn &&
      (this.open.entryCount === 0 || this.open.lsnStart > lsn) &&
      this.frozen.every(({ entryCount, lsnStart }) => entryCount === 0 || lsnStart > lsn) &&
      !this.files.hasAtOrBelow(lsn)
    );
  }

  /** The flush of a frozen layer is done: the files take its place in one step. */
  replaceFrozen(frozen: OpenLayer, files: LayerSet): void {
    const at = this.frozen.indexOf(frozen);
    assert.ok(at >= 0);
    this.frozen.splice(at, 1);
    this.files = files;
  }

  /** Makes the open layer immutable, up to and with lastRecordLsn, and starts the next. Inside a record both have its LSN. */
  freezeOpen(lastPutLsn: Lsn, prevRecordLsn: Lsn): void {
    this.open.freeze(this.lastRecordLsn, lastPutLsn, prevRecordLsn);
    this.frozen.push(this.open);
    this.open = new OpenLayer(addLsn(this.lastRecordLsn, 1));
  }

  /** Adds its own versions of the key at or below `maxLsn` to the chain; true when that is complete. */
  collect(
    prefix: KeyPrefix,
    index: number,
    hash: number,
    maxLsn: Lsn,
    chain: VersionChain,
  ): boolean {
    const { open, frozen } = this;
    if (open.lsnStart <= maxLsn && open.collect(prefix, index, hash, maxLsn, chain)) {
      return true;
    }
    for (let i = frozen.length - 1; i >= 0; i--) {
      const layer = frozen[i]!;
      if (layer.lsnStart <= maxLsn && layer.collect(prefix, index, hash, maxLsn, chain)) {
        return true;
      }
    }
    return this.files.collect(prefix, index, hash, maxLsn, chain);
  }

  /** Reports each key of its own whose fields start with `fields`, in no order, repeats possible. */
  collectKeys(
    fields: readonly number[],
    maxLsn: Lsn,
    report: (prefix: KeyPrefix, index: number) => void,
  ): void {
    for (const layer of [this.open, ...this.frozen]) {
      layer.collectKeys(fields, maxLsn, report);
    }
    this.files.collectKeys(fields, maxLsn, report);
  }
}
