// One timeline's versioned store: puts into the open layer, reads through the layer path, flushes.

import assert from "node:assert/strict";
import { monotonicMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, INVALID_LSN, type Lsn, MAX_LSN, minLsn } from "../../base/lsn.ts";
import type { LayerFate } from "../api.ts";
import { type FlushedTimeline, TimelineFlush } from "../flush/timeline-flush.ts";
import type { KeyPrefix } from "../layers/key.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import {
  VALUE_DELTA,
  VALUE_DELTA_INIT,
  VALUE_IMAGE,
  VALUE_TOMBSTONE,
} from "../layers/version-chain.ts";
import type { TimelineRemote } from "../remote/timeline-remote.ts";
import { LSN_LEASE_MS } from "../retention/lsn-lease.ts";
import { type IndexPart, writeIndexPart } from "./index-part.ts";
import { LayerMap } from "./layer-map.ts";
import type { IndexChange, LayerEdit, LayerSet, SetLayer } from "./layer-set.ts";
import { LsnWaiters } from "./lsn-waiters.ts";
import {
  BranchPoints,
  checkKept,
  holdLsn,
  isKept,
  Leases,
  minReadableLsn,
  recordBoundary,
  retainedLsns,
} from "./retention.ts";
import type { StorageResources } from "./storage-resources.ts";
import type { TenantLayers } from "./tenant-layers.ts";
import {
  type CompactedTimeline,
  type CompactionKind,
  TimelineCompaction,
} from "./timeline-compaction.ts";
import { TimelineReader } from "./timeline-reader.ts";
import type { TimelineStorage } from "./timeline-storage.ts";

const DONE: Promise<void> = Promise.resolve();
const NOTHING_TO_COMPACT = Promise.resolve(false);
const NO_EDIT: LayerEdit = { add: [], remove: [] };
const EMPTY = new Uint8Array(0);
/** WAL that touches few pages is flushed too, or safekeepers would keep it for long. */
const MAX_LSN_DISTANCE_FACTOR = 4;

/** Made by Tenant. All methods but the flush are synchronous or only wait. */
export class Timeline implements TimelineStorage {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** Where its own WAL begins. */
  readonly startLsn: Lsn;
  readonly pgVersion: number;
  readonly dataChecksums: boolean;
  readonly systemId: bigint;
  readonly walSegmentSize: number;

  readonly #layers: TenantLayers;
  readonly #resources: StorageResources;
  #ownLogger: Logger | undefined;
  readonly #map: LayerMap;
  readonly #reader: TimelineReader;
  readonly #recordWaiters = new LsnWaiters();
  readonly #closing = new AbortController();
  /** Why no WAL is taken in any more. */
  #ingestFailure: StorageError | undefined;
  #closed = false;
  #ended: Promise<void> | undefined;
  #ancestor: { readonly timeline: Timeline; readonly lsn: Lsn } | undefined;
  /** Its ancestor need keep nothing for it any more: once the store knows, too, as whoever takes over reads on there. */
  #letAncestorGo: () => void;
  /** Until then the index says what is kept, for the life after this one. */
  #detachedFrom: IndexPart["detachedFrom"];
  #archivedAtMs: number | undefined;
  #ancestorReady: boolean;
  readonly leases = new Leases();
  /** Those that the index names. */
  #storedLeases: readonly Lsn[];
  /** Of branches, and of those that are being made. */
  readonly branchPoints = new BranchPoints();
  #prevRecordLsn: Lsn;
  #lastPutLsn: Lsn;
  #diskConsistentLsn: Lsn;
  /** Not yet where a killed process may have left its rename, that nobody has synced. */
  #isIndexDurable: boolean;
  #diskPrevRecordLsn: Lsn;
  #gcCutoffLsn: Lsn;
  #lastFreezeMs = monotonicMs();
  #ownFlush: TimelineFlush | undefined;
  /** A flush in the background thread has ended, and no compaction has been looked for since. */
  hasNewLayer = false;
  #ownCompaction: TimelineCompaction | undefined;
  #compacting: Promise<boolean> = NOTHING_TO_COMPACT;
  #lastCommit: Promise<void> = DONE;
  /** Layers whose commit failed: an index that names them may be durable, until the next one is. */
  #doubtful: SetLayer[] = [];
  #remote: TimelineRemote | undefined;

