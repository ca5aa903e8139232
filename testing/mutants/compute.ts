// Broken rules of a compute's sessions with its Postgres: what counts as use, and who may do what.

import type { MutantPart } from "./mutant.ts";

const ACTIVITY = "src/compute/sessions/activity.ts";
const ACTIVITY_TEST = "src/compute/sessions/activity.pg.test.ts";
const CONFIGURE_TEST = "src/compute/sessions/configure.pg.test.ts";

export const COMPUTE_MUTANTS: MutantPart = {
  part: "compute",
  mutants: [
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
