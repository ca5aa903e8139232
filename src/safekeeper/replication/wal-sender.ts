// START_REPLICATION: streams a timeline's WAL to a pageserver, a standby or a recovering proposer.

import { abortAfter, monotonicMs, nowMs, setTimer, type Timer, turn } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, minLsn, segmentStart } from "../../base/lsn.ts";
import type { CopyChannel } from "../../postgres/wire/copy-channel.ts";
import type { WireSession } from "../../postgres/wire/wire-server.ts";
import { type HotStandbyFeedback, MAX_SEND_SIZE } from "../../safekeeper-protocol/messages.ts";
import type { PageserverFeedback } from "../../safekeeper-protocol/pageserver-feedback.ts";
import {
  decodeStandbyMessage,
  encodeKeepalive,
  encodeWalHeader,
  type StandbyStatus,
} from "../../safekeeper-protocol/replication-messages.ts";
import type { Term } from "../../safekeeper-protocol/term-history.ts";
import { readableLsn } from "../consensus/acceptor.ts";
import type { Timeline } from "../timeline.ts";
import type { WalReader } from "../wal-storage.ts";
import type { WalConsumer } from "./wal-consumers.ts";

/** Bytes queued for a slow reader before we stop reading from disk for it. */
const MAX_QUEUED_BYTES = 1024 * 1024;
/** Asked of the object store at once. */
const STORED_READ_BYTES = 4 * 1024 * 1024;
/** For the store to say whether it has the first byte, before a reader hears that it cannot be sent. */
const STORE_TIMEOUT_MS = 30_000;
/** Sent in one turn before other connections get theirs. */
const MAX_TURN_BYTES = 2 * 1024 * 1024;

/**
 * Postgres's wal_sender_timeout: a standby that has told something and then nothing for so long is cut
 * off, so that one that was frozen does not hold back vacuum for ever. After half of it it is asked.
 */
const STANDBY_TIMEOUT_MS = 60_000;

export interface StartReplication {
  readonly startLsn: Lsn;
  /** Set: WAL up to the flush LSN, while the safekeeper's term is this one. */
  readonly term: Term | undefined;
}

/**
 * Committed WAL in small pieces is sent so often at most. Each piece wakes a pageserver, whose work for
 * it is mostly the same whatever its size, on a machine that may be busy with the next commit: TPC-B
 * with all on two cores is 1.18 times as fast with this at 8 clients, 1.04 times at one.
 */
const BATCH_MS = 5;
const BATCH_BYTES = 64 * 1024;

/**
 * One stream. Without a term it ends at the commit LSN: what a majority has. With one it ends at
 * the flush LSN, and the connection ends with the term.
 */
export class WalSender implements WalConsumer {
  readonly remote: string;
  readonly applicationName: string;
  readonly #timeline: Timeline;
  readonly #channel: CopyChannel;
  readonly #reader: WalReader;
  readonly #term: Term | undefined;
  #next: Lsn;
  #waiting = false;
  #batch: Timer | undefined;
  readonly #ended = new AbortController();
  #sentAtMs = 0;
  /** When a standby told something; undefined for readers that are none. */
  #heardAtMs: number | undefined;
  #truncations: number;
  standbyStatus: StandbyStatus | undefined;
  pageserverFeedback: PageserverFeedback | undefined;
  hotStandbyFeedback: HotStandbyFeedback | undefined;

  /**
   * Takes over the session. StorageError where the WAL asked for cannot be sent: now, while an error
   * still reaches the client as one.
   */
  static async start(
    session: WireSession,
    timeline: Timeline,
    request: StartReplication,
  ): Promise<void> {
    await timeline.wake();
    const { startLsn } = request;
    checkAfterStart(timeline, startLsn);
    if (startLsn < timeline.localWalStartLsn && startLsn < timeline.state.commitLsn) {
      await checkStored(timeline, startLsn);
    }
    new WalSender(session, timeline, request);
  }

  private constructor(session: WireSession, timeline: Timeline, request: StartReplication) {
    this.#timeline = timeline;
    this.#term = request.term;
    this.#next = request.startLsn;
    this.#reader = timeline.openReader();
    this.#truncations = timeline.truncations;
    this.remote = session.remote;
    this.applicationName = session.parameters.get("application_name") ?? "";
    if (this.#next < this.#limit() && this.#next >= timeline.localWalStartLsn) {
      this.#reader.read(this.#next, 1);
    }
    this.#channel = session.copyBoth();
    timeline.addConsumer(this);
    timeline.logger.info(
      { remote: this.remote, application: this.applicationName, start: formatLsn(this.#next) },
      "WAL sender started",
    );
    this.#channel.onClose(() => {
      this.#batch?.cancel();
      this.#ended.abort();
      timeline.removeConsumer(this);
      this.#reader.close();
      timeline.logger.info(
        { remote: this.remote, sent: formatLsn(this.#next) },
        "WAL sender ended",
      );
    });
    this.#channel.onData((payload) => this.#receive(payload));
    this.#pump();
  }

  get sentLsn(): Lsn {
    return this.#next;
  }

  wake(): void {
    if (this.#batch !== undefined) {
      return;
    }
    const waitMs = this.#sentAtMs + BATCH_MS - monotonicMs();
    if (this.#term === undefined && waitMs > 0 && this.#endOfWal() - this.#next < BATCH_BYTES) {
      this.#batch = setTimer(() => {
        this.#batch = undefined;
        this.#pump();
      }, waitMs);
      return;
    }
    this.#pump();
  }

