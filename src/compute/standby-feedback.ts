// Holds back vacuum for standbys: hands what they still see to the compute's own Postgres, as a standby would.

import { monotonicMs, nowMs, sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import { connectWire, type WireConnection } from "../postgres/wire/wire-client.ts";
import { ReplicationStream } from "../safekeeper/client.ts";
import {
  type HotStandbyFeedback,
  NO_HOT_STANDBY_FEEDBACK,
} from "../safekeeper-protocol/messages.ts";

/*
 * Standbys stream from safekeepers, whose answers bring their hot standby feedback here. Only a
 * walsender of Postgres can hold its horizon back at a given xmin (ProcessStandbyHSFeedbackMessage in
 * walsender.c), and only while it streams. So there is a replication connection as long as somebody
 * wants it: the WAL that comes is thrown away, feedback goes the other way. It shows up in
 * pg_stat_replication under APPLICATION_NAME, with the standbys' least xmin as `backend_xmin`.
 */

const APPLICATION_NAME = "strata_standby_feedback";
const INTERVAL_MS = 1000;
/**
 * What a safekeeper told is held so long after it told it last: a standby that goes over to another
 * safekeeper (5 s, its wal_retrieve_retry_interval) leaves no gap in which vacuum could run ahead.
 */
const HOLD_MS = 10_000;

/** The compute's own Postgres. */
export interface FeedbackTarget {
  readonly host: string;
  readonly port: number;
  /** A superuser, or a role with the attribute REPLICATION. */
  readonly user: string;
}

interface Told extends HotStandbyFeedback {
  readonly atMs: number;
}

export class StandbyFeedback {
  readonly #logger: Logger;
  readonly #told = new Map<number, Told>();
  readonly #stop = new AbortController();
  #stream: ReplicationStream | undefined;
  #connection: WireConnection | undefined;
  #failing = false;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** What a safekeeper's standbys need, of each answer of it. */
  told(safekeeperId: number, feedback: HotStandbyFeedback): void {
    if (feedback.xmin !== 0n || feedback.catalogXmin !== 0n) {
      this.#told.set(safekeeperId, { ...feedback, atMs: monotonicMs() });
    }
  }

  /** Least transaction ids, with their epochs, that some standby still sees; 0 where none does. */
  get least(): HotStandbyFeedback {
    let least = NO_HOT_STANDBY_FEEDBACK;
    for (const [id, told] of this.#told) {
      if (monotonicMs() - told.atMs > HOLD_MS) {
        this.#told.delete(id);
        continue;
      }
      least = {
        timestamp: Math.max(least.timestamp, told.timestamp),
        xmin: leastXid(least.xmin, told.xmin),
        catalogXmin: leastXid(least.catalogXmin, told.catalogXmin),
      };
    }
    return least;
  }

  /** Call when Postgres accepts connections. */
  start(target: FeedbackTarget): void {
    void this.#run(target);
  }

  /** Lets go, so that a shutdown of Postgres has no walsender of ours to wait for. */
  close(): void {
    this.#stop.abort();
    this.#disconnect();
  }

  async #run(target: FeedbackTarget): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await this.#tell(target, this.least);
        this.#failing = false;
      } catch (error) {
        this.#disconnect();
        if (!this.#failing && !signal.aborted) {
          this.#failing = true;
          this.#logger.warn({ error }, "vacuum does not wait for standbys; tried again");
        }
      }
      await sleep(INTERVAL_MS, signal).catch(() => undefined);
    }
  }

  async #tell(target: FeedbackTarget, least: HotStandbyFeedback): Promise<void> {
    if (least.xmin === 0n && least.catalogXmin === 0n) {
      this.#disconnect();
      return;
    }
    this.#stream ??= await this.#connect(target);
    this.#stream.sendHotStandbyFeedback(least);
  }

  async #connect({ host, port, user }: FeedbackTarget): Promise<ReplicationStream> {
    const connection = await connectWire({
      host,
      port,
      parameters: { user, replication: "true", application_name: APPLICATION_NAME },
    });
    this.#connection = connection;
    const { rows } = await connection.query("IDENTIFY_SYSTEM");
    const [, timeline, position] = rows[0] ?? [];
    const start = parseLsn(position ?? "");
    if (start === undefined) {
      throw new StorageError("internal", "bad-answer", "Postgres does not tell its position");
    }
    const command = `START_REPLICATION PHYSICAL ${position} TIMELINE ${timeline}`;
    const channel = await connection.copyBoth(command);
    this.#stop.signal.throwIfAborted();
    let received: Lsn = start;
    const stream = new ReplicationStream(channel, start, {
      onWal: (lsn, bytes) => {
        received = (lsn + bytes.length) as Lsn;
      },
      // Postgres asks when it shuts down: it waits until its walsenders' peers have everything.
      onKeepalive: (_walEnd, replyRequested) => {
        if (replyRequested) {
          const position = { writeLsn: received, flushLsn: received, applyLsn: received };
          stream.sendStandbyStatus({ ...position, timeMs: nowMs() });
        }
      },
      onClose: () => {
        this.#stream = undefined;
      },
    });
    return stream;
  }

  #disconnect(): void {
    this.#stream = undefined;
    this.#connection?.close();
    this.#connection = undefined;
  }
}

function leastXid(a: bigint, b: bigint): bigint {
  return a === 0n || (b !== 0n && b < a) ? b : a;
}
