// tenant and timeline.

import type { Command } from "commander";
import { StorageError } from "../base/errors.ts";
import { parseTenantId } from "../base/ids.ts";
import {
  type BranchCreateOptions,
  createBranch,
  createRootTimeline,
  createTenant,
  setDefaultTenant,
  type TenantCreateOptions,
} from "../local/branches/create-branch.ts";
import {
  branchNames,
  DEFAULT_BRANCH_NAME,
  resolveBranch,
  resolveTenant,
} from "../local/branches.ts";
import type { StrataConfig } from "../local/config.ts";
import { controllerOf } from "../local/controller.ts";
import type { TimelineInfo } from "../pageserver/api.ts";
import { addTenantConfigCommand, addTenantSizeCommand } from "./branches/commands-retention.ts";
import {
  group,
  jsonOption,
  notice,
  openHome,
  parseCount,
  parseDuration,
  parseIds,
  print,
  printJson,
  safekeeperSetOption,
  tenantOption,
  withHomeLocked,
  withHomeShared,
} from "./cli.ts";
import { addTenantDeleteCommand } from "./commands-tenant-delete.ts";
import { formatTimelineTree } from "./output.ts";
import { addTransferCommands } from "./transfer/commands-transfer.ts";

export function addTenantCommands(program: Command): void {
  const tenant = group(program, "tenant", "tenants");
  tenant
    .command("list")
    .addOption(jsonOption())
    .action(async (options: { json?: boolean }) => {
      const home = openHome();
      const config = home.config();
      const tenants = await controllerOf(home).tenants();
      if (options.json === true) {
        printJson(
          tenants.map((info) => ({
            id: info.id,
            state: info.state.slug,
            is_default: info.id === config.defaultTenantId,
            recoverable_until: recoverableUntil(config, info.id),
          })),
        );
        return;
      }
      for (const info of tenants) {
        const until = recoverableUntil(config, info.id);
        const deleted = until === null ? "" : ` (deleted; recoverable until ${until})`;
        print(`${info.id} ${info.state.slug}${deleted}`);
      }
    });
  tenant
    .command("create")
    .option("--tenant-id <id>", "32 hex digits (default: random)")
    .option("--timeline-id <id>", "of its first branch, main")
    .option("--pg-version <major>", "PostgreSQL 14 to 18 (default: the home's)", parseCount)
    .option("--data-checksums", "page checksums, as initdb's: reads then write WAL (default: off)")
    .addOption(safekeeperSetOption())
    .option("--set-default", "use it where --tenant-id is not given")
    .action(async (options: TenantCreateOptions) => {
      const home = openHome();
      await withHomeShared(home, () => createTenant(home, options, print));
    });
  tenant
    .command("set-default")
    .requiredOption("--tenant-id <id>", "32 hex digits")
    .action(async (options: { tenantId: string }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const tenantId = parseTenantId(options.tenantId);
        const tenants = await controllerOf(home).tenants();
        if (!tenants.some((info) => info.id === tenantId)) {
          throw new StorageError("not-found", "no-tenant", `tenant ${tenantId} not found`);
        }
        setDefaultTenant(home, tenantId, print);
      });
    });
  addTenantDeleteCommand(tenant);
  addTenantConfigCommand(tenant);
  addTenantSizeCommand(tenant);
  addTransferCommands(tenant);
}

/** Null: it is not deleted. */
function recoverableUntil({ deletedTenants }: StrataConfig, tenantId: string): string | null {
  const deleted = deletedTenants.get(tenantId);
  return deleted === undefined ? null : new Date(deleted.recoverableUntilMs).toISOString();
}

