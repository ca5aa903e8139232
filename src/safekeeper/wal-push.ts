// START_WAL_PUSH: a proposer's connection; answers go out after one flush for all that arrived together.

import { monotonicMs, nowMs, setTimer, type Timer } from "../base/clock.ts";
import { errorMessage, StorageError } from "../base/errors.ts";
import type { CopyChannel } from "../postgres/wire/copy-channel.ts";
import type { WireSession } from "../postgres/wire/wire-server.ts";
import {
  decodeProposerMessage,
  encodeAcceptorMessage,
  MAX_SEND_SIZE,
  PROTOCOL_VERSION,
  type ProposerMessage,
} from "../safekeeper-protocol/messages.ts";
import type { PageserverFeedback } from "../safekeeper-protocol/pageserver-feedback.ts";
import type { SafekeeperMetrics } from "./metrics.ts";
import type { Timeline } from "./timeline.ts";

/**
 * A full AppendRequest means that more is on its way: then one flush serves up to so many bytes, or
 * so much time. A commit's last request is hardly ever full and is flushed at once. Bulk load is
 * 1.4 to 2.4 times as fast (safekeeper.bench.ts).
 */
const BULK_FLUSH_BYTES = 1024 * 1024;
const BULK_FLUSH_DELAY_MS = 2;

/**
 * From so many bytes on a flush takes longer than two threads need to wake each other: it goes on beside what follows, which is received, checked
 * and written meanwhile, for the next flush. Smaller ones are commits, which are answered sooner by a thread that waits.
 */
const PIPELINE_BYTES = 64 * 1024;

/** From START_WAL_PUSH to the greeting. */
export const GREETING_TIMEOUT_MS = 10_000;

export interface WalPusher {
  readonly remote: string;
  readonly connectedAtMs: number;
}

/** Options of START_WAL_PUSH `(proto_version '3', allow_timeline_creation 'false')`. */
export function checkWalPushOptions(text: string): void {
  const version = /proto_version\s+'(\d+)'/.exec(text)?.[1];
  if (version !== undefined && Number(version) !== PROTOCOL_VERSION) {
    throw new StorageError(
      "unsupported",
      "protocol-version",
      `walproposer protocol version ${version} is not supported, only ${PROTOCOL_VERSION}`,
    );
  }
}

/** Takes over the session. */
export function receiveWal(
  session: WireSession,
  timeline: Timeline,
  receivers: Set<WalPusher>,
  metrics: SafekeeperMetrics,
  greetingTimeoutMs: number,
): void {
  new WalPush(session, timeline, receivers, metrics, greetingTimeoutMs);
}

/** What one flush and one answer are for. */
interface Batch {
  readonly bytes: number;
  /** When the first of its requests came, how long all of them took to write, and when its flush began. */
  readonly receivedAtMs: number;
  readonly writeMs: number;
  readonly settledMs: number;
}

class WalPush {
  readonly #session: WireSession;
  readonly #timeline: Timeline;
  readonly #channel: CopyChannel;
  readonly #metrics: SafekeeperMetrics;
  #greeted = false;
  /** Something was received that `settle` must look at. */
  #dirty = false;
  #unflushedBytes = 0;
  /** Since the last answer: when the first request came, and how long all of them took to write. */
  #receivedAtMs = 0;
  #writeMs = 0;
  #expectsMore = false;
  /** A flush is on its way in another thread; what has come since is looked at when it ends. */
  #settling = false;
  /** A pageserver's positions go into one answer, not into each. */
  #toldFeedback: PageserverFeedback | undefined;
  /** Until the greeting; then, until WAL that is expected to go on is flushed without waiting more. */
  #timer: Timer | undefined;

