// tenant import and tenant export: a stock cluster becomes a branch, a branch becomes a stock cluster.

import { join, resolve } from "node:path";
import type { Command } from "commander";
import { generateTenantId, parseTenantId, parseTimelineId, type TenantId } from "../../base/ids.ts";
import { formatLsn } from "../../base/lsn.ts";
import { setDefaultTenant } from "../../local/branches/create-branch.ts";
import { newestLsn, resolvePoint } from "../../local/branches/point-in-time.ts";
import { DEFAULT_BRANCH_NAME, resolveBranch, resolveTenant } from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import type { StrataHome } from "../../local/home.ts";
import { withLock } from "../../local/lock.ts";
import type { ImportStatusJson } from "../../pageserver/api.ts";
import {
  notice,
  openHome,
  print,
  safekeeperSetOption,
  tenantOption,
  withHomeLocked,
} from "../cli.ts";
import { ProgressLine } from "../output.ts";

interface ImportOptions {
  from: string;
  tenantId?: string;
  timelineId?: string;
  branchName: string;
  skSet?: number[];
  setDefault?: boolean;
}

export function addTransferCommands(tenant: Command): void {
  tenant
    .command("import")
    .description(
      "a new tenant whose branch main is a stock cluster: a stopped server's data directory, or a base backup",
    )
    .requiredOption("--from <path>", "data directory, backup directory, or its .tar or .tar.gz")
    .option(
      "--tenant-id <id>",
      "a new tenant's, or one that gets another root branch (default: random)",
    )
    .option("--timeline-id <id>", "of the branch; repeats an import that was cut short")
    .option("--branch-name <name>", "its name", DEFAULT_BRANCH_NAME)
    .addOption(safekeeperSetOption())
    .option("--set-default", "use the tenant where --tenant-id is not given")
    .action(async (options: ImportOptions) => {
      const home = openHome();
      const { findBackup, unpackBackup } = await import("../../local/transfer/unpack-backup.ts");
      const source = findBackup(options.from);
      if (source.kind === "directory") {
        await importFrom(home, source.path, options);
        return;
      }
      const scratch = join(home.path, "unpacked-backup");
      await withLock(
        home.path,
        "unpacked backup",
        async () => {
          const { rm } = await import("node:fs/promises");
          try {
            notice(`Unpacking ${source.base}`);
            await unpackBackup(source, scratch);
            await importFrom(home, scratch, options);
          } finally {
            await rm(scratch, { recursive: true, force: true });
          }
        },
        { onWait: () => notice("waiting for another import of a backup in tar format") },
      );
    });
  addExportCommand(tenant);
}

interface ExportOptions {
  tenantId?: string;
  branchName: string;
  at?: string;
  to: string;
}

function addExportCommand(tenant: Command): void {
  tenant
    .command("export")
    .description("write a branch as a data directory that stock Postgres of its major starts from")
    .addOption(tenantOption())
    .option("--branch-name <name>", "its name", DEFAULT_BRANCH_NAME)
    .option("--at <lsn|time>", "as of then (default: the newest commit)")
    .requiredOption("--to <directory>", "is made; or is there, and empty")
    .action(async (options: ExportOptions) => {
      const home = openHome();
      const config = home.config();
      const tenantId = resolveTenant(config, options.tenantId);
      const timelineId = resolveBranch(config, tenantId, options.branchName);
      const branch = { tenantId, timelineId, name: options.branchName };
      const lsn =
        options.at === undefined
          ? await newestLsn(home, branch)
          : await resolvePoint(home, branch, options.at, notice);
      const directory = resolve(options.to);
      const { pageserver } = controllerOf(home).placementOf(tenantId, timelineId);
      const { exportBranch } = await import("../../local/transfer/export-branch.ts");
      const line = new ProgressLine(process.stderr.isTTY);
      const spec = {
        pgAddr: pageserver.listenPgAddr,
        tenantId,
        timelineId,
        lsn: formatLsn(lsn),
        directory,
      };
      const exported = await exportBranch(spec, (done, total) =>
        line.show(`writing files: ${percentOf(done, total)}`),
      ).finally(() => line.clear());
      const size = Math.ceil(exported.bytes / (1 << 20));
      print(
        `Exported branch '${options.branchName}' at Lsn ${exported.lsn} to ${directory}: ${size} MiB, for PostgreSQL ${exported.pgVersion}`,
      );
    });
}

async function importFrom(home: StrataHome, path: string, options: ImportOptions): Promise<void> {
  const { importBranch } = await import("../../local/transfer/import-branch.ts");
  const { branchName } = options;
  const tenantId: TenantId =
    options.tenantId === undefined ? generateTenantId() : parseTenantId(options.tenantId);
  const line = new ProgressLine(process.stderr.isTTY);
  let leftOut: readonly string[] = [];
  try {
    const info = await importBranch(home, {
      tenantId,
      isNewTenant: options.tenantId === undefined,
      timelineId:
        options.timelineId === undefined ? undefined : parseTimelineId(options.timelineId),
      branchName,
      path,
      safekeepers: options.skSet,
      lockHome: (body) => withHomeLocked(home, body),
      onBegin: (timelineId) =>
        print(`Importing timeline ${tenantId}/${timelineId} as branch ${branchName}`),
      onProgress: (status) => {
        leftOut = status.left_out;
        line.show(progressOf(status));
      },
    });
    line.clear();
    for (const what of leftOut) {
      notice(`not taken over: ${what}`);
    }
    print(
      `Created timeline '${info.timeline_id}' at Lsn ${info.last_record_lsn} for tenant: ${tenantId}. ` +
        `PostgreSQL ${info.pg_version}, readable from Lsn ${info.min_readable_lsn} on`,
    );
    if (options.setDefault === true) {
      await withHomeLocked(home, async () => setDefaultTenant(home, tenantId, print));
    }
  } finally {
    line.clear();
  }
}

function progressOf(status: ImportStatusJson): string {
  const { phase, done_bytes: done, total_bytes: total } = status;
  return `${phase === "copy" ? "copying files" : "taking in WAL"}: ${percentOf(done, total)}`;
}

function percentOf(done: number, total: number): string {
  const percent = total === 0 ? 100 : Math.min(100, Math.floor((done / total) * 100));
  return `${percent} % of ${Math.ceil(total / (1 << 20))} MiB`;
}
