// One timeline on a safekeeper: runs the acceptor's steps against disk and tells who waits for WAL.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs } from "../base/clock.ts";
import { fsyncDirectory, readFileIfExists } from "../base/disk.ts";
import { StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, INVALID_LSN, type Lsn, maxLsn, minLsn, segmentNumber } from "../base/lsn.ts";
import {
  type AcceptorAction,
  type AcceptorPersistentState,
  type AcceptorState,
  acceptorAfterStart,
  appendResponse,
  bumpTerm,
  commitFromPeers,
  flushed,
  lastLogTerm,
  type PeerReport,
  persistentNow,
  receive,
  written,
} from "./acceptor.ts";
import { CONTROL_FILE_NAME, decodeControlFile, writeControlFile } from "./control-file.ts";
import type {
  AcceptorMessage,
  AppendResponse,
  HotStandbyFeedback,
  ProposerMessage,
} from "./messages.ts";
import { NO_HOT_STANDBY_FEEDBACK } from "./messages.ts";
import type { SafekeeperMetrics } from "./metrics.ts";
import type { PageserverFeedback } from "./pageserver-feedback.ts";
import type { Term } from "./term-history.ts";
import { findEndOfWal, WalReader, WalStorage } from "./wal-storage.ts";

/**
 * WAL or time after which the control file's positions are renewed; bounds the scan of a restart.
 */
const PERSIST_WAL_BYTES = 64 * 1024 * 1024;
const PERSIST_INTERVAL_MS = 10_000;

/** A connection that streams WAL out of this timeline. */
export interface WalConsumer {
  /** Commit LSN, flush LSN or term changed. */
  wake(): void;
  readonly pageserverFeedback: PageserverFeedback | undefined;
  readonly hotStandbyFeedback: HotStandbyFeedback | undefined;
}

export interface TimelineContext {
  readonly nodeId: number;
  readonly logger: Logger;
  readonly metrics: SafekeeperMetrics;
  /** The positions that peers and pageservers hear about have changed. */
  onChange(timeline: Timeline): void;
}

export class Timeline {
  readonly #context: TimelineContext;
  readonly #directory: string;
  readonly #logger: Logger;
  readonly #consumers = new Set<WalConsumer>();
  readonly #peers = new Map<number, PeerReport>();
  #state: AcceptorState;
  #wal: WalStorage;
  /** An action failed half-way: what is in memory may not be what is on disk. */
  #mustReload = false;
  #closed = false;
  #persistedAtMs = monotonicMs();
  #removedBelow: Lsn = INVALID_LSN;
  #feedback: PageserverFeedback | undefined;

  private constructor(
    context: TimelineContext,
    directory: string,
    state: AcceptorState,
    wal: WalStorage,
  ) {
    this.#context = context;
    this.#directory = directory;
    this.#state = state;
    this.#wal = wal;
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
    mkdirSync(directory, { recursive: true });
    writeControlFile(join(directory, CONTROL_FILE_NAME), persistent);
    fsyncDirectory(join(directory, ".."));
    const state = acceptorAfterStart(context.nodeId, persistent, persistent.flushedLsn);
    const wal = new WalStorage(directory, persistent.walSegSize, persistent.flushedLsn);
    return new Timeline(context, directory, state, wal);
  }

