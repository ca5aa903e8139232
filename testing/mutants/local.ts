// Broken rules of the command line, of homes and branches, and of what every daemon shares.

import type { MutantPart } from "./mutant.ts";

const BRANCHES = "src/local/branches.ts";
const BRANCHES_TEST = "src/local/branches.test.ts";
const SWITCH = "src/local/branches/branch-switch.ts";
const SWITCH_TEST = "src/local/branches/branch-switch.test.ts";
const DAEMON_TEST = "src/base/daemon.test.ts";

export const LOCAL_MUTANTS: MutantPart = {
  part: "local",
  mutants: [
    {
      rule: "an id that is in use gets on the list of what is to be removed",
      file: BRANCHES,
      search: "await requireNew(home, tenantId, wanted.timelineId);",
      replace: "",
      test: BRANCHES_TEST,
      name: "createTimeline: an id that is in use is refused",
    },
    {
      rule: "what a creation began is not noted",
      file: BRANCHES,
      search:
        "home.update((draft) => noteUnfinished(draft, tenantId, timelineId));\n  return await",
      replace: "return await",
      test: BRANCHES_TEST,
      name: "createTimeline: what a failure left behind is removed by the next creation",
    },
    {
      rule: "a removal that was cut short is forgotten",
      file: BRANCHES,
      search:
        "recordSwitch(draft, tenantId, name, undefined);\n    noteUnfinished(draft, tenantId, timelineId);",
      replace: "recordSwitch(draft, tenantId, name, undefined);",
      test: BRANCHES_TEST,
      name: "deleteBranch: with a safekeeper away it is remembered",
    },
    {
      rule: "an endpoint stays on the timeline that its branch was",
      file: "src/local/endpoints.ts",
      search: "return to === undefined ? spec : { ...spec, timelineId: to };",
      replace: "return spec;",
      test: SWITCH_TEST,
      name: "switchBranch: cut short behind the change-over",
    },
    {
      rule: "a restore that was cut short is done twice",
      file: SWITCH,
      search: "noteOf(home, branch)?.asked !== branch.asked) {",
      replace: "noteOf(home, branch)?.asked !== undefined) {",
      test: SWITCH_TEST,
      name: "switchBranch: cut short behind the change-over",
    },
    {
      rule: "what read-only endpoints read goes",
      file: SWITCH,
      search: "branch.preserveUnder === undefined && readers.length > 0",
      replace: "readers.length > 99",
      test: SWITCH_TEST,
      name: "switchBranch: kept under another name",
    },
    {
      rule: "the timeline that a branch was is forgotten",
      file: SWITCH,
      search: "noteUnfinished(draft, tenantId, from);",
      replace: "",
      test: SWITCH_TEST,
      name: "switchBranch: another timeline under the name",
    },
    {
      rule: "a branch's name may end as NAME@LSN does",
      file: BRANCHES,
      search: "return at > 0 && /",
      replace: "return at > 99 && /",
      test: BRANCHES_TEST,
      name: "splitNameAtLsn: the last @, and only before an LSN",
    },
    {
      rule: "two commands hold one lock",
      file: "src/base/file-lock.ts",
      search: "PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE",
      replace: "PRAGMA journal_mode = MEMORY; BEGIN",
      test: "src/local/lock.test.ts",
      name: "withLock: one holder at a time, others in turn",
    },
    {
      rule: "two daemons work in one directory",
      file: "src/base/daemon.ts",
      search: "daemon.lock(workdir);",
      replace: "",
      test: DAEMON_TEST,
      name: "runDaemon: the second in a directory is refused",
    },
    {
      rule: "a lock is a file that others may open",
      file: "src/base/file-lock.ts",
      search: 'closeSync(openSync(path, "wx", 0o600));',
      replace: 'closeSync(openSync(path, "wx", 0o666));',
      test: "src/base/file-lock.test.ts",
      name: "FileLock: a copied directory has a lock of its own, and only the owner may open",
    },
    {
      rule: "a port counts as free that somebody has",
      file: "src/base/ports.ts",
      search: 'return code !== "EADDRINUSE";',
      replace: 'return code !== "EACCES";',
      test: "src/base/ports.test.ts",
      name: "canListen: not where somebody listens",
    },
    {
      rule: "whether a port is free is asked by connecting",
      file: "src/base/ports.ts",
      search: "port: 0, localAddress: host, localPort: port });",
      replace: "port });",
      test: "src/base/ports.test.ts",
      name: "canListen: not where the near end of an outgoing connection is",
    },
    {
      rule: "ports are chosen from the range of outgoing connections",
      file: "src/local/port-choice.ts",
      search: "const usable = !taken.has(port) && (mayBeOutgoing || !isOutgoing(port));",
      replace: "const usable = !taken.has(port);",
      test: "src/local/port-choice.test.ts",
      name: "choosePort: goes on below where all above are taken, and over the range",
    },
    {
      rule: "any process with that number is the daemon",
      file: "src/local/processes.ts",
      search: "named !== undefined &&",
      replace: "pid > 0 || named !== undefined &&",
      test: "src/local/processes.test.ts",
      name: "isDaemonOf: whatever is in the path, and not for a neighbour's",
    },
  ],
};
