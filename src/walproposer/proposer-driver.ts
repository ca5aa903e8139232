// Connections, reads and timers for the proposer: carries out the effects of its steps.

import { monotonicMs, setRepeatingTimer, sleep, type Timer } from "../base/clock.ts";
import { StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, type Lsn, maxLsn } from "../base/lsn.ts";
import { randomInt } from "../base/random.ts";
import {
  allMembers,
  type MembershipConfiguration,
  type SafekeeperId,
} from "../safekeeper-protocol/membership.ts";
import {
  type AcceptorMessage,
  encodeProposerMessage,
  type HotStandbyFeedback,
} from "../safekeeper-protocol/messages.ts";
import { CommitAnnouncer } from "./commit-announcer.ts";
import type { CommitTimes } from "./commit-times.ts";
import { LATE_BYTES, LateMember } from "./late-member.ts";
import {
  Proposer,
  type ProposerEffect,
  type ProposerEvent,
  type ProposerPeerStatus,
  type ResumedTerm,
} from "./proposer.ts";
import {
  endpointAddress,
  type PeerOwner,
  type PeerSession,
  SafekeeperPeer,
  type WalSource,
} from "./safekeeper-peer.ts";

const TICK_MS = 250;
/** After a lost election, so that two candidates do not chase each other's terms for ever. */
const CAMPAIGN_PAUSE_MS = 300;

export interface ProposerDriverOptions {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** PG_VERSION_NUM form, 170010. */
  readonly pgVersion: number;
  readonly walSegSize: number;
  readonly safekeepers: readonly SafekeeperId[];
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

export class ProposerDriver {
  readonly #options: ProposerDriverOptions;
  readonly #peers = new Map<number, SafekeeperPeer>();
  readonly #owner: PeerOwner;
  readonly #late: LateMember;
  readonly #announcer = new CommitAnnouncer(() => [...this.#peers.values()]);
  readonly #stop = new AbortController();
  readonly #elected = Promise.withResolvers<Election>();
  readonly #recovered = Promise.withResolvers<void>();
  #proposer: Proposer;
  /** End of the whole records that the compute has; 0 before the first election. */
  #availableLsn = 0 as Lsn;
  #commitLsn = 0 as Lsn;
  #pageserverLsn = 0 as Lsn;
  #readLocal: (begin: Lsn, end: Lsn) => Uint8Array = noLocalWal;
  #released: ((bytes: Uint8Array) => void) | undefined;
  #timer: Timer | undefined;

