// wal dump: prints WAL records, or sums of them, as pg_waldump does.

import { StorageError } from "../base/errors.ts";
import { parseTimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import { resolveBranch, resolveTenant } from "../local/branches.ts";
import { LineOutput } from "../wal-dump/line-output.ts";
import { openSafekeeperWal } from "../wal-dump/safekeeper-source.ts";
import { openSegmentFiles } from "../wal-dump/segment-files.ts";
import { dumpWal, type WalDumpOptions } from "../wal-dump/wal-dump.ts";
import type { RelationName, WalFilter } from "../wal-dump/wal-filter.ts";
import type { WalSource } from "../wal-dump/wal-source.ts";
import { WalStats } from "../wal-dump/wal-stats.ts";
import { notice, openHome, parseLsnOption } from "./cli.ts";

export interface DumpOptions {
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

/** StorageError `invalid` for options that do not go together, and what reading WAL throws. */
export async function dumpWalOf(source: string | undefined, options: DumpOptions): Promise<void> {
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