  /** Tells the reader that we are here, and where the end is; to be called about once a second. */
  keepalive(): void {
    const silentMs = this.#heardAtMs === undefined ? 0 : monotonicMs() - this.#heardAtMs;
    if (silentMs > STANDBY_TIMEOUT_MS) {
      const message = `the standby has told nothing for ${Math.round(silentMs / 1000)} s`;
      this.#fail(new StorageError("unavailable", "standby-timeout", message));
    } else if (!this.#channel.closed && !this.#waiting) {
      const asks = silentMs > STANDBY_TIMEOUT_MS / 2;
      this.#channel.send(encodeKeepalive(this.#endOfWal(), nowMs(), asks));
    }
  }

  #endOfWal(): Lsn {
    const { state } = this.#timeline;
    return this.#term === undefined ? state.commitLsn : state.flushLsn;
  }

  #limit(): Lsn {
    if (this.#timeline.closed) {
      throw new StorageError("not-found", "timeline-closed", "the timeline was removed or stopped");
    }
    return readableLsn(this.#timeline.state, this.#term);
  }

  #pump(): void {
    if (this.#waiting || this.#channel.closed) {
      return;
    }
    try {
      const limit = this.#limit();
      let sent = 0;
      while (this.#next < limit) {
        if (this.#next < this.#timeline.localWalStartLsn) {
          void this.#sendStored(limit);
          return;
        }
        if (this.#channel.writableLength > MAX_QUEUED_BYTES || sent >= MAX_TURN_BYTES) {
          this.#pumpLater();
          return;
        }
        const length = minLsn((limit - this.#next) as Lsn, MAX_SEND_SIZE as Lsn);
        const bytes = this.#read(length);
        this.#channel.sendOwned(encodeWalHeader(this.#next, limit, nowMs()), bytes);
        this.#noteSent(length);
        sent += length;
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #read(length: number): Uint8Array {
    if (this.#truncations !== this.#timeline.truncations) {
      // The file that is open may be another one than that of its name.
      this.#reader.close();
      this.#truncations = this.#timeline.truncations;
    }
    return this.#reader.read(this.#next, length);
  }

  #send(bytes: Uint8Array, limit: Lsn): void {
    this.#channel.send(encodeWalHeader(this.#next, limit, nowMs()), bytes);
    this.#noteSent(bytes.length);
  }

  #noteSent(length: number): void {
    this.#next = (this.#next + length) as Lsn;
    this.#sentAtMs = monotonicMs();
  }

  /** Sends what is no longer on this disk: one piece out of the object store, then looks again. */
  async #sendStored(limit: Lsn): Promise<void> {
    this.#waiting = true;
    try {
      const stored = this.#timeline.storedWal;
      if (stored === undefined) {
        throw walNotHere(this.#timeline, this.#next);
      }
      const end = minLsn(limit, this.#timeline.localWalStartLsn);
      const length = Math.min(end - this.#next, STORED_READ_BYTES);
      const bytes = await stored.read(this.#next, length, this.#ended.signal);
      this.#limit();
      for (let at = 0; at < bytes.length; at += MAX_SEND_SIZE) {
        this.#send(bytes.subarray(at, at + MAX_SEND_SIZE), limit);
      }
      await this.#channel.drained();
      this.#waiting = false;
    } catch (error) {
      if (!this.#ended.signal.aborted) {
        this.#fail(error);
      }
      return;
    }
    this.#pump();
  }

  #pumpLater(): void {
    this.#waiting = true;
    const drained =
      this.#channel.writableLength > MAX_QUEUED_BYTES ? this.#channel.drained() : turn();
    drained.then(
      () => {
        this.#waiting = false;
        this.#pump();
      },
      (error) => this.#fail(error),
    );
  }

  #receive(payload: Uint8Array): void {
    const message = decodeStandbyMessage(payload);
    switch (message.type) {
      case "standby-status":
        this.#heardAtMs = monotonicMs();
        this.standbyStatus = message;
        if (message.replyRequested) {
          this.keepalive();
        }
        break;
      case "hot-standby-feedback":
        this.#heardAtMs = monotonicMs();
        this.hotStandbyFeedback = message;
        break;
      case "pageserver-feedback":
        this.pageserverFeedback = message.feedback;
        this.#timeline.feedbackChanged(message.feedback);
        break;
    }
  }

  #fail(error: unknown): void {
    this.#timeline.logger.warn(
      { remote: this.remote, reason: errorMessage(error), at: formatLsn(this.#next) },
      "WAL sender failed",
    );
    this.#channel.destroy();
  }
}

/**
 * Stock readers begin at the start of a segment. Of the segment that a timeline begins in, what is
 * below its start is not here: made-up bytes would replace true ones on a standby that has them.
 */
function checkAfterStart(timeline: Timeline, lsn: Lsn): void {
  const { timelineStartLsn, walSegSize } = timeline.state.persistent;
  if (lsn < timelineStartLsn) {
    const start = formatLsn(timelineStartLsn);
    const next = formatLsn(segmentStart((timelineStartLsn + walSegSize - 1) as Lsn, walSegSize));
    throw new StorageError(
      "not-found",
      "wal-before-start",
      `WAL at ${formatLsn(lsn)} is not here: the timeline begins at ${start}; ` +
        `the first segment to begin with is that of ${next} (pg_switch_wal() goes on to the next one)`,
    );
  }
}

async function checkStored(timeline: Timeline, lsn: Lsn): Promise<void> {
  const { storedWal } = timeline;
  if (storedWal === undefined) {
    throw walNotHere(timeline, lsn);
  }
  const timeout = abortAfter(STORE_TIMEOUT_MS);
  await storedWal.check(lsn, AbortSignal.any([timeline.closing, timeout]));
}

function walNotHere(timeline: Timeline, lsn: Lsn): StorageError {
  return new StorageError(
    "not-found",
    "wal-not-here",
    `WAL at ${formatLsn(lsn)} is not here: it begins at ${formatLsn(timeline.localWalStartLsn)}`,
  );
}
