// Broken rules of logical replication slots: what is in WAL of them, what a start gets, and the WAL from before it.

import type { MutantPart } from "./mutant.ts";

const AUX_FILES = "src/compute/shim/library/aux_files.c";
const INGEST = "src/pageserver/ingest/aux-files.ts";
const INGEST_TEST = "src/pageserver/ingest/aux-files.test.ts";
const GONE_AT_SHUTDOWN = "auxiliary files: what no slot needs any more is gone";
const SNAPSHOTS_ONLY = "auxiliary files: snapshots that a slot may begin with";
const SAFEKEEPER_WAL = "src/compute/wal/safekeeper-wal.ts";
const SAFEKEEPER_WAL_TEST = "src/compute/wal/safekeeper-wal.test.ts";
const SAVE_STATE = "src/compute/shutdown/save-state.ts";
const SAVE_STATE_TEST = "src/compute/shutdown/save-state.test.ts";
const OLD_WAL = "src/compute/wal/old-wal.ts";
const OLD_WAL_TEST = "src/compute/wal/old-wal.test.ts";
const SLOTS_TEST = "test/replication/logical-slots.test.ts";
const CONTROL_PLANE_TEST = "test/control-plane/wake-and-suspend.test.ts";
const ENABLED = "logical replication: enabled for all endpoints of a project";
const DURABLE = "a slot is durable when its making returns";