function addSafekeeperMigrateCommand(timeline: Command): void {
  timeline
    .command("safekeeper-migrate")
    .description("move a timeline to other safekeepers while it is used; repeat after a failure")
    .addOption(tenantOption())
    .option("--branch-name <name>", "its name", DEFAULT_BRANCH_NAME)
    .option("--new-sk-set <ids>", "all safekeepers that are to have it, as 1,2,4", parseIds)
    .option("--abort", "back to the old ones, where a change was not finished")
    .option("--timeout <duration>", "for the new ones to have all WAL", parseDuration, 60_000)
    .action(async (options: MigrateOptions) => {
      const home = openHome();
      const config = home.config();
      if ((options.newSkSet === undefined) !== (options.abort === true)) {
        throw new StorageError("invalid", "no-sk-set", "one of --new-sk-set and --abort is needed");
      }
      const tenantId = resolveTenant(config, options.tenantId);
      const { migrateSafekeepers } = await import("../storage-controller/safekeeper-migrate.ts");
      await migrateSafekeepers(
        controllerOf(home, (body) => withHomeLocked(home, body)),
        {
          tenantId,
          timelineId: resolveBranch(config, tenantId, options.branchName),
          newMembers: options.newSkSet ?? [],
          abort: options.abort === true,
          timeoutMs: options.timeout,
        },
        print,
      );
    });
}

interface MigrateOptions {
  tenantId?: string;
  branchName: string;
  newSkSet?: number[];
  abort?: boolean;
  timeout: number;
}

export function addTimelineCommands(program: Command): void {
  const timeline = group(program, "timeline", "timelines, which branch names stand for");
  timeline
    .command("list")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action(async (options: { tenantId?: string; json?: boolean }) => {
      const home = openHome();
      const config = home.config();
      const tenantId = resolveTenant(config, options.tenantId);
      const timelines = await controllerOf(home).timelines(tenantId);
      const names = branchNames(config, tenantId);
      if (options.json === true) {
        printJson(timelines.map((info) => withName(info, names)));
        return;
      }
      for (const line of formatTimelineTree(timelines, names)) {
        print(line);
      }
    });
  timeline
    .command("create")
    .description("a new root timeline, empty as initdb leaves it")
    .addOption(tenantOption())
    .option("--timeline-id <id>", "32 hex digits (default: random)")
    .requiredOption("--branch-name <name>", "its name")
    .option("--pg-version <major>", "PostgreSQL 14 to 18 (default: the home's)", parseCount)
    .option("--data-checksums", "page checksums, as initdb's: reads then write WAL (default: off)")
    .addOption(safekeeperSetOption())
    .action(async (options: TenantCreateOptions & { branchName: string }) => {
      const home = openHome();
      await withHomeShared(home, async () => {
        const tenantId = resolveTenant(home.config(), options.tenantId);
        const info = await createRootTimeline(home, tenantId, options.branchName, options);
        const at = `at Lsn ${info.last_record_lsn}`;
        print(`Created timeline '${info.timeline_id}' ${at} for tenant: ${tenantId}`);
      });
    });
  addSafekeeperMigrateCommand(timeline);
  timeline
    .command("branch")
    .description("a branch of another timeline, at its head, or at an older LSN or a time")
    .addOption(tenantOption())
    .option("--timeline-id <id>", "32 hex digits (default: random)")
    .requiredOption("--branch-name <name>", "its name")
    .option("--ancestor-branch-name <name>", "branch to start from", DEFAULT_BRANCH_NAME)
    .option("--ancestor-start-lsn <lsn|time>", "where to start (default: the newest commit)")
    .addOption(safekeeperSetOption())
    .action(async (options: BranchCreateOptions & { branchName: string }) => {
      const home = openHome();
      await withHomeShared(home, async () => {
        const info = await createBranch(home, options.branchName, options, notice);
        const ancestor = options.ancestorBranchName ?? DEFAULT_BRANCH_NAME;
        print(
          `Created timeline '${info.timeline_id}' at Lsn ${info.ancestor_lsn} for tenant: ${info.tenant_id}. Ancestor timeline: '${ancestor}'`,
        );
      });
    });
}

function withName(info: TimelineInfo, names: ReadonlyMap<string, string>) {
  return { branch_name: names.get(info.timeline_id) ?? null, ...info };
}
