// The acceptor of the consensus: what a safekeeper does with each message, as a pure step.

import { isDeepStrictEqual } from "node:util";
import { StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { formatLsn, INVALID_LSN, type Lsn, maxLsn, minLsn } from "../../base/lsn.ts";
import {
  INVALID_GENERATION,
  isMember,
  MAX_GENERATION_JUMP,
  type MembershipConfiguration,
} from "../../safekeeper-protocol/membership.ts";
import {
  type AcceptorMessage,
  type AppendRequest,
  type AppendResponse,
  NO_HOT_STANDBY_FEEDBACK,
  type ProposerElected,
  type ProposerGreeting,
  type ProposerMessage,
  type VoteRequest,
} from "../../safekeeper-protocol/messages.ts";
import {
  formatTermHistory,
  highestCommonPoint,
  historyUpTo,
  lastTermAt,
  MAX_TERM,
  MAX_TERM_JUMP,
  type Term,
  type TermHistory,
} from "../../safekeeper-protocol/term-history.ts";

/*
 * `receive(state, message)` changes nothing: it returns the actions that must succeed, in order,
 * before the reply leaves, and the state that is true once they have. Where an action fails the
 * driver keeps the old state and drops the connection. Rules (Neon's safekeeper.rs, Raft):
 *
 * - The term is on disk before the vote is told; WAL is flushed before voting.
 * - A vote goes only to a term above every term seen, by MAX_TERM_JUMP at most.
 * - ProposerElected must name the highest common point of both histories, at or above the commit
 *   LSN, and a record must end there; WAL is cut there and the proposer's history adopted.
 * - WAL is taken only in the current term, after ProposerElected of that term, and exactly at
 *   writeLsn.
 * - flushLsn, the only position told to others, is a record end and on disk.
 * - commitLsn <= flushLsn, never decreases.
 */

/** What the control file holds. */
export interface AcceptorPersistentState {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly mconf: MembershipConfiguration;
  /** Highest term seen or voted for. */
  readonly term: Term;
  /** Of the proposer last accepted; may reach beyond the WAL that is here. */
  readonly termHistory: TermHistory;
  readonly pgVersion: number;
  readonly systemId: bigint;
  readonly walSegSize: number;
  /** Where the timeline's WAL begins, and where it begins on this safekeeper. */
  readonly timelineStartLsn: Lsn;
  readonly localStartLsn: Lsn;
  /** As of the last write of the control file; the true one may be higher. */
  readonly commitLsn: Lsn;
  readonly backupLsn: Lsn;
  readonly peerHorizonLsn: Lsn;
  readonly remoteConsistentLsn: Lsn;
  /** A record end that is on disk: where a restart begins to look for the end of WAL. */
  readonly flushedLsn: Lsn;
}

/** Never mutated; every step makes a new one. */
export interface AcceptorState {
  readonly nodeId: number;
  readonly persistent: AcceptorPersistentState;
  /** Where the next WAL byte must begin. */
  readonly writeLsn: Lsn;
  /** End of the last whole record below writeLsn. */
  readonly writtenRecordLsn: Lsn;
  /** End of the last whole record on disk. */
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  /** Highest commit LSN told by the proposer of this history; may be above flushLsn. */
  readonly commitCandidate: Lsn;
  readonly peerHorizonLsn: Lsn;
  readonly remoteConsistentLsn: Lsn;
}

export type AcceptorAction =
  /** Changes nothing; fails where no record of the log ends at `lsn`. */
  | { readonly type: "expect-record-end"; readonly lsn: Lsn }
  | { readonly type: "flush" }
  | { readonly type: "persist"; readonly state: AcceptorPersistentState }
  /** Make WAL from `lsn` on disappear, durably; the next write begins there. */
  | { readonly type: "truncate"; readonly lsn: Lsn }
  | { readonly type: "write"; readonly lsn: Lsn; readonly bytes: Uint8Array };

export interface AcceptorStep {
  readonly state: AcceptorState;
  readonly actions: readonly AcceptorAction[];
  /**
   * To be sent once all actions succeeded. "append-response": flush (a batch may share one flush),
   * then send `appendResponse` of the state after `flushed`.
   */
  readonly reply: AcceptorMessage | "append-response" | undefined;
}

/** State after a start, when the end of WAL on disk is known to be `endLsn`, a record end. */
export function acceptorAfterStart(
  nodeId: number,
  persistent: AcceptorPersistentState,
  endLsn: Lsn,
): AcceptorState {
  const commitLsn = maxLsn(persistent.commitLsn, persistent.timelineStartLsn);
  if (endLsn < commitLsn) {
    throw new StorageError(
      "corrupt",
      "committed-wal-missing",
      `WAL ends at ${formatLsn(endLsn)}, below the commit LSN ${formatLsn(commitLsn)}`,
    );
  }
  return {
    nodeId,
    persistent,
    writeLsn: endLsn,
    writtenRecordLsn: endLsn,
    flushLsn: endLsn,
    commitLsn,
    commitCandidate: commitLsn,
    peerHorizonLsn: persistent.peerHorizonLsn,
    remoteConsistentLsn: persistent.remoteConsistentLsn,
  };
}

/** Term of the last WAL on disk. */
export function lastLogTerm(state: AcceptorState): Term {
  return lastTermAt(state.persistent.termHistory, state.flushLsn);
}

/** StorageError where the message must be refused; then nothing changes and the connection ends. */
export function receive(state: AcceptorState, message: ProposerMessage): AcceptorStep {
  switch (message.type) {
    case "append-request":
      return receiveAppend(state, message);
    case "greeting":
      return receiveGreeting(state, message);
    case "vote-request":
      return receiveVoteRequest(state, message);
    case "elected":
      return receiveElected(state, message);
  }
}

/** After a successful write that ends at `writeLsn` and completed records up to `recordLsn`. */
export function written(state: AcceptorState, writeLsn: Lsn, recordLsn: Lsn): AcceptorState {
  return { ...state, writeLsn, writtenRecordLsn: maxLsn(recordLsn, state.writtenRecordLsn) };
}

/** After everything written was made durable. */
export function flushed(state: AcceptorState): AcceptorState {
  return flushedUpTo(state, state.writtenRecordLsn);
}

/** After what was written up to `recordLsn`, a record's end, was made durable; more may be written by now. */
export function flushedUpTo(state: AcceptorState, recordLsn: Lsn): AcceptorState {
  const flushLsn = maxLsn(state.flushLsn, recordLsn);
  const commitLsn = maxLsn(state.commitLsn, minLsn(state.commitCandidate, flushLsn));
  return flushLsn === state.flushLsn && commitLsn === state.commitLsn
    ? state
    : { ...state, flushLsn, commitLsn };
}

/** What the control file should say now. */
export function persistentNow(state: AcceptorState): AcceptorPersistentState {
  return {
    ...state.persistent,
    commitLsn: state.commitLsn,
    peerHorizonLsn: state.peerHorizonLsn,
    remoteConsistentLsn: state.remoteConsistentLsn,
    flushedLsn: state.flushLsn,
  };
}

export function appendResponse(state: AcceptorState): AppendResponse {
  return {
    type: "append-response",
    generation: state.persistent.mconf.generation,
    term: state.persistent.term,
    flushLsn: state.flushLsn,
    commitLsn: state.commitLsn,
    hotStandbyFeedback: NO_HOT_STANDBY_FEEDBACK,
    pageserverFeedback: undefined,
  };
}

/** An operator's raise of the term, by any amount: fences whoever writes now. */
export function bumpTerm(state: AcceptorState, term: Term): AcceptorStep {
  if (term > MAX_TERM) {
    throw new StorageError("invalid", "term-too-high", `term ${term} is above ${MAX_TERM}`);
  }
  if (term <= state.persistent.term) {
    throw new StorageError(
      "conflict",
      "term-not-higher",
      `term ${term} is not above the current one, ${state.persistent.term}`,
    );
  }
  const persistent = { ...persistentNow(state), term };
  return {
    state: { ...state, persistent },
    actions: [{ type: "persist", state: persistent }],
    reply: undefined,
  };
}

/**
 * Takes over a newer membership, or repeats the present one; either way what the state then says of
 * this safekeeper's positions is durable. StorageError `conflict`: older, or this node is no member.
 */
export function switchMembership(
  state: AcceptorState,
  mconf: MembershipConfiguration,
): AcceptorStep {
  const own = state.persistent.mconf.generation;
  if (mconf.generation < own) {
    throw new StorageError(
      "conflict",
      "generation-mismatch",
      `membership generation ${mconf.generation} is older than ${own}, which this safekeeper is in`,
    );
  }
  if (mconf.generation === own && !isDeepStrictEqual(mconf, state.persistent.mconf)) {
    throw new StorageError(
      "conflict",
      "generation-mismatch",
      `membership generation ${own} has other members here`,
    );
  }
  checkIsMember(state, mconf);
  const next = flushed(state);
  const persistent = { ...persistentNow(next), mconf };
  return {
    state: { ...next, persistent },
    actions: [{ type: "flush" }, { type: "persist", state: persistent }],
    reply: undefined,
  };
}

/** StorageError `conflict` unless this safekeeper is to let go of its copy, as `mconf` is without it and not older. */
export function checkExcluded(state: AcceptorState, mconf: MembershipConfiguration): void {
  const own = state.persistent.mconf.generation;
  const isOlder = mconf.generation < own || mconf.generation === INVALID_GENERATION;
  if (isOlder || isMember(mconf, state.nodeId)) {
    throw new StorageError(
      "conflict",
      "not-excluded",
      `generation ${mconf.generation} does not exclude node ${state.nodeId}, ` +
        `which is in generation ${own}`,
    );
  }
}

/**
 * End of the WAL that may be read: for a proposer of `term` what is flushed, while that is our term;
 * for everybody else (undefined) what is committed. StorageError `fenced` where the term is over.
 */
export function readableLsn(state: AcceptorState, term: Term | undefined): Lsn {
  if (term === undefined) {
    return state.commitLsn;
  }
  if (term !== state.persistent.term) {
    throw new StorageError(
      "fenced",
      "term-changed",
      `WAL of term ${term} was asked for, but the term is ${state.persistent.term}`,
    );
  }
  return state.flushLsn;
}

function checkIsMember(state: AcceptorState, mconf: MembershipConfiguration): void {
  if (!isMember(mconf, state.nodeId)) {
    throw new StorageError(
      "conflict",
      "not-a-member",
      `node ${state.nodeId} is not a member in generation ${mconf.generation}`,
    );
  }
}

function checkGeneration(state: AcceptorState, generation: number, what: string): void {
  const own = state.persistent.mconf.generation;
  if (own !== generation) {
    throw new StorageError(
      "conflict",
      "generation-mismatch",
      `${what} in membership generation ${generation}, but this safekeeper is in ${own}`,
    );
  }
}

/** One wrong message must not leave the terms after it without room. */
function checkTermJump(state: AcceptorState, term: Term): void {
  const own = state.persistent.term;
  if (term > Math.min(own + MAX_TERM_JUMP, MAX_TERM)) {
    throw new StorageError(
      "invalid",
      "term-jump",
      `term ${term} is more than ${MAX_TERM_JUMP} above this safekeeper's, ${own}, ` +
        `or above ${MAX_TERM}; where that is right, raise it by term_bump before`,
    );
  }
}

function receiveGreeting(state: AcceptorState, message: ProposerGreeting): AcceptorStep {
  const { persistent } = state;
  const mismatch = (what: string, got: unknown, expected: unknown) =>
    new StorageError("invalid", "greeting-mismatch", `${what} is ${got}, expected ${expected}`);
  if (message.tenantId !== persistent.tenantId) {
    throw mismatch("tenant id", message.tenantId, persistent.tenantId);
  }
  if (message.timelineId !== persistent.timelineId) {
    throw mismatch("timeline id", message.timelineId, persistent.timelineId);
  }
  const [major, ownMajor] = [message.pgVersion, persistent.pgVersion].map((v) =>
    Math.floor(v / 10000),
  );
  if (major !== ownMajor) {
    throw mismatch("Postgres version", message.pgVersion, persistent.pgVersion);
  }
  if (message.walSegSize !== persistent.walSegSize) {
    throw mismatch("WAL segment size", message.walSegSize, persistent.walSegSize);
  }
  const systemIdIsNew = message.systemId !== 0n && message.systemId !== persistent.systemId;
  if (systemIdIsNew && persistent.systemId !== 0n) {
    throw mismatch("system identifier", message.systemId, persistent.systemId);
  }
  const mconfIsNew = message.mconf.generation > persistent.mconf.generation;
  if (mconfIsNew) {
    checkIsMember(state, message.mconf);
    checkGenerationJump(persistent.mconf.generation, message.mconf.generation);
  }
  let next = state;
  const actions: AcceptorAction[] = [];
  if (systemIdIsNew || mconfIsNew) {
    const changed: AcceptorPersistentState = {
      ...persistentNow(state),
      systemId: systemIdIsNew ? message.systemId : persistent.systemId,
      mconf: mconfIsNew ? message.mconf : persistent.mconf,
    };
    next = { ...state, persistent: changed };
    actions.push({ type: "persist", state: changed });
  }
  return {
    state: next,
    actions,
    reply: {
      type: "greeting",
      nodeId: state.nodeId,
      mconf: next.persistent.mconf,
      term: next.persistent.term,
    },
  };
}

/** As with terms: what only a switch by an operator could undo, a compute may not do. */
function checkGenerationJump(own: number, generation: number): void {
  // The first one may be any: a timeline that was made without.
  if (own !== INVALID_GENERATION && generation > own + MAX_GENERATION_JUMP) {
    throw new StorageError(
      "invalid",
      "generation-jump",
      `membership generation ${generation} is more than ${MAX_GENERATION_JUMP} above this ` +
        `safekeeper's, ${own}`,
    );
  }
}

function receiveVoteRequest(state: AcceptorState, message: VoteRequest): AcceptorStep {
  checkGeneration(state, message.generation, "vote request");
  checkTermJump(state, message.term);
  // Flush first: whoever is elected streams from the end of our WAL, without overlap.
  const actions: AcceptorAction[] = [{ type: "flush" }];
  let next = flushed(state);
  const voteGiven = state.persistent.term < message.term;
  if (voteGiven) {
    const persistent = { ...persistentNow(next), term: message.term };
    next = { ...next, persistent };
    actions.push({ type: "persist", state: persistent });
  }
  return {
    state: next,
    actions,
    reply: {
      type: "vote-response",
      generation: next.persistent.mconf.generation,
      term: next.persistent.term,
      voteGiven,
      flushLsn: next.flushLsn,
      truncateLsn: next.peerHorizonLsn,
      termHistory: historyUpTo(next.persistent.termHistory, next.flushLsn),
    },
  };
}

function receiveElected(state: AcceptorState, message: ProposerElected): AcceptorStep {
  checkGeneration(state, message.generation, "ProposerElected");
  const { persistent } = state;
  if (persistent.term > message.term) {
    // The answer to its first AppendRequest will tell it.
    return { state, actions: [], reply: undefined };
  }
  checkTermJump(state, message.term);
  checkStreamingPoint(state, message);
  const { startStreamingAt } = message;
  const actions: AcceptorAction[] = [];
  if (startStreamingAt < state.flushLsn) {
    actions.push({ type: "expect-record-end", lsn: startStreamingAt });
  }
  if (persistent.flushedLsn > startStreamingAt) {
    // Before the cut, or a restart would take the old, higher position for the end of WAL.
    actions.push({
      type: "persist",
      state: { ...persistent, term: message.term, flushedLsn: startStreamingAt },
    });
  }
  actions.push({ type: "truncate", lsn: startStreamingAt });
  const adopted: AcceptorPersistentState = {
    ...persistentNow(state),
    term: message.term,
    termHistory: message.termHistory,
    flushedLsn: startStreamingAt,
  };
  actions.push({ type: "persist", state: adopted });
  return {
    state: {
      ...state,
      persistent: adopted,
      writeLsn: startStreamingAt,
      writtenRecordLsn: startStreamingAt,
      flushLsn: startStreamingAt,
      commitCandidate: state.commitLsn,
    },
    actions,
    reply: undefined,
  };
}

/** StorageError unless the log here may be cut at `startStreamingAt`, and be that of the proposer from there on. */
function checkStreamingPoint(state: AcceptorState, message: ProposerElected): void {
  const { persistent } = state;
  const first = message.termHistory[0];
  const last = message.termHistory.at(-1);
  if (first === undefined || last?.term !== message.term) {
    throw new StorageError(
      "invalid",
      "bad-term-history",
      `history of term ${message.term} is ${formatTermHistory(message.termHistory)}`,
    );
  }
  const history = historyUpTo(persistent.termHistory, state.flushLsn);
  const common = highestCommonPoint(message.termHistory, history, state.flushLsn);
  const cutAt = common?.lsn ?? first.lsn;
  const { startStreamingAt } = message;
  if (cutAt !== startStreamingAt) {
    // Expected where another connection of the same proposer wrote since the vote: it reconnects.
    throw new StorageError(
      "conflict",
      "unexpected-streaming-point",
      `streaming from ${formatLsn(startStreamingAt)}, but histories part at ${formatLsn(cutAt)}: ` +
        `proposer ${formatTermHistory(message.termHistory)}, here ${formatTermHistory(history)} ` +
        `up to ${formatLsn(state.flushLsn)}`,
    );
  }
  if (startStreamingAt < state.commitLsn || startStreamingAt < persistent.localStartLsn) {
    throw new StorageError(
      "corrupt",
      "truncation-below-commit",
      `term ${message.term} would cut WAL at ${formatLsn(startStreamingAt)}, ` +
        `below the commit LSN ${formatLsn(state.commitLsn)}`,
    );
  }
  if (startStreamingAt > state.flushLsn) {
    throw new StorageError(
      "invalid",
      "streaming-gap",
      `streaming from ${formatLsn(startStreamingAt)}, but WAL ends at ${formatLsn(state.flushLsn)}`,
    );
  }
}

function receiveAppend(state: AcceptorState, message: AppendRequest): AcceptorStep {
  checkGeneration(state, message.generation, "AppendRequest");
  const { term, termHistory, mconf } = state.persistent;
  if (term > message.term) {
    const reply: AppendResponse = {
      type: "append-response",
      generation: mconf.generation,
      term,
      flushLsn: INVALID_LSN,
      commitLsn: INVALID_LSN,
      hotStandbyFeedback: NO_HOT_STANDBY_FEEDBACK,
      pageserverFeedback: undefined,
    };
    return { state, actions: [], reply };
  }
  if (term < message.term || termHistory.at(-1)?.term !== message.term) {
    throw new StorageError(
      "invalid",
      "append-before-elected",
      `AppendRequest of term ${message.term} before its ProposerElected (term is ${term})`,
    );
  }
  if (message.beginLsn !== state.writeLsn) {
    // Quite normal for the old connection of a proposer that has reconnected.
    throw new StorageError(
      "conflict",
      "append-not-at-end",
      `AppendRequest at ${formatLsn(message.beginLsn)}, but WAL ends at ${formatLsn(state.writeLsn)}`,
    );
  }
  const commitCandidate = maxLsn(state.commitCandidate, message.commitLsn);
  const commitLsn = maxLsn(state.commitLsn, minLsn(commitCandidate, state.flushLsn));
  const next: AcceptorState = {
    ...state,
    commitCandidate,
    commitLsn,
    peerHorizonLsn: minLsn(maxLsn(state.peerHorizonLsn, message.truncateLsn), commitLsn),
  };
  if (message.walData.length === 0) {
    // A mere announcement of a new commit LSN needs no answer; a heartbeat does.
    const announcement = commitLsn > state.commitLsn && state.flushLsn === state.writtenRecordLsn;
    return { state: next, actions: [], reply: announcement ? undefined : "append-response" };
  }
  return {
    state: next,
    actions: [{ type: "write", lsn: message.beginLsn, bytes: message.walData }],
    reply: "append-response",
  };
}
