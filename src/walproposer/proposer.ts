// The proposer (walproposer) of the consensus: elects itself, then says what to send and what is committed.

import { StorageError } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { formatLsn, INVALID_LSN, type Lsn, maxLsn, minLsn } from "../base/lsn.ts";
import {
  allMembers,
  INVALID_GENERATION,
  type MembershipConfiguration,
  majority,
  NO_MEMBERSHIP,
  type SafekeeperId,
} from "../safekeeper-protocol/membership.ts";
import type {
  AcceptorGreeting,
  AcceptorMessage,
  AppendRequestHeader,
  AppendResponse,
  ProposerElected,
  ProposerGreeting,
  VoteRequest,
  VoteResponse,
} from "../safekeeper-protocol/messages.ts";
import {
  NO_PAGESERVER_FEEDBACK,
  type PageserverFeedback,
} from "../safekeeper-protocol/pageserver-feedback.ts";
import {
  highestCommonPoint,
  MAX_TERM,
  type Term,
  type TermHistory,
} from "../safekeeper-protocol/term-history.ts";

/*
 * A pure state machine: no I/O, no clock. The driver feeds events to `step` and carries out the
 * effects it returns, per safekeeper in order. The rules are Raft's as Neon's walproposer has them:
 *
 * - It asks for votes in a term above every term that a majority of safekeepers told.
 * - Of a majority of voters the donor is the one with the highest (last log term, flush LSN). The
 *   donor's flush LSN is L, where this term's WAL begins; its history plus (term, L) is ours.
 * - Every safekeeper is told to cut its WAL at the highest common point with our history, and gets
 *   our WAL from there on.
 * - The commit LSN is what a majority has flushed, but a safekeeper counts only once it has flushed
 *   up to L in this term: WAL of older terms is never committed by counting alone.
 * - Whoever shows a higher term fences us: after a `fenced` effect this object does nothing more.
 * - A newer membership than the one it was elected in ends it too. The next Proposer of the same
 *   compute `resumes`: it may win only where nobody else has campaigned meanwhile, by a donor whose
 *   WAL is a prefix of what this compute wrote.
 */

/** Silence after which an empty AppendRequest is sent, and a safekeeper is given up. */
const HEARTBEAT_MS = 1000;
export const RESPONSE_TIMEOUT_MS = 10_000;

export interface ProposerConfig {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** PG_VERSION_NUM form, 170010. */
  readonly pgVersion: number;
  /** 0n where not known yet. */
  readonly systemId: bigint;
  readonly walSegSize: number;
  /** All safekeepers of the timeline; the majority is counted over them while generation is 0. */
  readonly safekeepers: readonly SafekeeperId[];
  /** Absent: taken over from the safekeepers, if they have one. */
  readonly mconf?: MembershipConfiguration;
  /** Set: the compute runs already, elected by an older membership. */
  readonly resumes?: ResumedTerm | undefined;
}

/** The elections of a compute that runs. */
export interface ResumedTerm {
  /** Highest in which it has asked for votes. */
  readonly term: Term;
  /** Those that it won. Its WAL is one stream through all of them, from the first one's L on. */
  readonly wonTerms: readonly Term[];
  readonly startLsn: Lsn;
  /** Of the WAL that ends at `startLsn`. */
  readonly termBefore: Term;
}

/** `safekeeper` is always a node id of the configuration. */
export type ProposerEvent =
  /** START_WAL_PUSH was answered with CopyBoth. */
  | { readonly type: "connected"; readonly safekeeper: number }
  | { readonly type: "disconnected"; readonly safekeeper: number }
  | { readonly type: "message"; readonly safekeeper: number; readonly message: AcceptorMessage }
  /** The compute has whole records up to `endLsn` (above L). Only after `elected`. */
  | { readonly type: "wal-available"; readonly endLsn: Lsn }
  /** Everybody is to answer now, as to a heartbeat: what they know of a pageserver is wanted. */
  | { readonly type: "ask-positions" }
  /** Any monotonic clock; a few times a second. */
  | { readonly type: "tick"; readonly nowMs: number };

