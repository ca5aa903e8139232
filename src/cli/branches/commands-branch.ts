// branch: create, list, delete, rename, reset, restore; archive and unarchive are in commands-archive.ts.

import type { Command } from "commander";
import { StorageError } from "../../base/errors.ts";
import { parseTimelineId, type TenantId } from "../../base/ids.ts";
import { formatLsn } from "../../base/lsn.ts";
import { type SwitchedBranch, switchBranch } from "../../local/branches/branch-switch.ts";
import {
  type NamedBranch,
  newestLsn,
  requireOnBranch,
  resolvePoint,
} from "../../local/branches/point-in-time.ts";
import {
  branchNames,
  DEFAULT_BRANCH_NAME,
  deleteBranch,
  renameBranch,
  resolveBranch,
  resolveTenant,
} from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import { clearEndpoints } from "../../local/endpoint-stop.ts";
import { listEndpoints } from "../../local/endpoints.ts";
import type { StrataHome } from "../../local/home.ts";
import {
  group,
  jsonOption,
  notice,
  openHome,
  print,
  safekeeperSetOption,
  tenantOption,
  withHomeLocked,
} from "../cli.ts";
import { listBranches, showBranch } from "./branch-list.ts";
import { addArchiveCommands } from "./commands-archive.ts";
import { createNamedBranch, type NewBranchOptions } from "./create-branch.ts";

export function addBranchCommands(program: Command): void {
  const branch = group(program, "branch", "branches, in short");
  branch
    .command("create")
    .argument("<name>")
    .description("a branch of main, or of --parent, now or --at an LSN or a time")
    .addOption(tenantOption())
    .option("-p, --parent <name[@lsn]>", "branch to start from", DEFAULT_BRANCH_NAME)
    .option("--at <lsn|time>", "where to start (default: the newest commit)")
    .addOption(safekeeperSetOption())
    .option("-s, --start", "also create and start an endpoint on it")
    .action((name: string, options: NewBranchOptions) =>
      createNamedBranch(openHome(), name, options),
    );
  branch
    .command("list")
    .alias("ls")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action((options: { tenantId?: string; json?: boolean }) =>
      listBranches(openHome(), options.tenantId, options.json === true),
    );
  branch
    .command("info")
    .argument("<name>")
    .description("what it is, how large, and how far back it can be read")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action((name: string, options: { tenantId?: string; json?: boolean }) =>
      showBranch(openHome(), name, options),
    );
  branch
    .command("delete")
    .alias("rm")
    .argument("<name>")
    .description("branches of it stay as they are")
    .addOption(tenantOption())
    .option("-f, --force", "also stop and destroy the endpoints on it")
    .action(async (name: string, options: { tenantId?: string; force?: boolean }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const tenantId = resolveTenant(home.config(), options.tenantId);
        await clearBranch(home, tenantId, name, options.force === true);
        const { timelineId, detached } = await deleteBranch(home, tenantId, name);
        print(`Deleted branch '${name}' (timeline '${timelineId}')`);
        if (detached.length > 0) {
          print(`Detached from it, and as they were: ${detached.join(", ")}`);
        }
      });
    });
  branch
    .command("rename")
    .argument("<name>")
    .argument("<new-name>")
    .addOption(tenantOption())
    .action(async (name: string, newName: string, options: { tenantId?: string }) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const tenantId = resolveTenant(home.config(), options.tenantId);
        renameBranch(home, tenantId, name, newName);
        print(`Renamed branch '${name}' to '${newName}'`);
      });
    });
  addSwitchCommands(branch);
  addArchiveCommands(branch);
}

interface SwitchOptions {
  tenantId?: string;
  at?: string;
  preserveUnder?: string;
  restart?: boolean;
}

