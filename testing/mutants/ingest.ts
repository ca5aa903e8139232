// Broken rules of the pageserver's ingest: what it makes of WAL besides pages.

import type { MutantPart } from "./mutant.ts";

const PREPARED = "src/pageserver/ingest/prepared-transactions.ts";
const PREPARED_TEST = "src/pageserver/ingest/prepared-transactions.test.ts";

const TIMES = "src/pageserver/ingest/commit-times.ts";
const LSN_BY_TIMESTAMP = "src/pageserver/lsn-by-timestamp.ts";
const TIMES_TEST = "src/pageserver/lsn-by-timestamp.test.ts";
const ANY_CLOCKS =
  "LSN <-> time: as recovery_target_time, with any clocks, over flushes, restarts and branches";

const COPY = "src/pageserver/ingest/database-copy.ts";
const COPY_TEST = "src/pageserver/ingest/database-copy.test.ts";
const COPY_IS_EQUAL =
  "copyDatabase: equal to its source; others are served meanwhile; a few layers in memory";

export const INGEST_MUTANTS: MutantPart = {
  part: "ingest",
  mutants: [
    {
      rule: "a database's directory in a tablespace is forgotten when it is dropped there",
      file: "src/pageserver/ingest/walingest.ts",
      search: "      this.#tablespaces.directoryDropped(spcOid, dbOid);\n",
      replace: "",
      test: "src/pageserver/ingest/tablespaces.test.ts",
      name: "tablespaces: a database has a directory from its first relation there on, until one of the two goes",
    },
    {
      rule: "each prepared transaction leaves a key for ever",
      file: PREPARED,
      search: "this.#free.pop() ?? slots.size + 1;",
      replace: "Number(fullXid);",
      test: PREPARED_TEST,
      name: "PreparedTransactions: as many keys as were open at once, and the past stays",
    },
    {
      rule: "prepared transactions of a timeline of before are lost at the next one",
      file: PREPARED,
      search: "this.#put(slots, transaction, lsn);\n      }",
      replace: "}",
      test: PREPARED_TEST,
      name: "PreparedTransactions: those of a timeline of before are read, and moved at the first record",
    },
    {
      rule: "a clock that was set back hides commits after a time",
      file: TIMES,
      search: "const latestUs = Math.max(this.#latestUs, timeUs);",
      replace: "const latestUs = timeUs;",
      test: TIMES_TEST,
      name: ANY_CLOCKS,
    },
    {
      rule: "who takes over forgets the times before",
      file: TIMES,
      search: "this.#latestUs = last?.latestUs ?? 0;",
      replace: "",
      test: TIMES_TEST,
      name: ANY_CLOCKS,
    },
    {
      rule: "aborts count as commits",
      file: TIMES,
      search: "if (committed) {",
      replace: "if (committed || timeUs > 0) {",
      test: TIMES_TEST,
      name: ANY_CLOCKS,
    },
    {
      rule: "the LSN of a time leaves out commits of just then",
      file: LSN_BY_TIMESTAMP,
      search: "found.latestUs > timeUs",
      replace: "found.latestUs >= timeUs",
      test: TIMES_TEST,
      name: ANY_CLOCKS,
    },
    {
      rule: "aborted transactions do not stop a recovery to a time",
      file: "src/wal-decoder/xact-records.ts",
      search: "  sink.transactionEnd(time, commit);",
      replace: "  if (commit) {\n    sink.transactionEnd(time, commit);\n  }",
      test: "src/wal-decoder/interpret-record.test.ts",
      name: "interpretRecord: what each kind of record is taken to mean",
    },
    {
      rule: "a database is copied in one step, for which all others wait",
      file: COPY,
      search: "if (monotonicMs() - sliceStart >= SLICE_MS) {",
      replace: "if (monotonicMs() < sliceStart) {",
      test: COPY_TEST,
      name: COPY_IS_EQUAL,
    },
    {
      rule: "a database is copied as it was some records before",
      file: "src/pageserver/ingest/walingest.ts",
      search: "sourceLsn: this.#doneLsn",
      replace: "sourceLsn: this.#storage.diskConsistentLsn",
      test: "src/pageserver/ingest/database-copy.pg.test.ts",
      name: "file_copy of 17: every page as stock recovers it, on main and on branches, with the source gone",
    },
    {
      rule: "a database that is copied is in memory as a whole",
      file: COPY,
      search: "storage.makeRoom() ?? turn()",
      replace: "turn()",
      test: COPY_TEST,
      name: COPY_IS_EQUAL,
    },
    {
      rule: "a record of which a part was written out is not taken in again",
      file: "src/pageserver/layers/open-layer.ts",
      search: "this.consistentLsn = lastRecordLsn;",
      replace: "this.consistentLsn = maxLsn(lastRecordLsn, lastPutLsn);",
      test: COPY_TEST,
      name: "copyDatabase: broken off, by a stop or the end of the process, it is made anew",
    },
  ],
};
