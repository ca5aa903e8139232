// One timeline on a safekeeper: runs the acceptor's steps against disk and tells who waits for WAL.

import { join } from "node:path";
import { abortAfter, monotonicMs } from "../base/clock.ts";
import { type Disk, REAL_DISK } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import {
  formatLsn,
  INVALID_LSN,
  type Lsn,
  MAX_LSN,
  maxLsn,
  minLsn,
  segmentNumber,
  segmentStart,
} from "../base/lsn.ts";
import type { ObjectStore } from "../object-store/object-store.ts";
import { carryOut } from "../object-store/store-steps.ts";
import {
  INVALID_GENERATION,
  isMember,
  MAX_SAFEKEEPERS,
  type MembershipConfiguration,
} from "../safekeeper-protocol/membership.ts";
import type { MemberPosition } from "../safekeeper-protocol/membership-change.ts";
import type {
  AcceptorMessage,
  AppendResponse,
  ProposerMessage,
} from "../safekeeper-protocol/messages.ts";
import type { PageserverFeedback } from "../safekeeper-protocol/pageserver-feedback.ts";
import type { Term } from "../safekeeper-protocol/term-history.ts";
import {
  type AcceptorAction,
  type AcceptorPersistentState,
  type AcceptorState,
  acceptorAfterStart,
  appendResponse,
  bumpTerm,
  flushed,
  flushedUpTo,
  lastLogTerm,
  persistentNow,
  receive,
  switchMembership,
  written,
} from "./consensus/acceptor.ts";
import { commitFromPeers, type PeerReport } from "./consensus/peer-commit.ts";
import {
  ALL_LOCAL,
  CONTROL_FILE_NAME,
  type WalPlacement,
  writeControlFile,
} from "./control-file.ts";
import type { SafekeeperMetrics } from "./metrics.ts";
import {
  combinedStandbyFeedback,
  slowestPageserver,
  type WalConsumer,
} from "./replication/wal-consumers.ts";
import { type LoadContext, type LoadedTimeline, loadTimeline, openWal } from "./timeline-load.ts";
import { type EndOfWal, fetchEndOfWal } from "./wal-backup/eviction.ts";
import { type PartialSegment, StoredWal } from "./wal-backup/stored-wal.ts";
import { walRemovalHorizon } from "./wal-backup/wal-removal.ts";
import { restoreSegment, WalReader, type WalStorage } from "./wal-storage.ts";

/**
 * WAL or time after which the control file's positions are renewed; bounds the scan of a restart.
 */
const PERSIST_WAL_BYTES = 64 * 1024 * 1024;
const PERSIST_INTERVAL_MS = 10_000;
const WAKE_TIMEOUT_MS = 60_000;

/** What a safekeeper's peers tell about a timeline through the broker. */
export interface PeerPositions extends PeerReport {
  readonly remoteConsistentLsn: Lsn;
  readonly backupLsn?: Lsn;
}

export interface KnownPeer extends PeerPositions {
  readonly reportedAtMs: number;
}

export interface TimelineContext extends LoadContext {
  readonly metrics: SafekeeperMetrics;
  /** Where WAL is kept for good; absent: nowhere but on this disk. */
  readonly store?: ObjectStore | undefined;
  /** The positions that peers and pageservers hear about have changed. */
  onChange(timeline: Timeline): void;
}

/** A flush that has not ended. */
export interface Settling {
  readonly fd: number;
  readonly wal: WalStorage;
  /** End of the last whole record that it covers. */
  readonly recordLsn: Lsn;
  /** Where WAL is cut off meanwhile, what lies below that LSN later is another log's. */
  readonly truncations: number;
  readonly startedMs: number;
}

export class Timeline {
  readonly #context: TimelineContext;
  readonly #directory: string;
  readonly #logger: Logger;
  readonly #consumers = new Set<WalConsumer>();
  readonly #peers = new Map<number, KnownPeer>();
  #state: AcceptorState;
  #wal: WalStorage;
  #placement: WalPlacement;
  /** Where the WAL on this disk begins; the flush LSN where there is none. */
  #localWalStart: Lsn;
  #holds = 0;
  #truncations = 0;
  #activeAtMs = monotonicMs();
  #waking: Promise<void> | undefined;
  #storedWal: StoredWal | undefined;
  /** An action failed half-way: what is in memory may not be what is on disk. */
  #mustReload = false;
  readonly #closing = new AbortController();
  #persistedAtMs = monotonicMs();
  #feedback: PageserverFeedback | undefined;

