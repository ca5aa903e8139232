// What a replica's walreceiver connects to: hands on the timeline's WAL from whichever safekeeper has it.
//
// Stock standbys ask for WAL from the beginning of a segment on, and of the segment that a timeline begins in no safekeeper has
// the beginning. Here it starts at R, wherever that is: what is before is in the data directory already, made up, and is not
// read again. Also, Postgres needs to know neither tokens nor certificates nor where safekeepers are, and one that is away
// or behind costs no new connection of the walreceiver.

import { monotonicMs, nowMs, sleep } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { addLsn, formatLsn, INVALID_LSN, type Lsn, maxLsn, parseLsn } from "../../base/lsn.ts";
import type { CopyChannel } from "../../postgres/wire/copy-channel.ts";
import { WireServer, type WireSession } from "../../postgres/wire/wire-server.ts";
import { openReplication, type ReplicationStream, walStatus } from "../../safekeeper/client.ts";
import type { HotStandbyFeedback } from "../../safekeeper-protocol/messages.ts";
import {
  decodeStandbyMessage,
  encodeKeepalive,
  encodeWalHeader,
} from "../../safekeeper-protocol/replication-messages.ts";

/** How often the walreceiver is asked how far it is. */
const ASK_MS = 1000;
const CONNECT_TIMEOUT_MS = 2000;
/** No WAL came for so long: another safekeeper is asked whether it has some. */
const SILENCE_MS = 3000;
const RETRY_MS = 200;
/** Bytes that the walreceiver has not taken, from which on no more is asked for. */
const MAX_QUEUED_BYTES = 4 * 1024 * 1024;

export interface WalRelayOptions {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly applicationName: string;
  /** `HOST:PORT` of each, when one of them is to be asked. */
  readonly safekeepers: () => readonly string[];
  readonly systemId: bigint;
  /** R: nothing before it is sent. */
  readonly startLsn: Lsn;
  readonly logger: Logger;
  /** Called with the first WAL behind R. */
  readonly onWal?: (() => void) | undefined;
}

export class WalRelay {
  readonly #options: WalRelayOptions;
  readonly #server: WireServer;
  #stream: RelayStream | undefined;
  #appliedLsn: Lsn = INVALID_LSN;
  #headLsn: Lsn = INVALID_LSN;

  constructor(options: WalRelayOptions) {
    this.#options = options;
    this.#server = new WireServer({
      logger: options.logger,
      onQuery: (session, sql) => this.#query(session, sql),
    });
  }

  /** On a unix socket that has no file yet. */
  listen(path: string): Promise<void> {
    return this.#server.listenAt(path);
  }

  /** End of the last record that the replica has replayed, as it told last; 0 before. */
  get appliedLsn(): Lsn {
    return this.#appliedLsn;
  }

  /** End of WAL that a safekeeper told of; 0 before. */
  get headLsn(): Lsn {
    return this.#headLsn;
  }

  /** Where the walreceiver has been sent everything; 0 while there is none. */
  get sentLsn(): Lsn {
    return this.#stream?.next ?? INVALID_LSN;
  }

  /** Asks the walreceiver how far it is. */
  ask(): void {
    this.#stream?.ask();
  }

  async close(): Promise<void> {
    this.#stream?.close();
    await this.#server.close();
  }

  async #query(session: WireSession, sql: string): Promise<void> {
    if (/^IDENTIFY_SYSTEM$/i.test(sql.trim())) {
      const position = formatLsn(maxLsn(this.#headLsn, this.#options.startLsn));
      const columns = ["systemid", "timeline", "xlogpos", "dbname"];
      const row = [`${this.#options.systemId}`, "1", position, null];
      session.sendRows(columns, [row], "IDENTIFY_SYSTEM");
      return;
    }
    const asked = /^START_REPLICATION (?:PHYSICAL )?([0-9A-F]+\/[0-9A-F]+) TIMELINE 1$/i.exec(sql);
    const lsn = asked === null ? undefined : parseLsn(asked[1]!);
    if (lsn === undefined) {
      throw new StorageError("unsupported", "bad-command", `not a replica's command: ${sql}`);
    }
    // A new walreceiver, while the connection of one that was killed may not be closed yet.
    this.#stream?.close();
    this.#stream = new RelayStream(
      session.copyBoth(),
      maxLsn(lsn, this.#options.startLsn),
      this.#options,
      {
        applied: (applied) => {
          this.#appliedLsn = maxLsn(this.#appliedLsn, applied);
        },
        head: (head) => {
          this.#headLsn = maxLsn(this.#headLsn, head);
        },
      },
    );
  }
}

interface Positions {
  readonly applied: (lsn: Lsn) => void;
  readonly head: (lsn: Lsn) => void;
}

/** One connection of the walreceiver, over any number of connections to safekeepers. */
class RelayStream {
  readonly #channel: CopyChannel;
  readonly #options: WalRelayOptions;
  readonly #positions: Positions;
  readonly #closing = new AbortController();
  #source: ReplicationStream | undefined;
  #feedback: HotStandbyFeedback | undefined;
  #next: Lsn;
  #head: Lsn = INVALID_LSN;
  #walAtMs = monotonicMs();

