// The commands of the `strata` command line, and how a failed one ends.

import { inspect } from "node:util";
import { Command } from "commander";
import { errorMessage } from "../base/errors.ts";
import { sourceStack } from "../base/source-positions.ts";

interface CommandPart {
  /** The words that its commands begin with, and their aliases. */
  readonly verbs: readonly string[];
  /** What adds them to the program. */
  readonly load: () => Promise<(program: Command) => void>;
}

/** In the order in which help has them. Loaded when one of its commands is run: to load all takes longer than most commands. */
export const COMMAND_PARTS: readonly CommandPart[] = [
  { verbs: ["up"], load: async () => (await import("./up.ts")).addUpCommand },
  {
    verbs: [
      "init",
      "start",
      "stop",
      "status",
      "pageserver",
      "safekeeper",
      "storage-broker",
      "storage_broker",
      "proxy",
    ],
    load: async () => (await import("./commands-storage.ts")).addStorageCommands,
  },
  {
    verbs: ["tenant"],
    load: async () => (await import("./commands-timeline.ts")).addTenantCommands,
  },
  {
    verbs: ["timeline"],
    load: async () => (await import("./commands-timeline.ts")).addTimelineCommands,
  },
  {
    verbs: ["branch"],
    load: async () => (await import("./branches/commands-branch.ts")).addBranchCommands,
  },
  {
    verbs: ["gc"],
    load: async () => (await import("./branches/commands-retention.ts")).addGcCommand,
  },
  {
    verbs: ["endpoint"],
    load: async () => (await import("./commands-endpoint.ts")).addEndpointCommands,
  },
  { verbs: ["psql"], load: async () => (await import("./commands-endpoint.ts")).addPsqlCommand },
  { verbs: ["ca"], load: async () => (await import("./commands-ca.ts")).addCaCommand },
  {
    verbs: ["layers"],
    load: async () => (await import("./layers/commands-layers.ts")).addLayersCommand,
  },
  { verbs: ["wal"], load: async () => (await import("./commands-wal.ts")).addWalCommands },
  { verbs: ["scrub"], load: async () => (await import("./commands-scrub.ts")).addScrubCommand },
  {
    verbs: ["operations", "projects", "api-key"],
    load: async () => (await import("./control-plane/commands-projects.ts")).addProjectCommands,
  },
  {
    verbs: ["roles", "databases", "connection-string"],
    load: async () => (await import("./control-plane/commands-roles.ts")).addRoleCommands,
  },
  {
    verbs: ["console"],
    load: async () => (await import("./control-plane/commands-console.ts")).addConsoleCommand,
  },
  { verbs: ["auth"], load: async () => (await import("./commands-auth.ts")).addAuthCommands },
  // Makes its script from all the others, so it is with all.
  { verbs: [], load: async () => (await import("./completion.ts")).addCompletionCommand },
];

/** With the commands that begin with the word `verb`; where none does, or it is undefined, with all. */
export async function buildProgram(verb?: string): Promise<Command> {
  const program = new Command("strata")
    .description("Serverless Postgres: branches and time travel on unmodified PostgreSQL")
    .version("0.1.0")
    .enablePositionalOptions()
    .showHelpAfterError(false)
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, "command failed: ")),
    });
  const wanted = COMMAND_PARTS.filter(({ verbs }) => verb !== undefined && verbs.includes(verb));
  for (const { load } of wanted.length > 0 ? wanted : COMMAND_PARTS) {
    (await load())(program);
  }
  return program;
}

/** Runs the command in the process's arguments; a failure is one line and exit code 1. */
export async function runCli(): Promise<void> {
  try {
    const program = await buildProgram(process.argv[2]);
    await program.parseAsync();
  } catch (thrown) {
    const { explainArchived } = await import("./branches/commands-archive.ts");
    const error = explainArchived(thrown);
    const message = errorMessage(error).replaceAll("\n", " ");
    console.error(`command failed: ${message}`);
    if (process.env["STRATA_LOG"] === "debug") {
      console.error(sourceStack(inspect(error)));
    }
    process.exitCode = 1;
  }
}
