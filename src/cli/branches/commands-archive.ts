// branch archive, branch unarchive: a branch that nobody uses costs nothing but its objects in the store.

import type { Command } from "commander";
import { StorageError } from "../../base/errors.ts";
import {
  branchNames,
  DEFAULT_BRANCH_NAME,
  resolveBranch,
  resolveTenant,
} from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import { endpointState, listEndpoints } from "../../local/endpoints.ts";
import type { StrataHome } from "../../local/home.ts";
import { shellWord, strataCommand } from "../../local/strata-command.ts";
import type { ArchivalState } from "../../pageserver/api.ts";
import { openHome, print, tenantOption, withHomeLocked } from "../cli.ts";

export function addArchiveCommands(branch: Command): void {
  branch
    .command("archive")
    .argument("<name>")
    .description("keep it in the object store only, until it is unarchived; its branches first")
    .addOption(tenantOption())
    .action(async (name: string, options: { tenantId?: string }) => {
      await setArchival(openHome(), name, options.tenantId, "Archived");
      print(`Archived branch '${name}'`);
    });
  branch
    .command("unarchive")
    .argument("<name>")
    .description("use an archived branch again, as it was; its parent first")
    .addOption(tenantOption())
    .action(async (name: string, options: { tenantId?: string }) => {
      await setArchival(openHome(), name, options.tenantId, "Unarchived");
      print(`Unarchived branch '${name}'`);
    });
}

async function setArchival(
  home: StrataHome,
  name: string,
  givenTenant: string | undefined,
  state: ArchivalState,
): Promise<void> {
  await withHomeLocked(home, async () => {
    const config = home.config();
    const tenantId = resolveTenant(config, givenTenant);
    const timelineId = resolveBranch(config, tenantId, name);
    if (state === "Archived") {
      refuseInUse(home, name, timelineId);
    }
    try {
      await controllerOf(home).setArchival(tenantId, timelineId, state);
    } catch (error) {
      throw inWords(error, branchNames(config, tenantId));
    }
  });
}

/** As Neon's: the default branch is never archived. */
function refuseInUse(home: StrataHome, name: string, timelineId: string): void {
  if (name === DEFAULT_BRANCH_NAME) {
    const message = `branch '${name}' is the default one, which is not archived`;
    throw new StorageError("invalid", "default-branch", message);
  }
  const running = listEndpoints(home)
    .filter(({ spec }) => spec.timelineId === timelineId)
    .filter((endpoint) => endpointState(endpoint).state === "running")
    .map(({ id }) => id);
  if (running.length > 0) {
    const message = `endpoints run on branch '${name}': ${running.join(", ")}; stop them first`;
    throw new StorageError("conflict", "branch-has-endpoints", message);
  }
}

/** A pageserver knows no names: whoever comes upon an archived branch is told which one to bring back. */
export function explainArchived(error: unknown): unknown {
  if (!(error instanceof StorageError) || error.code !== "timeline-archived") {
    return error;
  }
  const [id = ""] = error.message.match(/[0-9a-f]{32}/) ?? [];
  const config = openHome().config();
  const names = [...config.branchNameMappings.keys()].map((tenantId) =>
    branchNames(config, tenantId).get(id),
  );
  const name = names.find((one) => one !== undefined);
  if (name === undefined) {
    return error;
  }
  const command = `${strataCommand()} branch unarchive ${shellWord(name)}`;
  const message = `branch '${name}' is archived: '${command}' brings it back`;
  return new StorageError(error.kind, error.code, message, { cause: error });
}

/** What the pageserver refuses, with names in the place of ids. */
function inWords(error: unknown, names: ReadonlyMap<string, string>): unknown {
  if (!(error instanceof StorageError)) {
    return error;
  }
  const nameOf = (id: string) => names.get(id) ?? id;
  const ids = (error.message.match(/[0-9a-f]{32}/g) ?? []).map(nameOf);
  switch (error.code) {
    case "has-unarchived-children": {
      const message = `branches of it are in use: ${ids.join(", ")}; archive them first`;
      return new StorageError(error.kind, error.code, message, { cause: error });
    }
    case "ancestor-archived": {
      const message = `its parent '${ids[0]}' is archived: unarchive that one first`;
      return new StorageError(error.kind, error.code, message, { cause: error });
    }
    default:
      return error;
  }
}
