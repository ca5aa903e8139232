// Variants that lack a rule of what must be on disk, and in which order.

import type { Variant } from "./variant.ts";

const STORAGE = "src/safekeeper/wal-storage.ts";
const DISK = "src/base/disk.ts";
const BACKUP = "src/safekeeper/wal-backup/timeline-backup.ts";

export const diskVariants: readonly Variant[] = [
  {
    name: "ack-before-fsync",
    rule: "an answer leaves after the fdatasync",
    seed: 1,
    changes: [
      {
        file: "src/safekeeper/timeline.ts",
        find: `      const startedMs = monotonicMs();
      this.#wal.flush();`,
        replace: "      const startedMs = monotonicMs();",
      },
    ],
  },
  {
    name: "ack-while-the-sync-goes-on",
    rule: "what a sync under way takes to the disk is acknowledged when that has ended",
    seed: 63,
    changes: [
      {
        file: "src/safekeeper/timeline.ts",
        find: "    const fd = writeLsn > flushLsn ? this.#wal.beginFlush() : undefined;\n",
        replace: `    const fd = writeLsn > flushLsn ? this.#wal.beginFlush() : undefined;
    this.#state = flushed(this.#state);
`,
      },
    ],
  },
  {
    name: "ack-of-what-came-after-the-sync-began",
    rule: "a sync that has ended covers what was written before it began, and no more",
    seed: 24,
    changes: [
      {
        file: "src/safekeeper/timeline.ts",
        find: "      this.#state = flushedUpTo(this.#state, recordLsn);",
        replace: "      this.#state = flushed(this.#state);",
      },
    ],
  },
  {
    name: "ack-of-a-log-that-was-cut",
    rule: "a sync that has ended says nothing of a log that was cut off and went on meanwhile",
    seed: 3670,
    changes: [
      {
        file: "src/safekeeper/timeline.ts",
        find: "    if (this.#truncations === truncations) {\n",
        replace: "    if (this.#truncations >= truncations) {\n",
      },
    ],
  },
  {
    name: "vote-while-the-sync-goes-on",
    rule: "a flush covers what a sync under way has not brought to the disk yet",
    seed: 133,
    changes: [
      {
        file: STORAGE,
        find: "    if (!this.#dirty && !this.#flushesHere) {\n",
        replace: "    if (!this.#dirty) {\n",
      },
    ],
  },
  {
    name: "restart-trusts-the-page-cache",
    rule: "a restart makes the WAL that it finds durable before it tells of it",
    seed: 20,
    changes: [
      {
        file: "src/safekeeper/timeline-load.ts",
        find: "wal.settleAfterStart(persistent.flushedLsn);",
        replace: "wal.flush();",
      },
    ],
  },
  {
    name: "failed-flush-forgotten",
    rule: "a failed fdatasync is final",
    seed: 20,
    changes: [
      {
        file: STORAGE,
        find: `    if (this.#failed !== undefined) {
      throw this.#failed;
    }`,
        replace: "",
      },
    ],
  },
  {
    name: "tail-not-zeroed",
    rule: "a cut turns the tail into zeros, durably",
    seed: 188,
    changes: [
      {
        file: STORAGE,
        find: "      this.#cutFrom(lsn, false);",
        replace: "",
      },
    ],
  },
  {
    name: "cut-before-lower-position",
    rule: "the control file is told of the lower end before the cut",
    seed: 2,
    // No seed of the whole simulation is known that gets there.
    caughtBy: "power-cuts",
    changes: [
      {
        file: "src/safekeeper/consensus/acceptor.ts",
        find: "if (persistent.flushedLsn > startStreamingAt) {",
        replace: "if (persistent.flushedLsn < 0) {",
      },
    ],
  },
  {
    name: "segment-entry-not-synced",
    rule: "a new segment's directory entry is durable before WAL in it is acknowledged",
    seed: 2,
    changes: [
      {
        file: STORAGE,
        find: `          this.#disk.fsync(fd);
          this.#disk.fsyncDirectory(this.#directory);`,
        replace: "          this.#disk.fsync(fd);",
      },
    ],
  },
  {
    name: "control-file-not-synced",
    rule: "the new control file is synced before it takes the place of the old one",
    seed: 4,
    changes: [{ file: DISK, find: "      disk.fsync(fd);\n", replace: "" }],
  },
  {
    name: "rename-not-synced",
    rule: "the rename of the control file is durable before the answer",
    seed: 6,
    changes: [{ file: DISK, find: "    disk.fsyncDirectory(dirname(path));\n", replace: "" }],
  },
  {
    name: "evicts-before-it-is-written-down",
    rule: "that a disk has no WAL is in the control file before it goes",
    seed: 97,
    changes: [
      {
        file: "src/safekeeper/timeline.ts",
        find: "    this.#persistPositions({ ...this.#placement, evicted: true });",
        replace:
          "    this.#wal.removeBelow(MAX_LSN); this.#persistPositions({ ...this.#placement, evicted: true });",
      },
    ],
  },
  {
    name: "removes-what-an-offline-peer-lacks",
    rule: "without an object store, WAL stays that any safekeeper lacks, also one that is away",
    seed: 655,
    changes: [
      {
        file: "src/walproposer/proposer.ts",
        find: "lowest = minLsn(lowest, peer.flushLsn);",
        replace: "lowest = minLsn(lowest, peer.flushLsn > 0 ? peer.flushLsn : lowest);",
      },
    ],
  },
  {
    name: "removes-before-the-control-file",
    rule: "the control file says where a restart looks for the log's end before WAL goes that it looked at",
    seed: 407,
    changes: [
      {
        file: "src/safekeeper/timeline.ts",
        find: "      this.#persistPositions();\n    }\n    this.#localWalStart",
        replace: "    }\n    this.#localWalStart",
      },
    ],
  },
  {
    name: "removes-what-is-not-stored",
    rule: "WAL leaves the disk after it is in the object store",
    seed: 17,
    changes: [
      {
        file: "src/safekeeper/wal-backup/wal-removal.ts",
        find: "    horizon = minLsn(horizon, backupLsn);",
        replace: "",
      },
    ],
  },
  {
    name: "uploads-what-is-not-committed",
    rule: "only committed WAL goes into the object store",
    seed: 406,
    changes: [
      {
        file: BACKUP,
        find: "return segmentStart(backupLsn, walSegSize) + walSegSize <= state.commitLsn;",
        replace: "return segmentStart(backupLsn, walSegSize) + walSegSize <= state.flushLsn;",
      },
      {
        file: BACKUP,
        find: "    const { commitLsn } = timeline.state;\n",
        replace: "    const { flushLsn: commitLsn } = timeline.state;\n",
      },
      {
        file: "src/safekeeper/timeline.ts",
        find: "const backupLsn = minLsn(lsn, this.#state.commitLsn);",
        replace: "const backupLsn = minLsn(lsn, this.#state.flushLsn);",
      },
    ],
  },
  {
    name: "backup-told-before-it-is-put",
    rule: "the control file says that WAL is in the object store after it is there",
    seed: 7306,
    changes: [
      {
        file: BACKUP,
        find: "    yield* this.#putSegment(start, bytes);\n    freeMemory(bytes);\n    timeline.advanceBackup(end);",
        replace:
          "    timeline.advanceBackup(end);\n    yield* this.#putSegment(start, bytes);\n    freeMemory(bytes);",
      },
    ],
  },
  {
    name: "no-news-without-wal",
    rule: "a safekeeper hears of what is stored, also where the pageserver needs nothing from it",
    seed: 1,
    changes: [
      {
        file: "src/pageserver/safekeeper-choice.ts",
        find: "(hasWal || lacksNews)",
        replace: "hasWal",
      },
    ],
  },
];
