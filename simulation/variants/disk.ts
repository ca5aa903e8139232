// Variants that lack a rule of what must be on disk, and in which order.

import type { Variant } from "./variant.ts";

const STORAGE = "src/safekeeper/wal-storage.ts";
const DISK = "src/base/disk.ts";

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
    seed: 12,
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
    seed: 243,
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
    seed: 1,
    changes: [
      {
        file: STORAGE,
        find: `        this.#disk.fsync(fd);
        this.#disk.fsyncDirectory(this.#directory);`,
        replace: "        this.#disk.fsync(fd);",
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
    seed: 452,
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
    name: "comes-back-before-its-wal",
    rule: "the end of an evicted log is on the disk, durably, before the control file says so",
    seed: 36,
    changes: [
      {
        file: "src/safekeeper/timeline.ts",
        find: "    restoreSegment(this.#directory, this.#segmentSize, lsn, bytes, this.#disk);\n    this.#persistPositions({ ...this.#placement, evicted: false });",
        replace:
          "    this.#persistPositions({ ...this.#placement, evicted: false }); restoreSegment(this.#directory, this.#segmentSize, lsn, bytes, this.#disk);",
      },
    ],
  },
  {
    name: "removes-what-is-not-stored",
    rule: "WAL leaves the disk after it is in the object store",
    seed: 169,
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
    seed: 80,
    changes: [
      {
        file: "simulation/simulated-store.ts",
        find: "const { commitLsn, persistent } = timeline.state;",
        replace: "const { flushLsn: commitLsn, persistent } = timeline.state;",
      },
      {
        file: "src/safekeeper/timeline.ts",
        find: "const backupLsn = minLsn(lsn, this.#state.commitLsn);",
        replace: "const backupLsn = minLsn(lsn, this.#state.flushLsn);",
      },
    ],
  },
  {
    name: "uploads-half-checked-records",
    rule: "a record is checked as a whole before any segment that has a part of it is uploaded",
    seed: 1581,
    changes: [
      {
        file: "src/safekeeper/wal-backup/whole-segment-check.ts",
        find: "for (let at = end; check.recordEndLsn! < end; ) {",
        replace: "for (let at = end; check.recordEndLsn! < 0; ) {",
      },
    ],
  },
  {
    name: "evicts-half-checked-records",
    rule: "a record is checked as a whole before the log's end, which has a part of it, leaves the disk",
    seed: 9_076_978,
    changes: [
      {
        file: "src/safekeeper/wal-backup/whole-segment-check.ts",
        find: `    const bytes = new Uint8Array(end - start);
    const check = yield* this.#walkUpTo(from);`,
        replace: `    const bytes = new Uint8Array(end - start);
    const check = new SegmentCheck(this.#wal);
    if (from === this.#logStart) {
      check.startAt(from);
    }`,
      },
    ],
  },
];
