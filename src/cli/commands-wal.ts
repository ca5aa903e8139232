// wal: looks at WAL, in files or of a running home. What the commands do is loaded when one of them runs.

import { type Command, InvalidArgumentError, Option } from "commander";
import { DEFAULT_BRANCH_NAME } from "../local/branches.ts";
import { RM_MAX_BUILTIN_ID, RM_MIN_CUSTOM_ID, rmgrName } from "../postgres/rmgr.ts";
import { FORK_NAMES } from "../wal-dump/text-format.ts";
import type { RelationName } from "../wal-dump/wal-filter.ts";
import { group, jsonOption, parseCount, parseLsnOption, print, tenantOption } from "./cli.ts";
import type { DumpOptions } from "./dump-wal.ts";
import type { VerifyOptions } from "./verify-wal.ts";

export function addWalCommands(program: Command): void {
  const wal = group(program, "wal", "looks at WAL, in files or of a running home");
  addDumpCommand(wal);
  addVerifyCommand(wal);
}

function addDumpCommand(wal: Command): void {
  wal
    .command("dump")
    .description("prints WAL records as pg_waldump does; times are UTC")
    .argument("[source]", "a segment file, a directory of them, or LSNs of a branch: START..[END]")
    .option("-s, --start <lsn>", "where to begin", parseLsnOption)
    .option("-e, --end <lsn>", "where to end", parseLsnOption)
    .option("-n, --limit <n>", "number of records", parseCount)
    .option("-r, --rmgr <name>", "only of this resource manager; again for more; 'list'", parseRmgr)
    .option("-R, --relation <spc/db/rel>", "only with a block of this relation", parseRelation)
    .option("-F, --fork <name>", "only with a block of this fork", parseFork)
    .option("-B, --block <n>", "with --relation: only with this block", parseUnsigned)
    .option("-x, --xid <xid>", "only of this transaction", parseUnsigned)
    .option("-w, --fullpage", "only with a page image")
    .option("-b, --bkp-details", "block references in detail, one a line")
    .addOption(new Option("-z, --stats [by]", "sums instead of records: by rmgr or record"))
    .option("-q, --quiet", "print nothing but errors")
    .addOption(new Option("--json", "one JSON object a line"))
    .option("-t, --timeline <n>", "timeline of the segment files", parseCount)
    .addOption(tenantOption())
    .option("--timeline-id <id>", "timeline, 32 hex digits (default: that of the branch)")
    .option("--branch-name <name>", "branch of the LSNs", DEFAULT_BRANCH_NAME)
    .action(async (source: string | undefined, options: DumpOptions) => {
      if (options.rmgr?.size === 0) {
        for (let rmid = 0; rmid <= RM_MAX_BUILTIN_ID; rmid++) {
          print(rmgrName(rmid));
        }
        return;
      }
      const { dumpWalOf } = await import("./dump-wal.ts");
      await dumpWalOf(source, options);
    });
}

function addVerifyCommand(wal: Command): void {
  wal
    .command("verify")
    .description("replays a base backup and its WAL, and compares the pages with Postgres's")
    .requiredOption("--base <dir>", "base backup (pg_basebackup -Fp), or copy of a stopped server")
    .requiredOption("--wal <dir>", "its WAL segments, uncompressed")
    .option("--against <dir>", "data directory of a stopped server to compare with")
    .option("--exact", "compare with it byte for byte: Postgres recovered it from the same WAL")
    .option("--until <lsn>", "leave out records that start there or later", parseLsnOption)
    .addOption(jsonOption())
    .action(async (options: VerifyOptions) => {
      const { verifyWalOf } = await import("./verify-wal.ts");
      await verifyWalOf(options);
    });
}

function parseUnsigned(text: string): number {
  const value = Number(text);
  if (!/^\d{1,10}$/.test(text) || value >= 2 ** 32) {
    throw new InvalidArgumentError("a number below 2^32 is wanted");
  }
  return value;
}

/** Adds one to the set; `list` gives the empty set, which no other value does. */
function parseRmgr(text: string, before: ReadonlySet<number> | undefined): ReadonlySet<number> {
  if (text === "list") {
    return new Set();
  }
  for (let rmid = 0; rmid < 256; rmid++) {
    const exists = rmid <= RM_MAX_BUILTIN_ID || rmid >= RM_MIN_CUSTOM_ID;
    if (exists && rmgrName(rmid).toLowerCase() === text.toLowerCase()) {
      return new Set([...(before ?? []), rmid]);
    }
  }
  throw new InvalidArgumentError("there is no such resource manager; --rmgr list names them");
}

function parseRelation(text: string): RelationName {
  const match = /^(\d{1,10})\/(\d{1,10})\/(\d{1,10})$/.exec(text);
  if (match === null) {
    throw new InvalidArgumentError("tablespace/database/relation, by number, is wanted");
  }
  const [spcOid, dbOid, relNumber] = match.slice(1).map(parseUnsigned) as [number, number, number];
  return { spcOid, dbOid, relNumber };
}

function parseFork(text: string): number {
  const fork = (FORK_NAMES as readonly string[]).indexOf(text);
  if (fork < 0) {
    throw new InvalidArgumentError(`one of ${FORK_NAMES.join(", ")} is wanted`);
  }
  return fork;
}
