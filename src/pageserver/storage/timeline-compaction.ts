// Carries out what compaction-plan.ts decides for one timeline: files in, files out, one commit.

import { monotonicMs, turn } from "../../base/clock.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { errorKind, errorMessage } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn, MAX_LSN, minLsn } from "../../base/lsn.ts";
import type { LayerFate } from "../api.ts";
import { compactLayers, DEFAULT_TARGET_BYTES } from "../compaction/compact-layers.ts";
import {
  type CompactionPlan,
  collectionFates,
  type PlanSituation,
  planCollectionNow,
  planCompaction,
} from "../compaction/compaction-plan.ts";
import type {
  BasePageLookup,
  BasePageRequest,
  CompactionSettings,
} from "../compaction/compaction-settings.ts";
import type { Key } from "../compaction/image-tiles.ts";
import type { KeyRange } from "../compaction/layer-cursor.ts";
import type { PageReply } from "../flush/layer-flush.ts";
import { decodeKey, formatKey, type KeyPrefix } from "../layers/key.ts";
import { type LayerFile, LayerNotResident } from "../layers/layer-file.ts";
import type { LayerEdit, SetLayer } from "./layer-set.ts";
import type { StorageResources } from "./storage-resources.ts";

/** Page service has its turn after so many milliseconds of compaction. */
const SLICE_MS = 2;

/** `due`: whatever is worth it. `collect`: all that may go, and only that. */
export type CompactionKind = "due" | "collect";

/** Where images could not be made, the next try is so much later; other ranges go on. */
const SET_ASIDE_MS = 3_600_000;

/** What compaction needs of the timeline. */
export interface CompactedTimeline {
  readonly timelineId: TimelineId;
  readonly directory: string;
  readonly dataChecksums: boolean;
  readonly hasAncestor: boolean;
  /** Newest first. */
  readonly layers: readonly SetLayer[];
  readonly cutoff: Lsn;
  readonly consistentLsn: Lsn;
  /** Ascending, below the cutoff. */
  readonly retained: readonly Lsn[];
  readonly branchPoints: readonly Lsn[];
  /** At any LSN, whether anybody may still read it or not. */
  read(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined;
  /** What `read` gives, once the layers that it needs are on the disk. */
  whenResident<T>(read: () => T): Promise<T>;
  /** Resolves when the file is on the disk. */
  fetch(file: LayerFile): Promise<void>;
  open(fileName: string, sizeBytes: number): LayerFile;
  commit(edit: LayerEdit): Promise<void>;
}

export class TimelineCompaction {
  readonly #timeline: CompactedTimeline;
  readonly #resources: StorageResources;
  readonly #logger: Logger;
  readonly #signal: AbortSignal;
  /** What collections wrote, and for which retained LSNs. */
  readonly #collected = new Map<SetLayer, readonly Lsn[]>();
  /** First keys of ranges that failed, and keys whose pages could not be built; until when no images of them are tried. */
  readonly #setAside = new Map<string, number>();

  constructor(
    timeline: CompactedTimeline,
    resources: StorageResources,
    logger: Logger,
    signal: AbortSignal,
  ) {
    this.#timeline = timeline;
    this.#resources = resources;
    this.#logger = logger;
    this.#signal = signal;
  }

  /**
   * One step, the most urgent, or the next one of a collection; false where there is none. One call at a time.
   */
  async step(kind: CompactionKind): Promise<boolean> {
    const situation = this.#situation();
    const plan =
      kind === "collect"
        ? planCollectionNow(situation)
        : planCompaction(situation, this.#resources.config);
    if (plan === undefined) {
      return false;
    }
    const { retained } = this.#timeline;
    let add: readonly SetLayer[];
    try {
      add = plan.inputs.length === 0 ? [] : await this.#writeResident(plan);
    } catch (error) {
      if (plan.goal === "images" && errorKind(error) === "corrupt") {
        this.#setAsideKey(keyText(plan.range.start));
      }
      throw error;
    }
    await this.#timeline.commit({ add, remove: plan.remove });
    for (const layer of plan.remove) {
      this.#collected.delete(layer);
    }
    for (const layer of plan.goal === "collect" ? add : []) {
      this.#collected.set(layer, retained);
    }
    this.#logger.info(
      {
        goal: plan.goal,
        read: bytesOf(plan.inputs),
        written: bytesOf(add),
        removed: bytesOf(plan.remove),
        upTo: formatLsn(plan.maxLsn),
      },
      "layers compacted",
    );
    return true;
  }

  #situation(): PlanSituation<SetLayer> {
    const { layers, hasAncestor, cutoff, consistentLsn, retained, branchPoints } = this.#timeline;
    const collected = this.#collected;
    const now = monotonicMs();
    const isSetAside = ({ start }: KeyRange) =>
      this.#setAside.size > 0 && (this.#setAside.get(keyText(start)) ?? 0) > now;
    return {
      layers,
      hasAncestor,
      cutoff,
      consistentLsn,
      retained,
      branchPoints,
      collected,
      isSetAside,
    };
  }