function addSwitchCommands(branch: Command): void {
  const preserve = ["--preserve-under <name>", "keep the branch as it is under this name"] as const;
  const restart = ["--restart", "stop its endpoints, and start them again on it"] as const;
  branch
    .command("reset")
    .argument("<name>")
    .description("make a branch what its parent is, now or --at an LSN or a time of the parent")
    .addOption(tenantOption())
    .option("--at <lsn|time>", "of the parent (default: its newest commit)")
    .option(...preserve)
    .option(...restart)
    .action((name: string, options: SwitchOptions) => reset(openHome(), name, options));
  branch
    .command("restore")
    .argument("<name>")
    .description("take a branch back to an LSN or a time of its own")
    .addOption(tenantOption())
    .requiredOption("--at <lsn|time>", "where to")
    .option(...preserve)
    .option(...restart)
    .action((name: string, options: SwitchOptions) => restore(openHome(), name, options));
}

async function reset(home: StrataHome, name: string, options: SwitchOptions): Promise<void> {
  await withHomeLocked(home, async () => {
    const branch = switchedBranch(home, "reset", name, options);
    const target = async () => {
      const parent = await parentOf(home, branch);
      const { at } = options;
      const lsn =
        at === undefined
          ? await newestLsn(home, parent)
          : await resolvePoint(home, parent, at, notice);
      await requireOnBranch(home, parent, lsn, at ?? formatLsn(lsn));
      return { ancestor: { timelineId: parent.timelineId, lsn } };
    };
    await switchBranch(home, branch, target, print);
    await tellSwitched(home, branch);
  });
}

async function restore(home: StrataHome, name: string, options: SwitchOptions): Promise<void> {
  await withHomeLocked(home, async () => {
    const branch = switchedBranch(home, "restore", name, options);
    const { tenantId } = branch;
    const target = async () => {
      const self = { tenantId, timelineId: resolveBranch(home.config(), tenantId, name), name };
      const lsn = await resolvePoint(home, self, options.at!, notice);
      await requireOnBranch(home, self, lsn, options.at!);
      return { ancestor: { timelineId: self.timelineId, lsn } };
    };
    await switchBranch(home, branch, target, print);
    await tellSwitched(home, branch);
  });
}

function switchedBranch(
  home: StrataHome,
  verb: "reset" | "restore",
  name: string,
  { tenantId, at, preserveUnder, restart }: SwitchOptions,
): SwitchedBranch {
  return {
    tenantId: resolveTenant(home.config(), tenantId),
    name,
    asked: JSON.stringify([verb, at ?? null, preserveUnder ?? null]),
    preserveUnder,
    restart: restart === true,
  };
}

async function parentOf(
  home: StrataHome,
  { tenantId, name }: SwitchedBranch,
): Promise<NamedBranch> {
  const config = home.config();
  const timelineId = resolveBranch(config, tenantId, name);
  const { ancestor_timeline_id } = await controllerOf(home).timeline(tenantId, timelineId);
  if (ancestor_timeline_id === null) {
    const message = `branch '${name}' has no parent: 'branch restore' takes it back to a point of its own`;
    throw new StorageError("invalid", "no-parent", message);
  }
  const parentName = branchNames(config, tenantId).get(ancestor_timeline_id);
  return {
    tenantId,
    timelineId: parseTimelineId(ancestor_timeline_id),
    name: parentName ?? ancestor_timeline_id,
  };
}

async function tellSwitched(home: StrataHome, branch: SwitchedBranch): Promise<void> {
  const { tenantId, name, preserveUnder } = branch;
  const timelineId = resolveBranch(home.config(), tenantId, name);
  const info = await controllerOf(home).timeline(tenantId, timelineId);
  print(`Branch '${name}' is now timeline '${timelineId}', from ${info.start_lsn} on`);
  if (preserveUnder !== undefined) {
    print(`As it was before it is branch '${preserveUnder}'`);
  }
}

/** Endpoints of a branch that is to go: refused, or with `force` stopped and destroyed. */
async function clearBranch(
  home: StrataHome,
  tenantId: TenantId,
  name: string,
  force: boolean,
): Promise<void> {
  const timelineId = resolveBranch(home.config(), tenantId, name);
  const endpoints = listEndpoints(home).filter(
    ({ spec }) => spec.tenantId === tenantId && spec.timelineId === timelineId,
  );
  const whose = { name: `branch '${name}'`, code: "branch-has-endpoints", endpoints };
  await clearEndpoints(home, whose, force, print);
}
