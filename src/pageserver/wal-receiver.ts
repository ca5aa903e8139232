// Brings one timeline's committed WAL from a safekeeper into its storage.

import { monotonicMs, nowMs, setIdleRepeatingTimer, sleep } from "../base/clock.ts";
import { errorMessage, StorageError, withContext } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, INVALID_LSN, type Lsn } from "../base/lsn.ts";
import { pgVersion } from "../postgres/versions.ts";
import { openReplication, type ReplicationStream } from "../safekeeper/client.ts";
import { interpretRecord } from "../wal-decoder/interpret-record.ts";
import { WalStream } from "../wal-decoder/wal-stream.ts";
import type { WalReceiverInfo } from "./api.ts";
import { WalIngest } from "./ingest/walingest.ts";
import type { IngestMetrics } from "./metrics.ts";
import { type SafekeeperCandidate, SafekeeperChoice } from "./safekeeper-choice.ts";
import type { ServedTimeline } from "./served-timeline.ts";

/** A connection that brought nothing for so long is given up until there is news of WAL. */
const IDLE_TIMEOUT_MS = 600_000;
const ANCESTOR_WAIT_MS = 30_000;
/** So long after the start the broker has told of every safekeeper that lives: they publish each second. */
const DISCOVERY_MS = 3_000;
const FEEDBACK_INTERVAL_MS = 50;
const KEEPALIVE_INTERVAL_MS = 1_000;

/**
 * Feeds WAL bytes to a timeline: cuts them into records, ingests each, publishes batches. Used for
 * one uninterrupted stretch of WAL. After a throw it must not be used again; what `publish` made
 * readable stays right.
 */
export class WalFeeder {
  readonly #stream: WalStream;
  readonly #ingest: WalIngest;
  readonly #signal: AbortSignal | undefined;
  #insideRecord = false;
  /** A record is at hand that takes more than one turn. */
  #busy: Promise<void> | undefined;

  /** `signal` breaks off a record that takes long. */
  constructor(timeline: ServedTimeline, logger: Logger, signal?: AbortSignal) {
    this.#signal = signal;
    this.#stream = new WalStream({
      startLsn: timeline.lastRecordLsn,
      prevLsn: timeline.prevRecordLsn,
      pageMagic: pgVersion(timeline.pgVersion).pageMagic,
      segmentSize: timeline.walSegmentSize,
      systemId: timeline.systemId,
    });
    this.#ingest = new WalIngest(timeline, logger);
  }

  get recordCount(): number {
    return this.#ingest.recordCount;
  }

  /** After a throw: whether a part of a record was taken in, so that it cannot be taken in again. */
  get insideRecord(): boolean {
    return this.#insideRecord;
  }

  /**
   * Ingests every record that is complete with these bytes. StorageError names LSN and record. Undefined
   * where it is done; else the bytes are kept, and it is done when the promise resolves. More bytes
   * may be fed meanwhile, for the same promise.
   */
  feed(bytes: Uint8Array): Promise<void> | undefined {
    this.#stream.feed(bytes);
    return this.#busy ?? this.#ingestRecords();
  }

  #ingestRecords(): Promise<void> | undefined {
    const stream = this.#stream;
    const ingest = this.#ingest;
    while (stream.next()) {
      const record = stream.record;
      this.#insideRecord = true;
      ingest.beginRecord(record.startLsn, record.endLsn);
      interpretRecord(record, ingest);
      const rest = ingest.restOfRecord(this.#signal);
      if (rest !== undefined) {
        this.#busy = this.#goOnAfter(rest);
        return this.#busy;
      }
      ingest.endRecord();
      this.#insideRecord = false;
    }
    if (stream.stop === "zeroed") {
      throw new StorageError(
        "corrupt",
        "zeroed-wal",
        `zeros after the record that ends at ${formatLsn(stream.recordEndLsn)}`,
      );
    }
    return undefined;
  }

  /** A rejection stays: nothing more may be fed then. */
  async #goOnAfter(restOfRecord: Promise<void>): Promise<void> {
    await restOfRecord;
    this.#ingest.endRecord();
    this.#insideRecord = false;
    const next = this.#ingestRecords();
    if (next === undefined) {
      this.#busy = undefined;
    } else {
      await next;
    }
  }

  publish(): void {
    this.#ingest.publish();
  }
}

