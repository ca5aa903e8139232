// Broken rules of the proposer: elections, commits, membership, fencing.

import type { MutantPart } from "./mutant.ts";

const PROPOSER = "src/walproposer/proposer.ts";
const PROPOSER_TEST = "src/walproposer/proposer.test.ts";
const CONSENSUS_TEST = "src/safekeeper/consensus/consensus.test.ts";

export const WALPROPOSER_MUTANTS: MutantPart = {
  part: "walproposer",
  mutants: [
    {
      rule: "every commit wakes safekeepers that nobody reads from a second time",
      file: "src/walproposer/commit-announcer.ts",
      search: "      if (peer.isRead || !isAnyRead) {\n",
      replace: "      if (peer.isRead || !isAnyRead || peers.length > 0) {\n",
      test: "src/walproposer/commit-announcer.test.ts",
      name: "CommitAnnouncer: who is read from is told soon, the others at a tick",
    },
    {
      rule: "while nobody is known to read, nobody is told what is committed",
      file: "src/walproposer/commit-announcer.ts",
      search: "      if (peer.isRead || !isAnyRead) {\n",
      replace: "      if (peer.isRead) {\n",
      test: "src/walproposer/commit-announcer.test.ts",
      name: "CommitAnnouncer: while nobody is known to read, all are told soon",
    },
    {
      rule: "the late safekeeper is waited for where another one hangs",
      file: "src/walproposer/late-member.ts",
      search: "    if (this.#options.commitLsn() < this.#seenLsn) {\n      this.end();\n",
      replace:
        "    if (this.#options.commitLsn() < this.#seenLsn) {\n      this.#isHeld = false;\n",
      test: "src/walproposer/late-member.test.ts",
      name: "LateMember: where the others do not answer in time, all are alike until all have it",
    },
    {
      rule: "one less than a majority elects",
      file: PROPOSER,
      search: "return count >= majority(set.length);",
      replace: "return count >= majority(set.length) - 1;",
      test: PROPOSER_TEST,
      name: "Proposer: an election and the first commits, word for word",
    },
    {
      rule: "one less than a majority commits",
      file: PROPOSER,
      search: "acknowledged[majority(set.length) - 1]!",
      replace: "acknowledged[Math.max(0, majority(set.length) - 2)]!",
      test: CONSENSUS_TEST,
      name: "a term, 5 and 6: what a majority has flushed is committed",
    },
    {
      rule: "WAL of older terms is committed by counting",
      file: PROPOSER,
      search: "return flushLsn >= this.#startLsn ? flushLsn : INVALID_LSN;",
      replace: "return flushLsn;",
      test: PROPOSER_TEST,
      name: "Proposer: an election and the first commits, word for word",
    },
    {
      rule: "while members change, the new ones alone decide",
      file: PROPOSER,
      search: ": [this.#mconf.members, this.#mconf.newMembers];",
      replace: ": [this.#mconf.newMembers];",
      test: CONSENSUS_TEST,
      name: "members: while they change, elections and commits need a majority of both sets",
    },
    {
      rule: "the longest log wins, whatever its last term",
      file: PROPOSER,
      search: "return termA > termB || (termA === termB && a.flushLsn > b.flushLsn);",
      replace: "return a.flushLsn > b.flushLsn;",
      test: CONSENSUS_TEST,
      name: "a term, 3: the donor has the highest last log term, then the longest log",
    },
    {
      rule: "it campaigns in a term that is taken",
      file: PROPOSER,
      search: "this.#term += 1;",
      replace: "",
      test: CONSENSUS_TEST,
      name: "a term, 1 and 2: a majority is greeted, then asked in a term above all",
    },
    {
      rule: "WAL counts that was never sent",
      file: PROPOSER,
      search: "if (message.flushLsn > peer.sentLsn) {",
      replace: "if (message.flushLsn < 0) {",
      test: PROPOSER_TEST,
      name: "Proposer: a wrong node, a wrong answer and silence end the connection",
    },
    {
      rule: "another node is taken for the one that was called",
      file: PROPOSER,
      search: "if (message.nodeId !== peer.id.id) {",
      replace: "if (message.nodeId < 0) {",
      test: PROPOSER_TEST,
      name: "Proposer: a wrong node, a wrong answer and silence end the connection",
    },
    {
      rule: "it resumes on WAL that somebody else wrote",
      file: PROPOSER,
      search: "if (!this.#isOwnWal(donor.vote)) {",
      replace: "if (donor.vote.flushLsn < 0) {",
      test: PROPOSER_TEST,
      name: "Proposer: does not resume on WAL that it did not write",
    },
    {
      rule: "it resumes on WAL of any term",
      file: PROPOSER,
      search: "resumes.wonTerms.includes(lastTerm) ||",
      replace: "lastTerm > 0 ||",
      test: PROPOSER_TEST,
      name: "Proposer: does not resume on WAL that it did not write",
    },
    {
      rule: "an answer of a higher term does not fence",
      file: PROPOSER,
      search:
        "if (message.term > this.#term) {\n      this.#fenced(peer, message.term);\n      return;\n    }\n    if (message.generation",
      replace: "if (message.generation",
      test: PROPOSER_TEST,
      name: "Proposer: fenced by a greeting, a vote or an answer of a higher term",
    },
    {
      rule: "WAL that a safekeeper lacks may be removed",
      file: "src/walproposer/proposer.ts",
      search: "      lowest = minLsn(lowest, peer.flushLsn);\n",
      replace: "      lowest = minLsn(lowest, peer.flushLsn > 0 ? peer.flushLsn : lowest);\n",
      test: "src/walproposer/proposer.test.ts",
      name: "WAL that a safekeeper lacks is kept for it",
    },
  ],
};