  private constructor(
    context: TimelineContext,
    directory: string,
    { state, wal, placement, localWalStart }: LoadedTimeline,
  ) {
    this.#context = context;
    this.#directory = directory;
    this.#state = state;
    this.#wal = wal;
    this.#placement = placement;
    this.#localWalStart = localWalStart;
    this.#logger = context.logger.child({
      tenantId: state.persistent.tenantId,
      timelineId: state.persistent.timelineId,
    });
    // A lone safekeeper is a majority.
    this.#state = commitFromPeers(state, this.#peers);
  }

  /** Creates a timeline that has no WAL yet, durably. The directory is made. */
  static create(
    context: TimelineContext,
    directory: string,
    persistent: AcceptorPersistentState,
  ): Timeline {
    const disk = context.disk ?? REAL_DISK;
    disk.makeDirectory(directory);
    writeControlFile(join(directory, CONTROL_FILE_NAME), persistent, disk);
    disk.fsyncDirectory(join(directory, ".."));
    const state = acceptorAfterStart(context.nodeId, persistent, persistent.flushedLsn);
    const wal = openWal(directory, persistent, persistent.flushedLsn, disk);
    const localWalStart = persistent.flushedLsn;
    return new Timeline(context, directory, { state, wal, placement: ALL_LOCAL, localWalStart });
  }

  /** Loads what a former process left; StorageError `corrupt` where it cannot be trusted. */
  static load(context: TimelineContext, directory: string): Timeline {
    return new Timeline(context, directory, loadTimeline(context, directory));
  }

  get tenantId(): TenantId {
    return this.#state.persistent.tenantId;
  }

  get timelineId(): TimelineId {
    return this.#state.persistent.timelineId;
  }

  get state(): AcceptorState {
    return this.#state;
  }

  get logger(): Logger {
    return this.#logger;
  }

  get consumers(): ReadonlySet<WalConsumer> {
    return this.#consumers;
  }

  get peers(): ReadonlyMap<number, KnownPeer> {
    return this.#peers;
  }

  get directory(): string {
    return this.#directory;
  }

  get placement(): WalPlacement {
    return this.#placement;
  }

  /** Where the WAL on this disk begins; the flush LSN where there is none. */
  get localWalStartLsn(): Lsn {
    return this.#localWalStart;
  }

  /** Its WAL in the object store; undefined without one. */
  get storedWal(): StoredWal | undefined {
    const { store } = this.#context;
    if (store !== undefined) {
      this.#storedWal ??= new StoredWal(store, this.tenantId, this.timelineId, this.#segmentSize);
    }
    return this.#storedWal;
  }

  /** Grows when WAL was cut off, or all files removed: what was read or opened before is of no account. */
  get truncations(): number {
    return this.#truncations;
  }

  /** Milliseconds since a proposer or a reader did something; readers that have everything are idle. */
  get idleMs(): number {
    const { commitLsn } = this.#state;
    const isRead = [...this.#consumers].some(({ sentLsn }) => sentLsn < commitLsn);
    return isRead || this.#holds > 0 ? 0 : monotonicMs() - this.#activeAtMs;
  }

  get #segmentSize(): number {
    return this.#state.persistent.walSegSize;
  }

  get lastLogTerm(): Term {
    return lastLogTerm(this.#state);
  }

  /**
   * One message of a proposer. Everything but WAL writes is durable when it returns; the answer to
   * an AppendRequest is due after `settle`, which a batch of them shares.
   */
  receive(message: ProposerMessage): AcceptorMessage | "append-response" | undefined {
    this.#checkUsable();
    this.#checkResident();
    const before = this.#state;
    this.#activeAtMs = monotonicMs();
    const step = receive(before, message);
    this.#perform(step.actions);
    this.#state = step.state;
    const isWrite = message.type === "append-request" && message.walData.length > 0;
    if (isWrite && step.actions.length > 0) {
      this.#state = written(this.#state, this.#wal.writeLsn, this.#wal.recordLsn);
      this.#context.metrics.writtenWalBytes.inc(message.walData.length);
    }
    if (message.type !== "append-request") {
      this.#logger.info(
        { message: loggable(message), term: step.state.persistent.term },
        "message from proposer",
      );
      this.#changed();
    } else if (step.state.commitLsn > before.commitLsn) {
      this.#changed();
    }
    return step.reply;
  }

  /** Flushes what was written and not flushed, then tells those who wait for WAL. */
  settle(): void {
    this.#checkUsable();
    const before = this.#state;
    if (before.writeLsn > before.flushLsn) {
      const startedMs = monotonicMs();
      this.#wal.flush();
      this.#context.metrics.flushSeconds.observe((monotonicMs() - startedMs) / 1000);
    }
    this.#state = flushed(before);
  }

  /**
   * Begins a flush of what is written by now, as `settle` is one that waits for it: the descriptor is to be synced in another thread, then
   * `endSettle` is due. Meanwhile more may be received, or all be settled. Undefined where another one has not ended, or nothing is to be flushed.
   */
  beginSettle(): Settling | undefined {
    this.#checkUsable();
    const { writeLsn, flushLsn, writtenRecordLsn } = this.#state;
    const fd = writeLsn > flushLsn ? this.#wal.beginFlush() : undefined;
    return fd === undefined
      ? undefined
      : {
          fd,
          wal: this.#wal,
          recordLsn: writtenRecordLsn,
          truncations: this.#truncations,
          startedMs: monotonicMs(),
        };
  }

  /** That sync has ended, with an `error` or none. Throws as `settle`. */
  endSettle({ wal, recordLsn, truncations, startedMs }: Settling, error?: unknown): void {
    wal.endFlush(error);
    this.#checkUsable();
    this.#context.metrics.flushSeconds.observe((monotonicMs() - startedMs) / 1000);
    if (this.#truncations === truncations) {
      this.#state = flushedUpTo(this.#state, recordLsn);
    }
  }

  /** Both, by the disk's own threads. False, and nothing is done, where `settle` is to be called. */
  settleInBackground(done: (error?: unknown) => void): boolean {
    const settling = this.beginSettle();
    if (settling === undefined) {
      return false;
    }
    const end = (error?: unknown) => {
      try {
        this.endSettle(settling, error);
      } catch (failure) {
        done(failure);
        return;
      }
      done();
    };
    this.#disk.background.fdatasync(settling.fd).then(() => end(), end);
    return true;
  }

  /** For callers of `settle`, once they have sent their answers. */
  announce(): void {
    this.#changed();
  }

  appendResponse(): AppendResponse {
    return {
      ...appendResponse(this.#state),
      hotStandbyFeedback: combinedStandbyFeedback(this.#consumers),
      pageserverFeedback: this.#feedback,
    };
  }

  /** Raises the term (by one where none is given): whoever writes now is fenced. */
  bumpTerm(term?: Term): { previous: Term; current: Term } {
    this.#checkUsable();
    const previous = this.#state.persistent.term;
    const step = bumpTerm(this.#state, term ?? previous + 1);
    this.#perform(step.actions);
    this.#state = step.state;
    this.#changed();
    return { previous, current: step.state.persistent.term };
  }

  /** Takes over a newer membership; StorageError `conflict` where it is older or not ours. */
  switchMembership(mconf: MembershipConfiguration): MemberPosition {
    this.#checkUsable();
    const step = switchMembership(this.#state, mconf);
    this.#perform(step.actions);
    this.#state = step.state;
    this.#changed();
    return {
      generation: mconf.generation,
      term: step.state.persistent.term,
      lastLogTerm: this.lastLogTerm,
      flushLsn: step.state.flushLsn,
    };
  }

  /**
   * Another safekeeper's state, from the broker: together they may know more to be committed, and
   * the one that a pageserver streams from says for all which WAL it needs no more.
   */
  peerReported(safekeeperId: number, report: PeerPositions): void {
    if (this.closed || this.#mustReload || !this.#mayBePeer(safekeeperId)) {
      return;
    }
    this.#peers.set(safekeeperId, { ...report, reportedAtMs: monotonicMs() });
    const before = this.#state;
    this.#state = commitFromPeers(before, this.#peers);
    if (this.#state !== before) {
      this.#changed();
    }
    if (slowestPageserver(this.#consumers) === undefined) {
      this.#advanceRemoteConsistent(report.remoteConsistentLsn);
    }
  }

  /** The broker passes on what anyone says: whoever is no member has nothing to tell. */
  #mayBePeer(safekeeperId: number): boolean {
    const { mconf } = this.#state.persistent;
    return mconf.generation === INVALID_GENERATION
      ? this.#peers.has(safekeeperId) || this.#peers.size < MAX_SAFEKEEPERS
      : isMember(mconf, safekeeperId);
  }

  /**
   * WAL below `lsn` is in the object store; on this disk's control file when it returns, before any
   * of that WAL is removed here.
   */
  advanceBackup(lsn: Lsn): void {
    this.#checkUsable();
    const backupLsn = minLsn(lsn, this.#state.commitLsn);
    if (backupLsn > this.#state.persistent.backupLsn) {
      const persistent = { ...persistentNow(this.#state), backupLsn };
      this.#persist(persistent);
      this.#state = { ...this.#state, persistent };
      this.#context.onChange(this);
    }
  }

  /** Notes the partial segment that is in the object store. */
  setPartial(partial: PartialSegment | undefined): void {
    this.#checkUsable();
    this.#persistPositions({ ...this.#placement, partial });
  }

  /** Where an action failed half-way, what is on disk is read again; StorageError as `load`. */
  reloadIfNeeded(): void {
    this.#checkUsable();
  }

  /** Renews the control file now. */
  checkpoint(): void {
    this.#checkUsable();
    this.#persistPositions();
  }

  /** No WAL is removed, and the timeline not evicted, until the returned function is called. */
  hold(): () => void {
    this.#holds++;
    let held = true;
    return () => {
      if (held) {
        held = false;
        this.#holds--;
        this.#activeAtMs = monotonicMs();
      }
    };
  }

  /** Whether the object store has every byte of WAL that is here, all of it committed. */
  get isStored(): boolean {
    const { flushLsn, writeLsn, commitLsn, persistent } = this.#state;
    const lastSegment = segmentStart((flushLsn - 1) as Lsn, this.#segmentSize);
    return (
      this.#context.store !== undefined &&
      writeLsn === flushLsn &&
      commitLsn === flushLsn &&
      (persistent.backupLsn >= flushLsn ||
        (persistent.backupLsn >= lastSegment && this.partialIsCurrent))
    );
  }

  /**
   * Whether the partial segment in the store ends as the log here does. Term and LSN of its end tell:
   * logs that agree in both are equal up to there.
   */
  get partialIsCurrent(): boolean {
    const { partial } = this.#placement;
    return partial?.flushLsn === this.#state.flushLsn && partial.term === this.lastLogTerm;
  }

  /** Removes all WAL from this disk; only where `isStored`, and nobody reads or writes. */
  evict(): void {
    this.#checkUsable();
    const isEmpty = this.#localWalStart >= this.#state.flushLsn;
    if (!this.isStored || isEmpty || this.idleMs === 0) {
      return;
    }
    // First: from now on a restart expects no WAL, and removes what is left of it.
    this.#persistPositions({ ...this.#placement, evicted: true });
    this.#wal.close();
    this.#truncations++;
    // Before the removal: where that fails in the middle, nobody looks for the rest here.
    this.#localWalStart = this.#state.flushLsn;
    const count = this.#wal.removeBelow(MAX_LSN);
    this.#logger.info({ count, flushLsn: formatLsn(this.#state.flushLsn) }, "timeline evicted");
    this.#changed();
  }

  /**
   * Brings the end of the log back to this disk, so that it can be continued; at once where the
   * timeline is not evicted. StorageError `unavailable` while the object store is.
   */
  wake(): Promise<void> {
    this.#activeAtMs = monotonicMs();
    if (!this.#placement.evicted) {
      return Promise.resolve();
    }
    this.#waking ??= this.#wakeUp().finally(() => {
      this.#waking = undefined;
    });
    return this.#waking;
  }

  async #wakeUp(): Promise<void> {
    const release = this.hold();
    try {
      const { storedWal } = this;
      if (storedWal === undefined) {
        const message = "the timeline's WAL is in an object store, but none is configured";
        throw new StorageError("unavailable", "no-object-store", message);
      }
      const end = fetchEndOfWal(storedWal, this.#state, this.#placement);
      // A store that does not answer is an error, after which the next push or read asks again.
      const timeout = abortAfter(WAKE_TIMEOUT_MS);
      const signal = AbortSignal.any([this.closing, timeout]);
      this.restore(await carryOut(end, storedWal.store, () => signal));
    } finally {
      release();
    }
  }

  /** Continues an evicted log, whose end `wake` has fetched. */
  restore({ lsn, bytes }: EndOfWal): void {
    this.#checkUsable();
    if (!this.#placement.evicted) {
      return;
    }
    restoreSegment(this.#directory, this.#segmentSize, lsn, bytes, this.#disk);
    this.#persistPositions({ ...this.#placement, evicted: false });
    const { persistent, flushLsn } = this.#state;
    this.#localWalStart = maxLsn(lsn, persistent.localStartLsn);
    this.#wal = openWal(this.#directory, persistent, flushLsn, this.#disk);
    this.#logger.info({ from: formatLsn(lsn) }, "timeline is back from the object store");
  }

  addConsumer(consumer: WalConsumer): void {
    this.#consumers.add(consumer);
  }

  removeConsumer(consumer: WalConsumer): void {
    this.#consumers.delete(consumer);
    this.#activeAtMs = monotonicMs();
  }

  openReader(): WalReader {
    return new WalReader(this.#directory, this.#state.persistent.walSegSize, this.#disk);
  }

  /** A consumer heard from its pageserver: the slowest one says what WAL may go. */
  feedbackChanged(latest: PageserverFeedback): void {
    this.#feedback = latest;
    this.#advanceRemoteConsistent(slowestPageserver(this.#consumers) ?? INVALID_LSN);
  }

  #advanceRemoteConsistent(lsn: Lsn): void {
    const remoteConsistentLsn = minLsn(lsn, this.#state.commitLsn);
    if (remoteConsistentLsn > this.#state.remoteConsistentLsn) {
      this.#state = { ...this.#state, remoteConsistentLsn };
      this.#context.onChange(this);
    }
  }

  /** Once a second: renews the control file where it is far behind, removes WAL nobody needs. */
  maintain(): void {
    if (this.closed || this.#mustReload) {
      return;
    }
    const { persistent } = this.#state;
    const now = persistentNow(this.#state);
    const isStale =
      now.commitLsn !== persistent.commitLsn ||
      now.flushedLsn !== persistent.flushedLsn ||
      now.remoteConsistentLsn !== persistent.remoteConsistentLsn;
    const waited = monotonicMs() - this.#persistedAtMs >= PERSIST_INTERVAL_MS;
    if (isStale && (waited || now.flushedLsn - persistent.flushedLsn >= PERSIST_WAL_BYTES)) {
      this.#persistPositions();
    }
    this.#removeOldWal();
  }

  /** Renews the control file and lets go of files. */
  close(): void {
    if (this.#closing.signal.aborted) {
      return;
    }
    this.#closing.abort(timelineClosed());
    try {
      if (!this.#mustReload) {
        this.#wal.flush();
        this.#state = flushed(this.#state);
        this.#persistPositions();
      }
    } finally {
      this.#wal.close();
      for (const consumer of this.#consumers) {
        consumer.wake();
      }
    }
  }

  get closed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Aborted when the timeline is removed or the safekeeper stops. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  get #disk(): Disk {
    return this.#context.disk ?? REAL_DISK;
  }

  #checkUsable(): void {
    this.#closing.signal.throwIfAborted();
    if (this.#mustReload) {
      this.#wal.close();
      const { state, wal, placement, localWalStart } = loadTimeline(this.#context, this.#directory);
      this.#state = state;
      this.#wal = wal;
      this.#placement = placement;
      this.#localWalStart = localWalStart;
      this.#truncations++;
      this.#mustReload = false;
    }
  }

  #checkResident(): void {
    if (this.#placement.evicted) {
      const message = "the timeline's WAL is in the object store only";
      throw new StorageError("unavailable", "timeline-evicted", message);
    }
  }

  #perform(actions: readonly AcceptorAction[]): void {
    for (const action of actions) {
      if (action.type === "write") {
        // A failed write leaves the state as it was: the bytes after writeLsn are of no account.
        this.#wal.write(action.lsn, action.bytes);
        continue;
      }
      if (action.type === "expect-record-end") {
        this.#wal.expectRecordEnd(action.lsn, this.#state.persistent.localStartLsn);
        continue;
      }
      try {
        switch (action.type) {
          case "flush":
            this.#wal.flush();
            break;
          case "truncate":
            this.#truncations += action.lsn < this.#state.writeLsn ? 1 : 0;
            this.#wal.expectSystemId(this.#state.persistent.systemId);
            this.#wal.truncate(action.lsn);
            this.#localWalStart = minLsn(this.#localWalStart, action.lsn);
            break;
          case "persist":
            this.#persist(action.state);
            break;
        }
      } catch (error) {
        this.#mustReload = true;
        throw error;
      }
    }
  }

  #persist(persistent: AcceptorPersistentState, placement = this.#placement): void {
    const path = join(this.#directory, CONTROL_FILE_NAME);
    writeControlFile(path, persistent, this.#disk, placement);
    this.#persistedAtMs = monotonicMs();
    this.#context.metrics.persistedControlFiles.inc();
  }

  #persistPositions(placement = this.#placement): void {
    const persistent = persistentNow(this.#state);
    try {
      this.#persist(persistent, placement);
    } catch (error) {
      // The file may say it nevertheless. Older positions would do no harm, but where the WAL lies must agree.
      this.#mustReload ||= placement !== this.#placement;
      throw error;
    }
    this.#state = { ...this.#state, persistent };
    this.#placement = placement;
  }

  #changed(): void {
    for (const consumer of this.#consumers) {
      consumer.wake();
    }
    this.#context.onChange(this);
  }

  #removeOldWal(): void {
    if (this.#holds > 0 || this.#placement.evicted) {
      return;
    }
    const { state } = this;
    const horizon = walRemovalHorizon({
      ...state,
      backupLsn: this.#context.store === undefined ? undefined : state.persistent.backupLsn,
      readers: [...this.#consumers].map(({ sentLsn }) => sentLsn),
    });
    const segment = (lsn: Lsn) => segmentNumber(lsn, this.#segmentSize);
    if (segment(horizon) <= segment(this.#localWalStart)) {
      return;
    }
    if (segment(state.persistent.flushedLsn) <= segment(horizon)) {
      // A restart begins to scan at the persisted flush LSN: that WAL must stay.
      this.#persistPositions();
    }
    this.#localWalStart = segmentStart(horizon, this.#segmentSize);
    const count = this.#wal.removeBelow(horizon);
    this.#context.metrics.removedSegments.inc(count);
    this.#logger.info({ count, below: formatLsn(horizon) }, "removed WAL segments");
  }
}

function timelineClosed(): StorageError {
  return new StorageError("not-found", "timeline-closed", "the timeline was removed or stopped");
}

function loggable(message: ProposerMessage): Record<string, unknown> {
  switch (message.type) {
    case "greeting":
      return { type: message.type, generation: message.mconf.generation };
    case "vote-request":
      return { type: message.type, term: message.term };
    case "elected":
      return {
        type: message.type,
        term: message.term,
        startStreamingAt: formatLsn(message.startStreamingAt),
      };
    case "append-request":
      return { type: message.type };
  }
}