  /** Loads what a former process left; StorageError `corrupt` where it cannot be trusted. */
  static load(context: TimelineContext, directory: string): Timeline {
    const { state, wal } = loadState(context, directory);
    return new Timeline(context, directory, state, wal);
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

  get lastLogTerm(): Term {
    return lastLogTerm(this.#state);
  }

  /**
   * One message of a proposer. Everything but WAL writes is durable when it returns; the answer to
   * an AppendRequest is due after `settle`, which a batch of them shares.
   */
  receive(message: ProposerMessage): AcceptorMessage | "append-response" | undefined {
    this.#checkUsable();
    const before = this.#state;
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

  /** For callers of `settle`, once they have sent their answers. */
  announce(): void {
    this.#changed();
  }

  appendResponse(): AppendResponse {
    return {
      ...appendResponse(this.#state),
      hotStandbyFeedback: this.#hotStandbyFeedback(),
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

  /**
   * Another safekeeper's state, from the broker: together they may know more to be committed, and
   * the one that a pageserver streams from says for all which WAL it needs no more.
   */
  peerReported(
    safekeeperId: number,
    report: PeerReport & { readonly remoteConsistentLsn: Lsn },
  ): void {
    if (this.#closed || this.#mustReload) {
      return;
    }
    this.#peers.set(safekeeperId, report);
    const before = this.#state;
    this.#state = commitFromPeers(before, this.#peers);
    if (this.#state !== before) {
      this.#changed();
    }
    if (this.#slowestPageserver() === undefined) {
      this.#advanceRemoteConsistent(report.remoteConsistentLsn);
    }
  }

  addConsumer(consumer: WalConsumer): void {
    this.#consumers.add(consumer);
  }

  removeConsumer(consumer: WalConsumer): void {
    this.#consumers.delete(consumer);
  }

  openReader(): WalReader {
    return new WalReader(this.#directory, this.#state.persistent.walSegSize);
  }

  /** A consumer heard from its pageserver: the slowest one says what WAL may go. */
  feedbackChanged(latest: PageserverFeedback): void {
    this.#feedback = latest;
    this.#advanceRemoteConsistent(this.#slowestPageserver() ?? INVALID_LSN);
  }

  /** What the pageserver that is furthest behind has stored; undefined where none streams from here. */
  #slowestPageserver(): Lsn | undefined {
    let slowest: Lsn | undefined;
    for (const consumer of this.#consumers) {
      const lsn = consumer.pageserverFeedback?.remoteConsistentLsn;
      if (lsn !== undefined) {
        slowest = slowest === undefined ? lsn : minLsn(slowest, lsn);
      }
    }
    return slowest;
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
    if (this.#closed || this.#mustReload) {
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
    if (this.#closed) {
      return;
    }
    this.#closed = true;
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
    return this.#closed;
  }

  #checkUsable(): void {
    if (this.#closed) {
      throw new StorageError("not-found", "timeline-closed", "the timeline was removed or stopped");
    }
    if (this.#mustReload) {
      this.#wal.close();
      const { state, wal } = loadState(this.#context, this.#directory);
      this.#state = state;
      this.#wal = wal;
      this.#mustReload = false;
    }
  }

  #perform(actions: readonly AcceptorAction[]): void {
    for (const action of actions) {
      if (action.type === "write") {
        // A failed write leaves the state as it was: the bytes after writeLsn are of no account.
        this.#wal.write(action.lsn, action.bytes);
        continue;
      }
      try {
        switch (action.type) {
          case "flush":
            this.#wal.flush();
            break;
          case "truncate":
            this.#wal.truncate(action.lsn);
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

  #persist(persistent: AcceptorPersistentState): void {
    writeControlFile(join(this.#directory, CONTROL_FILE_NAME), persistent);
    this.#persistedAtMs = monotonicMs();
    this.#context.metrics.persistedControlFiles.inc();
  }

  #persistPositions(): void {
    const persistent = persistentNow(this.#state);
    this.#persist(persistent);
    this.#state = { ...this.#state, persistent };
  }

  #changed(): void {
    for (const consumer of this.#consumers) {
      consumer.wake();
    }
    this.#context.onChange(this);
  }

  #removeOldWal(): void {
    const { remoteConsistentLsn, commitLsn, peerHorizonLsn, persistent } = this.#state;
    const horizon = minLsn(minLsn(remoteConsistentLsn, commitLsn), peerHorizonLsn);
    const segment = (lsn: Lsn) => segmentNumber(lsn, persistent.walSegSize);
    if (segment(horizon) <= segment(maxLsn(this.#removedBelow, persistent.localStartLsn))) {
      return;
    }
    if (segment(persistent.flushedLsn) <= segment(horizon)) {
      // A restart begins to scan at the persisted flush LSN: that WAL must stay.
      this.#persistPositions();
    }
    const count = this.#wal.removeBelow(horizon);
    this.#removedBelow = horizon;
    this.#context.metrics.removedSegments.inc(count);
    this.#logger.info({ count, below: formatLsn(horizon) }, "removed WAL segments");
  }

  #hotStandbyFeedback(): HotStandbyFeedback {
    let result = NO_HOT_STANDBY_FEEDBACK;
    for (const consumer of this.#consumers) {
      const feedback = consumer.hotStandbyFeedback;
      if (feedback !== undefined) {
        const least = (a: bigint, b: bigint) => (a === 0n || (b !== 0n && b < a) ? b : a);
        result = {
          timestamp: Math.max(result.timestamp, feedback.timestamp),
          xmin: least(result.xmin, feedback.xmin),
          catalogXmin: least(result.catalogXmin, feedback.catalogXmin),
        };
      }
    }
    return result;
  }
}

function loadState(
  context: TimelineContext,
  directory: string,
): { state: AcceptorState; wal: WalStorage } {
  try {
    const bytes = readFileIfExists(join(directory, CONTROL_FILE_NAME));
    if (bytes === undefined) {
      throw new StorageError("corrupt", "no-control-file", `no ${CONTROL_FILE_NAME}`);
    }
    const persistent = decodeControlFile(bytes);
    const end = findEndOfWal(
      directory,
      persistent.walSegSize,
      persistent.flushedLsn,
      persistent.localStartLsn,
    );
    const { tenantId, timelineId } = persistent;
    context.logger.info(
      { tenantId, timelineId, flushLsn: formatLsn(end.endLsn), stoppedBy: end.stoppedBy },
      "timeline loaded",
    );
    return {
      state: acceptorAfterStart(context.nodeId, persistent, end.endLsn),
      wal: new WalStorage(directory, persistent.walSegSize, end.endLsn),
    };
  } catch (error) {
    throw withContext(error, `load timeline from ${directory}`);
  }
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