  constructor(channel: CopyChannel, next: Lsn, options: WalRelayOptions, positions: Positions) {
    this.#channel = channel;
    this.#next = next;
    this.#options = options;
    this.#positions = positions;
    channel.onClose(() => this.#end());
    channel.onData((payload) => this.#receive(payload));
    void this.#follow();
    void this.#askAgainAndAgain();
  }

  get next(): Lsn {
    return this.#next;
  }

  ask(): void {
    if (!this.#channel.closed) {
      this.#channel.send(encodeKeepalive(maxLsn(this.#head, this.#next), nowMs(), true));
    }
  }

  close(): void {
    this.#end();
    this.#channel.destroy();
  }

  #end(): void {
    this.#closing.abort();
    this.#source?.close();
  }

  async #askAgainAndAgain(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await sleep(ASK_MS, signal).catch(() => undefined);
      this.ask();
    }
  }

  /** From one safekeeper after the other, until the walreceiver is gone. */
  async #follow(): Promise<void> {
    const { signal } = this.#closing;
    const { logger } = this.#options;
    let failures = 0;
    let pgAddr = this.#after(undefined);
    while (!signal.aborted) {
      const safekeepers = this.#options.safekeepers();
      const before = this.#next;
      let further: string | undefined;
      try {
        further = await this.#followOne(pgAddr);
        failures = 0;
      } catch (error) {
        failures = this.#next > before ? 1 : failures + 1;
        if (failures === safekeepers.length && !signal.aborted) {
          logger.warn(
            { error, lsn: formatLsn(this.#next) },
            "no safekeeper sends WAL, trying again",
          );
        }
        if (failures >= safekeepers.length) {
          await sleep(RETRY_MS, signal).catch(() => undefined);
        }
      }
      pgAddr = further ?? this.#after(pgAddr);
    }
  }

  /** The one that has its turn after `pgAddr`; they may be others by now. */
  #after(pgAddr: string | undefined): string {
    const safekeepers = this.#options.safekeepers();
    const at = pgAddr === undefined ? -1 : safekeepers.indexOf(pgAddr);
    return safekeepers[(at + 1) % safekeepers.length]!;
  }

  /** Resolves with one that has WAL that this one does not send; rejects where this one ends. */
  async #followOne(pgAddr: string): Promise<string | undefined> {
    const { tenantId, timelineId, applicationName } = this.#options;
    const ended = Promise.withResolvers<never>();
    ended.promise.catch(() => undefined);
    const over = new AbortController();
    const source = await openReplication(
      {
        ...{ pgAddr, tenantId, timelineId, startLsn: this.#next },
        ...{ applicationName, timeoutMs: CONNECT_TIMEOUT_MS },
      },
      {
        onWal: (lsn, bytes, walEnd) => this.#pass(lsn, bytes, walEnd),
        onKeepalive: (walEnd) => this.#noteHead(walEnd),
        onClose: (error) => {
          const why = error === undefined ? "" : `: ${errorMessage(error)}`;
          const message = `safekeeper ${pgAddr} stopped sending WAL${why}`;
          ended.reject(new StorageError("unavailable", "wal-ended", message));
        },
      },
    );
    try {
      if (this.#closing.signal.aborted) {
        return undefined;
      }
      this.#source = source;
      if (this.#feedback !== undefined) {
        source.sendHotStandbyFeedback(this.#feedback);
      }
      const signal = AbortSignal.any([over.signal, this.#closing.signal]);
      return await Promise.race([ended.promise, this.#silence(pgAddr, signal)]);
    } finally {
      over.abort();
      this.#source = undefined;
      source.close();
    }
  }

  /** Resolves once nothing came of `pgAddr` for a while and another one is further, with that one. */
  async #silence(pgAddr: string, signal: AbortSignal): Promise<string | undefined> {
    this.#walAtMs = monotonicMs();
    while (!signal.aborted) {
      await sleep(SILENCE_MS, signal).catch(() => undefined);
      if (!signal.aborted && monotonicMs() - this.#walAtMs >= SILENCE_MS && !this.#isFull) {
        const further = await this.#furtherThan(pgAddr);
        if (further !== undefined) {
          return further;
        }
      }
    }
    return undefined;
  }

  /** All others at once: the one that has its turn may be away, or behind too. The first to answer, undefined where none is further. */
  #furtherThan(pgAddr: string): Promise<string | undefined> {
    const { tenantId, timelineId } = this.#options;
    const others = this.#options.safekeepers().filter((other) => other !== pgAddr);
    const answers = others.map(async (other) => {
      const address = { pgAddr: other, tenantId, timelineId, timeoutMs: CONNECT_TIMEOUT_MS };
      if ((await walStatus(address)).commitLsn <= this.#next) {
        throw new StorageError("unavailable", "no-more-wal", `${other} has no more WAL`);
      }
      return other;
    });
    return Promise.any(answers).catch(() => undefined);
  }

  get #isFull(): boolean {
    return this.#channel.writableLength > MAX_QUEUED_BYTES;
  }

  #pass(lsn: Lsn, bytes: Uint8Array, walEnd: Lsn): void {
    this.#walAtMs = monotonicMs();
    this.#noteHead(walEnd);
    this.#next = addLsn(lsn, bytes.length);
    this.#channel.send(encodeWalHeader(lsn, maxLsn(walEnd, this.#next), nowMs()), bytes.slice());
    this.#options.onWal?.();
    const source = this.#source;
    if (this.#isFull && source !== undefined) {
      source.pause();
      this.#channel.drained().then(
        () => source.resume(),
        () => undefined,
      );
    }
  }

  #noteHead(walEnd: Lsn): void {
    this.#head = maxLsn(this.#head, walEnd);
    this.#positions.head(walEnd);
  }

  #receive(payload: Uint8Array): void {
    const message = decodeStandbyMessage(payload);
    if (message.type === "standby-status") {
      this.#positions.applied(message.applyLsn);
      this.#source?.sendStandbyStatus(message);
    } else if (message.type === "hot-standby-feedback") {
      this.#feedback = message;
      this.#source?.sendHotStandbyFeedback(message);
    }
  }
}
