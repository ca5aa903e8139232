// Reads of one timeline: collects a key's versions from the newest down, and has redo build the page.

import { withContext } from "../../base/errors.ts";
import { formatLsn, type Lsn, minLsn } from "../../base/lsn.ts";
import type { AncestorSpan } from "../ancestry/ancestor-span.ts";
import {
  comparePrefixes,
  formatKey,
  type KeyPrefix,
  keyHash,
  prefixField5,
  samePrefix,
} from "../layers/key.ts";
import { LayerNotResident } from "../layers/layer-file.ts";
import { PrefixMap } from "../layers/prefix-map.ts";
import { BASE_ABSENT, BASE_CACHED, BASE_IMAGE, BASE_NONE } from "../layers/version-chain.ts";
import type { LayerMap } from "./layer-map.ts";
import type { StorageResources } from "./storage-resources.ts";

/** So many times `cacheAfterDeltas` are worth keeping at once. */
const MANY_DELTAS = 4;

/** Reads at any LSN, whether it may still be read or not: that is the timeline's to know. */
export class TimelineReader {
  readonly #map: LayerMap;
  readonly #resources: StorageResources;
  readonly #redo: StorageResources["redo"];
  /** For messages. */
  readonly #timelineId: string;

  constructor(
    map: LayerMap,
    resources: StorageResources,
    timeline: { readonly timelineId: string; readonly dataChecksums: boolean },
  ) {
    this.#map = map;
    this.#resources = resources;
    this.#redo = timeline.dataChecksums ? resources.checksumRedo : resources.redo;
    this.#timelineId = timeline.timelineId;
  }

