// What the verbs of the control plane share: its client with the owner's key, and which project and branch are meant.

import { type Command, Option } from "commander";
import { readFileIfExists } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import type { ApiBranch } from "../../control-plane/api.ts";
import { ControlPlaneClient } from "../../control-plane/client.ts";
import type { StrataHome } from "../../local/home.ts";
import { strataCommand } from "../../local/strata-command.ts";
import { openHome } from "../cli.ts";

export interface ProjectOptions {
  readonly projectId?: string;
}

export interface BranchOptions extends ProjectOptions {
  readonly branch?: string;
}

export function projectOption(): Option {
  return new Option("--project-id <id>", "project (default: that of the default tenant)");
}

export function branchOption(): Option {
  return new Option("--branch <name|id>", "branch (default: the project's default branch)");
}

/** As that of a home's owner. StorageError `unavailable` before its first start. */
export function controlPlaneClient(home: StrataHome = openHome()): ControlPlaneClient {
  const { controlPlane } = home.config();
  const key = readFileIfExists(home.controlPlaneKeyFile())?.toString("utf8").trim();
  if (controlPlane === undefined || key === undefined) {
    throw new StorageError(
      "unavailable",
      "no-control-plane",
      `this home's control plane has not run yet: run '${strataCommand()} start' first`,
    );
  }
  return new ControlPlaneClient(controlPlane.listenAddr, key);
}

/** The one that is named, else the default tenant's, else the only one. */
export async function projectOf(
  client: ControlPlaneClient,
  { projectId }: ProjectOptions,
): Promise<string> {
  if (projectId !== undefined) {
    return projectId;
  }
  const { defaultTenantId } = openHome().config();
  const ofTenant =
    defaultTenantId === undefined ? [] : await client.projects({ tenantId: defaultTenantId });
  const candidates = ofTenant.length > 0 ? ofTenant : await client.projects();
  if (candidates.length === 1) {
    return candidates[0]!.id;
  }
  const why =
    candidates.length === 0
      ? `there is no project: '${strataCommand()} projects create' makes one`
      : `name one with --project-id: ${candidates.map(({ id }) => id).join(", ")}`;
  throw new StorageError("invalid", "which-project", why);
}

export async function branchOf(
  client: ControlPlaneClient,
  options: BranchOptions,
): Promise<{ readonly projectId: string; readonly branch: ApiBranch }> {
  const projectId = await projectOf(client, options);
  const branches = await client.branches(projectId);
  const wanted = options.branch;
  const branch = branches.find((one) =>
    wanted === undefined ? one.default : one.name === wanted || one.id === wanted,
  );
  if (branch === undefined) {
    const which = wanted === undefined ? "a default branch" : `branch '${wanted}'`;
    throw new StorageError("not-found", "no-branch", `project ${projectId} has not ${which}`);
  }
  return { projectId, branch };
}

/** Adds the options of whoever works on a branch. */
export function onBranch(command: Command): Command {
  return command.addOption(projectOption()).addOption(branchOption());
}
