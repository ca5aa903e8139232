// The commands of the `strata` command line, and how a failed one ends.

import { inspect } from "node:util";
import { Command } from "commander";
import { errorMessage } from "../base/errors.ts";
import { sourceStack } from "../base/source-positions.ts";
import { explainArchived } from "./branches/commands-archive.ts";
import { addBranchCommands } from "./branches/commands-branch.ts";
import { addGcCommand } from "./branches/commands-retention.ts";
import { addAuthCommands } from "./commands-auth.ts";
import { addCaCommand } from "./commands-ca.ts";
import { addEndpointCommands, addPsqlCommand } from "./commands-endpoint.ts";
import { addScrubCommand } from "./commands-scrub.ts";
import { addStorageCommands } from "./commands-storage.ts";
import { addTenantCommands, addTimelineCommands } from "./commands-timeline.ts";
import { addWalCommands } from "./commands-wal.ts";
import { addCompletionCommand } from "./completion.ts";
import { addConsoleCommand } from "./control-plane/commands-console.ts";
import { addProjectCommands } from "./control-plane/commands-projects.ts";
import { addRoleCommands } from "./control-plane/commands-roles.ts";
import { addLayersCommand } from "./layers/commands-layers.ts";
import { addUpCommand } from "./up.ts";

function buildProgram(): Command {
  const program = new Command("strata")
    .description("Serverless Postgres: branches and time travel on unmodified PostgreSQL")
    .version("0.1.0")
    .enablePositionalOptions()
    .showHelpAfterError(false)
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, "command failed: ")),
    });
  addUpCommand(program);
  addStorageCommands(program);
  addTenantCommands(program);
  addTimelineCommands(program);
  addBranchCommands(program);
  addGcCommand(program);
  addEndpointCommands(program);
  addPsqlCommand(program);
  addCaCommand(program);
  addLayersCommand(program);
  addWalCommands(program);
  addScrubCommand(program);
  addProjectCommands(program);
  addRoleCommands(program);
  addConsoleCommand(program);
  addAuthCommands(program);
  addCompletionCommand(program);
  return program;
}

/** Runs the command in the process's arguments; a failure is one line and exit code 1. */
export async function runCli(): Promise<void> {
  try {
    await buildProgram().parseAsync();
  } catch (thrown) {
    const error = explainArchived(thrown);
    const message = errorMessage(error).replaceAll("\n", " ");
    console.error(`command failed: ${message}`);
    if (process.env["STRATA_LOG"] === "debug") {
      console.error(sourceStack(inspect(error)));
    }
    process.exitCode = 1;
  }
}
