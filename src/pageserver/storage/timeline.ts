// One timeline's versioned store: puts into the open layer, reads through the layer path, flushes.

import assert from "node:assert/strict";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../base/clock.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn, MAX_LSN } from "../../base/lsn.ts";
import {
  comparePrefixes,
  formatKey,
  type KeyPrefix,
  keyHash,
  prefixField5,
} from "../layers/key.ts";
import { LayerFile } from "../layers/layer-file.ts";
import { parseLayerFileName } from "../layers/layer-format.ts";
import type { LayerDescription } from "../layers/layer-writer.ts";
import type { OpenLayer } from "../layers/open-layer.ts";
import {
  BASE_ABSENT,
  BASE_CACHED,
  BASE_IMAGE,
  BASE_NONE,
  VALUE_DELTA,
  VALUE_DELTA_INIT,
  VALUE_IMAGE,
  VALUE_TOMBSTONE,
} from "../layers/version-chain.ts";
import { flushPages, SLICE_MS } from "./flush-pages.ts";
import { type IndexPart, writeIndexPart } from "./index-part.ts";
import { type FlushResult, writeFrozenLayer } from "./layer-flush.ts";
import { LayerMap } from "./layer-map.ts";
import { LsnWaiters } from "./lsn-waiters.ts";
import type { StorageResources } from "./storage-resources.ts";
import type { TimelineStorage } from "./timeline-storage.ts";

const EMPTY = new Uint8Array(0);
const MAX_RETRY_MS = 30_000;
/** WAL that touches few pages is flushed too, or safekeepers would keep it for long. */
const MAX_LSN_DISTANCE_FACTOR = 4;

/** Made by Tenant. All methods but the flush are synchronous or only wait. */
export class Timeline implements TimelineStorage {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly ancestor: Timeline | undefined;
  /** The branch point; 0 on a root. */
  readonly ancestorLsn: Lsn;
  /** Where its own WAL begins. */
  readonly startLsn: Lsn;
  /** No version below it is kept, here or in ancestors: the root's start. */
  readonly minReadableLsn: Lsn;
  readonly pgVersion: number;
  readonly dataChecksums: boolean;
  readonly systemId: bigint;
  readonly walSegmentSize: number;

  readonly #directory: string;
  readonly #resources: StorageResources;
  readonly #logger: Logger;
  readonly #map: LayerMap;
  readonly #recordWaiters = new LsnWaiters();
  readonly #diskWaiters = new LsnWaiters();
  readonly #closing = new AbortController();
  /** Why no WAL is taken in any more. */
  #ingestFailure: StorageError | undefined;
  #closed = false;
  #ancestorReady: boolean;
  #prevRecordLsn: Lsn;
  #lastPutLsn: Lsn;
  #diskConsistentLsn: Lsn;
  #diskPrevRecordLsn: Lsn;
  #lastFreezeMs = monotonicMs();
  #flushing: Promise<void> | undefined;