export class WalReceiver {
  readonly #timeline: ServedTimeline;
  readonly #metrics: IngestMetrics;
  readonly #logger: Logger;
  readonly #choice = new SafekeeperChoice();
  readonly #stopping = new AbortController();
  #wake: (() => void) | undefined;
  #connected: SafekeeperCandidate | undefined;
  #stream: ReplicationStream | undefined;
  #failure: StorageError | undefined;
  /** Set by a failure that no other safekeeper's copy of the WAL can help. */
  #finished = false;
  #failedFeeder: WalFeeder | undefined;
  #connecting = false;
  /** A record that takes more than one turn. */
  #working: Promise<void> | undefined;
  #lastWalMs = 0;
  #lastFeedbackMs = 0;
  readonly #discoveredAtMs = monotonicMs() + DISCOVERY_MS;
  lastReceivedLsn: Lsn = INVALID_LSN;
  /** Milliseconds since the Unix epoch; 0 before the first message. */
  lastReceivedTimeMs = 0;
  readonly done: Promise<void>;

  constructor(timeline: ServedTimeline, metrics: IngestMetrics, logger: Logger) {
    this.#timeline = timeline;
    this.#metrics = metrics;
    this.#logger = logger.child({ tenant: timeline.tenantId, timeline: timeline.timelineId });
    this.done = this.#run();
  }

