// The layer files that one timeline may read: an immutable set, searchable by key and LSN, changed by edits.

import type { TimelineId } from "../../base/ids.ts";
import { addLsn, type Lsn, minLsn } from "../../base/lsn.ts";
import { comparePrefixes, type KeyPrefix, prefixFields } from "../layers/key.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import type { OpenLayer } from "../layers/open-layer.ts";
import type { VersionChain } from "../layers/version-chain.ts";

/** One layer, and how much of it belongs to the timeline. */
export interface SetLayer {
  readonly file: LayerFile;
  /** The timeline that made it. */
  readonly maker: TimelineId;
  /** Versions above it belong to another timeline's future; MAX_LSN where all is ours. */
  readonly capLsn: Lsn;
}

/** Whoever changes a timeline's layers (flush, compaction, collection, detaching) says it so. */
export interface LayerEdit {
  readonly add: readonly SetLayer[];
  /** Layers of the set, by identity. */
  readonly remove: readonly SetLayer[];
}

/** What a commit changes beside the layers. */
export interface IndexChange {
  readonly diskConsistentLsn?: Lsn;
  readonly prevRecordLsn?: Lsn;
  readonly gcCutoffLsn?: Lsn;
  /** Undefined, and there: it is in use again. */
  readonly archivedAtMs?: number | undefined;
  /** The edit adds all that it has of its ancestors. */
  readonly detached?: true;
  /** The layer in memory whose place the added ones take. */
  readonly flushed?: OpenLayer;
}

/**
 * Layers over the same LSNs whose key ranges do not overlap: a key lies in one of them at most, found
 * by binary search. A flush makes a run of one file, a compaction one of many.
 */
class LayerRun {
  readonly lsnStart: Lsn;
  /** Exclusive, the cap taken into account. */
  readonly lsnEnd: Lsn;
  readonly isImage: boolean;
  readonly capLsn: Lsn;
  /** By their first keys. */
  readonly layers: readonly SetLayer[];

  constructor(layers: readonly SetLayer[]) {
    const [{ file, capLsn }] = layers as readonly [SetLayer];
    this.layers = layers;
    this.lsnStart = file.lsnStart;
    this.lsnEnd = visibleEnd(layers[0]!);
    this.isImage = file.isImage;
    this.capLsn = capLsn;
  }

  /** The file whose range may have the key. */
  find(prefix: KeyPrefix, index: number): LayerFile | undefined {
    const { layers } = this;
    if (layers.length === 1) {
      return layers[0]!.file;
    }
    let low = 0;
    let high = layers.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { keyStart } = layers[middle]!.file.name;
      const order = comparePrefixes(keyStart.prefix, prefix) || keyStart.index - index;
      if (order <= 0) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low === 0 ? undefined : layers[low - 1]!.file;
  }
}

/** Newest first; a reader that goes on while others change the timeline keeps the set it began with. */
export class LayerSet {
  static readonly EMPTY = new LayerSet([], []);

  /** Newest first. */
  readonly layers: readonly SetLayer[];
  readonly #runs: readonly LayerRun[];

  private constructor(layers: readonly SetLayer[], runs: readonly LayerRun[]) {
    this.layers = layers;
    this.#runs = runs;
  }

  /** The set after the edit. */
  with({ add, remove }: LayerEdit): LayerSet {
    const removed = new Set(remove);
    const kept = this.layers.filter((layer) => !removed.has(layer));
    const layers = [...kept, ...add].sort(newestFirst);
    return new LayerSet(layers, runsOf(layers));
  }

  /** Bytes in its files. */
  get sizeBytes(): number {
    return this.layers.reduce((sum, { file }) => sum + file.sizeBytes, 0);
  }

  /** Files on top of each other at most, where a read may have to look at all of them. */
  get runCount(): number {
    return this.#runs.length;
  }

  /** Adds the key's versions at or below `maxLsn` to the chain; true when it is complete. */
  collect(
    prefix: KeyPrefix,
    index: number,
    hash: number,
    maxLsn: Lsn,
    chain: VersionChain,
  ): boolean {
    const runs = this.#runs;
    // By index: this loop is on the way of every read.
    for (let i = 0; i < runs.length; i++) {
      const run = runs[i]!;
      if (run.lsnStart > maxLsn) {
        continue;
      }
      const file = run.find(prefix, index);
      if (file?.collect(prefix, index, hash, minLsn(run.capLsn, maxLsn), chain) === true) {
        return true;
      }
    }
    return false;
  }

  /** Reports each key whose fields start with `fields`, from `first` (more fields) on; in no order, repeats possible. */
  collectKeys(
    fields: readonly number[],
    maxLsn: Lsn,
    report: (prefix: KeyPrefix, index: number) => void,
    first = fields,
  ): void {
    for (const { file, capLsn } of this.layers) {
      if (mayHaveKeysUnder(file, fields)) {
        file.collectKeys(fields, minLsn(capLsn, maxLsn), report, first);
      }
    }
  }
}

function visibleEnd({ file, capLsn }: SetLayer): Lsn {
  return file.lsnEnd > capLsn ? addLsn(capLsn, 1) : file.lsnEnd;
}

/** An image layer at LSN X comes before every layer that ends at or below X. */
function newestFirst(a: SetLayer, b: SetLayer): number {
  return (
    visibleEnd(b) - visibleEnd(a) ||
    b.file.lsnStart - a.file.lsnStart ||
    b.file.name.kind - a.file.name.kind ||
    comparePrefixes(a.file.name.keyStart.prefix, b.file.name.keyStart.prefix) ||
    a.file.name.keyStart.index - b.file.name.keyStart.index
  );
}

function runsOf(layers: readonly SetLayer[]): LayerRun[] {
  const runs: LayerRun[] = [];
  let run: SetLayer[] = [];
  for (const layer of layers) {
    if (run.length > 0 && !continuesRun(run.at(-1)!, layer)) {
      runs.push(new LayerRun(run));
      run = [];
    }
    run.push(layer);
  }
  return run.length === 0 ? runs : [...runs, new LayerRun(run)];
}

function continuesRun({ file: last, capLsn }: SetLayer, next: SetLayer): boolean {
  const { keyEnd } = last.name;
  const { keyStart } = next.file.name;
  return (
    last.lsnStart === next.file.lsnStart &&
    last.lsnEnd === next.file.lsnEnd &&
    last.isImage === next.file.isImage &&
    capLsn === next.capLsn &&
    (comparePrefixes(keyEnd.prefix, keyStart.prefix) || keyEnd.index - keyStart.index) < 0
  );
}

function mayHaveKeysUnder({ name }: LayerFile, fields: readonly number[]): boolean {
  const first = prefixFields(name.keyStart.prefix);
  const last = prefixFields(name.keyEnd.prefix);
  return compareFields(first, fields) <= 0 && compareFields(last, fields) >= 0;
}

/** Order of as many fields as `fields` has. */
function compareFields(key: readonly number[], fields: readonly number[]): number {
  for (let i = 0; i < fields.length; i++) {
    if (key[i] !== fields[i]) {
      return key[i]! - fields[i]!;
    }
  }
  return 0;
}
