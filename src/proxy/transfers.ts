// How many bytes clients of each endpoint were sent, and the reports of it to the control plane.
//
// What sockets have written is looked at, now and then and when they close: nothing is done for a message. A report that
// did not get through is sent again as it was, under its number, so that the control plane counts it once.

import { setIdleRepeatingTimer, type Timer } from "../base/clock.ts";
import { errorMessage } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { randomBytes } from "../base/random.ts";
import type { TransferReport } from "./api.ts";

const REPORT_INTERVAL_MS = 15_000;
/** Endpoints in one report; the others come with the next. */
const MAX_REPORTED = 5000;

/** Of a connection to a client, with what TLS adds. */
export interface CountedSocket {
  readonly bytesWritten: number;
}

interface Watched {
  readonly endpoint: string;
  readonly socket: CountedSocket;
  countedBytes: number;
}

export class TransferCounts {
  /** By endpoint: since they were last taken. */
  readonly #bytes = new Map<string, number>();
  readonly #watched = new Set<Watched>();

  add(endpoint: string, bytes: number): void {
    this.#bytes.set(endpoint, (this.#bytes.get(endpoint) ?? 0) + bytes);
  }

  /** All that the socket writes counts from here on, until what is returned is called. */
  watch(endpoint: string, socket: CountedSocket): () => void {
    const watched = { endpoint, socket, countedBytes: socket.bytesWritten };
    this.#watched.add(watched);
    return () => {
      this.#look(watched);
      this.#watched.delete(watched);
    };
  }

  /** By endpoint, since they were last taken; not of more than `most`. */
  take(most: number): Record<string, number> {
    for (const watched of this.#watched) {
      this.#look(watched);
    }
    const taken: Record<string, number> = {};
    let count = 0;
    for (const [endpoint, bytes] of this.#bytes) {
      if (count++ === most) {
        break;
      }
      taken[endpoint] = bytes;
      this.#bytes.delete(endpoint);
    }
    return taken;
  }

  #look(watched: Watched): void {
    const bytes = watched.socket.bytesWritten;
    if (bytes > watched.countedBytes) {
      this.add(watched.endpoint, bytes - watched.countedBytes);
      watched.countedBytes = bytes;
    }
  }
}

export class TransferReports {
  readonly #counts: TransferCounts;
  readonly #send: (report: TransferReport) => Promise<void>;
  readonly #logger: Logger;
  /** Of this process. */
  readonly #proxy = randomBytes(16).toString("hex");
  #timer: Timer | undefined;
  #sequence = 0;
  /** Of which it is not known whether it has arrived. */
  #unanswered: TransferReport | undefined;
  #isAway = false;
  #last: Promise<void> = Promise.resolve();

  /** `send`: rejects where it may not have arrived. */
  constructor(
    counts: TransferCounts,
    send: (report: TransferReport) => Promise<void>,
    logger: Logger,
  ) {
    this.#counts = counts;
    this.#send = send;
    this.#logger = logger;
  }

  start(): void {
    this.#timer = setIdleRepeatingTimer(() => void this.report(), REPORT_INTERVAL_MS);
  }

  /** With a last report. */
  async stop(): Promise<void> {
    this.#timer?.cancel();
    await this.report();
  }

  /** All that there is to tell, as far as it gets through. Never rejects. */
  report(): Promise<void> {
    this.#last = this.#last.then(async () => {
      while (await this.#reportOnce()) {
        // There may be more than is in one.
      }
    });
    return this.#last;
  }

  /** Whether there was something, and it has arrived. */
  async #reportOnce(): Promise<boolean> {
    const report = this.#unanswered ?? this.#next();
    if (report === undefined) {
      return false;
    }
    this.#unanswered = report;
    try {
      await this.#send(report);
      this.#unanswered = undefined;
      this.#isAway = false;
      return true;
    } catch (error) {
      if (!this.#isAway) {
        const reason = errorMessage(error);
        this.#logger.info({ reason }, "bytes sent to clients are reported later");
      }
      this.#isAway = true;
      return false;
    }
  }

  #next(): TransferReport | undefined {
    const bytes = this.#counts.take(MAX_REPORTED);
    return Object.keys(bytes).length === 0
      ? undefined
      : { proxy: this.#proxy, sequence: ++this.#sequence, bytes };
  }
}
