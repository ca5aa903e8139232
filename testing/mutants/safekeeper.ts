// Broken rules of the safekeeper: its acceptor, its WAL on disk, what it lets go.

import type { MutantPart } from "./mutant.ts";

const ACCEPTOR = "src/safekeeper/consensus/acceptor.ts";
const ACCEPTOR_TEST = "src/safekeeper/consensus/acceptor.test.ts";
const CONSENSUS_TEST = "src/safekeeper/consensus/consensus.test.ts";
const WAL_STORAGE = "src/safekeeper/wal-storage.ts";
const WAL_STORAGE_TEST = "src/safekeeper/wal-storage.test.ts";
const WHOLE_SEGMENT_CHECK = "src/safekeeper/wal-backup/whole-segment-check.ts";
const WHOLE_SEGMENT_CHECK_TEST = "src/safekeeper/wal-backup/whole-segment-check.test.ts";

export const SAFEKEEPER_MUTANTS: MutantPart = {
  part: "safekeeper",
  mutants: [
    {
      rule: "a vote is given twice in a term",
      file: ACCEPTOR,
      search: "const voteGiven = state.persistent.term < message.term;",
      replace: "const voteGiven = state.persistent.term <= message.term;",
      test: ACCEPTOR_TEST,
      name: "acceptor: a vote is flushed and persisted before it is told",
    },
    {
      rule: "a vote is given before WAL is flushed",
      file: ACCEPTOR,
      search: 'const actions: AcceptorAction[] = [{ type: "flush" }];',
      replace: "const actions: AcceptorAction[] = [];",
      test: ACCEPTOR_TEST,
      name: "acceptor: a vote is flushed and persisted before it is told",
    },
    {
      rule: "a vote is told without being persisted",
      file: ACCEPTOR,
      search:
        'next = { ...next, persistent };\n    actions.push({ type: "persist", state: persistent });',
      replace: "next = { ...next, persistent };",
      test: ACCEPTOR_TEST,
      name: "acceptor: a vote is flushed and persisted before it is told",
    },
    {
      rule: "committed WAL may be cut off",
      file: ACCEPTOR,
      search:
        "if (startStreamingAt < state.commitLsn || startStreamingAt < persistent.localStartLsn) {",
      replace: "if (startStreamingAt < persistent.localStartLsn) {",
      test: ACCEPTOR_TEST,
      name: "acceptor: ProposerElected with a wrong point, below commit or of an old term",
    },
    {
      rule: "WAL is cut before the control file knows of the lower end",
      file: ACCEPTOR,
      search: "if (persistent.flushedLsn > startStreamingAt) {",
      replace: "if (persistent.flushedLsn < 0) {",
      test: ACCEPTOR_TEST,
      name: "acceptor: a diverged tail is cut, the control file first told of the lower end",
    },
    {
      rule: "the commit LSN goes above what is flushed",
      file: ACCEPTOR,
      search: "const commitLsn = maxLsn(state.commitLsn, minLsn(state.commitCandidate, flushLsn));",
      replace: "const commitLsn = maxLsn(state.commitLsn, state.commitCandidate);",
      test: ACCEPTOR_TEST,
      name: "acceptor: flush LSN is a record end, commit LSN never above it nor going back",
    },
    {
      rule: "WAL is taken that does not begin at the end",
      file: ACCEPTOR,
      search: "if (message.beginLsn !== state.writeLsn) {",
      replace: "if (message.beginLsn > state.writeLsn) {",
      test: ACCEPTOR_TEST,
      name: "acceptor: WAL is taken in the current term only, after ProposerElected",
    },
    {
      rule: "one message raises the term as far as it likes",
      file: ACCEPTOR,
      search: "if (term > Math.min(own + MAX_TERM_JUMP, MAX_TERM)) {",
      replace: "if (term > MAX_TERM) {",
      test: ACCEPTOR_TEST,
      name: "acceptor: a compute raises term and generation by bounded steps",
    },
    {
      rule: "a start goes on where committed WAL is missing",
      file: ACCEPTOR,
      search: "if (endLsn < commitLsn) {",
      replace: "if (endLsn < 0) {",
      test: ACCEPTOR_TEST,
      name: "acceptor: term_bump goes up only; WAL below the commit LSN must be there",
    },
    {
      rule: "messages of another membership generation are taken",
      file: ACCEPTOR,
      search: "if (own !== generation) {",
      replace: "if (own < 0) {",
      test: CONSENSUS_TEST,
      name: "members: after a switch nothing of an older generation is taken",
    },
    {
      rule: "peers count with WAL of a term that is not theirs any more",
      file: "src/safekeeper/consensus/peer-commit.ts",
      search: "report.term === term;",
      replace: "report.term >= 0;",
      test: ACCEPTOR_TEST,
      name: "acceptor: safekeepers among themselves know what a majority got",
    },
    {
      rule: "one's own WAL counts whatever its term",
      file: "src/safekeeper/consensus/peer-commit.ts",
      search: "return state.persistent.term === term ? state.flushLsn : INVALID_LSN;",
      replace: "return state.flushLsn;",
      test: CONSENSUS_TEST,
      name: "spreading: one's own WAL counts only in the term that it is of, too",
    },
    {
      rule: "WAL is acknowledged without fdatasync",
      file: WAL_STORAGE,
      search: "this.#disk.fdatasync(this.#fd);",
      replace: "",
      test: WAL_STORAGE_TEST,
      name: "WalStorage: after a failed fdatasync nothing is acknowledged any more",
    },
    {
      rule: "after a failed fdatasync the next one is believed",
      file: WAL_STORAGE,
      search: "if (this.#failed !== undefined) {",
      replace: "if (this.#fd < -1) {",
      test: WAL_STORAGE_TEST,
      name: "WalStorage: after a failed fdatasync nothing is acknowledged any more",
    },
    {
      rule: "a cut leaves the segment after the last",
      file: WAL_STORAGE,
      search: ".filter((segno) => segno > last)",
      replace: ".filter((segno) => segno > last + 1)",
      test: WAL_STORAGE_TEST,
      name: "WalStorage: truncate leaves nothing of the old tail",
    },
    {
      rule: "a cut leaves the old tail in its segment",
      file: WAL_STORAGE,
      search: "this.#zeroFrom(last, segmentOffset(lsn, this.#segmentSize), always);",
      replace: "",
      test: WAL_STORAGE_TEST,
      name: "WalStorage: truncate leaves nothing of the old tail",
    },
    {
      rule: "the segment that holds the horizon is removed",
      file: WAL_STORAGE,
      search: ".filter((segno) => segno < first)",
      replace: ".filter((segno) => segno <= first)",
      test: WAL_STORAGE_TEST,
      name: "WalStorage.removeBelow: keeps the segment that holds the LSN",
    },
    {
      rule: "what a start finds is not made durable",
      file: WAL_STORAGE,
      search: "this.flush();\n      this.#cutFrom(end, true);",
      replace: "this.#cutFrom(end, true);",
      test: WAL_STORAGE_TEST,
      name: "WalStorage.settleAfterStart: syncs what was found",
    },
    {
      rule: "a damaged control file is read as it is",
      file: "src/safekeeper/control-file.ts",
      search:
        "if (crc32c(bytes, 0, HEADER_SIZE + length) !== view.getUint32(HEADER_SIZE + length, true)) {",
      replace: "if (length < 0) {",
      test: ACCEPTOR_TEST,
      name: "control file: round trip; every flipped bit and every cut is noticed",
    },
    {
      rule: "WAL goes that the object store does not have",
      file: "src/safekeeper/wal-backup/wal-removal.ts",
      search: "horizon = minLsn(horizon, backupLsn);",
      replace: "",
      test: "src/safekeeper/wal-backup/wal-removal.test.ts",
      name: "walRemovalHorizon: the slowest of all who could ask decides",
    },
    {
      rule: "the byte before the commit LSN goes",
      file: "src/safekeeper/wal-backup/wal-removal.ts",
      search: "minLsn(horizon, (commitLsn - 1) as Lsn)",
      replace: "minLsn(horizon, commitLsn)",
      test: "src/safekeeper/wal-backup/wal-removal.test.ts",
      name: "walRemovalHorizon: the byte before the commit LSN stays",
    },
    {
      rule: "WAL is removed where a restart begins to look for its end",
      file: "src/safekeeper/timeline.ts",
      search: "      this.#persistPositions();\n    }\n    this.#localWalStart",
      replace: "    }\n    this.#localWalStart",
      test: "src/safekeeper/safekeeper.test.ts",
      name: "a kill after old WAL was removed finds the end of the log",
    },
    {
      rule: "a segment is uploaded before the record that goes on behind it is checked as a whole",
      file: WHOLE_SEGMENT_CHECK,
      search: "for (let at = end; check.recordEndLsn! < end; ) {",
      replace: "for (let at = end; check.recordEndLsn! < 0; ) {",
      test: WHOLE_SEGMENT_CHECK_TEST,
      name: "WholeSegmentCheck: a wrong byte anywhere in a segment is noticed",
    },
    {
      rule: "the log's end leaves the disk before the record that goes on in it is checked as a whole",
      file: WHOLE_SEGMENT_CHECK,
      search:
        "const bytes = new Uint8Array(end - start);\n    const check = yield* this.#walkUpTo(from);",
      replace: `const bytes = new Uint8Array(end - start);
    const check = new SegmentCheck(this.#wal);
    if (from === this.#logStart) {
      check.startAt(from);
    }`,
      test: WHOLE_SEGMENT_CHECK_TEST,
      name: "WholeSegmentCheck: the log's last segment, with the record that goes on in it",
    },
    {
      rule: "the log's end leaves the disk with a last record that is not whole",
      file: "src/safekeeper/wal-backup/segment-check.ts",
      search: "if (walked !== lsn) {",
      replace: "if (walked > lsn) {",
      test: WHOLE_SEGMENT_CHECK_TEST,
      name: "WholeSegmentCheck: the log's last segment, with the record that goes on in it",
    },
    {
      rule: "a copy is served whose last record is not whole",
      file: "src/safekeeper/transfer/incoming-timeline.ts",
      search: "      this.#check.endAt(flushedLsn);\n",
      replace: "",
      test: "src/safekeeper/transfer/transfer.test.ts",
      name: "pull: a hostile or broken snapshot leaves nothing",
    },
    {
      rule: "a timeline is awake, for the control file, before its WAL is back on the disk",
      file: "src/safekeeper/timeline.ts",
      search:
        "    restoreSegment(this.#directory, this.#segmentSize, lsn, bytes, this.#disk);\n    this.#persistPositions({ ...this.#placement, evicted: false });",
      replace:
        "    this.#persistPositions({ ...this.#placement, evicted: false });\n    restoreSegment(this.#directory, this.#segmentSize, lsn, bytes, this.#disk);",
      test: "src/safekeeper/wal-backup/wal-backup.crash.test.ts",
      name: "an evicted timeline that comes back survives a power cut between any two disk operations",
    },
    {
      rule: "a disk is filled again in the generation in which it was tried before",
      file: "src/storage-controller/membership-steps.ts",
      search: "this.#seenEmpty.delete(id)",
      replace: "this.#seenEmpty.has(id)",
      test: "src/storage-controller/membership-steps.test.ts",
      name: "membershipChange: an empty disk is filled in a generation that was recorded after it was seen, once",
    },
    {
      rule: "a timeline whose removal's sync failed is said not to be here",
      file: "src/safekeeper/timeline-manager.ts",
      search: "    if (timeline?.closed === false) {\n      return timeline;",
      replace: "    if (timeline !== undefined) {\n      return timeline;",
      test: "src/safekeeper/timeline-manager.test.ts",
      name: "whichever sync of an exclusion fails, one that is said to be done is durable",
    },
    {
      rule: "a restart removes what a removal left without making the removal durable",
      file: "src/safekeeper/timeline-manager.ts",
      search: "          this.#disk.fsyncDirectory(tenantDirectory);\n",
      replace: "",
      test: "src/safekeeper/timeline-manager.test.ts",
      name: "after a restart what a removal left is gone for good",
    },
    {
      rule: "a change of members ends while too few new ones have all WAL",
      file: "src/safekeeper-protocol/membership-change.ts",
      search: " && answer.term >= sync.term && isAtLeast(answer, sync)",
      replace: " && answer.term >= sync.term",
      test: CONSENSUS_TEST,
      name: "members: the sync position is that of an old majority, and a new majority must reach it",
    },
    {
      rule: "a lost disk is filled in the generation in which it may have acknowledged",
      file: "src/safekeeper/transfer/pull-decision.ts",
      search: "  checkMayFill(nodeId, sources, mconf);\n",
      replace: "",
      test: "src/safekeeper/transfer/pull-decision.test.ts",
      name: "who may have had the timeline is filled only in a newer joint generation",
    },
    {
      rule: "a timeline is pulled although what was committed may be on none that answered",
      file: "src/safekeeper/transfer/pull-decision.ts",
      search: "  checkEnough(sources);\n",
      replace: "",
      test: "src/safekeeper/transfer/pull-decision.test.ts",
      name: "one that never had it needs so many answers that what was committed is among them",
    },
  ],
};
