// One tenant in the object store: which timelines it has there, what they put, and what may be deleted.

import { StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { type Lsn, WAL_SEGMENT_SIZE } from "../../base/lsn.ts";
import { type ByteRange, readObject } from "../../object-store/object-store.ts";
import { DEFAULT_MAJOR } from "../../postgres/installation.ts";
import { decodeIndexPart, type IndexPart } from "../storage/index-part.ts";
import type { RemoteLayer } from "../transfers/layer-download.ts";
import { ask, listObjects } from "../transfers/store-calls.ts";
import { listIndexes, type RemoteIndex, type RemoteTenant, readIndexes } from "./load-tenant.ts";
import {
  configKey,
  type IndexName,
  indexPrefix,
  layerKey,
  newestConfig,
  newestIndexes,
  parseRemoteKey,
  settledGeneration,
  timelinePrefix,
} from "./remote-paths.ts";
import type { RemoteStorage } from "./remote-storage.ts";
import { type NamedLayer, type ScrubReport, scrubTenant } from "./scrub.ts";
import { settleGeneration } from "./settle-generation.ts";
import { encodeTenantManifest } from "./tenant-manifest.ts";
import {
  type StoredLayer,
  type TimelineOwner,
  TimelineRemote,
  type UploadedTimeline,
} from "./timeline-remote.ts";

/** Of a timeline that may be unreadable: nothing but who it was. */
function deletedIndex(tenantId: TenantId, timelineId: TimelineId, generation: number): IndexPart {
  const lsn = 0 as Lsn;
  return {
    tenantId,
    timelineId,
    ancestor: undefined,
    pgVersion: DEFAULT_MAJOR,
    dataChecksums: false,
    systemId: 0n,
    walSegmentSize: WAL_SEGMENT_SIZE,
    startLsn: lsn,
    diskConsistentLsn: lsn,
    prevRecordLsn: lsn,
    gcCutoffLsn: lsn,
    layers: [],
    generation,
    deleted: true,
  };
}

const MAX_CONFIG_BYTES = 1 << 20;

/** What the store says of a tenant's timelines, by the names of its objects alone. */
export interface RemoteListing {
  readonly indexes: ReadonlyMap<TimelineId, IndexName>;
  /** Indexes of lower generations do not count, wherever they are. */
  readonly settled: number;
  /** The tenant's settings. */
  readonly config: { readonly key: string; readonly generation: number } | undefined;
}

export class TenantRemote implements TimelineOwner {
  readonly storage: RemoteStorage;
  readonly #tenantId: TenantId;
  readonly #timelines = new Map<TimelineId, TimelineRemote>();
  /** Indexes on their way to the store, each of which may cease to name something. */
  readonly #underWay = new Set<Promise<void>>();
  readonly #requireWhole: () => void;
  #settled: Promise<void> | undefined;
  /** Resolves when each timeline that is only in the store has an index of this generation. */
  holdOffloaded: () => Promise<void> = () => Promise.resolve();

  /** `requireWhole` throws while a timeline of the tenant does not load. */
  constructor(storage: RemoteStorage, tenantId: TenantId, requireWhole: () => void) {
    this.storage = storage;
    this.#tenantId = tenantId;
    this.#requireWhole = requireWhole;
  }

  get generation(): number {
    return this.storage.generation.number;
  }

  /** `conflict` where a pageserver of a higher generation has been here; `unavailable`. */
  async list(): Promise<RemoteListing> {
    const objects = await listIndexes(this.storage.access, this.#tenantId);
    const keys = objects.map(({ key }) => key);
    return {
      indexes: newestIndexes(keys, this.generation),
      settled: settledGeneration(keys),
      config: newestConfig(keys),
    };
  }

  async readConfig(key: string): Promise<string> {
    const { access } = this.storage;
    const bytes = await ask(access, `read ${key}`, (signal) =>
      readObject(access.store, key, { signal, maxBytes: MAX_CONFIG_BYTES }),
    );
    return Buffer.from(bytes).toString("utf8");
  }

  /** Resolves when the store has the settings, and that counts. `unavailable`, `fenced`. */
  async putConfig(text: string): Promise<void> {
    const { access } = this.storage;
    const key = configKey(this.#tenantId, this.generation);
    await ask(access, `put ${key}`, (signal) =>
      access.store.put(key, Buffer.from(text), { signal }),
    );
    await this.storage.requireCurrent(`settings of tenant ${this.#tenantId} do not count here`);
  }

  /**
   * Those that are not there any more, as the end of a deletion came in between, are left out. `unavailable`; damaged ones are
   * told apart. Also what `list` throws.
   */
  async read(names: ReadonlyMap<TimelineId, IndexName>): Promise<RemoteTenant<IndexPart>> {
    const first = await this.#read(names);
    const deleted = new Set(
      first.timelines.filter(({ index }) => index.deleted).map(({ timelineId }) => timelineId),
    );
    const isBranchOfDeleted = ({ index }: RemoteIndex<IndexPart>) =>
      index.ancestor !== undefined && deleted.has(index.ancestor.timelineId);
    const torn = new Set(first.timelines.filter(isBranchOfDeleted).map((one) => one.timelineId));
    for (const [timelineId, { code }] of first.damaged) {
      if (code === "object-not-found") {
        torn.add(timelineId);
      }
    }
    if (torn.size === 0) {
      return first;
    }
    // A pageserver that is being replaced detaches branches, then deletes, and lists of deletions that a former life left are
    // carried out: what was listed or read before and after that does not fit.
    const { indexes } = await this.list();
    const again = await this.#read(new Map([...indexes].filter(([id]) => torn.has(id))));
    const isKept = (timelineId: TimelineId) => !torn.has(timelineId);
    const damaged = [...first.damaged].filter(([timelineId]) => isKept(timelineId));
    return {
      timelines: [
        ...first.timelines.filter(({ timelineId }) => isKept(timelineId)),
        ...again.timelines,
      ],
      damaged: new Map([...damaged, ...again.damaged]),
    };
  }

  #read(names: ReadonlyMap<TimelineId, IndexName>): Promise<RemoteTenant<IndexPart>> {
    return readIndexes(this.storage.access, names, (bytes, key) =>
      decodeIndexPart(Buffer.from(bytes).toString("utf8"), key),
    );
  }

  /**
   * For a timeline that is loaded or made. `stored` is the newest index in the store, or its name where nobody has read it; then the
   * timeline's own is as new.
   */
  attach(
    timeline: UploadedTimeline,
    stored: IndexName | RemoteIndex<IndexPart> | undefined,
  ): TimelineRemote {
    const remote = new TimelineRemote(this, timeline, stored);
    this.#timelines.set(timeline.timelineId, remote);
    return remote;
  }

  /**
   * Resolves when no index in the store names the timeline as ancestor, once none here does: a detachment may be of a
   * moment ago, or of the life before. Errors as TimelineRemote.hold.
   */
  async whenWithoutBranches(timelineId: TimelineId): Promise<void> {
    for (const timeline of this.#timelines.values()) {
      await timeline.whenDetachedFrom(timelineId);
    }
  }

  /**
   * The store says from here on that the timeline is gone, whatever was put before; then its objects may be deleted. Nothing
   * else puts an index of it any more. Errors as TimelineRemote.makeDurable.
   */
  async markDeleted(timelineId: TimelineId): Promise<void> {
    const tenantId = this.#tenantId;
    const index = deletedIndex(tenantId, timelineId, this.generation);
    const remote =
      this.#timelines.get(timelineId) ??
      this.attach({ tenantId, timelineId, index, ownedLayers: [] }, undefined);
    await remote.markDeleted(index);
    this.#timelines.delete(timelineId);
    await remote.close(false);
  }

  /** Of a timeline that is only in the store. Resolves when the store has the index, in this generation. Errors as TimelineRemote.hold. */
  async putIndex(index: IndexPart): Promise<void> {
    const { tenantId, timelineId } = index;
    const { generation } = this;
    const uploaded = { tenantId, timelineId, index: { ...index, generation }, ownedLayers: [] };
    try {
      await this.attach(uploaded, undefined).hold();
    } finally {
      await this.leave(timelineId);
    }
  }

  /** Nothing more of it is put. */
  async leave(timelineId: TimelineId): Promise<void> {
    const remote = this.#timelines.get(timelineId);
    this.#timelines.delete(timelineId);
    await remote?.close(false);
  }

  /** Nothing more of the tenant is put, also not of a timeline that is being deleted. */
  async close(): Promise<void> {
    await Promise.all([...this.#timelines.keys()].map((timelineId) => this.leave(timelineId)));
  }

  keyOf({ file, maker }: StoredLayer): string {
    return layerKey(this.#tenantId, maker, file.fileName);
  }

  /** The promise is of an index that is to be put. */
  indexUnderWay(durable: Promise<void>): void {
    this.#underWay.add(durable);
    const done = () => void this.#underWay.delete(durable);
    durable.then(done, done);
  }

  /** Resolves when the tenant's timelines in the store are as they are here at this moment. */
  async #allPut(): Promise<void> {
    await Promise.all([...this.#timelines.values()].map((timeline) => timeline.ready));
    await Promise.all(this.#underWay);
  }

  /** Brings the file of a layer to the local disk. What LayerDownloads.download throws. */
  download(layer: StoredLayer, priority: "foreground" | "background"): Promise<void> {
    return this.storage.downloads.download(this.#remoteLayer(layer), layer.file.path, priority);
  }

  /** Someone waits for it. What LayerDownloads.readRange throws. */
  readRange(layer: StoredLayer, range: ByteRange): Promise<Uint8Array> {
    return this.storage.downloads.readRange(this.#remoteLayer(layer), range);
  }

  #remoteLayer(layer: StoredLayer): RemoteLayer {
    const { sizeBytes } = layer.file;
    const indexKey = "the timeline's index";
    return { tenantId: this.#tenantId, key: this.keyOf(layer), sizeBytes, indexKey };
  }

  /** Resolves when the file is not being read for an upload. */
  uploadEnded(layer: StoredLayer): Promise<void> {
    return this.storage.uploads.settled([this.keyOf(layer)]);
  }

  /** Of layers that no timeline here names any more. Nobody needs to wait for it. */
  deleteLayers(layers: readonly StoredLayer[]): void {
    const { uploads } = this.storage;
    const keys = layers
      .map((layer) => ({ key: this.keyOf(layer), isStored: layer.file.isStored }))
      .filter(({ key, isStored }) => isStored || uploads.pending(key) !== undefined)
      .map(({ key }) => key);
    void this.#delete(keys);
  }

  /**
   * Once the timeline's index in the store says that it is deleted. Resolves when that index is gone too, or left to a scrub.
   * `isUsed`: by another timeline, of a layer's key.
   */
  async deleteTimeline(
    timelineId: TimelineId,
    isUsed: (maker: TimelineId, fileName: string) => boolean,
  ): Promise<void> {
    const objects = await listObjects(
      this.storage.access,
      timelinePrefix(this.#tenantId, timelineId),
    );
    const keys: string[] = [];
    for (const { key } of objects) {
      const object = parseRemoteKey(key);
      if (
        object?.kind === "index" ||
        (object?.kind === "layer" && !isUsed(object.timelineId, object.fileName))
      ) {
        keys.push(key);
      }
    }
    await this.#delete(keys);
    await this.storage.deletions.whenGone(indexPrefix(this.#tenantId, timelineId));
  }

  /** Resolves when they are on a list, or stay. */
  async #delete(keys: readonly string[]): Promise<void> {
    if (keys.length === 0) {
      return;
    }
    const { deletions } = this.storage;
    // With the index of a deleted timeline goes what an index of a lower generation, which may still come, would count less than.
    const mayComeBack = (key: string) => {
      const { kind, generation } = parseRemoteKey(key)!;
      return kind === "index" || generation < this.generation;
    };
    const durable = this.#allPut().then(() => (keys.some(mayComeBack) ? this.settle() : undefined));
    const { generation } = this;
    await deletions
      .push({ tenantId: this.#tenantId, generation, keys }, durable)
      .catch((error: unknown) => {
        const { logger, signal } = this.storage.access;
        if (!signal.aborted) {
          const reason = withContext(error, `delete ${keys.length} objects`);
          logger.warn({ tenant: this.#tenantId, error: reason }, "objects stay, for a scrub");
        }
      });
  }

  /** Errors as scrubTenant's. `isUsed`: whether a timeline here has the layer. */
  async scrub(options: {
    readonly fix: boolean;
    readonly minAgeMs: number;
    readonly isUsed: (maker: TimelineId, fileName: string) => boolean;
  }): Promise<ScrubReport> {
    const { fix, minAgeMs, isUsed } = options;
    await this.#allPut();
    if (fix) {
      await this.settle().catch((error: unknown) => {
        // Then there are no orphans; what is missing is found all the same.
        if (!(error instanceof StorageError && error.code === "timeline-broken")) {
          throw error;
        }
      });
    }
    return scrubTenant({
      ...this.storage.access,
      tenantId: this.#tenantId,
      generation: this.generation,
      minAgeMs,
      layersOf: (bytes, key) => this.#layersOf(bytes, key),
      ...(fix ? { fix: { validate: () => this.storage.isCurrent(), isInUse: inUse } } : {}),
    });
    function inUse(key: string): boolean {
      const object = parseRemoteKey(key);
      return object?.kind === "layer" && isUsed(object.timelineId, object.fileName);
    }
  }

  #layersOf(bytes: Uint8Array, key: string): NamedLayer[] {
    const { layers } = decodeIndexPart(Buffer.from(bytes).toString("utf8"), key);
    return layers.map(({ maker, fileName, sizeBytes }) => ({
      key: layerKey(this.#tenantId, maker, fileName),
      sizeBytes,
    }));
  }

  /** Once a life: from then on nobody reads indexes of lower generations, so not while a timeline has none of this one, as it does not load: `conflict`. */
  settle(): Promise<void> {
    this.#settled ??= this.#settle().catch((error: unknown) => {
      this.#settled = undefined;
      throw error;
    });
    return this.#settled;
  }

  async #settle(): Promise<void> {
    this.#requireWhole();
    const indexes = [...this.#timelines.values()].map((timeline) => timeline.putInGeneration());
    indexes.push(this.holdOffloaded());
    const { generation } = this;
    const manifest = encodeTenantManifest({ tenantId: this.#tenantId, generation });
    await settleGeneration(this.storage.access, this.#tenantId, generation, indexes, manifest);
  }
}