  /** `ancestor` must be the timeline that the index names. Layers are opened at their first read. */
  constructor(
    resources: StorageResources,
    layers: TenantLayers,
    part: IndexPart,
    ancestor: Timeline | undefined,
  ) {
    assert.equal(part.ancestor?.timelineId, ancestor?.timelineId);
    this.tenantId = part.tenantId;
    this.timelineId = part.timelineId;
    this.#ancestor = ancestor && { timeline: ancestor, lsn: part.ancestor!.lsn };
    this.#letAncestorGo = ancestor?.branchPoints.hold(this.ancestorLsn) ?? (() => undefined);
    this.#detachedFrom = part.detachedFrom;
    this.#archivedAtMs = part.archivedAtMs;
    this.startLsn = part.startLsn;
    this.pgVersion = part.pgVersion;
    this.dataChecksums = part.dataChecksums;
    this.systemId = part.systemId;
    this.walSegmentSize = part.walSegmentSize;
    this.#layers = layers;
    this.#resources = resources;
    this.#ancestorReady = ancestor === undefined;
    this.#prevRecordLsn = part.prevRecordLsn;
    this.#lastPutLsn = part.diskConsistentLsn;
    this.#diskConsistentLsn = part.diskConsistentLsn;
    this.#isIndexDurable = part.generation === resources.generation.number;
    this.#diskPrevRecordLsn = part.prevRecordLsn;
    this.#gcCutoffLsn = part.gcCutoffLsn;
    this.#storedLeases = part.leases ?? [];
    this.leases.replicaStarts = part.replicaStarts ?? [];
    for (const lsn of this.#storedLeases) {
      holdLsn(this, lsn, LSN_LEASE_MS);
    }
    this.#map = new LayerMap(
      part.diskConsistentLsn,
      ancestor && { map: ancestor.#map, capLsn: this.ancestorLsn },
    );
    const add = part.layers.map(({ maker, fileName, sizeBytes, capLsn }) => ({
      file: layers.acquire(maker, fileName, sizeBytes),
      maker,
      capLsn,
    }));
    this.#map.files = this.#map.files.with({ add, remove: [] });
    this.#reader = new TimelineReader(this.#map, resources, this);
  }

