// branch create: by the control plane, which has all loaded that it takes; by this process where that does not answer.

import { readFileIfExists } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { generateTimelineId } from "../../base/ids.ts";
import type { NewHomeBranch, NewHomeBranchRequest } from "../../control-plane/api.ts";
import { ControlPlaneClient } from "../../control-plane/client.ts";
import { splitNameAtLsn } from "../../local/branches.ts";
import type { StrataHome } from "../../local/home.ts";
import { shellWord, strataCommand } from "../../local/strata-command.ts";
import { notice, print } from "../cli.ts";

export interface NewBranchOptions {
  tenantId?: string;
  parent: string;
  at?: string;
  skSet?: number[];
  start?: boolean;
}

export async function createNamedBranch(
  home: StrataHome,
  name: string,
  options: NewBranchOptions,
): Promise<void> {
  const { name: parent, lsn: parentLsn } = splitNameAtLsn(options.parent);
  const at = parentLsn ?? options.at;
  if (parentLsn !== undefined && options.at !== undefined) {
    throw new StorageError("invalid", "lsn-twice", "--at and --parent NAME@LSN exclude each other");
  }
  const request: NewHomeBranchRequest = {
    name,
    timeline_id: generateTimelineId(),
    parent,
    start: options.start === true,
    ...(options.tenantId === undefined ? {} : { tenant_id: options.tenantId }),
    ...(at === undefined ? {} : { at }),
    ...(options.skSet === undefined ? {} : { sk_set: options.skSet }),
  };
  const made = (await madeByControlPlane(home, request)) ?? (await madeHere(home, request));
  print(`Created branch '${name}' of '${parent}' at ${made.ancestor_lsn} [${made.timeline_id}]`);
  if (made.connection_url === undefined) {
    endpointHint(made.endpoint_id, name, options.tenantId).forEach(print);
  } else {
    print(`Endpoint ${made.endpoint_id}: ${made.connection_url}`);
  }
}

/** What it says where it is not the one that can do this: it does not answer, is another home's, or of an earlier version. */
const NOT_OURS = new Set(["unauthorized", "too-many-requests", "no-route"]);

/** Undefined where this process is to do it. What the control plane refuses, this process would too. */
async function madeByControlPlane(
  home: StrataHome,
  request: NewHomeBranchRequest,
): Promise<NewHomeBranch | undefined> {
  const address = home.settings().controlPlane?.listenAddr;
  const key = readFileIfExists(home.controlPlaneKeyFile())?.toString("utf8").trim();
  if (address === undefined || key === undefined) {
    return undefined;
  }
  try {
    const made = await new ControlPlaneClient(address, key).makeHomeBranch(request);
    made.notices.forEach(notice);
    return made;
  } catch (error) {
    const code = error instanceof StorageError ? error.code : "";
    if (code === "control plane-unreachable" || NOT_OURS.has(code)) {
      return undefined;
    }
    throw error;
  }
}

async function madeHere(home: StrataHome, request: NewHomeBranchRequest): Promise<NewHomeBranch> {
  const { createHere } = await import("./create-branch-here.ts");
  return createHere(home, request);
}

/** How to get Postgres on a branch, as it can be typed where we were started. */
export function endpointHint(id: string, branchName: string, tenantId?: string): string[] {
  const strata = strataCommand();
  const tenant = tenantId === undefined ? "" : ` --tenant-id ${tenantId}`;
  return [
    `Start Postgres on it: ${strata} endpoint create ${id} --branch-name ${shellWord(branchName)}${tenant}`,
    `                      ${strata} endpoint start ${id}`,
  ];
}