export const LOGICAL_SLOT_MUTANTS: MutantPart = {
  part: "slots",
  mutants: [
    {
      rule: "nobody waits until a slot's state is on a quorum",
      file: AUX_FILES,
      search: "    XLogFlush(put_into_wal(state, content));",
      replace: "    put_into_wal(state, content);",
      test: SLOTS_TEST,
      name: DURABLE,
    },
    {
      rule: "a slot that was dropped is there again",
      file: AUX_FILES,
      search: "    XLogFlush(put_into_wal(state, (struct content){NULL, 0}));",
      replace: "    put_into_wal(state, content);",
      test: SLOTS_TEST,
      name: DURABLE,
    },
    {
      rule: "physical slots are kept",
      file: AUX_FILES,
      search: "  return database != 0 && persistency == RS_PERSISTENT;",
      replace: "  return persistency == RS_PERSISTENT;",
      test: SLOTS_TEST,
      name: "temporary and physical slots end with Postgres",
    },
    {
      rule: "snapshots of catalogs are not kept",
      file: AUX_FILES,
      search: "    put_into_wal(path, content);\n  } else if",
      replace: "    (void)path;\n  } else if",
      test: SLOTS_TEST,
      name: "transactions around a crash",
    },
    {
      rule: "WAL is written while a shutdown checkpoint is",
      file: AUX_FILES,
      search: "  return state == DB_IN_PRODUCTION;",
      replace: "  return state != 0;",
      test: SLOTS_TEST,
      name: "a clean stop knows what was received",
    },
    {
      rule: "what a shutdown checkpoint says of slots is not kept",
      file: SAVE_STATE,
      search: "  const slots = readSlotFiles(dataDirectory);",
      replace: "  const slots = readSlotFiles(dataDirectory).slice(0, 0);",
      test: SLOTS_TEST,
      name: "a clean stop knows what was received",
    },
    {
      rule: "mappings of rewritten catalogs are not kept",
      file: "src/wal-decoder/heap-records.ts",
      search: "      interpretRewrite(record, sink);",
      replace: "",
      test: "src/wal-decoder/interpret-record.test.ts",
      name: "heap records: a rewrite of a catalog",
    },
    {
      rule: "a branch has its parent's slots",
      file: INGEST,
      search: "    if (piece.lsn > startLsn) {",
      replace: "    if (piece.lsn >= 0) {",
      test: INGEST_TEST,
      name: "auxiliary files: a branch has none of its parent's",
    },
    {
      rule: "a slot may begin with its oldest snapshot only",
      file: INGEST,
      search: "restartLsn <= at && at <= confirmedFlush",
      replace: "restartLsn === at && at <= confirmedFlush",
      test: INGEST_TEST,
      name: SNAPSHOTS_ONLY,
    },
    {
      rule: "every snapshot that was made comes with each start",
      file: INGEST,
      search: "restartLsn <= at && at <= confirmedFlush",
      replace: "restartLsn <= at && 0 <= confirmedFlush",
      test: INGEST_TEST,
      name: SNAPSHOTS_ONLY,
    },
    {
      rule: "a piece of a mapping stays when its file goes",
      file: INGEST,
      search:
        "    for (const { index } of [...this.#storage.scan(prefixFields(prefix), doneLsn)]) {",
      replace:
        "    for (const { index } of [...this.#storage.scan(prefixFields(prefix), doneLsn)].slice(0, 1)) {",
      test: INGEST_TEST,
      name: "auxiliary files: a mapping is whole",
    },
    {
      rule: "what Postgres removed in a shutdown checkpoint stays in storage",
      file: INGEST,
      search: "(auxFileLsn(key.piece.path) ?? oldest) < oldest",
      replace: "(auxFileLsn(key.piece.path) ?? oldest) < 0",
      test: INGEST_TEST,
      name: GONE_AT_SHUTDOWN,
    },
    {
      rule: "a slot that is being made loses the snapshot it goes on from",
      file: "src/pageserver/ingest/walingest.ts",
      search: "    if (shutdown) {\n      this.publish();",
      replace: "    if (shutdown || !shutdown) {\n      this.publish();",
      test: INGEST_TEST,
      name: GONE_AT_SHUTDOWN,
    },
    {
      rule: "a slot whose WAL is gone keeps every snapshot",
      file: INGEST,
      search: "begins.filter((lsn) => lsn !== INVALID_LSN)",
      replace: "begins",
      test: INGEST_TEST,
      name: GONE_AT_SHUTDOWN,
    },
    {
      rule: "a branch reads its parent's auxiliary files for ever",
      file: INGEST,
      search: "      if (!isOwn(key) || (",
      replace: "      if ((",
      test: INGEST_TEST,
      name: "auxiliary files: a branch's first start removes",
    },
    {
      rule: "a slot's state that makes no sense stops ingest",
      file: INGEST,
      search: "  } catch {\n    return 0;",
      replace: "  } catch (error) {\n    throw error;",
      test: INGEST_TEST,
      name: "auxiliary files: a state that makes no sense",
    },
    {
      rule: "a stop waits for who confirms nothing until it has no more time",
      file: "src/compute/postgres-process.ts",
      search: "      endWalsenders(this.#dataDirectory);",
      replace: "",
      test: SLOTS_TEST,
      name: "a stop does not wait for who confirms nothing",
    },
    {
      rule: "any path is an auxiliary file",
      file: "src/data-directory/aux-files.ts",
      search: "  return SLOT.test(path) || SNAPSHOT.test(path) || MAPPING.test(path);",
      replace: "  return path.length >= 0;",
      test: INGEST_TEST,
      name: "auxiliary files: other paths are passed over",
    },
    {
      rule: "a compute writes auxiliary files wherever storage says",
      file: "src/data-directory/aux-files.ts",
      search: "    if (!isAuxPath(path)) {",
      replace: '    if (path === "") {',
      test: "src/data-directory/aux-files.test.ts",
      name: "placeAuxFiles: only where they belong",
    },
    {
      rule: "a clean stop keeps slots that end with their session",
      file: "src/data-directory/aux-files.ts",
      search: "      return dbOid !== 0 && isPersistent;",
      replace: "      return dbOid !== 0 || isPersistent;",
      test: "src/data-directory/aux-files.test.ts",
      name: "readSlotFiles: logical ones that are there for good",
    },
    {
      rule: "slots whose WAL is gone are as before",
      file: OLD_WAL,
      search: "        lost.push(name);",
      replace: "",
      test: OLD_WAL_TEST,
      name: "OldWal: slots whose WAL is gone are told",
    },
    {
      rule: "WAL is gone for slots where one safekeeper of some says so",
      file: SAFEKEEPER_WAL,
      search: "failures.every((one)",
      replace: "failures.some((one)",
      test: SAFEKEEPER_WAL_TEST,
      name: "safekeeperWal: gone only where all say so",
    },
    {
      rule: "WAL is gone for slots where there is nobody to ask",
      file: SAFEKEEPER_WAL,
      search: "failures.length > 0 && ",
      replace: "",
      test: SAFEKEEPER_WAL_TEST,
      name: "safekeeperWal: gone only where all say so",
    },
    {
      rule: "more WAL is written into a segment than was asked for",
      file: SAFEKEEPER_WAL,
      search: "bytes.subarray(0, Math.max(0, end - lsn))",
      replace: "bytes",
      test: SAFEKEEPER_WAL_TEST,
      name: "safekeeperWal: contiguous",
    },
    {
      rule: "any shutdown counts as the one that was just finished",
      file: SAVE_STATE,
      search: " && control.checkPointLsn === end.lastRecordLsn",
      replace: "",
      test: SAVE_STATE_TEST,
      name: "hasShutDown: where the last record is the checkpoint",
    },
    {
      rule: "slots come behind the statistics that a stop saves",
      file: SAVE_STATE,
      search: "    const mainData = encodeStatisticsMessage(statistics);\n    records.push(",
      replace: "    const mainData = encodeStatisticsMessage(statistics);\n    records.unshift(",
      test: SAVE_STATE_TEST,
      name: "saveState: statistics come last",
    },
    {
      rule: "logical replication can be disabled",
      file: "src/control-plane/api-v2/projects.ts",
      search: "if (replicatesLogically(now.settings) && !replicatesLogically(settings)) {",
      replace: "if (replicatesLogically(now.settings) && replicatesLogically(settings)) {",
      test: CONTROL_PLANE_TEST,
      name: ENABLED,
    },
    {
      rule: "endpoints that there are stay as they were when logical replication is enabled",
      file: "src/control-plane/api-v2/projects.ts",
      search: "  if (replicatesLogically(settings) && change.settings !== undefined) {",
      replace: "  if (!replicatesLogically(settings) && change.settings !== undefined) {",
      test: CONTROL_PLANE_TEST,
      name: ENABLED,
    },
    {
      rule: "an endpoint with slots starts with the wal_level that it was given",
      file: "src/compute/postgres-settings.ts",
      search: '    chosen.set("wal_level", "logical");',
      replace: "",
      test: "src/compute/postgres-settings.test.ts",
      name: "postgresSettings: with logical slots Postgres decodes",
    },
    {
      rule: "a start's segment has no WAL from before it",
      file: OLD_WAL,
      search: "    if (begin < end) {",
      replace: "    if (begin > end) {",
      test: OLD_WAL_TEST,
      name: "OldWal: a slot that needs only a part of the start's segment",
    },
    {
      rule: "a segment has no header where nothing of its first page is needed",
      file: OLD_WAL,
      search: "      this.#writeHeader(fd, first, 0);",
      replace: "",
      test: OLD_WAL_TEST,
      name: "OldWal: from the oldest page that a slot needs",
    },
    {
      rule: "a page in which a timeline begins has no header",
      file: OLD_WAL,
      search: "    if (pageStart(begin) !== begin) {",
      replace: "    if (pageStart(begin) === begin) {",
      test: OLD_WAL_TEST,
      name: "OldWal: a timeline that begins in the middle of a page",
    },
    {
      rule: "a segment that could not be fetched whole is one",
      file: OLD_WAL,
      search: "      rmSync(fresh, { force: true });",
      replace: "      renameSync(fresh, path);",
      test: OLD_WAL_TEST,
      name: "OldWal: what is gone meanwhile is no file",
    },
  ],
};
