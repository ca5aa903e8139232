// tenant delete: a tenant with all its branches, for good.

import type { Command } from "commander";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, type TenantId } from "../base/ids.ts";
import { deleteTenant } from "../local/branches.ts";
import { controllerOf } from "../local/controller.ts";
import { clearEndpoints } from "../local/endpoint-stop.ts";
import { listEndpoints } from "../local/endpoints.ts";
import type { StrataHome } from "../local/home.ts";
import { openHome, print, withHomeLocked } from "./cli.ts";

interface TenantDeleteOptions {
  readonly yes?: boolean;
  readonly force?: boolean;
}

export function addTenantDeleteCommand(tenant: Command): void {
  tenant
    .command("delete")
    .argument("<id>")
    .description("all its branches and their history, for good; repeat after a failure")
    .option("-y, --yes", "it is meant")
    .option("-f, --force", "also stop and destroy the endpoints on it")
    .action((id: string, options: TenantDeleteOptions) => {
      const home = openHome();
      return withHomeLocked(home, () => runDelete(home, parseTenantId(id), options));
    });
}

async function runDelete(
  home: StrataHome,
  tenantId: TenantId,
  { yes, force }: TenantDeleteOptions,
): Promise<void> {
  const config = home.config();
  const branches = [...(config.branchNameMappings.get(tenantId)?.keys() ?? [])].toSorted();
  const isKnown = branches.length > 0 || config.unfinishedTenants.has(tenantId);
  if (!isKnown && !(await controllerOf(home).tenants()).some(({ id }) => id === tenantId)) {
    throw new StorageError("not-found", "no-tenant", `tenant ${tenantId} not found`);
  }
  if (yes !== true) {
    const what = branches.length === 0 ? "no branches" : `branches: ${branches.join(", ")}`;
    const message = `tenant ${tenantId} has ${what}; --yes deletes it for good`;
    throw new StorageError("invalid", "not-confirmed", message);
  }
  const endpoints = listEndpoints(home).filter(({ spec }) => spec.tenantId === tenantId);
  const whose = { name: `tenant ${tenantId}`, code: "tenant-has-endpoints", endpoints };
  await clearEndpoints(home, whose, force === true, print);
  await deleteTenant(home, tenantId);
  print(`Deleted tenant ${tenantId}`);
}