  /** `ancestor` must be the timeline that the index names. Layers are opened at their first read. */
  constructor(
    resources: StorageResources,
    directory: string,
    part: IndexPart,
    ancestor: Timeline | undefined,
  ) {
    assert.equal(part.ancestor?.timelineId, ancestor?.timelineId);
    this.tenantId = part.tenantId;
    this.timelineId = part.timelineId;
    this.ancestor = ancestor;
    this.ancestorLsn = part.ancestor?.lsn ?? (0 as Lsn);
    this.startLsn = part.startLsn;
    this.minReadableLsn = ancestor?.minReadableLsn ?? part.startLsn;
    this.pgVersion = part.pgVersion;
    this.dataChecksums = part.dataChecksums;
    this.systemId = part.systemId;
    this.walSegmentSize = part.walSegmentSize;
    this.#directory = directory;
    this.#resources = resources;
    this.#logger = resources.logger.child({
      tenant: part.tenantId,
      timeline: part.timelineId,
    });
    this.#ancestorReady = ancestor === undefined;
    this.#prevRecordLsn = part.prevRecordLsn;
    this.#lastPutLsn = part.diskConsistentLsn;
    this.#diskConsistentLsn = part.diskConsistentLsn;
    this.#diskPrevRecordLsn = part.prevRecordLsn;
    this.#map = new LayerMap(
      part.diskConsistentLsn,
      ancestor && { map: ancestor.#map, lsn: this.ancestorLsn },
    );
    for (const layer of part.layers) {
      this.#map.addFile(this.#openFile(layer));
    }
  }

  #openFile(layer: LayerDescription): LayerFile {
    const name = parseLayerFileName(layer.fileName);
    assert.ok(name !== undefined, layer.fileName);
    const path = join(this.#directory, layer.fileName);
    return new LayerFile(path, name, layer.sizeBytes, this.#resources);
  }

  get lastRecordLsn(): Lsn {
    return this.#map.lastRecordLsn;
  }

  get prevRecordLsn(): Lsn {
    return this.#prevRecordLsn;
  }

  get diskConsistentLsn(): Lsn {
    return this.#diskConsistentLsn;
  }

  putImage(prefix: KeyPrefix, index: number, lsn: Lsn, value: Uint8Array): void {
    this.#put(prefix, index, lsn, VALUE_IMAGE, value);
  }

  putDelta(prefix: KeyPrefix, index: number, lsn: Lsn, delta: Uint8Array, willInit: boolean): void {
    this.#put(prefix, index, lsn, willInit ? VALUE_DELTA_INIT : VALUE_DELTA, delta);
  }

  putTombstone(prefix: KeyPrefix, index: number, lsn: Lsn): void {
    this.#put(prefix, index, lsn, VALUE_TOMBSTONE, EMPTY);
  }

  #put(prefix: KeyPrefix, index: number, lsn: Lsn, kind: number, value: Uint8Array): void {
    const map = this.#map;
    if (lsn < this.#lastPutLsn || lsn <= map.lastRecordLsn) {
      this.#checkOpen();
      assert.fail(`version at ${formatLsn(lsn)} after ${formatLsn(this.#lastPutLsn)}`);
    }
    this.#lastPutLsn = lsn;
    map.open.put(prefix, index, lsn, kind, value);
    if (map.open.entryCount === 1) {
      map.invalidate();
    }
  }

  advance(lsn: Lsn, prevRecordLsn: Lsn): void {
    this.#checkOpen();
    const map = this.#map;
    assert.ok(lsn >= map.lastRecordLsn && lsn >= this.#lastPutLsn, "the record LSN went back");
    map.lastRecordLsn = lsn;
    this.#prevRecordLsn = prevRecordLsn;
    this.#recordWaiters.reached(lsn);
    const distance = this.#resources.config.checkpointDistanceBytes;
    if (
      map.open.sizeBytes >= distance ||
      map.open.full ||
      lsn - map.open.lsnStart >= distance * MAX_LSN_DISTANCE_FACTOR
    ) {
      this.#freeze();
    }
  }

  readPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    try {
      return this.#readPage(prefix, index, lsn);
    } catch (error) {
      throw this.#readError(prefix, index, lsn, error);
    }
  }

  #readError(prefix: KeyPrefix, index: number, lsn: Lsn, error: unknown): StorageError {
    const key = formatKey(prefix, index);
    return withContext(
      error,
      `read key ${key} at ${formatLsn(lsn)} of timeline ${this.timelineId}`,
    );
  }

  #readPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    const { chain, pageCache, config } = this.#resources;
    const redo = this.dataChecksums ? this.#resources.checksumRedo : this.#resources.redo;
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
      return base === undefined ? undefined : this.#resources.pageSlab.copy(base);
    }
    if (base === undefined) {
      redo.loadZero();
    } else {
      redo.load(base);
    }
    const fork = prefixField5(prefix);
    for (let i = count - 1; i >= 0; i--) {
      const offset = chain.offsets[i]!;
      const deltaLsn = chain.lsns[i]! as Lsn;
      redo.applyAt(chain.buffers[i]!, offset, chain.lengths[i]!, deltaLsn, index, fork);
    }
    const page = this.#resources.pageSlab.copy(redo.page);
    const newest = chain.lsns[0]!;
    // Above lastRecordLsn a record may still add to the same key at the same LSN.
    if (count >= config.cacheAfterDeltas && owner !== undefined && newest <= owner.lastRecordLsn) {
      pageCache.put(owner.ownerId, prefix, index, newest, page);
    }
    return page;
  }

  /** Fills the shared chain; returns who owns its newest delta. */
  #collect(
    prefix: KeyPrefix,
    index: number,
    hash: number,
    lsn: Lsn,
    useCache = true,
  ): LayerMap | undefined {
    this.#checkReadable(lsn);
    const { chain, pageCache } = this.#resources;
    chain.reset();
    let newestOwner: LayerMap | undefined;
    let owner: LayerMap | undefined;
    for (const step of this.#map.path) {
      const maxVersion = step.capLsn < lsn ? step.capLsn : lsn;
      const layer = step.layer;
      if (layer.lsnStart > maxVersion) {
        continue;
      }
      if (step.owner !== owner) {
        owner = step.owner;
        chain.cachedLsn = useCache ? pageCache.lsnOf(owner.ownerId, prefix, index, hash) : -1;
        chain.cachedOwner = owner.ownerId;
      }
      const complete = layer.collect(prefix, index, hash, maxVersion, chain);
      if (newestOwner === undefined && chain.deltaCount > 0) {
        newestOwner = owner;
      }
      if (complete) {
        break;
      }
    }
    return newestOwner;
  }

  /** A closed timeline must not open its files again: they may be gone. */
  #checkOpen(): void {
    if (this.#closed) {
      throw new StorageError("unavailable", "shutting-down", "the timeline is closed");
    }
  }

  #checkReadable(lsn: Lsn): void {
    this.#checkOpen();
    if (!this.#ancestorReady && !this.#checkAncestorReady()) {
      throw new StorageError(
        "unavailable",
        "ancestor-behind",
        `the ancestor has not reached ${formatLsn(this.ancestorLsn)} again`,
      );
    }
    if (lsn < this.minReadableLsn) {
      throw new StorageError(
        "invalid",
        "lsn-too-old",
        `${formatLsn(lsn)} is below ${formatLsn(this.minReadableLsn)}, the oldest LSN kept`,
      );
    }
  }

  /**
   * After a restart an ancestor stands at its last flush and takes in the rest from the safekeepers
   * again; until it has reached the branch point, this timeline's base is incomplete.
   */
  #checkAncestorReady(): boolean {
    const { ancestor } = this;
    this.#ancestorReady =
      ancestor === undefined ||
      (ancestor.lastRecordLsn >= this.ancestorLsn && ancestor.#checkAncestorReady());
    return this.#ancestorReady;
  }

  /** How many deltas lie above the newest image at `lsn`, caches left out of account. */
  #countDeltas(prefix: KeyPrefix, index: number, lsn: Lsn): number {
    const { chain } = this.#resources;
    const hash = keyHash(prefix, index);
    this.#collect(prefix, index, hash, lsn, false);
    return chain.deltaCount;
  }

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

  *scan(
    fields: readonly number[],
    lsn: Lsn,
  ): Generator<{ prefix: KeyPrefix; index: number; value: Uint8Array }> {
    for (const { prefix, indexes } of this.#keysUnder(fields, lsn)) {
      for (const index of indexes) {
        const value = this.readValue(prefix, index, lsn);
        if (value !== undefined) {
          yield { prefix, index, value };
        }
      }
    }
  }

  #keysUnder(fields: readonly number[], lsn: Lsn): { prefix: KeyPrefix; indexes: number[] }[] {
    this.#checkReadable(lsn);
    const found = new Map<KeyPrefix, Set<number>>();
    let lastPrefix = -1;
    let lastIndexes = new Set<number>();
    const report = (prefix: KeyPrefix, index: number) => {
      if (prefix !== lastPrefix) {
        lastPrefix = prefix;
        lastIndexes = found.get(prefix) ?? new Set();
        found.set(prefix, lastIndexes);
      }
      lastIndexes.add(index);
    };
    for (const { layer, capLsn } of this.#map.path) {
      layer.collectKeys(fields, capLsn < lsn ? capLsn : lsn, report);
    }
    return [...found]
      .sort(([a], [b]) => comparePrefixes(a, b))
      .map(([prefix, indexes]) => ({ prefix, indexes: [...indexes].sort((a, b) => a - b) }));
  }

  async waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void> {
    const started = monotonicMs();
    if (this.ancestor !== undefined && !this.#ancestorReady && !this.#checkAncestorReady()) {
      await this.ancestor.waitForLsn(this.ancestorLsn, timeoutMs);
    }
    if (lsn <= this.lastRecordLsn) {
      return;
    }
    if (this.#ingestFailure !== undefined) {
      throw this.#ingestFailure;
    }
    const left = Math.max(0, timeoutMs - (monotonicMs() - started));
    const reached = await this.#recordWaiters.wait(lsn, left);
    if (!reached) {
      throw new StorageError(
        "unavailable",
        "lsn-timeout",
        `timed out after ${timeoutMs} ms waiting for ${formatLsn(lsn)}, ` +
          `last record is at ${formatLsn(this.lastRecordLsn)}`,
      );
    }
  }

  /** Who waits for WAL, now or later, is told why it does not come; undefined: it may come again. */
  setIngestFailure(failure: StorageError | undefined): void {
    this.#ingestFailure = failure;
    if (failure !== undefined) {
      this.#recordWaiters.fail(failure);
    }
  }

  /** Undefined while ingest may go on; else resolves when enough frozen layers are on disk. */
  ingestReady(): Promise<void> | undefined {
    return this.#frozenExcess < 0 ? undefined : this.#ingestReady();
  }

  get #frozenExcess(): number {
    return this.#map.frozen.length - this.#resources.config.maxFrozenLayers;
  }

  async #ingestReady(): Promise<void> {
    while (this.#frozenExcess >= 0) {
      const upTo = this.#map.frozen[this.#frozenExcess]!;
      try {
        await this.#diskWaiters.wait((upTo.lsnEnd - 1) as Lsn, Number.POSITIVE_INFINITY);
      } catch (error) {
        // A failed flush is tried again after a while; only the end of the timeline ends the wait.
        if (this.#closing.signal.aborted) {
          throw error;
        }
      }
    }
  }

  #freeze(): void {
    if (this.lastRecordLsn < this.#map.open.lsnStart) {
      return;
    }
    this.#map.freezeOpen(this.#prevRecordLsn);
    this.#lastFreezeMs = monotonicMs();
    this.#startFlushing();
  }

  /** Flushes everything up to the present lastRecordLsn. Rejects with the failure where a try fails;
   *  it is tried again in the background all the same. */
  async checkpoint(): Promise<void> {
    const target = this.lastRecordLsn;
    this.#freeze();
    this.#startFlushing();
    if (this.#diskConsistentLsn < target) {
      await this.#diskWaiters.wait(target, Number.POSITIVE_INFINITY);
    }
  }

  /** Freezes what is older than the checkpoint timeout; called now and then by the manager. */
  freezeIfOld(nowMs: number): void {
    if (nowMs - this.#lastFreezeMs >= this.#resources.config.checkpointTimeoutMs) {
      this.#lastFreezeMs = nowMs;
      this.#freeze();
    }
  }

  #startFlushing(): void {
    if (this.#flushing === undefined && this.#map.frozen.length > 0) {
      this.#flushing = this.#flushAll().finally(() => {
        this.#flushing = undefined;
        // What was frozen after the last look.
        if (!this.#closing.signal.aborted) {
          this.#startFlushing();
        }
      });
    }
  }

  async #flushAll(): Promise<void> {
    const { signal } = this.#closing;
    const { flushRetryMs } = this.#resources.config;
    let failures = 0;
    while (this.#map.frozen.length > 0 && !signal.aborted) {
      try {
        await this.#flushOldest(this.#map.frozen[0]!);
        failures = 0;
      } catch (error) {
        if (signal.aborted) {
          return;
        }
        failures++;
        this.#logger.error({ error, failures }, "layer flush failed, trying again");
        this.#diskWaiters.fail(error);
        const wait = Math.min(MAX_RETRY_MS, flushRetryMs * 2 ** Math.min(failures - 1, 10));
        await sleep(wait, signal).catch(() => undefined);
      }
    }
  }

  async #flushOldest(layer: OpenLayer): Promise<void> {
    const added: LayerDescription[] = [];
    if (layer.entryCount > 0) {
      const result = await this.#writeLayer(layer);
      if (result.firstFailure !== undefined) {
        this.#logger.error(
          { failedImages: result.failedImages, first: result.firstFailure },
          "pages could not be built during a flush; their deltas were kept",
        );
      }
      added.push(result.layer);
    }
    const lsn = (layer.lsnEnd - 1) as Lsn;
    // The index is written after the layers it names; only then may readers lose the frozen layer.
    const layers = [...added, ...this.#layerDescriptions()];
    const part = { diskConsistentLsn: lsn, prevRecordLsn: layer.prevRecordLsn, layers };
    await writeIndexPart(this.#directory, { ...this.#indexPart(), ...part }, this.#resources.disk);
    this.#map.replaceFrozen(
      layer,
      added.map((description) => this.#openFile(description)),
    );
    layer.release();
    this.#diskConsistentLsn = lsn;
    this.#diskPrevRecordLsn = layer.prevRecordLsn;
    this.#diskWaiters.reached(lsn);
    this.#logger.info(
      {
        layer: added[0]?.fileName,
        bytes: added[0]?.sizeBytes,
        entries: layer.entryCount,
        diskConsistentLsn: formatLsn(lsn),
      },
      "layer flushed",
    );
  }

  #writeLayer(layer: OpenLayer): Promise<FlushResult> {
    const { config, disk, flushThread } = this.#resources;
    const { imageAfterDeltas, imageRotation, inlineFlushBytes } = config;
    const { signal } = this.#closing;
    const frozen = layer.frozen();
    const settings = {
      directory: this.#directory,
      imageAfterDeltas,
      imageRotation,
      turn: this.#map.files.length,
      walLogHints: this.dataChecksums,
    };
    const pages = flushPages(frozen, {
      readPage: (prefix, index, lsn) => this.readPage(prefix, index, lsn),
      countDeltas: (prefix, index, lsn) => this.#countDeltas(prefix, index, lsn),
    });
    // A disk of a simulation lives in this thread.
    if (layer.sizeBytes >= inlineFlushBytes && disk === REAL_DISK) {
      return flushThread.flush(frozen, settings, pages, signal);
    }
    const cancelled = () => signal.aborted;
    return writeFrozenLayer(frozen, { ...settings, disk, pages, cancelled, sliceMs: SLICE_MS });
  }

  #layerDescriptions(): LayerDescription[] {
    return this.#map.files.map(({ fileName, sizeBytes }) => ({ fileName, sizeBytes }));
  }

  #indexPart(): IndexPart {
    return {
      tenantId: this.tenantId,
      timelineId: this.timelineId,
      ancestor: this.ancestor && { timelineId: this.ancestor.timelineId, lsn: this.ancestorLsn },
      pgVersion: this.pgVersion,
      dataChecksums: this.dataChecksums,
      systemId: this.systemId,
      walSegmentSize: this.walSegmentSize,
      startLsn: this.startLsn,
      diskConsistentLsn: this.#diskConsistentLsn,
      prevRecordLsn: this.#diskPrevRecordLsn,
      layers: this.#layerDescriptions(),
    };
  }

  /** Layer files, newest first. */
  get layers(): readonly LayerFile[] {
    return this.#map.files;
  }

  /** Bytes of layer files of its own. */
  get physicalSizeBytes(): number {
    return this.#map.files.reduce((sum, file) => sum + file.sizeBytes, 0);
  }

  /** Bytes in memory: the open layer and frozen ones. */
  get memorySizeBytes(): number {
    return this.#map.frozen.reduce((sum, layer) => sum + layer.sizeBytes, this.#map.open.sizeBytes);
  }

  /** Ends waits and background work. What was not flushed comes from the safekeepers again. */
  async close(): Promise<void> {
    this.#closing.abort();
    const error = new StorageError("unavailable", "shutting-down", "the timeline is closing");
    this.#recordWaiters.fail(error);
    this.#diskWaiters.fail(error);
    await this.#flushing;
    this.#closed = true;
    // No put gets through either.
    this.#lastPutLsn = MAX_LSN;
    for (const file of this.#map.files) {
      file.close();
    }
  }

  /** After `close`, for a timeline that is deleted: the ancestor forgets it. */
  detach(): void {
    this.#map.detach();
  }
}
