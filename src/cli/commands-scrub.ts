// scrub: compares the pageserver's objects in the object store with what the indexes there name.

import type { Command } from "commander";
import { resolveTenant } from "../local/branches.ts";
import { controllerOf } from "../local/controller.ts";
import type { ScrubReportWire } from "../pageserver/api.ts";
import {
  jsonOption,
  notice,
  openHome,
  parseDuration,
  print,
  printJson,
  tenantOption,
} from "./cli.ts";

interface ScrubOptions {
  fix?: boolean;
  minAge?: number;
  tenantId?: string;
  json?: boolean;
}

export function addScrubCommand(program: Command): void {
  program
    .command("scrub")
    .description(
      "compare the object store with what its indexes name; exit code 1 where pages are lost",
    )
    .option("--fix", "delete what nobody names; put again what is missing there and still here")
    .option(
      "--min-age <duration>",
      "younger objects are left alone (default: 1 day)",
      parseDuration,
    )
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action(scrub);
}

async function scrub(options: ScrubOptions): Promise<void> {
  const home = openHome();
  const controller = controllerOf(home);
  const tenants =
    options.tenantId === undefined
      ? (await controller.tenants()).map(({ id }) => id)
      : [options.tenantId];
  const reports: Record<string, ScrubReportWire> = {};
  for (const id of tenants) {
    const tenantId = resolveTenant(home.config(), id);
    notice(`looking at tenant ${tenantId}`);
    reports[tenantId] = await controller.scrub(tenantId, {
      fix: options.fix === true,
      ...(options.minAge === undefined ? {} : { min_age_s: Math.ceil(options.minAge / 1000) }),
    });
  }
  if (options.json === true) {
    printJson(reports);
  } else {
    for (const [id, report] of Object.entries(reports)) {
      printReport(id, report, options);
    }
  }
  if (Object.values(reports).some(isDamaged)) {
    process.exitCode = 1;
  }
}

function isDamaged({ missing, differing, damaged, put_again }: ScrubReportWire): boolean {
  return missing.length > put_again.length || differing.length > 0 || damaged.length > 0;
}

function printReport(tenantId: string, report: ScrubReportWire, { fix }: ScrubOptions): void {
  const { timelines, objects, bytes, orphans, missing, differing, damaged, unknown } = report;
  print(`tenant ${tenantId}: ${timelines} timelines, ${objects} objects, ${bytes} bytes`);
  for (const { timeline_id, error } of damaged) {
    print(`  damaged index of timeline ${timeline_id}: ${error}`);
  }
  for (const { key, index } of missing) {
    const isBack = report.put_again.includes(key);
    print(`  missing: ${key}, named by ${index}${isBack ? "; put again from the disk" : ""}`);
  }
  for (const { key, index, bytes: expected, stored_bytes } of differing) {
    print(`  differing: ${key} has ${stored_bytes} bytes, ${index} says ${expected}`);
  }
  for (const key of unknown) {
    print(`  unknown: ${key}, left alone`);
  }
  const orphanBytes = orphans.reduce((sum, orphan) => sum + orphan.bytes, 0);
  if (orphans.length > 0) {
    const what = `${orphans.length} objects that nobody names, ${orphanBytes} bytes`;
    print(
      fix === true
        ? `  deleted: ${report.deleted.length} of ${what}`
        : `  orphans: ${what}; --fix deletes them`,
    );
  }
  if (!isDamaged(report) && orphans.length === 0) {
    print("  nothing is wrong");
  }
}
