// One safekeeper as the proposer's driver sees it: a connection that is kept up, and the WAL queued for it.

import { monotonicMs, sleep } from "../base/clock.ts";
import { errorKind, errorMessage, StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { addLsn, formatLsn, type Lsn, minLsn } from "../base/lsn.ts";
import { randomInt } from "../base/random.ts";
import type { CopyChannel } from "../postgres/wire/copy-channel.ts";
import { openReplication, openWalPush, type ReplicationStream } from "../safekeeper/client.ts";
import type { SafekeeperId } from "../safekeeper-protocol/membership.ts";
import {
  type AcceptorMessage,
  type AppendRequestHeader,
  decodeAcceptorMessage,
  encodeAppendHeader,
  MAX_SEND_SIZE,
} from "../safekeeper-protocol/messages.ts";
import type { CommitTimes } from "./commit-times.ts";

/** More than this unsent to one safekeeper, and the rest stays on disk until it has drained. */
const SEND_BUFFER_BYTES = 4 * 1024 * 1024;
/** Own WAL that Postgres has removed is fetched from a safekeeper in such pieces. */
const RECOVERY_STRETCH_BYTES = 64 * 1024 * 1024;
const CONNECT_TIMEOUT_MS = 5000;
const RECONNECT_FIRST_MS = 50;
const RECONNECT_MAX_MS = 2000;
/** A connection that lasted so long has worked. */
const STABLE_CONNECTION_MS = 1000;

/** `compute`: this compute wrote it; `recovery`: it is of before, and some safekeeper has it. */
export type WalSource = "recovery" | "compute";

/** Gets what comes of one connection. */
export interface PeerSession {
  receive(message: AcceptorMessage): void;
  disconnected(): void;
}

/** What a peer asks its driver. */
export interface PeerOwner {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly logger: Logger;
  readonly times?: CommitTimes | undefined;
  /** A connection stands. */
  connected(peer: SafekeeperPeer): PeerSession;
  /** It cannot be reached, or refuses. */
  failed(peer: SafekeeperPeer): void;
  header(begin: Lsn, end: Lsn): AppendRequestHeader;
  /** Bytes that this compute wrote, which do not change before `released`; StorageError `not-found` where they are removed. */
  readOwn(begin: Lsn, end: Lsn): Uint8Array;
  /** These bytes of `readOwn` are not needed here any more. */
  released(bytes: Uint8Array): void;
  /** Another safekeeper that has the WAL, and the term in which to ask it. */
  recoverySource(
    peer: SafekeeperPeer,
  ): { readonly endpoint: SafekeeperId; readonly term: number } | undefined;
  /** Own WAL cannot be read. */
  fatal(error: StorageError): void;
}

interface Range {
  readonly source: WalSource;
  begin: Lsn;
  end: Lsn;
}

interface TimedWal {
  readonly end: Lsn;
  readonly queuedMs: number;
  /** Undefined before the socket has it. */
  sentMs: number | undefined;
}

export class SafekeeperPeer {
  readonly endpoint: SafekeeperId;
  readonly #owner: PeerOwner;
  /** Aborted where it is no member any more, and when all ends. */
  readonly #stop = new AbortController();
  #channel: CopyChannel | undefined;
  /** What is to be sent, in order; contiguous. */
  #queue: Range[] = [];
  /** Someone waits for room or for recovered bytes: they go on with the queue. */
  #waiting = false;
  /** Set where it is to be told a commit LSN by itself: the end of what it was sent. */
  #announceAt: Lsn | undefined;
  #reader: "standby" | "pageserver" | undefined;
  /** A piece of WAL whose way there is timed; one at a time. */
  #timed: TimedWal | undefined;
  #failing = false;
  #refusal: StorageError | undefined;

  constructor(endpoint: SafekeeperId, owner: PeerOwner) {
    this.endpoint = endpoint;
    this.#owner = owner;
  }

  get id(): number {
    return this.endpoint.id;
  }

  get address(): string {
    return endpointAddress(this.endpoint);
  }

  /** It answers, but its copy of the timeline is damaged: only an operator can change that. */
  get refusal(): StorageError | undefined {
    return this.#refusal;
  }

  /** Connects, again and again, until `close`. */
  async keepConnected(): Promise<void> {
    const { signal } = this.#stop;
    let delayMs = RECONNECT_FIRST_MS;
    while (!signal.aborted) {
      const startedMs = monotonicMs();
      try {
        await this.#connectOnce();
        if (monotonicMs() - startedMs > STABLE_CONNECTION_MS) {
          delayMs = RECONNECT_FIRST_MS;
        }
      } catch (error) {
        this.#noteFailure(error);
      }
      try {
        await sleep(delayMs / 2 + randomInt(delayMs), signal);
      } catch {
        return;
      }
      delayMs = Math.min(delayMs * 2, RECONNECT_MAX_MS);
    }
  }

  /** Ends the connection, which is made anew. */
  disconnect(): void {
    this.#channel?.destroy();
  }

  /** For good; what was handed to the connection still leaves. */
  close(): void {
    this.#stop.abort();
    this.#channel?.close();
  }

  /** For good, and at once. */
  destroy(): void {
    this.#stop.abort();
    this.#channel?.destroy();
  }

  send(message: Uint8Array): void {
    this.#channel?.send(message);
  }

  /** Queues WAL [begin, end), not empty; `pump` sends it. `isTimed`: how long that takes is measured. */
  enqueue(source: WalSource, begin: Lsn, end: Lsn, isTimed: boolean): void {
    this.#announceAt = undefined;
    if (isTimed && source === "compute") {
      this.#timed ??= { end, queuedMs: monotonicMs(), sentMs: undefined };
    }
    const last = this.#queue.at(-1);
    if (last !== undefined && last.source === source && last.end === begin) {
      last.end = end;
    } else {
      this.#queue.push({ source, begin, end });
    }
  }

  /** WAL that is queued and not sent. */
  get queuedBytes(): number {
    return this.#queue.reduce((sum, { begin, end }) => sum + end - begin, 0);
  }

  /** The commit LSN is news: unless WAL carries it before, `announce` will tell it. False: WAL is queued. */
  announceLater(sentLsn: Lsn): boolean {
    if (this.#queue.length > 0) {
      return false;
    }
    this.#announceAt = sentLsn;
    return true;
  }

  /** Who reads from it, as far as this connection has told: where it is both, the standby. */
  get reader(): "standby" | "pageserver" | undefined {
    return this.#reader;
  }

  announce(): void {
    const at = this.#announceAt;
    if (at !== undefined) {
      this.#channel?.send(encodeAppendHeader(this.#owner.header(at, at)));
      this.#announceAt = undefined;
    }
  }

  /** Sends as much as the connection takes; synchronous as long as nothing must be waited for. */
  pump(): void {
    const channel = this.#channel;
    if (channel === undefined) {
      this.#queue = [];
      return;
    }
    if (this.#waiting) {
      return;
    }
    try {
      this.#sendQueued(channel);
    } catch (error) {
      this.#owner.fatal(withContext(error, "read WAL to send"));
    }
  }

  #noteFailure(error: unknown): void {
    if (!this.#failing) {
      this.#failing = true;
      this.#owner.logger.warn({ safekeeper: this.id, error }, "safekeeper cannot be reached");
    }
    this.#refusal =
      errorKind(error) === "corrupt" ? withContext(error, `safekeeper ${this.id}`) : undefined;
    this.#owner.failed(this);
  }

  /** Resolves when a connection that worked has ended. */
  async #connectOnce(): Promise<void> {
    const { tenantId, timelineId, logger } = this.#owner;
    const channel = await openWalPush({
      pgAddr: this.address,
      tenantId,
      timelineId,
      applicationName: "compute",
      timeoutMs: CONNECT_TIMEOUT_MS,
    });
    if (this.#stop.signal.aborted) {
      channel.destroy();
      return;
    }
    this.#refusal = undefined;
    if (this.#failing) {
      this.#failing = false;
      logger.info({ safekeeper: this.id }, "safekeeper reached again");
    }
    this.#channel = channel;
    this.#queue = [];
    this.#announceAt = undefined;
    this.#timed = undefined;
    this.#reader = undefined;
    this.#waiting = false;
    const session = this.#owner.connected(this);
    const ended = new Promise<void>((resolve) => {
      channel.onClose(() => {
        if (this.#channel === channel) {
          this.#channel = undefined;
          this.#queue = [];
        }
        session.disconnected();
        resolve();
      });
    });
    channel.onData((payload) => this.#receive(channel, session, payload));
    await ended;
  }

  #receive(channel: CopyChannel, session: PeerSession, payload: Uint8Array): void {
    let message: AcceptorMessage;
    try {
      message = decodeAcceptorMessage(payload);
    } catch (error) {
      this.#owner.logger.warn({ safekeeper: this.id, error }, "safekeeper talks nonsense");
      channel.destroy();
      return;
    }
    const timed = this.#timed;
    if (
      message.type === "append-response" &&
      timed?.sentMs !== undefined &&
      message.flushLsn >= timed.end
    ) {
      this.#owner.times?.observeSafekeeper(this.id, "answer", monotonicMs() - timed.sentMs);
      this.#timed = undefined;
    }
    if (message.type === "append-response") {
      if (message.hotStandbyFeedback.timestamp > 0) {
        this.#reader = "standby";
      } else if (message.pageserverFeedback !== undefined) {
        this.#reader ??= "pageserver";
      }
    }
    session.receive(message);
  }

  #sendQueued(channel: CopyChannel): void {
    for (let range = this.#queue[0]; range !== undefined; range = this.#queue[0]) {
      if (channel.writableLength > SEND_BUFFER_BYTES) {
        this.#pumpAfter(channel, channel.drained());
        return;
      }
      const end = minLsn(range.end, addLsn(range.begin, MAX_SEND_SIZE));
      const bytes = range.source === "compute" ? this.#readOwn(range.begin, end) : undefined;
      if (bytes === undefined) {
        this.#pumpAfter(channel, this.#recover(channel, range));
        return;
      }
      const header = encodeAppendHeader(this.#owner.header(range.begin, end));
      channel.sendLent(header, bytes, () => this.#owner.released(bytes));
      range.begin = end;
      this.#noteSent(end);
      if (range.begin === range.end) {
        this.#queue.shift();
      }
    }
  }

  #noteSent(end: Lsn): void {
    const timed = this.#timed;
    if (timed !== undefined && timed.sentMs === undefined && end >= timed.end) {
      timed.sentMs = monotonicMs();
      this.#owner.times?.observeSafekeeper(this.id, "queue", timed.sentMs - timed.queuedMs);
    }
  }

  #pumpAfter(channel: CopyChannel, until: Promise<void>): void {
    this.#waiting = true;
    until
      .catch((error: unknown) => {
        this.#owner.logger.warn(
          { safekeeper: this.id, error },
          "a safekeeper that lacks WAL could not be caught up",
        );
        channel.destroy();
      })
      .finally(() => {
        if (this.#channel === channel) {
          this.#waiting = false;
          this.pump();
        }
      });
  }

  /** Bytes that this compute wrote; undefined where Postgres has removed their segment. */
  #readOwn(begin: Lsn, end: Lsn): Uint8Array | undefined {
    try {
      return this.#owner.readOwn(begin, end);
    } catch (error) {
      if (errorKind(error) === "not-found") {
        return undefined;
      }
      throw error;
    }
  }

  /** Fetches a range from a safekeeper that has it, and sends it on as it arrives. */
  async #recover(channel: CopyChannel, range: Range): Promise<void> {
    this.#timed = undefined;
    const source = this.#owner.recoverySource(this);
    if (source === undefined) {
      throw new StorageError("unavailable", "no-recovery-source", "no safekeeper has the WAL");
    }
    const { tenantId, timelineId } = this.#owner;
    // Newer WAL may be here again: look at home before asking for more.
    const limit =
      range.source === "recovery" ? range.end : addLsn(range.begin, RECOVERY_STRETCH_BYTES);
    const target = minLsn(range.end, limit);
    const done = Promise.withResolvers<void>();
    let stream: ReplicationStream | undefined;
    stream = await openReplication(
      {
        pgAddr: endpointAddress(source.endpoint),
        tenantId,
        timelineId,
        applicationName: "compute-recovery",
        timeoutMs: CONNECT_TIMEOUT_MS,
        startLsn: range.begin,
        term: source.term,
      },
      {
        onWal: (lsn, bytes) => {
          this.#forward(channel, range, lsn, bytes.subarray(0, Math.max(0, target - lsn)));
          if (range.begin >= target || channel.closed) {
            done.resolve();
          } else if (channel.writableLength > SEND_BUFFER_BYTES) {
            // Not there yet where WAL comes with the answer itself: then the next piece has to wait.
            stream?.pause();
            void channel.drained().then(() => stream?.resume());
          }
        },
        onClose: (error) => {
          done.reject(
            new StorageError(
              "unavailable",
              "recovery-ended",
              `safekeeper ${source.endpoint.id} stopped sending at ${formatLsn(range.begin)}: ${errorMessage(error)}`,
            ),
          );
        },
      },
    );
    try {
      await done.promise;
    } finally {
      stream.close();
    }
    if (range.begin >= range.end && this.#queue[0] === range) {
      this.#queue.shift();
    }
  }

  #forward(channel: CopyChannel, range: Range, lsn: Lsn, bytes: Uint8Array): void {
    // Lent for the call, but sent later.
    const copy = Buffer.from(bytes);
    for (let at = 0; at < copy.length; at += MAX_SEND_SIZE) {
      const part = copy.subarray(at, at + MAX_SEND_SIZE);
      const begin = addLsn(lsn, at);
      const end = addLsn(begin, part.length);
      channel.send(encodeAppendHeader(this.#owner.header(begin, end)), part);
      range.begin = end;
    }
  }
}

export function endpointAddress({ host, pgPort }: SafekeeperId): string {
  return `${host}:${pgPort}`;
}
