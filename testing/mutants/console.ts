// Broken rules of the console's way in: links, cookies, what may come out.

import type { MutantPart } from "./mutant.ts";

const SESSIONS_TEST = "src/control-plane/console/sessions.test.ts";

export const CONSOLE_MUTANTS: MutantPart = {
  part: "console",
  mutants: [
    {
      rule: "a link logs in twice",
      file: "src/control-plane/console/sessions.ts",
      search: 'await db.deleteFrom("console_links").where("hash", "=", hash).execute();',
      replace: "",
      test: SESSIONS_TEST,
      name: "console: a link logs in once",
    },
    {
      rule: "a link is good for ever",
      file: "src/control-plane/console/sessions.ts",
      search: "link.expires_at <= nowText()",
      replace: 'link.expires_at === ""',
      test: SESSIONS_TEST,
      name: "console: a link is good for 15 minutes",
    },
    {
      rule: "a session is good for ever",
      file: "src/control-plane/console/sessions.ts",
      search: '.where("console_sessions.expires_at", ">", nowText())',
      replace: "",
      test: SESSIONS_TEST,
      name: "console: a link is good for 15 minutes",
    },
    {
      rule: "who logs out stays logged in, but for the browser's cookie",
      file: "src/control-plane/console/session-routes.ts",
      search: "await sessions.end(caller.session);",
      replace: "",
      test: SESSIONS_TEST,
      name: "console: who logs out has a cookie that is worth nothing",
    },
    {
      rule: "the token itself is kept",
      file: "src/control-plane/console/sessions.ts",
      search: 'return createHash("sha256").update(token).digest("hex");',
      replace: 'return createHash("sha256").update(token).digest("hex") && token;',
      test: SESSIONS_TEST,
      name: "console: neither a link's token nor a cookie's value is kept",
    },
    {
      rule: "whoever goes away leaves a statement running",
      file: "src/control-plane/console/sql-run.ts",
      search: "      this.#cancel();\n      this.#end();",
      replace: "      this.#end();",
      test: "test/console/console.test.ts",
      name: "sql: whoever goes away has cancelled what runs",
    },
    {
      rule: "the superuser comes in",
      file: "src/control-plane/console/sql-routes.ts",
      search: "if (row === undefined) {",
      replace: 'if (row === undefined && role !== "cloud_admin") {',
      test: "test/console/console.test.ts",
      name: "sql: only with a role that users made",
    },
    {
      rule: "a name is not quoted within",
      file: "console/src/tables/statements.ts",
      search: "name.replaceAll('\"', '\"\"')",
      replace: "name",
      test: "test/console/tables.test.ts",
      name: "tables: hostile names and values",
    },
    {
      rule: "a backslash of a value means what the role's settings say",
      file: "console/src/tables/statements.ts",
      search: '.replaceAll("\\\\", "\\\\\\\\")',
      replace: "",
      test: "test/console/tables.test.ts",
      name: "tables: hostile names and values",
    },
    {
      rule: "what somebody else has changed meanwhile is overwritten",
      file: "console/src/tables/statements.ts",
      search: '].join(" AND ");',
      replace: '].slice(0, -1).join(" AND ");',
      test: "test/console/tables.test.ts",
      name: "tables: a row that was changed since it was read",
    },
    {
      rule: "who watches a branch later hears nothing of before",
      file: "src/control-plane/console/monitoring.ts",
      search: "stream.send(this.#samples);",
      replace: "stream.send([]);",
      test: "test/console/monitoring.test.ts",
      name: "monitoring: counts what is done",
    },
    {
      rule: "a look at Postgres counts itself as a connection",
      file: "src/compute/sessions/statistics.ts",
      search: "and not (usename",
      replace: "and true or not (usename",
      test: "test/console/monitoring.test.ts",
      name: "monitoring: a session at work is counted",
    },
  ],
};