  constructor(options: ProposerDriverOptions) {
    this.#options = options;
    this.#owner = this.#newOwner();
    this.#late = new LateMember({
      sentLsn: () => maxLsn(this.#availableLsn, this.#proposer.startLsn),
      commitLsn: () => this.#commitLsn,
      onDue: (safekeeper) => this.#peers.get(safekeeper)?.pump(),
    });
    for (const endpoint of options.safekeepers) {
      this.#peers.set(endpoint.id, new SafekeeperPeer(endpoint, this.#owner));
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
      void peer.keepConnected();
    }
    this.#timer = setRepeatingTimer(() => {
      this.#announcer.announce();
      this.#step({ type: "tick", nowMs: monotonicMs() });
    }, TICK_MS);
    this.#step({ type: "tick", nowMs: monotonicMs() });
  }

  /**
   * From where WAL at and above L is read; returns bytes that do not change before `released` is called with
   * them, once for each read.
   */
  setLocalWal(
    read: (begin: Lsn, end: Lsn) => Uint8Array,
    released?: (bytes: Uint8Array) => void,
  ): void {
    this.#readLocal = read;
    this.#released = released;
  }

  /** The compute has whole records up to `endLsn`. */
  walAvailable(endLsn: Lsn): void {
    this.#availableLsn = endLsn;
    // While it campaigns in a newer membership the WAL waits.
    if (this.#proposer.elected) {
      this.#step({ type: "wal-available", endLsn });
    }
  }

  /** Has the safekeepers tell now how far a pageserver is, which they do with answers only. */
  askPositions(): void {
    this.#step({ type: "ask-positions" });
    this.announceCommit();
  }

  /** Has the safekeepers know now what is committed, and so pageservers and standbys. */
  announceCommit(): void {
    this.#announcer.announce();
  }

  /** No safekeeper is heard any more. */
  get closed(): boolean {
    return this.#stop.signal.aborted;
  }

  close(): void {
    if (this.closed) {
      return;
    }
    this.#stop.abort();
    this.#late.end();
    this.#timer?.cancel();
    // Nobody else will: without it the last commit is known here alone.
    this.#announcer.end();
    const closed = new StorageError("unavailable", "closed", "the proposer was stopped");
    this.#elected.reject(closed);
    this.#recovered.reject(closed);
    for (const peer of this.#peers.values()) {
      peer.close();
    }
  }

  #newOwner(): PeerOwner {
    const { tenantId, timelineId, logger, times } = this.#options;
    return {
      tenantId,
      timelineId,
      logger,
      times,
      connected: (peer) => this.#connected(peer),
      failed: () => this.#giveUpWithoutMajority(),
      header: (begin, end) => this.#proposer.appendHeader(begin, end),
      readOwn: (begin, end) => this.#readLocal(begin, end),
      released: (bytes) => this.#released?.(bytes),
      recoverySource: (peer) => {
        const source = this.#proposer.recoverySource(peer.id);
        const { term } = this.#proposer;
        return source === undefined ? undefined : { endpoint: this.#peer(source).endpoint, term };
      },
      fatal: (error) => this.#fatal(error),
    };
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
      this.#fatal(withContext(error, "lead the safekeepers"));
    }
  }

  #fatal(error: StorageError): void {
    this.close();
    this.#options.onFatal(error);
  }

  #carryOut(effect: ProposerEffect): void {
    switch (effect.type) {
      case "send":
        this.#peer(effect.safekeeper).send(encodeProposerMessage(effect.message));
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
      case "disconnect":
        this.#options.logger.warn(
          { safekeeper: effect.safekeeper, reason: effect.reason },
          "giving up a safekeeper connection",
        );
        this.#peer(effect.safekeeper).disconnect();
        break;
      case "fenced":
        this.#fenced(effect);
        break;
    }
  }

  #wonElection(election: Election): void {
    const { term, startLsn } = election;
    this.#late.end();
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
      peer.disconnect();
    }
  }

  /** Lets go of safekeepers that are no members, connects to those that are new. */
  #setMembers(mconf: MembershipConfiguration): void {
    const members = new Map(allMembers(mconf).map((member) => [member.id, member]));
    for (const [id, peer] of this.#peers) {
      const member = members.get(id);
      if (member === undefined || endpointAddress(member) !== peer.address) {
        this.#peers.delete(id);
        peer.destroy();
      }
    }
    for (const [id, member] of members) {
      if (!this.#peers.has(id)) {
        const peer = new SafekeeperPeer(member, this.#owner);
        this.#peers.set(id, peer);
        void peer.keepConnected();
      }
    }
  }

  #peer(id: number): SafekeeperPeer {
    return this.#peers.get(id)!;
  }

  /** Before the election only: one that was won may outlive the repair of a safekeeper. */
  #giveUpWithoutMajority(): void {
    const peers = [...this.#peers.values()];
    const refusals = peers.flatMap((peer) => peer.refusal ?? []);
    if ((peers.length - refusals.length) * 2 <= peers.length) {
      this.#elected.reject(refusals[0]);
    }
  }

  #connected(peer: SafekeeperPeer): PeerSession {
    const proposer = this.#proposer;
    this.#step({ type: "connected", safekeeper: peer.id });
    return {
      receive: (message) => {
        if (this.#proposer === proposer) {
          this.#receive(peer, message);
        }
      },
      disconnected: () => {
        if (this.#proposer === proposer && this.#peers.get(peer.id) === peer) {
          this.#late.end();
          this.#step({ type: "disconnected", safekeeper: peer.id });
        }
      },
    };
  }

  #receive(peer: SafekeeperPeer, message: AcceptorMessage): void {
    this.#step({ type: "message", safekeeper: peer.id, message });
    if (message.type !== "append-response") {
      return;
    }
    this.#options.onStandbyFeedback?.(peer.id, message.hotStandbyFeedback);
    if (message.pageserverFeedback !== undefined) {
      this.#late.feedsPageserver(peer.id);
    }
    if (this.#late.id === undefined && this.#shareOneHost()) {
      this.#late.choose(peer.id, this.#proposer.peers);
    }
    const { lastReceivedLsn } = this.#proposer.pageserverFeedback;
    if (lastReceivedLsn > this.#pageserverLsn) {
      this.#pageserverLsn = lastReceivedLsn;
      this.#options.onIngested?.(lastReceivedLsn);
    }
  }

  /** Whether the members, of which one is not needed for a majority, share a machine. */
  #shareOneHost(): boolean {
    const hosts = new Set([...this.#peers.values()].map(({ endpoint }) => endpoint.host));
    return this.#peers.size > 2 && hosts.size === 1 && this.membership.newMembers === undefined;
  }

  #enqueue(peer: SafekeeperPeer, source: WalSource, begin: Lsn, end: Lsn): void {
    if (begin === end) {
      const { commitLsn, startLsn } = this.#proposer;
      // What is queued already will carry the newest commit LSN.
      if (!peer.announceLater(end)) {
        return;
      }
      if (commitLsn < startLsn) {
        // The answer is what the start waits for.
        peer.announce();
      } else {
        this.#announcer.news(commitLsn);
      }
      return;
    }
    const isLate = peer.id === this.#late.id;
    peer.enqueue(source, begin, end, !isLate);
    if (isLate && peer.queuedBytes < LATE_BYTES) {
      this.#late.hold();
    } else {
      peer.pump();
    }
  }
}

function noLocalWal(): never {
  throw new StorageError("not-found", "no-local-wal", "this compute has written no WAL yet");
}
