// What all timelines of a pageserver share: settings, caches, and redo's working space.

import { type Disk, REAL_DISK } from "../../base/disk.ts";
import type { Logger } from "../../base/log.ts";
import { PageRedo } from "../../redo/page-redo.ts";
import { SpanBuilder } from "../ancestry/span-builder.ts";
import type { PlanSettings } from "../compaction/compaction-plan.ts";
import { BackgroundThread } from "../flush/background-thread.ts";
import { LayerMemory } from "../flush/layer-memory.ts";
import { BlockCache, OpenFiles } from "../layers/block-cache.ts";
import { FIRST_LAYER_NUMBER } from "../layers/layer-format.ts";
import { PageSlab } from "../layers/page-slab.ts";
import { ReadWindow } from "../layers/read-window.ts";
import { ScanBlocks } from "../layers/resident-index.ts";
import { VersionChain } from "../layers/version-chain.ts";
import type { RemoteStorage } from "../remote/remote-storage.ts";
import { type TransferOptions, TransferSlots } from "../transfers/transfer-slots.ts";
import { Generation } from "./generation.ts";
import { PageCache } from "./page-cache.ts";

export interface StorageConfig extends PlanSettings {
  /** The open layer is frozen and flushed at this size; at most 1 GiB. */
  readonly checkpointDistanceBytes: number;
  /** ... or when it is this old, so that safekeepers can trim their WAL. */
  readonly checkpointTimeoutMs: number;
  /** Above so many bytes of open layers, of all timelines together, the largest are flushed. */
  readonly maxOpenLayerBytes: number;
  /** A layer smaller than this is written by the thread that serves: not worth waking another. */
  readonly inlineFlushBytes: number;
  /** Layers that wait for their flush before ingest has to wait (`ingestReady`). */
  readonly maxFrozenLayers: number;
  /** A key with this many deltas above its last image gets an image at flush. */
  readonly imageAfterDeltas: number;
  /** A page with fewer deltas in each layer is looked at in one of so many flushes. */
  readonly imageRotation: number;
  /** A read that applied this many deltas keeps its page in the page cache, the second time, or with four times as many. */
  readonly cacheAfterDeltas: number;
  /** Of a key with many versions in memory, a read that pays for them keeps a page every so many. */
  readonly stepVersions: number;
  readonly blockCacheBytes: number;
  readonly pageCachePages: number;
  readonly maxOpenFiles: number;
  /** First wait after a failed flush; doubles up to 30 s. */
  readonly flushRetryMs: number;
}

export const DEFAULT_STORAGE_CONFIG: StorageConfig = {
  checkpointDistanceBytes: 64 << 20,
  checkpointTimeoutMs: 600_000,
  maxOpenLayerBytes: 256 << 20,
  inlineFlushBytes: 1 << 20,
  maxFrozenLayers: 3,
  imageAfterDeltas: 32,
  imageRotation: 16,
  cacheAfterDeltas: 8,
  stepVersions: 256,
  blockCacheBytes: 128 << 20,
  pageCachePages: 8192,
  maxOpenFiles: 512,
  flushRetryMs: 500,
  levelAfterLayers: 10,
  minCompactionBytes: 32 << 20,
  imageRatio: 1,
  collectRatio: 0.5,
  imageLayerBytes: 32 << 20,
};

/** The disk syncs some at a time; each takes the thread a millisecond or two, and buffers of a megabyte. */
const SMALL_FLUSHES_AT_ONCE = 4;

export class StorageResources {
  readonly config: StorageConfig;
  readonly logger: Logger;
  readonly disk: Disk;
  /** Numbers the layers that this process makes. */
  readonly generation: Generation;
  readonly blockCache: BlockCache;
  readonly openFiles: OpenFiles;
  readonly readWindow = new ReadWindow();
  readonly scanBlocks = new ScanBlocks();
  readonly pageCache: PageCache;
  /** For reads, which are synchronous: one working page serves all timelines. */
  readonly redo = new PageRedo();
  /** The same for timelines with data checksums, where more records stamp their page. */
  readonly checksumRedo = new PageRedo({ walLogHints: true });
  readonly backgroundThread = new BackgroundThread();
  /** Of layers that the serving thread writes. */
  readonly #smallFlushes = new TransferSlots(SMALL_FLUSHES_AT_ONCE);
  readonly pageSlab = new PageSlab();
  readonly chain: VersionChain;
  /** Makes reads on deep branches as fast as on others. */
  readonly spanBuilder: SpanBuilder;
  readonly layerMemory: LayerMemory;
  /** Counts seconds, so that layers know which was read last. */
  readonly useClock = { now: 0 };
  /** Absent: the local disk is all there is. */
  readonly remote: RemoteStorage | undefined;

  constructor(
    logger: Logger,
    config: Partial<StorageConfig> = {},
    disk: Disk = REAL_DISK,
    generation: Generation = new Generation(FIRST_LAYER_NUMBER.generation),
    remote?: RemoteStorage,
  ) {
    this.config = { ...DEFAULT_STORAGE_CONFIG, ...config };
    this.logger = logger;
    this.disk = disk;
    this.generation = generation;
    this.remote = remote;
    this.blockCache = new BlockCache(this.config.blockCacheBytes);
    this.layerMemory = new LayerMemory(this.config.maxOpenLayerBytes);
    this.spanBuilder = new SpanBuilder(this.blockCache);
    this.openFiles = new OpenFiles(this.config.maxOpenFiles, disk);
    this.chain = new VersionChain(this.config.stepVersions);
    this.pageCache = new PageCache(this.config.pageCachePages);
  }

  /** Small layers are written by this thread, of all timelines a few at a time: there may be thousands. */
  flushInTurn(
    layer: { readonly sizeBytes: number },
    whose: TransferOptions,
    flush: () => Promise<void>,
  ): Promise<void> {
    const isSmall = layer.sizeBytes < this.config.inlineFlushBytes;
    return isSmall ? this.#smallFlushes.run(whose, flush) : flush();
  }
}
