// endpoint logs: what its agent and its Postgres have written, running or not.

import { type Command, Option } from "commander";
import { sleep } from "../../base/clock.ts";
import { findEvenDamaged, logFileOf } from "../../local/endpoints.ts";
import { LOG_LEVELS, type LogEntry, type LogLevel } from "../../local/logs/log-entries.ts";
import { lineOf, readLogTail } from "../../local/logs/log-file.ts";
import { openHome, parseCount, print } from "../cli.ts";

const DEFAULT_LINES = 50;
const LOOK_INTERVAL_MS = 500;

interface LogsOptions {
  postgres?: boolean;
  follow?: boolean;
  lines: number;
  level: LogLevel;
}

/** To the group `endpoint`. */
export function addEndpointLogsCommand(endpoint: Command): void {
  endpoint
    .command("logs")
    .description("the end of its agent's log, or of Postgres's; passwords in statements are hidden")
    .argument("<id>")
    .option("--postgres", "Postgres's log in place of its agent's")
    .option("-f, --follow", "go on with what comes, until Ctrl-C")
    .option("-n, --lines <count>", "how many entries of before", parseCount, DEFAULT_LINES)
    .addOption(
      new Option("--level <level>", "only these and graver ones")
        .choices(LOG_LEVELS)
        .default("trace"),
    )
    .action(showLogs);
}

async function showLogs(
  id: string,
  { postgres, follow, lines, level }: LogsOptions,
): Promise<void> {
  const source = postgres === true ? "postgres" : "compute";
  const file = logFileOf(findEvenDamaged(openHome(), id), source);
  const printAll = (entries: readonly LogEntry[]) => {
    for (const entry of entries) {
      print(lineOf(entry));
    }
  };
  const { entries, follower } = await readLogTail(file, { source, level, isRaw: true }, lines);
  printAll(entries);
  // Whoever reads it may go first: `| head`.
  process.stdout.once("error", () => process.exit(0));
  while (follow === true) {
    await sleep(LOOK_INTERVAL_MS);
    printAll(await follower.poll());
  }
}
