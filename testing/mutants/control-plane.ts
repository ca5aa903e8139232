// Broken rules of the control plane: operations, keys, what the home is seen as, suspensions.

import type { MutantPart } from "./mutant.ts";

const CRASH_TEST = "test/control-plane/operations-crash.test.ts";
const ACCESS_TEST = "test/control-plane/access.test.ts";
const WAKE_TEST = "test/control-plane/wake-and-suspend.test.ts";
const VERBS_TEST = "test/control-plane/verbs.test.ts";

export const CONTROL_PLANE_MUTANTS: MutantPart = {
  part: "control-plane",
  mutants: [
    {
      rule: "a restore that was done is done again after a crash",
      file: "src/control-plane/operations/storage-kinds.ts",
      search: "if (current !== args.fromTimelineId && !isUnderWay) {",
      replace: "if (current === undefined) {",
      test: CRASH_TEST,
      name: "operations after crashes",
    },
    {
      rule: "a timeline id that a crash left half made is used again",
      file: "src/control-plane/operations/storage-kinds.ts",
      search: "const fresh = { ...args, timelineId: generateTimelineId() };",
      replace: "const fresh = args;",
      test: CRASH_TEST,
      name: "operations after crashes",
    },
    {
      rule: "what failed is not undone",
      file: "src/control-plane/operations/operations.ts",
      search: "await kind.undo?.(JSON.parse(row.args));",
      replace: "",
      test: CRASH_TEST,
      name: "operations after crashes",
    },
    {
      rule: "that it is being undone is not persisted",
      file: "src/control-plane/operations/operations.ts",
      search: "await this.#change(row, { error: errorMessage(failure) });",
      replace: "row.error = errorMessage(failure);",
      test: CRASH_TEST,
      name: "operations after crashes",
    },
    {
      rule: "an operation that had begun is not gone on with",
      file: "src/control-plane/operations/operations.ts",
      search: 'const UNFINISHED = ["scheduling", "running"] as const;',
      replace: 'const UNFINISHED = ["scheduling"] as const;',
      test: CRASH_TEST,
      name: "operations after crashes",
    },
    {
      rule: "two jobs of a project at once",
      file: "src/control-plane/operations/operations.ts",
      search: "await requireIdle(db, projectId);",
      replace: "",
      test: ACCESS_TEST,
      name: "a second operation on a busy project gets 423",
    },
    {
      rule: "a key of one project opens others",
      file: "src/control-plane/authorize.ts",
      search: 'params["project_id"] !== caller.projectId',
      replace: "caller.keyId < 0",
      test: ACCESS_TEST,
      name: "a key of one project sees and changes that one only",
    },
    {
      rule: "a key for reading learns passwords",
      file: "src/control-plane/authorize.ts",
      search: "(!isRead || PASSWORD_ROUTES.test(route.path))",
      replace: "!isRead",
      test: ACCESS_TEST,
      name: "a key for reading changes nothing and learns no password",
    },
    {
      rule: "only the number of a key is compared",
      file: "src/control-plane/accounts.ts",
      search: '|| !timingSafeEqual(hashOf(key), Buffer.from(row.hash, "hex"))',
      replace: "",
      test: ACCESS_TEST,
      name: "no route answers without a key, or with a wrong one",
    },
    {
      rule: "a reset gives the branch another id",
      file: "src/control-plane/inventory.ts",
      search: "if (!known.has(timelineId) && ofName !== undefined) {",
      replace: "if (!known.has(timelineId) && ofName === undefined && known.size < 0) {",
      test: VERBS_TEST,
      name: "what the command line makes, renames, resets and deletes is so in the API",
    },
    {
      rule: "who wakes at once does it one after the other, each noted",
      file: "src/control-plane/computes/computes.ts",
      search: "if (waking === undefined) {",
      replace: "this.provider.isRunning = () => false;\n    {",
      test: WAKE_TEST,
      name: "waking and suspending",
    },
    {
      rule: "a role that nobody knows wakes an endpoint that was suspended",
      file: "src/control-plane/proxy-routes.ts",
      search: "row === undefined ? !wasSuspended(endpoint) : row.verifier === null",
      replace: "row === undefined || row.verifier === null",
      test: WAKE_TEST,
      name: "waking and suspending",
    },
    {
      rule: "roles that SQL made are forgotten when their endpoint falls asleep",
      file: "src/control-plane/computes/suspend-loop.ts",
      search: "await this.#before(row);",
      replace: "",
      test: WAKE_TEST,
      name: "waking and suspending",
    },
    {
      rule: "an endpoint that is used is suspended",
      file: "src/control-plane/computes/suspend-loop.ts",
      search: "if (lastActive === null) {\n      return false;\n    }",
      replace: "if (lastActive === null) {\n      return true;\n    }",
      test: WAKE_TEST,
      name: "waking and suspending",
    },
    {
      rule: "a sealed password opens for another role",
      file: "src/control-plane/sealed-secrets.ts",
      search: ".setAAD(Buffer.from(owner))\n        .setAuthTag",
      replace: ".setAAD(Buffer.alloc(0))\n        .setAuthTag",
      test: "src/control-plane/sealed-secrets.test.ts",
      name: "SealedSecrets: opens with the same key for the same owner only",
    },
    {
      rule: "a migration that fails is half done",
      file: "src/control-plane/state/database.ts",
      search: "await db.transaction().execute(async (transaction) => {",
      replace: "await db.connection().execute(async (transaction) => {",
      test: "src/control-plane/state/database.test.ts",
      name: "migrate: a migration that fails leaves the version before, whole",
    },
  ],
};