export type ProposerEffect =
  | {
      readonly type: "send";
      readonly safekeeper: number;
      readonly message: ProposerGreeting | VoteRequest | ProposerElected;
    }
  /**
   * Send WAL [beginLsn, endLsn) in AppendRequests of at most MAX_SEND_SIZE, after everything sent
   * or queued for this safekeeper before. Ranges for one safekeeper are contiguous. `source`
   * "recovery": the range is below L, read it from `recoverySource` by START_REPLICATION with our
   * term; "compute": it is at or above L. Where beginLsn = endLsn one empty AppendRequest is meant:
   * it may be left out where other requests are still queued, since `appendHeader` puts the newest
   * commit LSN into those.
   */
  | {
      readonly type: "send-wal";
      readonly safekeeper: number;
      readonly source: "recovery" | "compute";
      readonly beginLsn: Lsn;
      readonly endLsn: Lsn;
    }
  | {
      readonly type: "elected";
      readonly term: Term;
      /**
       * L: where this term's WAL begins. Not durable on a majority before `committed` reaches it.
       */
      readonly startLsn: Lsn;
      /** Node id of the safekeeper that has all WAL up to L. */
      readonly donor: number;
      readonly termHistory: TermHistory;
    }
  /** WAL up to `lsn` is durable on a majority. Grows; the first one is at least L. */
  | { readonly type: "committed"; readonly lsn: Lsn }
  /** Close this connection and reconnect with back-off. */
  | { readonly type: "disconnect"; readonly safekeeper: number; readonly reason: string }
  /**
   * Someone has a higher term. Where `elected` is true this compute must stop at once; where false
   * nothing was written: a new Proposer may try again after a random pause. Where `newer` is set it
   * is no other proposer but a newer membership: a new Proposer may campaign in it, and must resume
   * where `elected` is true.
   */
  | {
      readonly type: "fenced";
      readonly term: Term;
      readonly safekeeper: number;
      readonly elected: boolean;
      readonly newer?: MembershipConfiguration;
    };

type Phase = "offline" | "wait-greeting" | "wait-campaign" | "wait-verdict" | "voted" | "active";

interface Peer {
  readonly id: SafekeeperId;
  phase: Phase;
  /** Told us its vote for our term at some time, also on an earlier connection. */
  gaveVote: boolean;
  vote: VoteResponse | undefined;
  /** Highest flush LSN acknowledged in our term; 0 before. Kept over reconnects: it is durable. */
  flushLsn: Lsn;
  /** End of what was handed to the driver for this connection. */
  sentLsn: Lsn;
  lastSentMs: number;
  lastReceivedMs: number;
}

export interface ProposerPeerStatus {
  readonly id: number;
  readonly phase: Phase;
  readonly flushLsn: Lsn;
}

export class Proposer {
  readonly #config: ProposerConfig;
  readonly #peers = new Map<number, Peer>();
  #mconf: MembershipConfiguration;
  #state: "collecting-terms" | "campaign" | "elected" | "fenced" = "collecting-terms";
  #term: Term = 0;
  #history: TermHistory = [];
  #startLsn: Lsn = INVALID_LSN;
  #donor = 0;
  #availableLsn: Lsn = INVALID_LSN;
  #commitLsn: Lsn = INVALID_LSN;
  #truncateLsn: Lsn = INVALID_LSN;
  #nowMs = 0;
  #feedback: PageserverFeedback = NO_PAGESERVER_FEEDBACK;
  #effects: ProposerEffect[] = [];