  constructor(
    session: WireSession,
    timeline: Timeline,
    receivers: Set<WalPusher>,
    metrics: SafekeeperMetrics,
    greetingTimeoutMs: number,
  ) {
    this.#session = session;
    this.#timeline = timeline;
    this.#metrics = metrics;
    this.#channel = session.copyBoth();
    const { remote } = session;
    const receiver: WalPusher = { remote, connectedAtMs: nowMs() };
    receivers.add(receiver);
    timeline.logger.info({ remote }, "proposer connected");
    this.#channel.onClose(() => {
      this.#timer?.cancel();
      receivers.delete(receiver);
      timeline.logger.info({ remote }, "proposer disconnected");
    });
    this.#timer = setTimer(() => {
      const message = `no greeting within ${greetingTimeoutMs} ms`;
      session.refuse(new StorageError("unavailable", "no-greeting", message));
    }, greetingTimeoutMs);
    // What these throw ends the connection with an ErrorResponse. Idle first: `onData` hands out what
    // has arrived already.
    this.#channel.onIdle(() => this.#counted(() => this.#idle()));
    this.#channel.onData((payload) => {
      this.#counted(() => this.#receive(decodeProposerMessage(payload)));
    });
  }

  #receive(message: ProposerMessage): void {
    if (!this.#greeted && message.type !== "greeting") {
      throw new StorageError("invalid", "no-greeting", `${message.type} before the greeting`);
    }
    if (!this.#greeted) {
      this.#greeted = true;
      this.#timer?.cancel();
      this.#timer = undefined;
    }
    const startedMs = monotonicMs();
    const reply = this.#timeline.receive(message);
    if (reply === "append-response" && message.type === "append-request") {
      this.#receivedAtMs = this.#dirty ? this.#receivedAtMs : startedMs;
      this.#writeMs = (this.#dirty ? this.#writeMs : 0) + monotonicMs() - startedMs;
      this.#dirty = true;
      this.#unflushedBytes += message.walData.length;
      this.#expectsMore = message.walData.length === MAX_SEND_SIZE;
    } else if (typeof reply === "object") {
      this.#channel.send(encodeAcceptorMessage(reply));
    }
  }

  #idle(): void {
    if (!this.#dirty || this.#settling) {
      return;
    }
    if (this.#expectsMore && this.#unflushedBytes < BULK_FLUSH_BYTES) {
      this.#timer ??= setTimer(() => this.#settleLate(), BULK_FLUSH_DELAY_MS);
      return;
    }
    this.#settle();
  }

  #settle(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#dirty = false;
    const batch: Batch = {
      bytes: this.#unflushedBytes,
      receivedAtMs: this.#receivedAtMs,
      writeMs: this.#writeMs,
      settledMs: monotonicMs(),
    };
    this.#unflushedBytes = 0;
    if (batch.bytes >= PIPELINE_BYTES) {
      const done = (error?: unknown) => this.#settled(batch, error);
      this.#settling = this.#timeline.settleInBackground(done);
      if (this.#settling) {
        return;
      }
    }
    this.#timeline.settle();
    this.#answer(batch);
  }

  /** A flush in the background has ended; what came meanwhile has its turn. */
  #settled(batch: Batch, error: unknown): void {
    this.#settling = false;
    if (this.#channel.closed) {
      return;
    }
    try {
      this.#counted(() => {
        if (error !== undefined) {
          throw error;
        }
        this.#answer(batch);
        if (this.#dirty) {
          this.#settle();
        }
      });
    } catch (failure) {
      this.#refuse(failure);
    }
  }

  #answer(batch: Batch): void {
    const flushedMs = monotonicMs();
    const response = this.#timeline.appendResponse();
    const isTold = response.pageserverFeedback === this.#toldFeedback;
    this.#toldFeedback = response.pageserverFeedback;
    this.#channel.send(
      encodeAcceptorMessage(isTold ? { ...response, pageserverFeedback: undefined } : response),
    );
    if (batch.bytes > 0) {
      // Heartbeats would hide what commits cost.
      this.#observe(batch, flushedMs, monotonicMs());
    }
    this.#timeline.announce();
  }

  #observe(batch: Batch, flushedMs: number, answeredMs: number): void {
    const { bytes, receivedAtMs, writeMs, settledMs } = batch;
    const { appendSteps, flushedBytes } = this.#metrics;
    appendSteps.write.observe(writeMs / 1000);
    appendSteps.wait.observe((settledMs - receivedAtMs - writeMs) / 1000);
    appendSteps.flush.observe((flushedMs - settledMs) / 1000);
    appendSteps.answer.observe((answeredMs - flushedMs) / 1000);
    appendSteps.total.observe((answeredMs - receivedAtMs) / 1000);
    flushedBytes.observe(bytes);
  }

  #settleLate(): void {
    try {
      this.#counted(() => this.#settle());
    } catch (error) {
      this.#refuse(error);
    }
  }

  #refuse(error: unknown): void {
    if (!this.#timeline.closed) {
      this.#timeline.logger.warn({ reason: errorMessage(error) }, "WAL could not be flushed");
    }
    this.#session.refuse(error);
  }

  #counted(action: () => void): void {
    try {
      action();
    } catch (error) {
      const code = error instanceof StorageError ? error.code : "bug";
      this.#metrics.refusedMessages.inc({ code });
      throw error;
    }
  }
}