  // Of thousands of timelines most are idle: what they need when they are not is made then.
  get #logger(): Logger {
    const { tenantId: tenant, timelineId: timeline } = this;
    this.#ownLogger ??= this.#resources.logger.child({ tenant, timeline });
    return this.#ownLogger;
  }

  get #flush(): TimelineFlush {
    this.#ownFlush ??= new TimelineFlush(
      this.#flushed(),
      this.#resources,
      this.#logger,
      this.#closing.signal,
    );
    return this.#ownFlush;
  }

  get #compaction(): TimelineCompaction {
    this.#ownCompaction ??= new TimelineCompaction(
      this.#compacted(),
      this.#resources,
      this.#logger,
      this.#closing.signal,
    );
    return this.#ownCompaction;
  }

  /** Undefined on a root, and on a branch that was detached. */
  get ancestor(): Timeline | undefined {
    return this.#ancestor?.timeline;
  }

  /** The branch point; 0 without an ancestor. */
  get ancestorLsn(): Lsn {
    return this.#ancestor?.lsn ?? (0 as Lsn);
  }

  /** Below it only what branches and leases need is kept, of its own history and of what a detached branch took over. */
  get gcCutoffLsn(): Lsn {
    return this.#gcCutoffLsn;
  }

  /** Every LSN from here up to lastRecordLsn can be read: on a branch that may be in its ancestors' history. */
  get minReadableLsn(): Lsn {
    return minReadableLsn(this);
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

  keepReplicaStarts(lsns: readonly Lsn[]): void {
    this.leases.replicaStarts = lsns.map((lsn) => recordBoundary(lsn, this.walSegmentSize));
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
      this.freeze();
    }
  }

  readPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    this.#checkReadable(lsn);
    return this.#reader.readPage(prefix, index, lsn);
  }

  lendPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    this.#checkReadable(lsn);
    return this.#reader.lendPage(prefix, index, lsn);
  }

  readValue(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    this.#checkReadable(lsn);
    return this.#reader.readValue(prefix, index, lsn);
  }

  *scan(
    fields: readonly number[],
    lsn: Lsn,
    first = fields,
  ): Generator<{ prefix: KeyPrefix; index: number; value: Uint8Array }> {
    this.#checkReadable(lsn);
    for (const { prefix, indexes } of this.#reader.keysUnder(fields, lsn, first)) {
      for (const index of indexes) {
        const value = this.readValue(prefix, index, lsn);
        if (value !== undefined) {
          yield { prefix, index, value };
        }
      }
    }
  }

  /** A closed timeline must not open its files again: they may be gone. */
  #checkOpen(): void {
    if (this.#closed) {
      throw new StorageError("unavailable", "shutting-down", "the timeline is closed");
    }
  }

  /** What begins while it closes is not waited for: the directory may go before it ends. */
  #checkStaysOpen(): void {
    if (this.#closing.signal.aborted) {
      throw new StorageError("unavailable", "shutting-down", "the timeline is closing");
    }
  }

  /** `invalid` where the state at `lsn` is not kept. */
  checkKept(lsn: Lsn): void {
    checkKept(this, lsn);
  }

  #checkReadable(lsn: Lsn): void {
    this.#checkOpen();
    if (!this.#ancestorReady && !this.#checkAncestorReady()) {
      const message = `the ancestor has not reached ${formatLsn(this.ancestorLsn)} again`;
      throw new StorageError("unavailable", "ancestor-behind", message);
    }
    this.checkKept(lsn);
  }

  isKept(lsn: Lsn): boolean {
    return isKept(this, lsn, recordBoundary(lsn, this.walSegmentSize));
  }

  /** The state at `lsn` stays readable for `lengthMs` from now on, whatever is collected. `invalid` where it is not readable any more. */
  grantLease(lsn: Lsn, lengthMs: number): void {
    this.#checkReadable(lsn);
    this.holdInStore().catch(() => undefined);
    holdLsn(this, recordBoundary(lsn, this.walSegmentSize), lengthMs);
  }

  /** The same, and the next life on this disk knows it when it resolves. Rejects as a flush does, or as `makeDurable`. */
  async promiseLease(lsn: Lsn, lengthMs: number): Promise<void> {
    this.grantLease(lsn, lengthMs);
    if (!this.#storedLeases.includes(recordBoundary(lsn, this.walSegmentSize))) {
      await this.#commit(NO_EDIT, {});
    }
    if (lsn < this.startLsn && this.#detachedFrom !== undefined) {
      // Whoever took over now would look for it in the ancestor, which may not have it any more.
      await this.makeDurable();
    }
  }

  /** After a restart an ancestor takes in from the safekeepers what was not flushed; until it is at the branch point, this one's base is incomplete. */
  #checkAncestorReady(): boolean {
    const up = this.ancestor;
    this.#ancestorReady =
      up === undefined || (up.lastRecordLsn >= this.ancestorLsn && up.#checkAncestorReady());
    return this.#ancestorReady;
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
    this.#checkStaysOpen();
    const left = Math.max(0, timeoutMs - (monotonicMs() - started));
    const reached = await this.#recordWaiters.wait(lsn, left);
    if (!reached) {
      const message = `timed out after ${timeoutMs} ms waiting for ${formatLsn(lsn)}, last record is at ${formatLsn(this.lastRecordLsn)}`;
      throw new StorageError("unavailable", "lsn-timeout", message);
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
    this.#resources.layerMemory.account(this, this.#map);
    return this.#flush.isUrgent ? this.#flush.whenNotUrgent() : undefined;
  }

  makeRoom(): Promise<void> | undefined {
    const { open } = this.#map;
    if (open.sizeBytes >= this.#resources.config.checkpointDistanceBytes || open.full) {
      this.#freezeOpen();
    }
    return this.ingestReady();
  }

  /** What is in memory, up to the last record, is flushed. */
  freeze(): void {
    if (this.lastRecordLsn >= this.#map.open.lsnStart) {
      this.#freezeOpen();
    }
  }

  #freezeOpen(): void {
    this.#map.freezeOpen(this.#lastPutLsn, this.#prevRecordLsn);
    this.#lastFreezeMs = monotonicMs();
    this.#flush.start();
  }

  /** Flushes everything up to the present lastRecordLsn. Rejects where a try fails; it is tried again in the background all the same. */
  async checkpoint(): Promise<void> {
    const target = this.lastRecordLsn;
    this.freeze();
    if (this.#diskConsistentLsn < target) {
      this.#checkStaysOpen();
      this.#flush.start();
      await this.#flush.reached(target);
    }
  }

  /** Freezes what is older than the checkpoint timeout; called now and then by the manager. */
  freezeIfOld(nowMs: number): void {
    if (nowMs - this.#lastFreezeMs >= this.#resources.config.checkpointTimeoutMs) {
      this.#lastFreezeMs = nowMs;
      this.freeze();
    }
  }

  /**
   * The one way to change the layers. When it resolves, an index with the change is durable, reads see it, and layers that
   * no timeline has any more are on their way out. One at a time, in order.
   */
  #commit(edit: LayerEdit, change: IndexChange): Promise<void> {
    const commit = this.#lastCommit.then(() => this.#commitNow(edit, change));
    this.#lastCommit = commit.catch(() => undefined);
    return commit;
  }

  async #commitNow(edit: LayerEdit, change: IndexChange): Promise<void> {
    this.#checkOpen();
    const map = this.#map;
    const files = map.files.with(edit);
    const { flushed, detached, ...fields } = change;
    const part = {
      ...this.#indexPart(files),
      ...fields,
      ...(detached === true ? this.#withoutAncestor() : {}),
    };
    try {
      const directory = this.#layers.directoryOf(this.timelineId);
      await writeIndexPart(directory, part, this.#resources.disk);
    } catch (error) {
      for (const layer of edit.add) {
        this.#layers.leave(layer.file);
        this.#doubtful.push(layer);
      }
      throw error;
    }
    this.#isIndexDurable = true;
    this.#storedLeases = part.leases ?? [];
    this.#archivedAtMs = part.archivedAtMs;
    // From here on nothing waits: readers see all of the change or nothing.
    if (flushed !== undefined) {
      map.replaceFrozen(flushed, files);
    } else if (detached === true) {
      map.cutOff(files);
      this.#ancestor = undefined;
      this.#detachedFrom = part.detachedFrom;
      if (this.#remote === undefined) {
        this.#letAncestorGo();
      }
      // Its ancestors' history is its own now, unless it has dropped a part of what came after.
      if (this.#gcCutoffLsn === this.startLsn) {
        this.#gcCutoffLsn = part.gcCutoffLsn;
      }
      this.#ancestorReady = true;
    } else {
      map.files = files;
    }
    this.#diskConsistentLsn = part.diskConsistentLsn;
    this.#diskPrevRecordLsn = part.prevRecordLsn;
    for (const { file } of edit.remove) {
      this.#layers.leave(file);
    }
    const gone = [...this.#doubtful, ...edit.remove];
    this.#doubtful = [];
    // First what the store is to know, then what may go from it.
    this.#remote?.commit().catch(() => undefined);
    void this.#layers.removeUnused(gone);
  }

  #flushed(): FlushedTimeline {
    return {
      tenantId: this.tenantId,
      timelineId: this.timelineId,
      directory: this.#layers.directoryOf(this.timelineId),
      dataChecksums: this.dataChecksums,
      map: this.#map,
      readPage: (prefix, index, lsn) => this.readPage(prefix, index, lsn),
      countDeltas: (prefix, index, lsn) => {
        this.#checkReadable(lsn);
        return this.#reader.countDeltas(prefix, index, lsn);
      },
      open: (fileName, sizeBytes) => this.#layers.acquire(this.timelineId, fileName, sizeBytes),
      commit: (edit, change) => this.#commit(edit, change),
      flushed: (layer) => {
        this.hasNewLayer ||= layer.sizeBytes >= this.#resources.config.inlineFlushBytes;
        layer.release();
        this.#resources.layerMemory.account(this, this.#map);
      },
    };
  }

  #withoutAncestor(): Pick<IndexPart, "ancestor" | "detachedFrom"> {
    const { ancestor } = this.#indexPart(this.#map.files);
    return { ancestor: undefined, detachedFrom: this.#remote && ancestor };
  }

  #indexPart(files: LayerSet): IndexPart {
    return {
      tenantId: this.tenantId,
      timelineId: this.timelineId,
      ancestor: this.#ancestor && {
        timelineId: this.#ancestor.timeline.timelineId,
        lsn: this.#ancestor.lsn,
      },
      pgVersion: this.pgVersion,
      dataChecksums: this.dataChecksums,
      systemId: this.systemId,
      walSegmentSize: this.walSegmentSize,
      startLsn: this.startLsn,
      diskConsistentLsn: this.#diskConsistentLsn,
      prevRecordLsn: this.#diskPrevRecordLsn,
      gcCutoffLsn: this.#gcCutoffLsn,
      leases: retainedLsns(MAX_LSN, this.leases.left(monotonicMs()).keys()),
      replicaStarts: this.leases.replicaStarts,
      detachedFrom: this.#detachedFrom,
      archivedAtMs: this.#archivedAtMs,
      generation: this.#resources.generation.number,
      deleted: false,
      layers: files.layers.map(({ file: { fileName, sizeBytes }, maker, capLsn }) => {
        return { fileName, sizeBytes, maker, capLsn };
      }),
    };
  }

  #compacted(): CompactedTimeline {
    const timeline = this;
    return {
      timelineId: this.timelineId,
      directory: this.#layers.directoryOf(this.timelineId),
      dataChecksums: this.dataChecksums,
      get hasAncestor() {
        return timeline.#ancestor !== undefined;
      },
      get layers() {
        return timeline.#map.files.layers;
      },
      get cutoff() {
        return timeline.#gcCutoffLsn;
      },
      get consistentLsn() {
        return timeline.#diskConsistentLsn;
      },
      get retained() {
        return timeline.retainedLsns;
      },
      get branchPoints() {
        return [...timeline.branchPoints.lsns];
      },
      read: (prefix, index, lsn) => this.#reader.readValue(prefix, index, lsn),
      whenResident: (read) => this.#layers.whenResident(read, "background"),
      fetch: (file) => this.#layers.fetch(file, "background"),
      open: (fileName, sizeBytes) => this.#layers.acquire(this.timelineId, fileName, sizeBytes),
      commit: (edit) => this.#commit(edit, {}),
    };
  }

  /** LSNs below the cutoff that are readable all the same, ascending. */
  get retainedLsns(): Lsn[] {
    return this.#retainedBelow(this.#gcCutoffLsn);
  }

  #retainedBelow(cutoff: Lsn): Lsn[] {
    const leased = this.leases.left(monotonicMs()).keys();
    return retainedLsns(cutoff, this.branchPoints.lsns, leased, this.leases.replicaStarts);
  }

  /**
   * From here on nothing below `lsn`, at most what is on disk, is readable but branch points and leases. The rest goes with later
   * compactions. Branches that a pageserver which was replaced may have begun there count no more. Errors as TimelineRemote.settle.
   */
  async advanceGcCutoff(lsn: Lsn): Promise<void> {
    // Or a branch at it would begin below it.
    const cutoff = recordBoundary(minLsn(lsn, this.#diskConsistentLsn), this.walSegmentSize);
    if (cutoff > this.#gcCutoffLsn) {
      await this.settle();
    }
    if (cutoff > this.#gcCutoffLsn) {
      // At once for readers: a later commit of a compaction must not find one that began below it.
      this.#gcCutoffLsn = cutoff;
      await this.#commit(NO_EDIT, { gcCutoffLsn: cutoff });
    }
  }

  /** What a collection up to `lsn`, a cutoff that may lie ahead, would make of each layer. */
  collectionFates(lsn: Lsn): Map<SetLayer, LayerFate> {
    return this.#compaction.fates(lsn, this.#retainedBelow(lsn));
  }

  /** One step of compaction; false where there is nothing to do. Rejects as compactLayers does. */
  async compact(kind: CompactionKind = "due"): Promise<boolean> {
    this.#checkStaysOpen();
    this.hasNewLayer = false;
    if (this.#map.files.layers.length === 0 || this.#archivedAtMs !== undefined) {
      return false;
    }
    const step = this.#compacting.catch(() => undefined).then(() => this.#compaction.step(kind));
    this.#compacting = step;
    return await step;
  }

  /**
   * Takes over, by name, the layers of its ancestors that it can read: it has no ancestor then, and they may go. Nothing is
   * copied. What of them is still in memory is flushed first. `unavailable` while an ancestor has yet to take in WAL
   * below the branch point.
   */
  async detachFromAncestor(): Promise<void> {
    this.#checkReadable(this.lastRecordLsn);
    for (let next = this.#ancestor; next !== undefined; next = next.timeline.#ancestor) {
      if (next.timeline.diskConsistentLsn < next.lsn) {
        await next.timeline.checkpoint();
      }
    }
    this.#takeOverLeases();
    const add = this.#layers.shareInherited(this);
    await this.#commit(
      { add, remove: [] },
      { detached: true, gcCutoffLsn: minLsn(this.#gcCutoffLsn, this.minReadableLsn) },
    );
  }

  /** Those of its ancestors, of what it reads there: after a loss of the disk only their indexes may tell of leases that were asked of this one. */
  #takeOverLeases(): void {
    const now = monotonicMs();
    for (let next = this.#ancestor; next !== undefined; next = next.timeline.#ancestor) {
      for (const [lsn, leftMs] of next.timeline.leases.left(now)) {
        if (lsn <= next.lsn) {
          this.leases.grant(lsn, now, leftMs);
        }
      }
    }
  }

  /** Since when nobody uses it, in milliseconds since the Unix epoch; undefined where it is in use. */
  get archivedAtMs(): number | undefined {
    return this.#archivedAtMs;
  }

  /** Nothing of an archived one is in memory only; WAL that it had not taken in stays with the safekeepers. Errors as a flush's. */
  async setArchived(atMs: number | undefined): Promise<void> {
    if (atMs !== undefined) {
      await this.checkpoint();
    }
    await this.#commit(NO_EDIT, { archivedAtMs: atMs });
  }

  /** Layer files, newest first. */
  get layers(): readonly LayerFile[] {
    return this.ownedLayers.map(({ file }) => file);
  }

  /** The same, with who made each. */
  get ownedLayers(): readonly SetLayer[] {
    return this.#map.files.layers;
  }

  /** As it is on the disk. */
  get index(): IndexPart {
    return this.#indexPart(this.#map.files);
  }

  /** From here on the object store follows. */
  storeIn(remote: TimelineRemote): void {
    this.#remote = remote;
  }

  /** Safekeepers may forget WAL below it. 0 before `prepareIngest`. */
  get remoteConsistentLsn(): Lsn {
    const local = this.#isIndexDurable ? this.#diskConsistentLsn : INVALID_LSN;
    return this.#remote?.consistentLsn ?? local;
  }

  /** It has no layers, and makes none at the moment. */
  get hasNoFiles(): boolean {
    return this.#map.files.layers.length === 0 && this.#map.frozen.length === 0;
  }

  /** Resolves when the object store has the timeline as it is now, for good. Errors as TimelineRemote.makeDurable. */
  async makeDurable(): Promise<void> {
    await this.#remote?.makeDurable();
  }

  /** Resolves when no replaced pageserver can take back what is promised here: as TimelineRemote.hold, ancestors' too. */
  async holdInStore(): Promise<void> {
    for (let next: Timeline | undefined = this; next !== undefined; next = next.ancestor) {
      await next.#remote?.hold();
    }
  }

  /** Resolves when branches that a replaced pageserver may make of it, or has made and nobody here knows of, count no more. Errors as TimelineRemote.settle. */
  async settle(): Promise<void> {
    await this.#remote?.settle();
  }

  /** As UploadedTimeline's. */
  holdAncestor(): Promise<void> | undefined {
    const { ancestor } = this;
    return ancestor === undefined ? undefined : ancestor.#remote?.putInGeneration();
  }

  /** Of the keys of layers that the store has lost, those that are on this disk: they are on their way there again. */
  putAgain(missing: ReadonlySet<string>): string[] {
    return this.#remote?.putAgain(missing) ?? [];
  }

  /** `flush`: what is on its way to the object store has a while to arrive. */
  async leaveStore(flush: boolean): Promise<void> {
    await this.#remote?.close(flush);
  }

  whenResident<T>(read: () => T): Promise<T> {
    return this.#layers.whenResident(read);
  }

  /**
   * Fetches what ingest may read: it cannot wait in the middle of a record. Layers with such keys do not leave the disk again
   * while the timeline is open. Errors as TenantLayers.fetch; `unavailable` where it is closed meanwhile.
   */
  async prepareIngest(): Promise<void> {
    this.holdInStore().catch(() => undefined);
    if (!this.#isIndexDurable) {
      await this.#layers.syncDirectory(this.timelineId);
      this.#isIndexDurable = true;
    }
    try {
      await this.#layers.fetchMetadata(this);
    } catch (error) {
      // A deletion takes the directory away while a layer is brought into it.
      this.#checkOpen();
      throw error;
    }
  }

  /** Of its own layer files. */
  get physicalSizeBytes(): number {
    return this.#map.files.sizeBytes;
  }

  /** Bytes in memory: the open layer and frozen ones. */
  get memorySizeBytes(): number {
    return this.#map.frozen.reduce((sum, layer) => sum + layer.sizeBytes, this.#map.open.sizeBytes);
  }

  /** Ends waits and background work. What was not flushed comes from the safekeepers again. */
  close(): Promise<void> {
    this.#ended ??= this.#close();
    return this.#ended;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    const error = new StorageError("unavailable", "shutting-down", "the timeline is closing");
    this.#recordWaiters.fail(error);
    await this.#ownFlush?.end(error);
    await this.#compacting.catch(() => undefined);
    this.#closed = true;
    this.#map.closed = true;
    this.#resources.layerMemory.forget(this);
    // No put gets through either.
    this.#lastPutLsn = MAX_LSN;
    await this.#lastCommit;
    for (const { file } of this.#map.files.layers) {
      this.#layers.leave(file);
    }
  }

  /** What the store may still read on in; undefined where the store knows of the detachment. */
  get detachedFrom(): IndexPart["detachedFrom"] {
    return this.#detachedFrom;
  }

  /** After a start: `ancestor` is what it was detached from. */
  holdIn(ancestor: Timeline): void {
    this.#letAncestorGo = ancestor.branchPoints.hold(this.#detachedFrom!.lsn);
  }

  /** It is deleted for good. */
  leaveAncestor(): void {
    this.#letAncestorGo();
    this.#ancestor = undefined;
  }

  /** Whoever takes over sees this index of it. A deletion ends on the disk, too: with `leaveAncestor`. */
  indexCounts({ ancestor, deleted }: IndexPart): void {
    if (ancestor === undefined && !deleted) {
      this.#letAncestorGo();
      this.#detachedFrom = undefined;
    }
  }
}
