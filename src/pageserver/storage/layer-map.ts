// Where a timeline's versions are: in memory, in its layer files, and below its branch point in its ancestor.

import assert from "node:assert/strict";
import { addLsn, type Lsn } from "../../base/lsn.ts";
import { AncestorSpan } from "../ancestry/ancestor-span.ts";
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

/** Of files; a map with more is large. */
const MAX_SPANNED_BYTES = 16 << 20;
/** Of each layer in memory, whose keys are listed in one go, in about 2 ms. */
const MAX_SPANNED_ENTRIES = 32_768;

/** Of a root and all branches below it, those that were cut off too. */
interface Tree {
  /** How often one of its maps lost its ancestors or became large. */
  cuts: number;
}

/**
 * One open layer (writable), frozen ones that wait for their flush, and the set of files. Nothing here
 * is copied into branches: a read goes from a map to `parent`, or past all that a span lacks its key in.
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
  #span: AncestorSpan<LayerMap> | undefined;
  /** `cuts` when its span was made. */
  #spannedAfter = -1;
  readonly #tree: Tree;
  /** Its timeline is closed: its files are not to be read any more. */
  closed = false;

  /** `lastRecordLsn`: the first own version will be above it. */
  constructor(lastRecordLsn: Lsn, ancestor?: Inheritance) {
    this.ownerId = nextOwnerId++;
    this.lastRecordLsn = lastRecordLsn;
    this.open = new OpenLayer(addLsn(lastRecordLsn, 1));
    this.#parent = ancestor;
    this.#tree = ancestor === undefined ? { cuts: 0 } : ancestor.map.#tree;
  }

  /** What a read goes on with that does not find all here; undefined on a root. */
  get parent(): Inheritance | undefined {
    return this.#parent;
  }

  /** Its span over its nearest ancestors; undefined where the first of them is looked at in any case. */
  get currentSpan(): AncestorSpan<LayerMap> | undefined {
    if (this.#spannedAfter !== this.#tree.cuts) {
      this.#renewSpans();
    }
    return this.#span;
  }

  /** Spans are made anew, as some map has become too large for one. */
  respan(): void {
    this.#tree.cuts++;
  }

  /** Whether its keys up to `lsn` are too many to list: each read that passes looks here itself. */
  isLarge(lsn: Lsn): boolean {
    const layers = this.files.layers.filter(({ file }) => file.lsnStart <= lsn);
    const bytes = layers.reduce((sum, { file }) => sum + file.sizeBytes, 0);
    return (
      bytes > MAX_SPANNED_BYTES ||
      // It also says of every key that it has not that it does not exist.
      layers.some(({ file }) => file.isImage) ||
      [this.open, ...this.frozen].some(
        ({ entryCount, lsnStart }) => lsnStart <= lsn && entryCount > MAX_SPANNED_ENTRIES,
      )
    );
  }

  /** Those of its ancestors first, as they follow from each other; no recursion, as there may be many. */
  #renewSpans(): void {
    const { cuts } = this.#tree;
    const stale: LayerMap[] = [];
    let at: LayerMap | undefined = this;
    while (at !== undefined && at.#spannedAfter !== cuts) {
      stale.push(at);
      at = at.#parent?.map;
    }
    for (const map of stale.reverse()) {
      const parent = map.#parent;
      map.#spannedAfter = cuts;
      map.#span?.drop();
      map.#span =
        parent === undefined ||
        parent.map.#parent === undefined ||
        parent.map.isLarge(parent.capLsn)
          ? undefined
          : new AncestorSpan(parent, parent.map.#span, parent.map.#span?.top.currentSpan);
    }
  }

  /** From here on `files` has all that was the ancestor's. */
  cutOff(files: LayerSet): void {
    this.files = files;
    this.#parent = undefined;
    this.#span?.drop();
    this.#span = undefined;
    this.#tree.cuts++;
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
    first = fields,
  ): void {
    for (const layer of [this.open, ...this.frozen]) {
      layer.collectKeys(fields, maxLsn, report, first);
    }
    this.files.collectKeys(fields, maxLsn, report, first);
  }
}
