// Variants that lack a rule of elections, appending or committing.

import type { Variant } from "./variant.ts";

const ACCEPTOR = "src/safekeeper/consensus/acceptor.ts";
const PROPOSER = "src/walproposer/proposer.ts";
const PEERS = "src/safekeeper/consensus/peer-commit.ts";

export const consensusVariants: readonly Variant[] = [
  {
    name: "vote-not-persisted",
    rule: "the term is on disk before the vote is told",
    seed: 8,
    changes: [
      {
        file: ACCEPTOR,
        find: `    const persistent = { ...persistentNow(next), term: message.term };
    next = { ...next, persistent };
    actions.push({ type: "persist", state: persistent });`,
        replace: `    const persistent = { ...persistentNow(next), term: message.term };
    next = { ...next, persistent };`,
      },
    ],
  },
  {
    name: "votes-twice",
    rule: "one vote a term",
    seed: 40,
    changes: [
      {
        file: ACCEPTOR,
        find: "const voteGiven = state.persistent.term < message.term;",
        replace: "const voteGiven = state.persistent.term <= message.term;",
      },
    ],
  },
  {
    name: "vote-before-flush",
    rule: "WAL is flushed before voting",
    seed: 67,
    changes: [
      {
        file: ACCEPTOR,
        find: `const actions: AcceptorAction[] = [{ type: "flush" }];
  let next = flushed(state);
  const voteGiven`,
        replace: `const actions: AcceptorAction[] = [];
  let next = flushed(state);
  const voteGiven`,
      },
    ],
  },
  {
    name: "longest-log-wins",
    rule: "the donor has the highest last log term, only then the longest log",
    seed: 214,
    changes: [
      {
        file: PROPOSER,
        find: "return termA > termB || (termA === termB && a.flushLsn > b.flushLsn);",
        replace: "return a.flushLsn > b.flushLsn || (termA > termB && a.flushLsn === b.flushLsn);",
      },
    ],
  },
  {
    name: "cuts-wherever-told",
    rule: "WAL is cut only at the highest common point of both histories",
    seed: 77,
    changes: [
      { file: ACCEPTOR, find: "if (cutAt !== startStreamingAt) {", replace: "if (cutAt < 0) {" },
      {
        file: ACCEPTOR,
        find: "if (startStreamingAt < state.commitLsn || startStreamingAt < persistent.localStartLsn) {",
        replace: "if (startStreamingAt < 0) {",
      },
    ],
  },
  {
    name: "takes-wal-of-older-terms",
    rule: "WAL is taken in the current term only",
    seed: 1,
    changes: [
      { file: ACCEPTOR, find: "if (term > message.term) {", replace: "if (term < 0) {" },
      {
        file: ACCEPTOR,
        find: "if (term < message.term || termHistory.at(-1)?.term !== message.term) {",
        replace: "if (term < message.term) {",
      },
    ],
  },
  {
    name: "takes-wal-with-a-gap",
    rule: "WAL is taken exactly at the end of the WAL that is here",
    seed: 4,
    changes: [
      {
        file: ACCEPTOR,
        find: "if (message.beginLsn !== state.writeLsn) {",
        replace: "if (message.beginLsn < state.writeLsn) {",
      },
      {
        file: "src/safekeeper/wal-storage.ts",
        find: "if (lsn !== this.#walker.position) {",
        replace:
          "if (lsn > this.#walker.position) { this.#walker = this.#walkFrom(lsn); } else if (lsn < this.#walker.position) {",
      },
    ],
  },
  {
    name: "commits-old-terms",
    rule: "a position counts for the commit only from L on",
    seed: 4,
    changes: [
      {
        file: PROPOSER,
        find: "return flushLsn >= this.#startLsn ? flushLsn : INVALID_LSN;",
        replace: "return flushLsn;",
      },
    ],
  },
  {
    name: "quorum-of-half",
    rule: "a quorum is more than half",
    seed: 2,
    changes: [
      {
        file: "src/safekeeper-protocol/membership.ts",
        find: "return Math.floor(count / 2) + 1;",
        replace: "return Math.max(1, Math.floor(count / 2));",
      },
    ],
  },
  {
    name: "half-records-count",
    rule: "a flush LSN is a record end",
    seed: 1,
    changes: [
      {
        file: ACCEPTOR,
        find: "return flushedUpTo(state, state.writtenRecordLsn);",
        replace: "return flushedUpTo(state, state.writeLsn);",
      },
    ],
  },
  {
    name: "commits-what-is-not-here",
    rule: "a safekeeper's commit LSN is at most its flush LSN",
    seed: 1,
    changes: [
      {
        file: ACCEPTOR,
        find: "const commitLsn = maxLsn(state.commitLsn, minLsn(commitCandidate, state.flushLsn));",
        replace: "const commitLsn = maxLsn(state.commitLsn, commitCandidate);",
      },
    ],
  },
  {
    name: "one-peer-commits",
    rule: "among safekeepers, too, only what a majority has flushed is committed",
    seed: 20,
    changes: [
      {
        file: PEERS,
        find: "committed = minLsn(committed, flushLsns[majority(set.length) - 1]!);",
        replace: "committed = minLsn(committed, flushLsns[0]!);",
      },
    ],
  },
  {
    name: "peers-with-other-logs-count",
    rule: "a peer's commit LSN holds here only for the same last log term",
    seed: 214,
    changes: [
      {
        file: PEERS,
        find: "if (report.lastLogTerm === term) {",
        replace: "if (report.lastLogTerm > 0) {",
      },
    ],
  },
  {
    name: "pageserver-reads-past-commit",
    rule: "pageservers get WAL up to the commit LSN only",
    seed: 4,
    changes: [
      {
        file: ACCEPTOR,
        find: "    return state.commitLsn;\n",
        replace: "    return state.flushLsn;\n",
      },
    ],
  },
];