  constructor(config: ProposerConfig) {
    if (config.safekeepers.length === 0) {
      throw new StorageError("invalid", "no-safekeepers", "a proposer needs safekeepers");
    }
    this.#config = config;
    this.#mconf = config.mconf ?? NO_MEMBERSHIP;
    for (const id of config.safekeepers) {
      this.#peers.set(id.id, {
        id,
        phase: "offline",
        gaveVote: false,
        vote: undefined,
        flushLsn: INVALID_LSN,
        sentLsn: INVALID_LSN,
        lastSentMs: 0,
        lastReceivedMs: 0,
      });
    }
  }

  get term(): Term {
    return this.#term;
  }

  get elected(): boolean {
    return this.#state === "elected";
  }

  /** What the next Proposer of this compute has to know; undefined where nothing was written. */
  get resumable(): ResumedTerm | undefined {
    const { resumes } = this.#config;
    const term = Math.max(resumes?.term ?? 0, this.#term);
    if (this.#history.length === 0) {
      return resumes && { ...resumes, term };
    }
    return resumes === undefined
      ? {
          term,
          wonTerms: [term],
          startLsn: this.#startLsn,
          termBefore: this.#history.at(-2)?.term ?? 0,
        }
      : { ...resumes, term, wonTerms: [...resumes.wonTerms, term] };
  }

  /** In which it campaigns or was elected. */
  get membership(): MembershipConfiguration {
    return this.#mconf;
  }

  /** L; 0 before the election. */
  get startLsn(): Lsn {
    return this.#startLsn;
  }

  get commitLsn(): Lsn {
    return this.#commitLsn;
  }

  /** Newest pageserver position told by any safekeeper. */
  get pageserverFeedback(): PageserverFeedback {
    return this.#feedback;
  }

  get peers(): ProposerPeerStatus[] {
    return [...this.#peers.values()].map((peer) => ({
      id: peer.id.id,
      phase: peer.phase,
      flushLsn: peer.flushLsn,
    }));
  }

  /** Feeds one event; the effects are to be carried out in order. */
  step(event: ProposerEvent): ProposerEffect[] {
    if (this.#state === "fenced") {
      return [];
    }
    switch (event.type) {
      case "connected":
        this.#connected(this.#peer(event.safekeeper));
        break;
      case "disconnected": {
        const peer = this.#peer(event.safekeeper);
        peer.phase = "offline";
        peer.vote = undefined;
        break;
      }
      case "message":
        this.#receive(this.#peer(event.safekeeper), event.message);
        break;
      case "wal-available":
        this.#walAvailable(event.endLsn);
        break;
      case "ask-positions":
        this.#askPositions();
        break;
      case "tick":
        this.#tick(event.nowMs);
        break;
    }
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }

  /** Header for an AppendRequest, with the newest commit and truncate LSNs. */
  appendHeader(beginLsn: Lsn, endLsn: Lsn): AppendRequestHeader {
    return {
      generation: this.#mconf.generation,
      term: this.#term,
      beginLsn,
      endLsn,
      commitLsn: this.#commitLsn,
      truncateLsn: this.#truncateLsn,
    };
  }

  /**
   * A connected safekeeper that has this proposer's WAL up to L, other than `except`; undefined
   * where none is connected now.
   */
  recoverySource(except: number): number | undefined {
    const donor = this.#peers.get(this.#donor);
    if (donor !== undefined && donor.id.id !== except && donor.phase === "active") {
      return donor.id.id;
    }
    for (const peer of this.#peers.values()) {
      const complete = peer.flushLsn >= this.#startLsn && this.#startLsn > 0;
      if (complete && peer.id.id !== except && peer.phase === "active") {
        return peer.id.id;
      }
    }
    return undefined;
  }

  #peer(id: number): Peer {
    const peer = this.#peers.get(id);
    if (peer === undefined) {
      throw new Error(`safekeeper ${id} is not in the configuration`);
    }
    return peer;
  }

  #disconnect(peer: Peer, reason: string): void {
    peer.phase = "offline";
    peer.vote = undefined;
    this.#effects.push({ type: "disconnect", safekeeper: peer.id.id, reason });
  }

  #fenced(peer: Peer, term: Term, newer?: MembershipConfiguration): void {
    // A vote in our own term may be one that was given and did not arrive: worth another campaign.
    const deposed = this.#config.resumes !== undefined && term > this.#term;
    const elected = this.#state === "elected" || deposed;
    this.#state = "fenced";
    const because = newer === undefined ? {} : { newer };
    this.#effects.push({ type: "fenced", term, safekeeper: peer.id.id, elected, ...because });
  }

  #connected(peer: Peer): void {
    peer.phase = "wait-greeting";
    peer.vote = undefined;
    peer.lastSentMs = this.#nowMs;
    peer.lastReceivedMs = this.#nowMs;
    const { tenantId, timelineId, pgVersion, systemId, walSegSize } = this.#config;
    this.#effects.push({
      type: "send",
      safekeeper: peer.id.id,
      message: {
        type: "greeting",
        tenantId,
        timelineId,
        mconf: this.#mconf,
        pgVersion,
        systemId,
        walSegSize,
      },
    });
  }

  #receive(peer: Peer, message: AcceptorMessage): void {
    peer.lastReceivedMs = this.#nowMs;
    const expected =
      (message.type === "greeting" && peer.phase === "wait-greeting") ||
      (message.type === "vote-response" && peer.phase === "wait-verdict") ||
      (message.type === "append-response" && peer.phase === "active");
    if (!expected) {
      if (peer.phase !== "offline") {
        this.#disconnect(peer, `unexpected ${message.type} in phase ${peer.phase}`);
      }
      return;
    }
    switch (message.type) {
      case "greeting":
        this.#receiveGreeting(peer, message);
        break;
      case "vote-response":
        this.#receiveVote(peer, message);
        break;
      case "append-response":
        this.#receiveAppendResponse(peer, message);
        break;
    }
  }

  #receiveGreeting(peer: Peer, message: AcceptorGreeting): void {
    if (message.nodeId !== peer.id.id) {
      this.#disconnect(peer, `it is node ${message.nodeId}, not ${peer.id.id}`);
      return;
    }
    if (message.term > MAX_TERM) {
      // No safekeeper takes such a term; campaigning above it would go nowhere.
      this.#disconnect(peer, `it tells term ${message.term}, above ${MAX_TERM}`);
      return;
    }
    const { resumes } = this.#config;
    if (resumes !== undefined && message.term > Math.max(resumes.term, this.#term)) {
      this.#fenced(peer, message.term);
      return;
    }
    if (message.mconf.generation > this.#mconf.generation) {
      const isKnown = allMembers(message.mconf).every(({ id }) => this.#peers.has(id));
      if (this.#state !== "collecting-terms" || !isKnown) {
        // Elected by the wrong members, or some are missing: campaign anew in the newer membership.
        this.#fenced(peer, message.term, message.mconf);
        return;
      }
      this.#mconf = message.mconf;
    }
    if (this.#state === "collecting-terms") {
      peer.phase = "wait-campaign";
      this.#term = Math.max(this.#term, message.term, resumes?.term ?? 0);
      if (!this.#hasMajority((other) => other.phase === "wait-campaign")) {
        return;
      }
      this.#term += 1;
      this.#state = "campaign";
    } else if (message.term > this.#term) {
      this.#fenced(peer, message.term);
      return;
    } else {
      peer.phase = "wait-campaign";
    }
    for (const other of this.#peers.values()) {
      if (other.phase === "wait-campaign") {
        other.phase = "wait-verdict";
        const { generation } = this.#mconf;
        this.#effects.push({
          type: "send",
          safekeeper: other.id.id,
          message: { type: "vote-request", generation, term: this.#term },
        });
      }
    }
  }

  #receiveVote(peer: Peer, vote: VoteResponse): void {
    if (vote.generation !== this.#mconf.generation) {
      this.#disconnect(peer, `vote in generation ${vote.generation}`);
      return;
    }
    // A vote that was given on an earlier connection cannot be given again, but it still stands.
    // Once elected no vote is needed: nobody else can win our term.
    const stands = vote.term === this.#term && (peer.gaveVote || this.#state === "elected");
    if (vote.term > this.#term || (!vote.voteGiven && !stands)) {
      this.#fenced(peer, vote.term);
      return;
    }
    if (vote.term !== this.#term) {
      this.#disconnect(peer, `vote for term ${vote.term} instead of ${this.#term}`);
      return;
    }
    peer.gaveVote = true;
    peer.vote = vote;
    peer.phase = "voted";
    if (this.#state === "elected") {
      this.#sendElected(peer);
    } else if (this.#hasMajority((other) => other.phase === "voted")) {
      this.#becomeElected();
    }
  }

  #becomeElected(): void {
    let donor: { peer: Peer; vote: VoteResponse } | undefined;
    for (const peer of this.#peers.values()) {
      const vote = peer.vote;
      if (vote === undefined) {
        continue;
      }
      this.#truncateLsn = maxLsn(this.#truncateLsn, vote.truncateLsn);
      if (donor === undefined || isMoreAdvanced(vote, donor.vote)) {
        donor = { peer, vote };
      }
    }
    if (donor === undefined || donor.vote.flushLsn === INVALID_LSN) {
      throw new StorageError("internal", "no-start-lsn", "no safekeeper knows where WAL begins");
    }
    this.#state = "elected";
    if (!this.#isOwnWal(donor.vote)) {
      this.#fenced(donor.peer, this.#term);
      return;
    }
    this.#donor = donor.peer.id.id;
    this.#startLsn = donor.vote.flushLsn;
    this.#availableLsn = this.#startLsn;
    this.#history = [...donor.vote.termHistory, { term: this.#term, lsn: this.#startLsn }];
    this.#truncateLsn = minLsn(this.#truncateLsn, this.#startLsn);
    this.#effects.push({
      type: "elected",
      term: this.#term,
      startLsn: this.#startLsn,
      donor: this.#donor,
      termHistory: this.#history,
    });
    // The donor first: it must be active when others are to be recovered from it.
    this.#sendElected(donor.peer);
    for (const peer of this.#peers.values()) {
      if (peer.phase === "voted") {
        this.#sendElected(peer);
      }
    }
  }

  /** Whether this compute has written the WAL that it is to continue. */
  #isOwnWal({ termHistory, flushLsn }: VoteResponse): boolean {
    const { resumes } = this.#config;
    const lastTerm = termHistory.at(-1)?.term ?? 0;
    return (
      resumes === undefined ||
      resumes.wonTerms.includes(lastTerm) ||
      (lastTerm === resumes.termBefore && flushLsn === resumes.startLsn)
    );
  }

  #sendElected(peer: Peer): void {
    const vote = peer.vote!;
    const common = highestCommonPoint(this.#history, vote.termHistory, vote.flushLsn);
    const startStreamingAt = common?.lsn ?? this.#history[0]!.lsn;
    if (startStreamingAt > this.#availableLsn) {
      throw new StorageError(
        "corrupt",
        "acceptor-ahead",
        `safekeeper ${peer.id.id} has WAL of term ${this.#term} up to ` +
          `${formatLsn(startStreamingAt)}, but only ${formatLsn(this.#availableLsn)} was written`,
      );
    }
    this.#effects.push({
      type: "send",
      safekeeper: peer.id.id,
      message: {
        type: "elected",
        generation: this.#mconf.generation,
        term: this.#term,
        startStreamingAt,
        termHistory: this.#history,
      },
    });
    peer.vote = undefined;
    peer.phase = "active";
    peer.sentLsn = startStreamingAt;
    if (startStreamingAt === this.#availableLsn) {
      // Nothing to send, but ProposerElected has no answer: an empty request gets one.
      this.#sendWal(peer, startStreamingAt);
    } else {
      this.#sendWal(peer, minLsn(this.#startLsn, this.#availableLsn));
      this.#sendWal(peer, this.#availableLsn);
    }
  }

  /** Hands [sentLsn, endLsn) to the driver; both on the same side of L. */
  #sendWal(peer: Peer, endLsn: Lsn): void {
    if (endLsn < peer.sentLsn) {
      return;
    }
    this.#effects.push({
      type: "send-wal",
      safekeeper: peer.id.id,
      source: peer.sentLsn < this.#startLsn ? "recovery" : "compute",
      beginLsn: peer.sentLsn,
      endLsn,
    });
    peer.sentLsn = endLsn;
    peer.lastSentMs = this.#nowMs;
  }

  #walAvailable(endLsn: Lsn): void {
    if (this.#state !== "elected") {
      throw new Error("WAL before the election");
    }
    if (endLsn <= this.#availableLsn) {
      return;
    }
    this.#availableLsn = endLsn;
    for (const peer of this.#peers.values()) {
      if (peer.phase === "active") {
        this.#sendWal(peer, endLsn);
      }
    }
  }

  #askPositions(): void {
    for (const peer of this.#peers.values()) {
      if (peer.phase === "active") {
        this.#sendWal(peer, peer.sentLsn);
      }
    }
  }

  #receiveAppendResponse(peer: Peer, message: AppendResponse): void {
    if (message.term > this.#term) {
      this.#fenced(peer, message.term);
      return;
    }
    if (message.generation !== this.#mconf.generation || message.term !== this.#term) {
      this.#disconnect(peer, `answer in generation ${message.generation}, term ${message.term}`);
      return;
    }
    const feedback = message.pageserverFeedback;
    if (feedback !== undefined && isNewer(feedback, this.#feedback)) {
      this.#feedback = feedback;
    }
    if (message.flushLsn > peer.sentLsn) {
      this.#disconnect(peer, `acknowledges ${formatLsn(message.flushLsn)}, which was never sent`);
      return;
    }
    peer.flushLsn = maxLsn(peer.flushLsn, message.flushLsn);
    const committed = this.#committedByMajority();
    if (committed > this.#commitLsn) {
      this.#commitLsn = committed;
      this.#effects.push({ type: "committed", lsn: committed });
      this.#advanceTruncateLsn();
      // Pageservers see WAL only below a safekeeper's commit LSN: tell it at once.
      for (const other of this.#peers.values()) {
        if (other.phase === "active") {
          this.#effects.push({
            type: "send-wal",
            safekeeper: other.id.id,
            source: "compute",
            beginLsn: other.sentLsn,
            endLsn: other.sentLsn,
          });
        }
      }
    } else {
      this.#advanceTruncateLsn();
    }
  }

  #advanceTruncateLsn(): void {
    let lowest = this.#commitLsn;
    for (const peer of this.#peers.values()) {
      lowest = minLsn(lowest, peer.flushLsn);
    }
    this.#truncateLsn = maxLsn(this.#truncateLsn, lowest);
  }

  #memberSets(): (readonly SafekeeperId[])[] {
    if (this.#mconf.generation === INVALID_GENERATION) {
      return [this.#config.safekeepers];
    }
    return this.#mconf.newMembers === undefined
      ? [this.#mconf.members]
      : [this.#mconf.members, this.#mconf.newMembers];
  }

  #hasMajority(test: (peer: Peer) => boolean): boolean {
    return this.#memberSets().every((set) => {
      const count = set.filter((member) => {
        const peer = this.#peers.get(member.id);
        return peer !== undefined && test(peer);
      }).length;
      return count >= majority(set.length);
    });
  }

  /** What a majority of each member set has flushed; 0 while fewer have reached L. */
  #committedByMajority(): Lsn {
    let committed = Number.MAX_SAFE_INTEGER as Lsn;
    for (const set of this.#memberSets()) {
      const acknowledged = set.map((member) => {
        const flushLsn = this.#peers.get(member.id)?.flushLsn ?? INVALID_LSN;
        return flushLsn >= this.#startLsn ? flushLsn : INVALID_LSN;
      });
      acknowledged.sort((a, b) => b - a);
      committed = minLsn(committed, acknowledged[majority(set.length) - 1]!);
    }
    return committed;
  }

  #tick(nowMs: number): void {
    this.#nowMs = nowMs;
    for (const peer of this.#peers.values()) {
      if (peer.phase === "offline" || peer.phase === "wait-campaign" || peer.phase === "voted") {
        continue;
      }
      // Times of before the first tick are not comparable.
      peer.lastReceivedMs ||= nowMs;
      if (nowMs - peer.lastReceivedMs > RESPONSE_TIMEOUT_MS) {
        this.#disconnect(peer, `no answer for ${RESPONSE_TIMEOUT_MS} ms`);
      } else if (peer.phase === "active" && nowMs - peer.lastSentMs >= HEARTBEAT_MS) {
        this.#sendWal(peer, peer.sentLsn);
      }
    }
  }
}

/** Raft's "at least as up to date": the later last term wins, then the longer log. */
function isMoreAdvanced(a: VoteResponse, b: VoteResponse): boolean {
  const [termA, termB] = [a.termHistory.at(-1)?.term ?? 0, b.termHistory.at(-1)?.term ?? 0];
  return termA > termB || (termA === termB && a.flushLsn > b.flushLsn);
}

/**
 * Safekeepers hand on what they were told at different times. How far a pageserver is only grows; its clock, which the time
 * is of, may be set back, and another pageserver's may be behind.
 */
function isNewer(one: PageserverFeedback, other: PageserverFeedback): boolean {
  return one.lastReceivedLsn === other.lastReceivedLsn
    ? one.replyTime >= other.replyTime
    : one.lastReceivedLsn > other.lastReceivedLsn;
}