  /** What a collection up to `cutoff` would make of each layer; `retained`: LSNs that are read below it. */
  fates(cutoff: Lsn, retained: readonly Lsn[]): Map<SetLayer, LayerFate> {
    return collectionFates({ ...this.#situation(), cutoff, retained });
  }

  #setAsideKey(key: string): void {
    this.#setAside.set(key, monotonicMs() + SET_ASIDE_MS);
  }

  /** The inputs are on the disk until it is done. */
  async #writeResident(plan: CompactionPlan<SetLayer>): Promise<SetLayer[]> {
    for (const { file } of plan.inputs) {
      file.pins++;
    }
    try {
      await Promise.all(plan.inputs.map(({ file }) => this.#timeline.fetch(file)));
      return await this.#write(plan);
    } finally {
      for (const { file } of plan.inputs) {
        file.pins--;
      }
    }
  }

  async #write(plan: CompactionPlan<SetLayer>): Promise<SetLayer[]> {
    const { directory, dataChecksums, timelineId } = this.#timeline;
    const { range, retained, cutoff, cutPoints, keyCuts, imageLayerLsn, moreBelow, maxLsn } = plan;
    const { disk, generation, config } = this.#resources;
    const inputs = plan.inputs.map(({ file, capLsn }) => ({
      path: file.path,
      name: file.name,
      sizeBytes: file.sizeBytes,
      maxLsn: minLsn(capLsn, maxLsn),
    }));
    const settings: CompactionSettings = {
      directory,
      number: generation.nextLayer(),
      range,
      retained,
      cutoff,
      cutPoints,
      keyCuts,
      imageLayerLsn,
      moreBelow,
      targetBytes:
        plan.goal === "images"
          ? config.imageLayerBytes
          : Math.min(DEFAULT_TARGET_BYTES, config.checkpointDistanceBytes * 2),
      walLogHints: dataChecksums,
    };
    const signal = this.#signal;
    const { layers, failedImages, firstFailure, holes } =
      // A disk of a simulation lives in this thread.
      disk === REAL_DISK && bytesOf(plan.inputs) >= config.inlineFlushBytes
        ? await this.#resources.backgroundThread.compact(inputs, settings, this.#basePages, signal)
        : await compactLayers(inputs, {
            ...settings,
            disk,
            pages: this.#basePages,
            cancelled: () => signal.aborted,
            sliceMs: SLICE_MS,
          });
    for (const key of holes) {
      this.#setAsideKey(key);
    }
    if (failedImages > 0) {
      this.#logger.error(
        { failedImages, first: firstFailure },
        "pages could not be built during a compaction; their deltas were kept",
      );
    }
    return layers.map(({ fileName, sizeBytes }) => ({
      file: this.#timeline.open(fileName, sizeBytes),
      maker: timelineId,
      capLsn: MAX_LSN,
    }));
  }

  /** Never rejects: a page that cannot be read is an answer. */
  readonly #basePages: BasePageLookup = async (requests) => {
    const replies: PageReply[] = [];
    let sliceStart = monotonicMs();
    for (const request of requests) {
      replies.push(this.#basePage(request) ?? (await this.#fetchedBasePage(request)));
      if (monotonicMs() - sliceStart > SLICE_MS) {
        await turn();
        sliceStart = monotonicMs();
      }
    }
    return replies;
  };

  /** Undefined where a layer has to be fetched first. */
  #basePage({ key, lsn }: BasePageRequest): PageReply | undefined {
    const { prefix, index } = decodeKey(key);
    try {
      const page = this.#timeline.read(prefix, index, lsn);
      // A buffer of its own, as it may move to another thread.
      return page === undefined ? { state: "none" } : { state: "page", page: page.slice() };
    } catch (error) {
      return error instanceof LayerNotResident
        ? undefined
        : { state: "failed", reason: errorMessage(error) };
    }
  }

  async #fetchedBasePage(request: BasePageRequest): Promise<PageReply> {
    const { prefix, index } = decodeKey(request.key);
    try {
      const page = await this.#timeline.whenResident(() =>
        this.#timeline.read(prefix, index, request.lsn),
      );
      return page === undefined ? { state: "none" } : { state: "page", page: page.slice() };
    } catch (error) {
      return { state: "failed", reason: errorMessage(error) };
    }
  }
}

const keyText = ({ prefix, index }: Key) => formatKey(prefix, index);

function bytesOf(layers: readonly SetLayer[]): number {
  return layers.reduce((sum, { file }) => sum + file.sizeBytes, 0);
}
