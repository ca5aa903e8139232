// wal: looks at WAL, in files or of a running home.

import { type Command, InvalidArgumentError, Option } from "commander";
import { StorageError } from "../base/errors.ts";
import { parseTimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import { DEFAULT_BRANCH_NAME, resolveBranch, resolveTenant } from "../local/branches.ts";
import { RM_MAX_BUILTIN_ID, RM_MIN_CUSTOM_ID, rmgrName } from "../postgres/rmgr.ts";
import { LineOutput } from "../wal-dump/line-output.ts";
import { openSafekeeperWal } from "../wal-dump/safekeeper-source.ts";
import { openSegmentFiles } from "../wal-dump/segment-files.ts";
import { FORK_NAMES } from "../wal-dump/text-format.ts";
import { dumpWal, type WalDumpOptions } from "../wal-dump/wal-dump.ts";
import type { RelationName, WalFilter } from "../wal-dump/wal-filter.ts";
import type { WalSource } from "../wal-dump/wal-source.ts";
import { WalStats } from "../wal-dump/wal-stats.ts";
import { group, notice, openHome, parseCount, parseLsnOption, print, tenantOption } from "./cli.ts";
import { addVerifyCommand } from "./commands-wal-verify.ts";

export function addWalCommands(program: Command): void {
  const wal = group(program, "wal", "looks at WAL, in files or of a running home");
  addDumpCommand(wal);
  addVerifyCommand(wal);
}

interface DumpOptions {
  tenantId?: string;
  timelineId?: string;
  branchName: string;
  timeline?: number;
  start?: Lsn;
  end?: Lsn;
  limit?: number;
  rmgr?: ReadonlySet<number>;
  relation?: RelationName;
  fork?: number;
  block?: number;
  xid?: number;
  fullpage?: boolean;
  bkpDetails?: boolean;
  stats?: string | true;
  json?: boolean;
  quiet?: boolean;
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
      await dump(source, options);
    });
}

async function dump(source: string | undefined, options: DumpOptions): Promise<void> {
  let from = source;
  let by = options.stats === true ? "rmgr" : options.stats;
  if (from === undefined && by !== "rmgr" && by !== "record") {
    // `--stats FILE`: as an option's value may be left out, it takes what is not its own.
    [from, by] = [by, "rmgr"];
  }
  if (from === undefined) {
    throw badOption("a segment file, a directory or a range of LSNs is wanted");
  }
  if (by !== undefined && by !== "rmgr" && by !== "record") {
    throw badOption(`--stats by rmgr or by record, not by '${by}'`);
  }
  if (options.block !== undefined && options.relation === undefined) {
    throw badOption("--block requires --relation");
  }
  const stats = by === undefined ? undefined : new WalStats(by === "record");
  const range = parseRange(from);
  const limits = range ?? { startLsn: options.start, endLsn: options.end };
  if (range !== undefined && (options.start !== undefined || options.end !== undefined)) {
    throw badOption("--start and --end are for files: the range has its own");
  }
  const wal =
    range === undefined
      ? openSegmentFiles(from, { startLsn: options.start, timeline: options.timeline })
      : await openBranchWal(range, options);
  await printWal(wal, { ...limits, ...selection(options), stats, notice }, options);
}

function selection(options: DumpOptions): Pick<WalDumpOptions, "filter" | "limit" | "format"> {
  const filter: WalFilter = {
    rmids: options.rmgr,
    xid: options.xid,
    relation: options.relation,
    fork: options.fork,
    block: options.block,
    fullPage: options.fullpage,
  };
  const format =
    options.quiet === true
      ? "none"
      : options.json === true
        ? "json"
        : options.bkpDetails === true
          ? "details"
          : "text";
  return { filter, limit: options.limit, format };
}

/** What was found comes out even where an error ends it. */
async function printWal(
  wal: WalSource,
  options: WalDumpOptions,
  { quiet, json }: DumpOptions,
): Promise<void> {
  const output = new LineOutput(process.stdout);
  try {
    await dumpWal(wal, options, output);
  } finally {
    if (options.stats !== undefined && quiet !== true) {
      writeStats(options.stats, json === true, output);
    }
    await output.close();
  }
}

function writeStats(stats: WalStats, json: boolean, output: LineOutput): void {
  if (!json) {
    const table = stats.table();
    if (table !== undefined) {
      output.write(table);
    }
    return;
  }
  for (const { type, count, recordSize, imageSize } of stats.rows()) {
    output.write(JSON.stringify({ type, count, record_size: recordSize, image_size: imageSize }));
  }
}

interface LsnRange {
  readonly startLsn: Lsn;
  readonly endLsn: Lsn | undefined;
}

/** `START..END` or `START..`; undefined where it does not look like one. */
function parseRange(text: string): LsnRange | undefined {
  const match = /^([0-9A-Fa-f]+\/[0-9A-Fa-f]+)\.\.([0-9A-Fa-f]+\/[0-9A-Fa-f]+)?$/.exec(text);
  if (match === null) {
    return undefined;
  }
  const [, start, end] = match;
  const range = {
    startLsn: parseLsnOption(start!),
    endLsn: end === undefined ? undefined : parseLsnOption(end),
  };
  if (range.endLsn !== undefined && range.endLsn <= range.startLsn) {
    throw badOption(`${formatLsn(range.endLsn)} is not behind ${formatLsn(range.startLsn)}`);
  }
  return range;
}

function openBranchWal(range: LsnRange, options: DumpOptions): Promise<WalSource> {
  const config = openHome().config();
  const tenantId = resolveTenant(config, options.tenantId);
  const timelineId =
    options.timelineId === undefined
      ? resolveBranch(config, tenantId, options.branchName)
      : parseTimelineId(options.timelineId);
  const nodes = config.safekeepers.map((node) => ({
    httpAddr: node.listenHttpAddr,
    pgAddr: node.listenPgAddr,
  }));
  return openSafekeeperWal(nodes, { tenantId, timelineId, ...range });
}

function badOption(message: string): StorageError {
  return new StorageError("invalid", "bad-option", message);
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
