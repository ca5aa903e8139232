// Brings one timeline's frozen layers to the disk, the oldest first, until it works; and lets others wait for that.

import { sleep } from "../../base/clock.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn, MAX_LSN } from "../../base/lsn.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import type { OpenLayer } from "../layers/open-layer.ts";
import type { LayerMap } from "../storage/layer-map.ts";
import type { IndexChange, LayerEdit, SetLayer } from "../storage/layer-set.ts";
import { LsnWaiters } from "../storage/lsn-waiters.ts";
import type { StorageResources } from "../storage/storage-resources.ts";
import { flushPages, type KeyReader, SLICE_MS } from "./flush-pages.ts";
import { type FlushResult, writeFrozenLayer } from "./layer-flush.ts";

const MAX_RETRY_MS = 30_000;

/** What flushes need of the timeline. */
export interface FlushedTimeline extends KeyReader {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly directory: string;
  readonly dataChecksums: boolean;
  readonly map: LayerMap;
  open(fileName: string, sizeBytes: number): LayerFile;
  commit(edit: LayerEdit, change: IndexChange): Promise<void>;
  /** A layer of the memory is on the disk, and not in memory any more. */
  flushed(layer: OpenLayer): void;
}

export class TimelineFlush {
  readonly #timeline: FlushedTimeline;
  readonly #resources: StorageResources;
  readonly #logger: Logger;
  readonly #signal: AbortSignal;
  readonly #waiters = new LsnWaiters();
  #running: Promise<void> | undefined;
  /** For who waits for the next flush to end, or the timeline. */
  #next: PromiseWithResolvers<void> | undefined;

  constructor(
    timeline: FlushedTimeline,
    resources: StorageResources,
    logger: Logger,
    signal: AbortSignal,
  ) {
    this.#timeline = timeline;
    this.#resources = resources;
    this.#logger = logger;
    this.#signal = signal;
  }

  /** Ingest waits for it: this timeline has many frozen layers, or all timelines together have too much in memory. */
  get isUrgent(): boolean {
    const { length } = this.#timeline.map.frozen;
    const { config, layerMemory } = this.#resources;
    return length >= config.maxFrozenLayers || (length > 0 && layerMemory.isCrowded);
  }

  start(): void {
    if (this.#running === undefined && this.#timeline.map.frozen.length > 0) {
      this.#running = this.#flushAll().finally(() => {
        this.#running = undefined;
        // What was frozen after the last look.
        if (!this.#signal.aborted) {
          this.start();
        }
      });
    }
  }

  /** Until `isUrgent` is false. A failed flush is tried again after a while; only the end of the timeline ends the wait. */
  async whenNotUrgent(): Promise<void> {
    while (this.isUrgent) {
      if (this.#signal.aborted) {
        throw new StorageError("unavailable", "shutting-down", "the timeline is closing");
      }
      this.#next ??= Promise.withResolvers();
      await this.#next.promise;
    }
  }

  /** Until the disk has everything up to `lsn`. Rejects where a try fails; it is tried again all the same. */
  async reached(lsn: Lsn): Promise<void> {
    await this.#waiters.wait(lsn, Number.POSITIVE_INFINITY);
  }

  /** The timeline's signal is aborted: all waits end with `error`. Resolves when nothing is under way. */
  async end(error: StorageError): Promise<void> {
    this.#waiters.fail(error);
    this.#endWait();
    await this.#running;
  }

  #endWait(): void {
    this.#next?.resolve();
    this.#next = undefined;
  }

  async #flushAll(): Promise<void> {
    const signal = this.#signal;
    const { tenantId, map } = this.#timeline;
    const flushing = { tenantId, isUrgent: () => this.isUrgent, signal };
    const { flushRetryMs } = this.#resources.config;
    let failures = 0;
    while (map.frozen.length > 0 && !signal.aborted) {
      try {
        const layer = map.frozen[0]!;
        await this.#resources.flushInTurn(layer, flushing, () => this.#flushOldest(layer));
        failures = 0;
      } catch (error) {
        if (signal.aborted) {
          return;
        }
        failures++;
        this.#logger.error({ error, failures }, "layer flush failed, trying again");
        this.#waiters.fail(error);
        const wait = Math.min(MAX_RETRY_MS, flushRetryMs * 2 ** Math.min(failures - 1, 10));
        await sleep(wait, signal).catch(() => undefined);
      }
    }
  }

  async #flushOldest(layer: OpenLayer): Promise<void> {
    const { timelineId } = this.#timeline;
    const added: SetLayer[] = [];
    if (layer.entryCount > 0) {
      const result = await this.#write(layer);
      if (result.firstFailure !== undefined) {
        this.#logger.error(
          { failedImages: result.failedImages, first: result.firstFailure },
          "pages could not be built during a flush; their deltas were kept",
        );
      }
      const { fileName, sizeBytes } = result.layer;
      const file = this.#timeline.open(fileName, sizeBytes);
      added.push({ file, maker: timelineId, capLsn: MAX_LSN });
    }
    const lsn = layer.consistentLsn;
    await this.#timeline.commit(
      { add: added, remove: [] },
      { diskConsistentLsn: lsn, prevRecordLsn: layer.prevRecordLsn, flushed: layer },
    );
    this.#timeline.flushed(layer);
    this.#waiters.reached(lsn);
    this.#endWait();
    this.#logger.info(
      {
        layer: added[0]?.file.fileName,
        bytes: added[0]?.file.sizeBytes,
        entries: layer.entryCount,
        diskConsistentLsn: formatLsn(lsn),
      },
      "layer flushed",
    );
  }

  #write(layer: OpenLayer): Promise<FlushResult> {
    const { config, disk, backgroundThread, generation } = this.#resources;
    const { imageAfterDeltas, imageRotation, inlineFlushBytes } = config;
    const { directory, dataChecksums, map } = this.#timeline;
    const frozen = layer.frozen();
    const settings = {
      directory,
      number: generation.nextLayer(),
      imageAfterDeltas,
      imageRotation,
      turn: map.files.layers.length,
      walLogHints: dataChecksums,
    };
    const pages = flushPages(frozen, this.#timeline);
    const signal = this.#signal;
    // A simulation's disk lives in this thread.
    if (layer.sizeBytes >= inlineFlushBytes && disk === REAL_DISK) {
      return backgroundThread.flush(frozen, settings, pages, signal);
    }
    const cancelled = () => signal.aborted;
    return writeFrozenLayer(frozen, { ...settings, disk, pages, cancelled, sliceMs: SLICE_MS });
  }
}
