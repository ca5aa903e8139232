// Broken rules of a compute's sessions with its Postgres: what counts as use, and who may do what.

import type { MutantPart } from "./mutant.ts";

const ACTIVITY = "src/compute/sessions/activity.ts";
const ACTIVITY_TEST = "src/compute/sessions/activity.pg.test.ts";
const CHANGED_PAGES = "src/compute/shutdown/changed-pages.ts";
const CLEAN_STOP_TEST = "test/compute/clean-stop.test.ts";
const CONFIGURE_TEST = "src/compute/sessions/configure.pg.test.ts";

export const COMPUTE_MUTANTS: MutantPart = {
  part: "compute",
  mutants: [
    {
      rule: "what starts read no more stays in their record",
      file: "src/compute/pages/start-reads.ts",
      search: "if (unused < MAX_UNUSED_STARTS) {",
      replace: "if (unused < 2 ** 31) {",
      test: "src/compute/pages/start-reads.test.ts",
      name: "what starts do not read any more leaves the record",
    },
    {
      rule: "a file that was placed counts as read",
      file: "src/compute/pages/start-reads.ts",
      search: "    futimesSync(fd, 0, nowMs() / 1000);\n",
      replace: "",
      test: "src/compute/pages/start-reads.test.ts",
      name: "used: what somebody has read of since it was placed",
    },
    {
      rule: "an endpoint begins with any record of its tenant, rather than with its branch's",
      file: "src/local/endpoints.ts",
      search: "Number(b.isSameBranch) - Number(a.isSameBranch) || ",
      replace: "",
      test: "src/local/endpoints.test.ts",
      name: "createEndpoint: begins with what starts of its branch have read, or of the tenant's last one",
    },
    {
      rule: "sequences are as their WAL says after a clean stop",
      file: CHANGED_PAGES,
      search: "        changed.push(...changedSequence(directory, file));",
      replace: "        changed.push(...changedSequence(directory, file).slice(1));",
      test: CLEAN_STOP_TEST,
      name: "a clean stop: sequences go on with the next value",
    },
    {
      rule: "free space maps are not saved",
      file: CHANGED_PAGES,
      search: "mapPages < MAX_MAP_PAGES",
      replace: "mapPages > MAX_MAP_PAGES",
      test: CLEAN_STOP_TEST,
      name: "a clean stop: a table that is updated does not grow over 20 suspends",
    },
    {
      rule: "zeros of a block that nobody has read are saved",
      file: CHANGED_PAGES,
      search: "  return bytes > stored ?",
      replace: "  return bytes >= stored ?",
      test: "src/compute/shutdown/changed-pages.test.ts",
      name: "changedPages: a map's table has the blocks that it names, also those in no WAL",
    },
    {
      rule: "what a Postgres that crashed has left is saved",
      file: "src/compute/postgres-side.ts",
      search: "if (hasShutDown(dataDirectory, wal.endOfWal)) {",
      replace: "if (hasShutDown !== undefined) {",
      test: CLEAN_STOP_TEST,
      name: "a stop in which Postgres crashes saves nothing",
    },
    {
      rule: "statistics are true behind their record too",
      file: "src/pageserver/ingest/statistics.ts",
      search: "view.getBigUint64(0, true) === BigInt(lsn)",
      replace: "view.getBigUint64(0, true) <= BigInt(lsn)",
      test: CLEAN_STOP_TEST,
      name: "a clean stop: statistics are there at the next start, and not after a crash",
    },
    {
      rule: "any session can write statistics",
      file: "src/wal-decoder/logical-message-records.ts",
      search: "  if (dbOid === 0) {",
      replace: "  if (dbOid >= 0) {",
      test: "src/wal-decoder/interpret-record.test.ts",
      name: "logical messages: statistics come from no session, so from database 0 only",
    },
    {
      rule: "sessions are not told of a stop",
      file: "src/compute/postgres-process.ts",
      search: 'this.#signal("SIGINT");',
      replace: 'this.#signal("SIGKILL");',
      test: "src/compute/suspend.pg.test.ts",
      name: "suspend: sessions are told, who comes then may come again",
    },
    {
      rule: "sessions between two looks do not count",
      file: ACTIVITY,
      search: 'const worked = (activeTime ?? "0") !== this.#activeTime;',
      replace: 'const worked = (activeTime ?? "0") === "";',
      test: ACTIVITY_TEST,
      name: "last_active: a session that came and went",
    },
    {
      rule: "who looks whether it is used uses it",
      file: "src/compute/sessions/maintenance-session.ts",
      search: '"track_activities=off",',
      replace: "",
      test: ACTIVITY_TEST,
      name: "last_active: from the start on",
    },
    {
      rule: "a transaction that is open does not count",
      file: ACTIVITY,
      search: "state is distinct from 'idle'",
      replace: "state = 'active'",
      test: ACTIVITY_TEST,
      name: "last_active: a session that came and went",
    },
    {
      rule: "a walsender does not count",
      file: ACTIVITY,
      search: "backend_type in ('walsender', 'autovacuum worker')",
      replace: "backend_type in ('autovacuum worker')",
      test: ACTIVITY_TEST,
      name: "last_active: a walsender keeps it at work",
    },
    {
      rule: "names are not quoted",
      file: "src/compute/sessions/sql-text.ts",
      search: `name.replaceAll('"', '""')`,
      replace: "name",
      test: CONFIGURE_TEST,
      name: "configure: any name that Postgres can have",
    },
    {
      rule: "a password that is not named is taken away",
      file: "src/compute/sessions/roles.ts",
      search: "} else if (secret !== undefined && present.get(name) !== secret) {",
      replace: "} else if (present.get(name) !== secret) {",
      test: CONFIGURE_TEST,
      name: "configure: passwords and owners change",
    },
    {
      rule: "a setting that Postgres refuses stays in the file",
      file: "src/compute/sessions/settings.ts",
      search: "      restore();\n",
      replace: "",
      test: CONFIGURE_TEST,
      name: "configure: settings are loaded",
    },
    {
      rule: "Postgres that is built anew has the settings of before",
      file: "src/compute/supervisor.ts",
      search: "this.#spec = { ...this.#spec, settings };",
      replace: "",
      test: CONFIGURE_TEST,
      name: "configure: settings are loaded",
    },
  ],
};