  /** As TimelineStorage's. */
  readPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    const page = this.lendPage(prefix, index, lsn);
    return page === undefined ? undefined : this.#resources.pageSlab.copy(page);
  }

  /** As ServedTimeline's. */
  lendPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    try {
      return this.#lendPage(prefix, index, lsn);
    } catch (error) {
      throw this.#readError(prefix, index, lsn, error);
    }
  }

  #readError(prefix: KeyPrefix, index: number, lsn: Lsn, error: unknown): Error {
    if (error instanceof LayerNotResident) {
      return error;
    }
    const key = formatKey(prefix, index);
    return withContext(
      error,
      `read key ${key} at ${formatLsn(lsn)} of timeline ${this.#timelineId}`,
    );
  }

  #lendPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    const { chain, pageCache, config } = this.#resources;
    const redo = this.#redo;
    const hash = keyHash(prefix, index);
    const owner = this.#collect(prefix, index, hash, lsn);
    const count = chain.deltaCount;
    let base: Uint8Array | undefined;
    if (chain.base === BASE_IMAGE) {
      base = chain.baseBuffer!.subarray(chain.baseOffset, chain.baseOffset + chain.baseLength);
    } else if (chain.base === BASE_CACHED) {
      base = pageCache.page(chain.cachedOwner, prefix, index, hash);
    }
    if (count === 0) {
      return base;
    }
    if (base === undefined) {
      redo.loadZero();
    } else {
      redo.load(base);
    }
    const fork = prefixField5(prefix);
    let sinceStep = 0;
    for (let i = count - 1; i >= 0; i--) {
      const offset = chain.offsets[i]!;
      const deltaLsn = chain.lsns[i]! as Lsn;
      redo.applyAt(chain.buffers[i]!, offset, chain.lengths[i]!, deltaLsn, index, fork);
      sinceStep++;
      // The last version of its LSN.
      const isLast = i === 0 || chain.lsns[i - 1]! > deltaLsn;
      if (isLast && sinceStep >= chain.stepVersions) {
        sinceStep = this.#keepAtStep(deltaLsn) ? 0 : sinceStep;
      }
    }
    const newest = chain.lsns[0]!;
    const { cacheAfterDeltas } = config;
    // Above lastRecordLsn a record may still add to the same key at the same LSN.
    if (count >= cacheAfterDeltas && owner !== undefined && newest <= owner.lastRecordLsn) {
      const { ownerId } = owner;
      if (count >= MANY_DELTAS * cacheAfterDeltas || pageCache.noteBuilt(ownerId, hash)) {
        pageCache.put(ownerId, prefix, index, newest, redo.page);
      }
    }
    return redo.page;
  }

  /** Keeps the page at hand where a layer in memory has a step at `lsn`. */
  #keepAtStep(lsn: Lsn): boolean {
    return this.#resources.chain.steps.some((steps) => steps.keep(lsn, this.#redo.page));
  }

  /** Fills the shared chain; returns who owns its newest delta. */
  #collect(
    prefix: KeyPrefix,
    index: number,
    hash: number,
    lsn: Lsn,
    useCache = true,
  ): LayerMap | undefined {
    const { chain, pageCache } = this.#resources;
    chain.reset();
    chain.usesCaches = useCache;
    let newestOwner: LayerMap | undefined;
    let maxLsn = lsn;
    for (let map: LayerMap = this.#map; ; ) {
      chain.cachedLsn = useCache ? pageCache.lsnOf(map.ownerId, prefix, index, hash) : -1;
      chain.cachedOwner = map.ownerId;
      const complete = map.collect(prefix, index, hash, maxLsn, chain);
      if (newestOwner === undefined && chain.deltaCount > 0) {
        newestOwner = map;
      }
      if (complete) {
        break;
      }
      // Not by the first one's own span: it may be one of many branches, whose parent's span serves them all.
      let span: AncestorSpan<LayerMap> | undefined =
        map === this.#map ? undefined : this.#passable(map, hash);
      while (span !== undefined) {
        map = span.top;
        maxLsn = minLsn(maxLsn, span.capLsn);
        span = this.#passable(map, hash);
      }
      const { parent }: LayerMap = map;
      if (parent === undefined) {
        break;
      }
      map = parent.map;
      maxLsn = minLsn(maxLsn, parent.capLsn);
    }
    return newestOwner;
  }

  /** The map's span, if none of the ancestors in it has the key. */
  #passable(map: LayerMap, hash: number): AncestorSpan<LayerMap> | undefined {
    const span = map.currentSpan;
    if (span?.wantsBuild() === true) {
      this.#resources.spanBuilder.request(map);
    }
    return span?.lacks(hash) === true ? span : undefined;
  }

  /** How many deltas lie above the newest image at `lsn`, caches left out of account. */
  countDeltas(prefix: KeyPrefix, index: number, lsn: Lsn): number {
    this.#collect(prefix, index, keyHash(prefix, index), lsn, false);
    return this.#resources.chain.deltaCount;
  }

  /** As TimelineStorage's. */
  readValue(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    try {
      this.#collect(prefix, index, keyHash(prefix, index), lsn);
    } catch (error) {
      throw this.#readError(prefix, index, lsn, error);
    }
    const { chain } = this.#resources;
    if (chain.deltaCount > 0 || chain.base === BASE_CACHED) {
      return this.readPage(prefix, index, lsn);
    }
    if (chain.base === BASE_ABSENT || chain.base === BASE_NONE) {
      return undefined;
    }
    return new Uint8Array(
      chain.baseBuffer!.subarray(chain.baseOffset, chain.baseOffset + chain.baseLength),
    );
  }

  /** Every key with a version at or below `lsn` whose fields start with `fields`, from `first` (more fields) on, ascending. */
  keysUnder(
    fields: readonly number[],
    lsn: Lsn,
    first = fields,
  ): { prefix: KeyPrefix; indexes: number[] }[] {
    const found = new PrefixMap<Set<number>>();
    let lastPrefix: KeyPrefix | undefined;
    let lastIndexes = new Set<number>();
    const report = (prefix: KeyPrefix, index: number) => {
      if (lastPrefix === undefined || !samePrefix(prefix, lastPrefix)) {
        lastPrefix = prefix;
        lastIndexes = found.get(prefix) ?? new Set();
        found.set(prefix, lastIndexes);
      }
      lastIndexes.add(index);
    };
    let maxLsn = lsn;
    for (let map: LayerMap | undefined = this.#map; map !== undefined; ) {
      map.collectKeys(fields, maxLsn, report, first);
      const { parent }: LayerMap = map;
      map = parent?.map;
      maxLsn = parent === undefined ? maxLsn : minLsn(maxLsn, parent.capLsn);
    }
    return [...found]
      .sort(([a], [b]) => comparePrefixes(a, b))
      .map(([prefix, indexes]) => ({ prefix, indexes: [...indexes].sort((a, b) => a - b) }));
  }
}
