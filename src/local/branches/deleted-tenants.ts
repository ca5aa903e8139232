// Tenants that were deleted and are kept for a time: with their names and their storage, and nothing runs on them.
//
// That one is deleted is in the home's state, in one transaction, so no crash leaves half of it; who starts, makes or
// changes something looks there. Whoever lists names still finds them: they are taken until the tenant is gone for good.

import { StorageError } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import type { StrataHome } from "../home.ts";
import type { DeletedTenant, HomeState } from "../state/home-state.ts";
import { strataCommand } from "../strata-command.ts";

/** StorageError `not-found` for one that is deleted, with how it comes back. */
export function requireNotDeleted(
  { deletedTenants }: Pick<HomeState, "deletedTenants">,
  tenantId: string,
): void {
  const deleted = deletedTenants.get(tenantId);
  if (deleted !== undefined) {
    const until = new Date(deleted.recoverableUntilMs).toISOString();
    throw new StorageError(
      "not-found",
      "tenant-deleted",
      `tenant ${tenantId} is deleted; its project can be recovered until ${until} ('${strataCommand()} projects list --recoverable' names it)`,
    );
  }
}

/** From here on nothing starts on it. One that is deleted already keeps its time. Call with the home locked. */
export function markDeleted(
  home: StrataHome,
  tenantId: TenantId,
  times: Pick<DeletedTenant, "deletedAtMs" | "recoverableUntilMs">,
): void {
  home.update((draft) => {
    if (draft.deletedTenants.has(tenantId)) {
      return;
    }
    const wasDefault = draft.defaultTenantId === tenantId;
    draft.deletedTenants.set(tenantId, { ...times, wasDefault });
    if (wasDefault) {
      draft.defaultTenantId = undefined;
    }
  });
}

/** As if it had never been deleted; nothing where it is not. Call with the home locked. */
export function unmarkDeleted(home: StrataHome, tenantId: TenantId): void {
  home.update((draft) => {
    const deleted = draft.deletedTenants.get(tenantId);
    draft.deletedTenants.delete(tenantId);
    if (deleted?.wasDefault === true) {
      draft.defaultTenantId ??= tenantId;
    }
  });
}
