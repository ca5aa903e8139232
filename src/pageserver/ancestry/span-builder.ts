// Finds out which keys the ancestors of a span have, beside page service: a slice at a time, one span after the other.

import { monotonicMs, turn } from "../../base/clock.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { BlockCache } from "../layers/block-cache.ts";
import { keyHash } from "../layers/key.ts";
import { blockKeyIndex, blockKeyPrefix } from "../layers/layer-block.ts";
import type { LayerMap } from "../storage/layer-map.ts";
import type { AncestorSpan } from "./ancestor-span.ts";
import { KeyHashes } from "./key-hashes.ts";

const SLICE_MS = 2;
/** Of one span: 4 MB. Shorter ones are built all the same. */
const MAX_SPAN_KEYS = 1 << 19;

export class SpanBuilder {
  readonly #cache: BlockCache;
  readonly #waiting = new Set<LayerMap>();
  #running: Promise<void> | undefined;
  #sliceStart = 0;

  constructor(cache: BlockCache) {
    this.#cache = cache;
  }

  /** Builds the map's span when there is time. */
  request(map: LayerMap): void {
    this.#waiting.add(map);
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  /** When nothing is left to build. */
  async settled(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    await turn();
    this.#sliceStart = monotonicMs();
    for (const map of this.#waiting) {
      this.#waiting.delete(map);
      const span = map.currentSpan;
      if (span !== undefined && span.hashes === undefined && !map.closed) {
        await this.#build(map, span);
      }
    }
  }

  async #build(map: LayerMap, span: AncestorSpan<LayerMap>): Promise<void> {
    const hashes = new KeyHashes();
    let whole = false;
    try {
      whole = await this.#addSpan(map, span, hashes);
    } catch {
      // A layer that is not here or damaged: reads that need it tell.
    }
    if (whole && map.currentSpan === span) {
      span.keep(hashes, this.#cache);
    } else {
      span.buildFailed();
    }
  }

  /** False where it cannot be said which keys there are, or not now. */
  async #addSpan(map: LayerMap, span: AncestorSpan<LayerMap>, hashes: KeyHashes): Promise<boolean> {
    let at = map;
    while (at !== span.top) {
      const inner = at === map ? undefined : at.currentSpan;
      if (inner?.hashes !== undefined) {
        hashes.addAll(inner.hashes);
        at = inner.top;
      } else {
        const parent = at.parent!;
        if (!(await this.#addMap(parent.map, parent.capLsn, hashes))) {
          return false;
        }
        at = parent.map;
      }
      if (hashes.count > MAX_SPAN_KEYS) {
        return false;
      }
      await this.#breathe();
      if (map.currentSpan !== span) {
        return false;
      }
    }
    return true;
  }

  /** All keys with versions at or below `capLsn`, and perhaps others. */
  async #addMap(map: LayerMap, capLsn: Lsn, hashes: KeyHashes): Promise<boolean> {
    if (map.lastRecordLsn < capLsn) {
      return false;
    }
    if (map.isLarge(capLsn)) {
      map.respan();
      return false;
    }
    const { files } = map;
    const layers = files.layers.filter(({ file }) => file.lsnStart <= capLsn);
    for (const layer of [map.open, ...map.frozen]) {
      layer.collectKeys([], capLsn, (prefix, index) => hashes.add(keyHash(prefix, index)));
    }
    for (const { file } of layers) {
      for (const block of file.blocks()) {
        for (let key = 0; key < block.keyCount; key++) {
          hashes.add(keyHash(blockKeyPrefix(block, key), blockKeyIndex(block, key)));
        }
        await this.#breathe();
        // Layers that others have taken the place of are closed.
        if (map.closed || map.files !== files) {
          return false;
        }
      }
    }
    return true;
  }

  async #breathe(): Promise<void> {
    if (monotonicMs() - this.#sliceStart > SLICE_MS) {
      await turn();
      this.#sliceStart = monotonicMs();
    }
  }
}
