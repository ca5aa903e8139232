// Connections, reads and timers for the proposer: carries out the effects of its steps.

import { monotonicMs, sleep } from "../base/clock.ts";
import { errorKind, errorMessage, StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { addLsn, formatLsn, type Lsn, maxLsn, minLsn } from "../base/lsn.ts";
import { randomInt } from "../base/random.ts";
import type { CopyChannel } from "../postgres/copy-channel.ts";
import { openReplication, openWalPush } from "../safekeeper/client.ts";
import { allMembers, type MembershipConfiguration } from "../safekeeper/membership.ts";
import {
  decodeAcceptorMessage,
  encodeAppendHeader,
  encodeProposerMessage,
  type HotStandbyFeedback,
  MAX_SEND_SIZE,
} from "../safekeeper/messages.ts";
import {
  Proposer,
  type ProposerEffect,
  type ProposerEvent,
  type ProposerPeerStatus,
  type ResumedTerm,
} from "../safekeeper/proposer.ts";
import type { CommitTimes } from "./commit-times.ts";

/** More than this unsent to one safekeeper, and the rest stays on disk until it has drained. */
const SEND_BUFFER_BYTES = 4 * 1024 * 1024;
/** Own WAL that Postgres has removed is fetched from a safekeeper in such pieces. */
const RECOVERY_STRETCH_BYTES = 64 * 1024 * 1024;
const TICK_MS = 250;
/**
 * A new commit LSN travels with the next WAL; only where none follows within this time is it sent by
 * itself. Sent at once it would wake every safekeeper a second time for each commit, so that the
 * pageserver is a moment less behind.
 */
const ANNOUNCE_DELAY_MS = 5;
const CONNECT_TIMEOUT_MS = 5000;
const RECONNECT_FIRST_MS = 50;
const RECONNECT_MAX_MS = 2000;
/** A connection that lasted so long has worked. */
const STABLE_CONNECTION_MS = 1000;
/** After a lost election, so that two candidates do not chase each other's terms for ever. */
const CAMPAIGN_PAUSE_MS = 300;

export interface SafekeeperEndpoint {
  readonly id: number;
  readonly host: string;
  readonly pgPort: number;
}

export interface ProposerDriverOptions {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** PG_VERSION_NUM form, 170010. */
  readonly pgVersion: number;
  readonly walSegSize: number;
  readonly safekeepers: readonly SafekeeperEndpoint[];
  readonly logger: Logger;
  readonly times?: CommitTimes | undefined;
  readonly onCommitted: (lsn: Lsn) => void;
  /** What a safekeeper's standbys still see, with each of its answers. */
  readonly onStandbyFeedback?:
    | ((safekeeperId: number, feedback: HotStandbyFeedback) => void)
    | undefined;
  /** A pageserver tells a newer position. */
  readonly onIngested?: ((lsn: Lsn) => void) | undefined;
  /** After a won election somebody else won a higher one. Nothing more will be committed. */
  readonly onFenced: (term: number) => void;
  /** Safekeepers hold what cannot be: nobody may go on. */
  readonly onFatal: (error: StorageError) => void;
}

export interface Election {
  readonly term: number;
  /** L: the end of the last record anybody may have acknowledged. */
  readonly startLsn: Lsn;
  readonly donor: number;
}

interface Range {
  readonly source: "recovery" | "compute";
  begin: Lsn;
  end: Lsn;
}

interface TimedWal {
  readonly end: Lsn;
  readonly queuedMs: number;
  /** Undefined before the socket has it. */
  sentMs: number | undefined;
}

interface Peer {
  readonly endpoint: SafekeeperEndpoint;
  /** Aborted where it is no member any more, and when all ends. */
  readonly stop: AbortController;
  channel: CopyChannel | undefined;
  /** What is to be sent, in order; contiguous. */
  queue: Range[];
  /** Someone waits for room or for recovered bytes: they go on with the queue. */
  pumping: boolean;
  /** Set where it is to be told a commit LSN by itself: the end of what it was sent. */
  announceAt: Lsn | undefined;
  /** A piece of WAL whose way there is timed; one at a time. */
  timed: TimedWal | undefined;
  failing: boolean;
  /** It answers, but its copy of the timeline is damaged: only an operator can change that. */
  refusal: StorageError | undefined;
}

export class ProposerDriver {
  readonly #options: ProposerDriverOptions;
  readonly #peers = new Map<number, Peer>();
  readonly #stop = new AbortController();
  readonly #elected = Promise.withResolvers<Election>();
  readonly #recovered = Promise.withResolvers<void>();
  #proposer: Proposer;
  /** End of the whole records that the compute has; 0 before the first election. */
  #availableLsn = 0 as Lsn;
  #commitLsn = 0 as Lsn;
  #pageserverLsn = 0 as Lsn;
  #readLocal: ((begin: Lsn, end: Lsn) => Uint8Array) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #announceTimer: NodeJS.Timeout | undefined;

  constructor(options: ProposerDriverOptions) {
    this.#options = options;
    for (const endpoint of options.safekeepers) {
      this.#peers.set(endpoint.id, newPeer(endpoint));
    }
    this.#proposer = this.#newProposer();
    // Whoever closes us before the election need not wait for these.
    this.#elected.promise.catch(() => undefined);
    this.#recovered.promise.catch(() => undefined);
  }

  /**
   * Settles with the first won election; rejects `unavailable` on `close`, `corrupt` where so many
   * safekeepers refuse the timeline as damaged that there is no majority without them.
   */
  get elected(): Promise<Election> {
    return this.#elected.promise;
  }

  /** Resolves when a majority has all WAL up to L, in our term. */
  get recovered(): Promise<void> {
    return this.#recovered.promise;
  }

  get term(): number {
    return this.#proposer.term;
  }

  /** In which it campaigns or was elected; generation 0 while it is not known. */
  get membership(): MembershipConfiguration {
    return this.#proposer.membership;
  }

  get commitLsn(): Lsn {
    return this.#commitLsn;
  }

  get peers(): readonly ProposerPeerStatus[] {
    return this.#proposer.peers;
  }

  /** Newest position that a pageserver told; 0 where none has. */
  get pageserverLsn(): Lsn {
    return this.#pageserverLsn;
  }

  start(): void {
    for (const peer of this.#peers.values()) {
      void this.#keepConnected(peer);
    }
    this.#timer = setInterval(() => {
      this.#step({ type: "tick", nowMs: monotonicMs() });
    }, TICK_MS);
    this.#step({ type: "tick", nowMs: monotonicMs() });
  }

  /** From where WAL at and above L is read; returns bytes that never change again. */
  setLocalWal(read: (begin: Lsn, end: Lsn) => Uint8Array): void {
    this.#readLocal = read;
  }

  /** The compute has whole records up to `endLsn`. */
  walAvailable(endLsn: Lsn): void {
    this.#availableLsn = endLsn;
    // While it campaigns in a newer membership the WAL waits.
    if (this.#proposer.elected) {
      this.#step({ type: "wal-available", endLsn });
    }
  }

  close(): void {
    if (this.#stop.signal.aborted) {
      return;
    }
    this.#stop.abort();
    clearInterval(this.#timer);
    // Nobody else will: without it the last commit is known here alone.
    this.#announce();
    const closed = new StorageError("unavailable", "closed", "the proposer was stopped");
    this.#elected.reject(closed);
    this.#recovered.reject(closed);
    for (const peer of this.#peers.values()) {
      peer.stop.abort();
      peer.channel?.close();
    }
  }

  #newProposer(mconf?: MembershipConfiguration, resumes?: ResumedTerm): Proposer {
    const { tenantId, timelineId, pgVersion, walSegSize } = this.#options;
    return new Proposer({
      tenantId,
      timelineId,
      pgVersion,
      // Storage tells it only when it knows L.
      systemId: 0n,
      walSegSize,
      safekeepers: [...this.#peers.values()].map(({ endpoint }) => endpoint),
      ...(mconf === undefined ? {} : { mconf }),
      resumes,
    });
  }

  #step(event: ProposerEvent): void {
    if (this.#stop.signal.aborted) {
      return;
    }
    try {
      for (const effect of this.#proposer.step(event)) {
        this.#carryOut(effect);
      }
    } catch (error) {
      this.close();
      this.#options.onFatal(withContext(error, "lead the safekeepers"));
    }
  }

  #carryOut(effect: ProposerEffect): void {
    switch (effect.type) {
      case "send":
        this.#peer(effect.safekeeper).channel?.send(encodeProposerMessage(effect.message));
        break;
      case "send-wal":
        this.#enqueue(this.#peer(effect.safekeeper), effect.source, effect.beginLsn, effect.endLsn);
        break;
      case "elected":
        this.#wonElection(effect);
        break;
      case "committed":
        this.#commitLsn = maxLsn(this.#commitLsn, effect.lsn);
        this.#recovered.resolve();
        this.#options.onCommitted(effect.lsn);
        break;
      case "disconnect": {
        const peer = this.#peer(effect.safekeeper);
        this.#options.logger.warn(
          { safekeeper: effect.safekeeper, reason: effect.reason },
          "giving up a safekeeper connection",
        );
        peer.channel?.destroy();
        break;
      }
      case "fenced":
        this.#fenced(effect);
        break;
    }
  }

  #wonElection(election: Election): void {
    const { term, startLsn } = election;
    this.#elected.resolve(election);
    if (this.#availableLsn === 0) {
      return;
    }
    if (startLsn < this.#commitLsn || startLsn > this.#availableLsn) {
      throw new StorageError(
        "corrupt",
        "resumed-elsewhere",
        `term ${term} begins at ${formatLsn(startLsn)}, but this compute has committed ` +
          `${formatLsn(this.#commitLsn)} and written ${formatLsn(this.#availableLsn)}`,
      );
    }
    this.#options.logger.info(
      { term, startLsn: formatLsn(startLsn), generation: this.membership.generation },
      "elected again",
    );
    // After the messages that make it known.
    queueMicrotask(() => this.walAvailable(this.#availableLsn));
  }

  #fenced({ term, elected, newer }: Extract<ProposerEffect, { type: "fenced" }>): void {
    if (newer !== undefined) {
      this.#options.logger.info(
        { generation: newer.generation, term },
        "the safekeepers have a newer membership, campaigning in it",
      );
      void this.#campaignAgain(newer, 0);
    } else if (elected) {
      this.close();
      this.#options.onFenced(term);
    } else {
      this.#options.logger.info({ term }, "lost an election, trying again");
      void this.#campaignAgain(this.#proposer.membership, CAMPAIGN_PAUSE_MS);
    }
  }

  async #campaignAgain(mconf: MembershipConfiguration, maxPauseMs: number): Promise<void> {
    try {
      await sleep(maxPauseMs === 0 ? 0 : randomInt(maxPauseMs), this.#stop.signal);
    } catch {
      return;
    }
    if (mconf.generation > 0) {
      this.#setMembers(mconf);
    }
    this.#proposer = this.#newProposer(mconf, this.#proposer.resumable);
    this.#step({ type: "tick", nowMs: monotonicMs() });
    for (const peer of this.#peers.values()) {
      // Connections belong to one campaign; each is opened again at once.
      peer.channel?.destroy();
    }
  }

  /** Lets go of safekeepers that are no members, connects to those that are new. */
  #setMembers(mconf: MembershipConfiguration): void {
    const members = new Map(allMembers(mconf).map((member) => [member.id, member]));
    for (const [id, peer] of this.#peers) {
      const member = members.get(id);
      if (member === undefined || address(member) !== address(peer.endpoint)) {
        this.#peers.delete(id);
        peer.stop.abort();
        peer.channel?.destroy();
      }
    }
    for (const [id, member] of members) {
      if (!this.#peers.has(id)) {
        const peer = newPeer(member);
        this.#peers.set(id, peer);
        void this.#keepConnected(peer);
      }
    }
  }

  #peer(id: number): Peer {
    return this.#peers.get(id)!;
  }

  async #keepConnected(peer: Peer): Promise<void> {
    const { signal } = peer.stop;
    let delayMs = RECONNECT_FIRST_MS;
    while (!signal.aborted) {
      const startedMs = monotonicMs();
      try {
        await this.#connectOnce(peer);
        if (monotonicMs() - startedMs > STABLE_CONNECTION_MS) {
          delayMs = RECONNECT_FIRST_MS;
        }
      } catch (error) {
        if (!peer.failing) {
          peer.failing = true;
          this.#options.logger.warn(
            { safekeeper: peer.endpoint.id, error },
            "safekeeper cannot be reached",
          );
        }
        peer.refusal =
          errorKind(error) === "corrupt"
            ? withContext(error, `safekeeper ${peer.endpoint.id}`)
            : undefined;
        this.#giveUpWithoutMajority();
      }
      try {
        await sleep(delayMs / 2 + randomInt(delayMs), signal);
      } catch {
        return;
      }
      delayMs = Math.min(delayMs * 2, RECONNECT_MAX_MS);
    }
  }

  /** Before the election only: one that was won may outlive the repair of a safekeeper. */
  #giveUpWithoutMajority(): void {
    const peers = [...this.#peers.values()];
    const refusals = peers.flatMap((peer) => peer.refusal ?? []);
    if ((peers.length - refusals.length) * 2 <= peers.length) {
      this.#elected.reject(refusals[0]);
    }
  }

  /** Resolves when a connection that worked has ended. */
  async #connectOnce(peer: Peer): Promise<void> {
    const { tenantId, timelineId } = this.#options;
    const channel = await openWalPush({
      pgAddr: address(peer.endpoint),
      tenantId,
      timelineId,
      applicationName: "compute",
      timeoutMs: CONNECT_TIMEOUT_MS,
    });
    if (peer.stop.signal.aborted) {
      channel.destroy();
      return;
    }
    const id = peer.endpoint.id;
    peer.refusal = undefined;
    if (peer.failing) {
      peer.failing = false;
      this.#options.logger.info({ safekeeper: id }, "safekeeper reached again");
    }
    peer.channel = channel;
    peer.queue = [];
    peer.announceAt = undefined;
    peer.timed = undefined;
    peer.pumping = false;
    const proposer = this.#proposer;
    const ended = new Promise<void>((resolve) => {
      channel.onClose(() => {
        if (peer.channel === channel) {
          peer.channel = undefined;
          peer.queue = [];
        }
        if (this.#proposer === proposer && this.#peers.get(id) === peer) {
          this.#step({ type: "disconnected", safekeeper: id });
        }
        resolve();
      });
    });
    this.#step({ type: "connected", safekeeper: id });
    channel.onData((payload) => {
      if (this.#proposer === proposer) {
        this.#receive(peer, channel, payload);
      }
    });
    await ended;
  }

  #receive(peer: Peer, channel: CopyChannel, payload: Uint8Array): void {
    let message: ReturnType<typeof decodeAcceptorMessage>;
    try {
      message = decodeAcceptorMessage(payload);
    } catch (error) {
      this.#options.logger.warn(
        { safekeeper: peer.endpoint.id, error },
        "safekeeper talks nonsense",
      );
      channel.destroy();
      return;
    }
    const { timed } = peer;
    if (message.type === "append-response") {
      this.#options.onStandbyFeedback?.(peer.endpoint.id, message.hotStandbyFeedback);
      if (timed?.sentMs !== undefined && message.flushLsn >= timed.end) {
        const answerMs = monotonicMs() - timed.sentMs;
        this.#options.times?.observeSafekeeper(peer.endpoint.id, "answer", answerMs);
        peer.timed = undefined;
      }
    }
    this.#step({ type: "message", safekeeper: peer.endpoint.id, message });
    const { lastReceivedLsn } = this.#proposer.pageserverFeedback;
    if (lastReceivedLsn > this.#pageserverLsn) {
      this.#pageserverLsn = lastReceivedLsn;
      this.#options.onIngested?.(lastReceivedLsn);
    }
  }

  #enqueue(peer: Peer, source: Range["source"], begin: Lsn, end: Lsn): void {
    const last = peer.queue.at(-1);
    if (begin === end) {
      // What is queued already will carry the newest commit LSN.
      if (last === undefined) {
        this.#announceSoon(peer, end);
      }
      return;
    }
    peer.announceAt = undefined;
    if (source === "compute") {
      peer.timed ??= { end, queuedMs: monotonicMs(), sentMs: undefined };
    }
    if (last !== undefined && last.source === source && last.end === begin) {
      last.end = end;
    } else {
      peer.queue.push({ source, begin, end });
    }
    if (!peer.pumping) {
      this.#pump(peer);
    }
  }

  #announceSoon(peer: Peer, sentLsn: Lsn): void {
    peer.announceAt = sentLsn;
    this.#announceTimer ??= setTimeout(() => this.#announce(), ANNOUNCE_DELAY_MS);
  }

  #announce(): void {
    clearTimeout(this.#announceTimer);
    this.#announceTimer = undefined;
    for (const peer of this.#peers.values()) {
      if (peer.announceAt !== undefined) {
        const header = this.#proposer.appendHeader(peer.announceAt, peer.announceAt);
        peer.channel?.send(encodeAppendHeader(header));
        peer.announceAt = undefined;
      }
    }
  }

  /** Sends as much as the connection takes; synchronous as long as nothing must be waited for. */
  #pump(peer: Peer): void {
    const channel = peer.channel;
    if (channel === undefined) {
      peer.queue = [];
      return;
    }
    try {
      this.#sendQueued(peer, channel);
    } catch (error) {
      this.close();
      this.#options.onFatal(withContext(error, "read WAL to send"));
    }
  }

  #sendQueued(peer: Peer, channel: CopyChannel): void {
    for (let range = peer.queue[0]; range !== undefined; range = peer.queue[0]) {
      if (channel.writableLength > SEND_BUFFER_BYTES) {
        this.#pumpLater(peer, channel, channel.drained());
        return;
      }
      const end = minLsn(range.end, addLsn(range.begin, MAX_SEND_SIZE));
      const bytes = range.source === "compute" ? this.#readOwn(range.begin, end) : undefined;
      if (bytes === undefined) {
        this.#pumpLater(peer, channel, this.#recover(peer, channel, range));
        return;
      }
      const header = encodeAppendHeader(this.#proposer.appendHeader(range.begin, end));
      if (bytes.length === 0) {
        channel.send(header);
      } else {
        channel.send(header, bytes);
      }
      range.begin = end;
      const { timed } = peer;
      if (timed !== undefined && timed.sentMs === undefined && end >= timed.end) {
        timed.sentMs = monotonicMs();
        this.#options.times?.observeSafekeeper(
          peer.endpoint.id,
          "queue",
          timed.sentMs - timed.queuedMs,
        );
      }
      if (range.begin === range.end) {
        peer.queue.shift();
      }
    }
  }

  #pumpLater(peer: Peer, channel: CopyChannel, until: Promise<void>): void {
    peer.pumping = true;
    until
      .catch((error: unknown) => {
        this.#options.logger.warn(
          { safekeeper: peer.endpoint.id, error },
          "a safekeeper that lacks WAL could not be caught up",
        );
        channel.destroy();
      })
      .finally(() => {
        if (peer.channel === channel) {
          peer.pumping = false;
          this.#pump(peer);
        }
      });
  }

  /** Bytes that this compute wrote; undefined where Postgres has removed their segment. */
  #readOwn(begin: Lsn, end: Lsn): Uint8Array | undefined {
    if (begin === end) {
      return EMPTY;
    }
    try {
      return this.#readLocal?.(begin, end);
    } catch (error) {
      if (errorKind(error) === "not-found") {
        return undefined;
      }
      throw error;
    }
  }

  /** Fetches a range from a safekeeper that has it, and sends it on as it arrives. */
  async #recover(peer: Peer, channel: CopyChannel, range: Range): Promise<void> {
    peer.timed = undefined;
    const sourceId = this.#proposer.recoverySource(peer.endpoint.id);
    if (sourceId === undefined) {
      throw new StorageError("unavailable", "no-recovery-source", "no safekeeper has the WAL");
    }
    const source = this.#peer(sourceId);
    // Newer WAL may be here again: look at home before asking for more.
    const limit =
      range.source === "recovery" ? range.end : addLsn(range.begin, RECOVERY_STRETCH_BYTES);
    const target = minLsn(range.end, limit);
    const done = Promise.withResolvers<void>();
    const stream = await openReplication(
      {
        pgAddr: address(source.endpoint),
        tenantId: this.#options.tenantId,
        timelineId: this.#options.timelineId,
        applicationName: "compute-recovery",
        timeoutMs: CONNECT_TIMEOUT_MS,
        startLsn: range.begin,
        term: this.#proposer.term,
      },
      {
        onWal: (lsn, bytes) => {
          this.#forward(channel, range, lsn, bytes.subarray(0, Math.max(0, target - lsn)));
          if (range.begin >= target || channel.closed) {
            done.resolve();
          } else if (channel.writableLength > SEND_BUFFER_BYTES) {
            stream.pause();
            void channel.drained().then(() => stream.resume());
          }
        },
        onClose: (error) => {
          done.reject(
            new StorageError(
              "unavailable",
              "recovery-ended",
              `safekeeper ${sourceId} stopped sending at ${formatLsn(range.begin)}: ${errorMessage(error)}`,
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
    if (range.begin >= range.end && peer.queue[0] === range) {
      peer.queue.shift();
    }
  }

  #forward(channel: CopyChannel, range: Range, lsn: Lsn, bytes: Uint8Array): void {
    // Lent for the call, but sent later.
    const copy = Buffer.from(bytes);
    for (let at = 0; at < copy.length; at += MAX_SEND_SIZE) {
      const part = copy.subarray(at, at + MAX_SEND_SIZE);
      const begin = addLsn(lsn, at);
      const end = addLsn(begin, part.length);
      channel.send(encodeAppendHeader(this.#proposer.appendHeader(begin, end)), part);
      range.begin = end;
    }
  }
}

const EMPTY = new Uint8Array(0);

function newPeer(endpoint: SafekeeperEndpoint): Peer {
  return {
    endpoint,
    stop: new AbortController(),
    channel: undefined,
    queue: [],
    pumping: false,
    announceAt: undefined,
    timed: undefined,
    failing: false,
    refusal: undefined,
  };
}

function address(endpoint: SafekeeperEndpoint): string {
  return `${endpoint.host}:${endpoint.pgPort}`;
}
