// wal verify: replays a stock base backup and its WAL with our redo, and compares with Postgres's pages.

import { formatLsn, type Lsn } from "../base/lsn.ts";
import { rmgrName } from "../postgres/rmgr.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { recordName } from "../wal-dump/record-text.ts";
import {
  type ReportedMismatch,
  type VerifyProgress,
  type VerifyReport,
  verifyWal,
} from "../wal-verify/verify.ts";
import { notice, print, printJson } from "./cli.ts";
import { formatTable, ProgressLine } from "./output.ts";

export interface VerifyOptions {
  base: string;
  wal: string;
  against?: string;
  exact?: boolean;
  until?: Lsn;
  json?: boolean;
}

/** Exit code 1 where pages differ. StorageErrors as `verifyWal`. */
export async function verifyWalOf(options: VerifyOptions): Promise<void> {
  const line = new ProgressLine(process.stderr.isTTY);
  let report: VerifyReport;
  try {
    report = await verifyWal({
      baseDir: options.base,
      walDir: options.wal,
      ...(options.against === undefined ? {} : { againstDir: options.against }),
      ...(options.until === undefined ? {} : { untilLsn: options.until }),
      exact: options.exact === true,
      onProgress: (progress) => line.show(progressOf(progress)),
    });
  } finally {
    line.clear();
  }
  if (options.json === true) {
    printJson(reportJson(report));
  } else {
    printReport(report);
  }
  if (report.mismatches > 0) {
    process.exitCode = 1;
  }
}

function progressOf({ phase, done, total }: VerifyProgress): string {
  const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
  return `${phase === "replay" ? "replaying WAL" : "comparing pages"}: ${percent} %`;
}

function printReport(report: VerifyReport): void {
  const { end, against } = report;
  print(
    `Postgres ${report.major}, WAL ${formatLsn(report.startLsn)} to ${formatLsn(end.lsn)}: ${report.records} records replayed (${end.reason})`,
  );
  print(
    formatTable(
      ["RMGR", "RECORD", "RECORDS", "IMAGES", "DIFFER", "PAGES", "DIFFER"],
      report.opcodes.map((one) => [
        rmgrName(one.rmid),
        recordName(PG_VERSIONS[report.major], one.rmid, one.info),
        `${one.records}`,
        `${one.images}`,
        `${one.imageMismatches}`,
        `${one.pages}`,
        `${one.pageMismatches}`,
      ]),
    ),
  );
  print(`after-images: ${report.images} compared`);
  if (against !== undefined) {
    print(
      `${against.directory}: ${against.pages} pages of ${against.forks} forks, ${against.slruPages} SLRU pages and ${against.files} other files compared`,
    );
    if (against.tolerated > 0) {
      print(`tolerated, because WAL does not have it: ${against.tolerated} pages or sizes`);
    }
  }
  print(`mismatches: ${report.mismatches}`);
  for (const mismatch of report.firstMismatches) {
    print(`  ${mismatchLine(report, mismatch)}`);
  }
  if (report.mismatches > report.firstMismatches.length) {
    print(`  and ${report.mismatches - report.firstMismatches.length} more`);
  }
  for (const warning of warnings(report)) {
    notice(`warning: ${warning}`);
  }
}

function mismatchLine(report: VerifyReport, mismatch: ReportedMismatch): string {
  const { kind, where, block, record, what } = mismatch;
  const at = block === undefined ? where : `${where} block ${block}`;
  const version = PG_VERSIONS[report.major];
  const by =
    record === undefined
      ? "not changed by this WAL"
      : `${rmgrName(record.rmid)} ${recordName(version, record.rmid, record.info)}, ${kind === "image" ? "at" : "which ends at"} ${formatLsn(record.lsn)}`;
  return `${kind} ${at}: ${what} (${kind === "image" ? "record" : "last record"}: ${by})`;
}

/** What makes a result weaker than it looks. */
function warnings(report: VerifyReport): string[] {
  const { against, end } = report;
  const found: string[] = [];
  if (against === undefined && report.images === 0) {
    found.push(
      "nothing was compared: give --against, or write the WAL with wal_consistency_checking = all",
    );
  }
  if (end.kind === "torn") {
    found.push("the last record is not whole, as after a crash");
  }
  if (against !== undefined && report.mismatches > 0 && against.checkPointLsn > end.lsn) {
    found.push(
      `that server was stopped at ${formatLsn(against.checkPointLsn)}, after the WAL that was replayed`,
    );
  }
  return found;
}

function reportJson(report: VerifyReport): unknown {
  const version = PG_VERSIONS[report.major];
  const name = (rmid: number, info: number) => ({
    rmgr: rmgrName(rmid),
    record: recordName(version, rmid, info),
    info,
  });
  const { against, end } = report;
  return {
    pg_version: report.major,
    system_id: `${report.systemId}`,
    start_lsn: formatLsn(report.startLsn),
    end_lsn: formatLsn(end.lsn),
    end: end.kind,
    end_reason: end.reason,
    records: report.records,
    images_compared: report.images,
    against:
      against === undefined
        ? null
        : {
            directory: against.directory,
            stopped_at: formatLsn(against.checkPointLsn),
            forks: against.forks,
            pages: against.pages,
            slru_pages: against.slruPages,
            files: against.files,
            tolerated: against.tolerated,
          },
    mismatches: report.mismatches,
    first_mismatches: report.firstMismatches.map(({ record, block, offset, ...rest }) => ({
      ...rest,
      block: block ?? null,
      offset: offset ?? null,
      lsn: record === undefined ? null : formatLsn(record.lsn),
      ...(record === undefined ? {} : name(record.rmid, record.info)),
    })),
    opcodes: report.opcodes.map((one) => ({
      ...name(one.rmid, one.info),
      records: one.records,
      images: one.images,
      image_mismatches: one.imageMismatches,
      pages: one.pages,
      page_mismatches: one.pageMismatches,
    })),
    warnings: warnings(report),
  };
}