  /** News from the broker. */
  update(candidate: SafekeeperCandidate): void {
    this.#choice.update(candidate, monotonicMs());
    const have = this.#timeline.lastRecordLsn;
    const connected = this.#connected;
    if (connected === undefined) {
      this.#wake?.();
    } else if (
      this.#choice.shouldSwitch(
        connected.safekeeperId,
        candidate,
        have,
        this.#lastWalMs,
        monotonicMs(),
      )
    ) {
      this.#logger.info(
        { from: connected.safekeeperId, to: candidate.safekeeperId },
        "switching to a safekeeper that is ahead",
      );
      this.#stream?.close();
    }
  }

  info(): WalReceiverInfo & { readonly address: string | null } {
    const state =
      this.#failure !== undefined
        ? "failed"
        : this.#connected === undefined
          ? "waiting"
          : this.#connecting
            ? "connecting"
            : "streaming";
    return {
      state,
      safekeeper_id: this.#connected?.safekeeperId ?? null,
      error: this.#failure?.message ?? null,
      address: this.#connected?.pgAddr ?? null,
    };
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#stream?.close();
    this.#wake?.();
    await this.done;
    await this.#working;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const aborted = new Promise<void>((resolve) => {
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    while (!signal.aborted && !this.#finished) {
      const next = this.#choice.choose(this.#timeline, monotonicMs());
      if (next === undefined) {
        this.#giveUpIfAllAreDamaged();
        await this.#waitForNews();
        continue;
      }
      this.#connected = next;
      this.#connecting = true;
      this.#failure = undefined;
      this.#timeline.setIngestFailure(undefined);
      const before = this.#timeline.lastRecordLsn;
      try {
        // A stop does not wait for a connection attempt; that closes itself when it gets through.
        await Promise.race([this.#receive(next), aborted]);
      } catch (error) {
        this.#logger.info(
          { safekeeper: next.safekeeperId, reason: errorMessage(error) },
          "connection to safekeeper ended",
        );
      }
      this.#metrics.reconnects.inc();
      this.#connected = undefined;
      this.#stream = undefined;
      const progressed = this.#timeline.lastRecordLsn > before;
      this.#choice.ended(next.safekeeperId, progressed, monotonicMs());
    }
  }

  async #waitForNews(): Promise<void> {
    const retryAtMs = this.#choice.retryAtMs(this.#timeline);
    const waits = retryAtMs === undefined ? [] : [retryAtMs - monotonicMs()];
    if (this.#failure !== undefined && monotonicMs() < this.#discoveredAtMs) {
      waits.push(this.#discoveredAtMs - monotonicMs());
    }
    const news = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    const giveUp = new AbortController();
    const { signal } = giveUp;
    const retry =
      waits.length > 0
        ? [sleep(Math.max(1, Math.min(...waits)), signal).catch(() => undefined)]
        : [];
    if (!this.#stopping.signal.aborted) {
      await Promise.race([news, ...retry]);
    }
    giveUp.abort();
    this.#wake = undefined;
  }

  /** Streams until the connection ends, whichever way. */
  async #receive(from: SafekeeperCandidate): Promise<void> {
    const startLsn = this.#timeline.lastRecordLsn;
    // A branch can be read, and so written, only when its ancestor has reached the branch point.
    await this.#timeline.waitForLsn(startLsn, ANCESTOR_WAIT_MS);
    await this.#timeline.prepareIngest();
    const feeder = new WalFeeder(this.#timeline, this.#logger, this.#stopping.signal);
    const ended = Promise.withResolvers<void>();
    this.#lastWalMs = monotonicMs();
    const stream = await openReplication(
      {
        pgAddr: from.pgAddr,
        tenantId: this.#timeline.tenantId,
        timelineId: this.#timeline.timelineId,
        applicationName: "pageserver",
        startLsn,
      },
      {
        onWal: (lsn, bytes) => this.#onWal(feeder, lsn, bytes),
        onKeepalive: (_walEnd, replyRequested) => {
          this.lastReceivedTimeMs = nowMs();
          if (replyRequested) {
            this.#sendFeedback();
          }
        },
        onIdle: () => this.#onIdle(feeder),
        onClose: (error) => (error === undefined ? ended.resolve() : ended.reject(error)),
      },
    );
    this.#stream = stream;
    this.#connecting = false;
    this.#logger.info(
      { safekeeper: from.safekeeperId, address: from.pgAddr, lsn: formatLsn(startLsn) },
      "streaming WAL",
    );
    if (this.#stopping.signal.aborted) {
      stream.close();
    }
    const timer = setIdleRepeatingTimer(() => this.#onTimer(), KEEPALIVE_INTERVAL_MS);
    try {
      await ended.promise;
    } finally {
      timer?.cancel();
      // The next connection begins after the record that is at hand.
      await this.#working;
    }
  }

  #onWal(feeder: WalFeeder, lsn: Lsn, bytes: Uint8Array): void {
    if (feeder === this.#failedFeeder || this.#stopping.signal.aborted) {
      return;
    }
    const start = monotonicMs();
    const recordsBefore = feeder.recordCount;
    this.#lastWalMs = start;
    this.lastReceivedTimeMs = nowMs();
    this.lastReceivedLsn = (lsn + bytes.length) as Lsn;
    try {
      const busy = feeder.feed(bytes);
      if (busy !== undefined && this.#working === undefined) {
        this.#working = this.#workOn(feeder, busy);
      }
    } catch (error) {
      this.#fail(feeder, error);
    }
    this.#metrics.bytes.inc(bytes.length);
    this.#metrics.records.inc(feeder.recordCount - recordsBefore);
    this.#metrics.batchSeconds.observe((monotonicMs() - start) / 1000);
  }

  /** A record takes more than one turn: until it is taken in, what follows stays with the safekeeper. */
  async #workOn(feeder: WalFeeder, busy: Promise<void>): Promise<void> {
    const stream = this.#stream;
    const recordsBefore = feeder.recordCount;
    stream?.pause();
    try {
      await busy;
      this.#metrics.records.inc(feeder.recordCount - recordsBefore);
    } catch (error) {
      if (!this.#stopping.signal.aborted) {
        this.#fail(feeder, error);
      }
    }
    this.#working = undefined;
    stream?.resume();
    this.#onIdle(feeder);
  }

  #onIdle(feeder: WalFeeder): void {
    if (feeder === this.#failedFeeder || this.#stopping.signal.aborted) {
      return;
    }
    try {
      feeder.publish();
    } catch (error) {
      this.#fail(feeder, error);
      return;
    }
    if (monotonicMs() - this.#lastFeedbackMs >= FEEDBACK_INTERVAL_MS) {
      this.#sendFeedback();
    }
    const ready = this.#timeline.ingestReady();
    if (ready !== undefined) {
      void this.#pauseUntil(ready);
    }
  }

  /** Layers are flushed slower than WAL comes: leave it with the safekeeper for now. */
  async #pauseUntil(ready: Promise<void>): Promise<void> {
    const stream = this.#stream;
    stream?.pause();
    try {
      await ready;
    } catch (error) {
      this.#logger.info({ reason: errorMessage(error) }, "gave up waiting for layer flushes");
    }
    if (this.#working === undefined) {
      stream?.resume();
    }
  }

  #onTimer(): void {
    this.#sendFeedback();
    if (this.#working !== undefined) {
      // None comes because none is taken: neither the connection nor its safekeeper is slow.
      this.#lastWalMs = monotonicMs();
    }
    if (monotonicMs() - this.#lastWalMs > IDLE_TIMEOUT_MS) {
      this.#stream?.close();
    }
  }

  /**
   * The timeline keeps serving what it has; taking in more would leave a hole. Damaged bytes are the
   * fault of one safekeeper: another one may have the record.
   */
  #fail(feeder: WalFeeder, error: unknown): void {
    const from = this.#connected;
    const failure = withContext(error, `ingest WAL from safekeeper ${from?.safekeeperId}`);
    this.#failure = failure;
    this.#failedFeeder = feeder;
    this.#finished = failure.kind !== "corrupt" || feeder.insideRecord;
    if (from !== undefined) {
      this.#choice.markDamaged(from.safekeeperId);
    }
    this.#metrics.failures.labels(failure.code).inc();
    this.#logger.error(
      { error: failure, lsn: formatLsn(this.#timeline.lastRecordLsn) },
      "stopped taking in WAL",
    );
    try {
      feeder.publish();
    } catch (publishError) {
      this.#logger.error({ error: publishError }, "could not publish the records before");
    }
    if (this.#finished) {
      this.#timeline.setIngestFailure(failure);
    }
    this.#sendFeedback();
    this.#stream?.close();
  }

  /** Not before each safekeeper had time to be heard of: one with an intact copy may be among them. */
  #giveUpIfAllAreDamaged(): void {
    const { allDamaged } = this.#choice;
    if (this.#failure !== undefined && allDamaged && monotonicMs() >= this.#discoveredAtMs) {
      this.#timeline.setIngestFailure(this.#failure);
    }
  }

  #sendFeedback(): void {
    const { lastRecordLsn, diskConsistentLsn, remoteConsistentLsn, physicalSizeBytes } =
      this.#timeline;
    this.#lastFeedbackMs = monotonicMs();
    const timeMs = nowMs();
    this.#stream?.sendStandbyStatus({
      writeLsn: lastRecordLsn,
      flushLsn: diskConsistentLsn,
      applyLsn: remoteConsistentLsn,
      timeMs,
    });
    this.#stream?.sendPageserverFeedback({
      currentTimelineSize: physicalSizeBytes,
      lastReceivedLsn: lastRecordLsn,
      diskConsistentLsn,
      remoteConsistentLsn,
      replyTime: Math.max(0, timeMs - 946_684_800_000) * 1000,
      shardNumber: 0,
      corruptionDetected: this.#failure?.kind === "corrupt",
    });
  }
}
