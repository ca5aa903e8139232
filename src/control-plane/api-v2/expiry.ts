// Deletes branches whose time is over.

import { errorMessage } from "../../base/errors.ts";
import { nowText } from "../inventory.ts";
import { deleteBranch } from "./branches.ts";
import type { Parts } from "./lookup.ts";

/** One that cannot be deleted now, as its project is busy, say, is looked at again the next time. */
export async function deleteExpiredBranches(parts: Parts): Promise<void> {
  const expired = await parts.db
    .selectFrom("branches")
    .selectAll()
    .where("expires_at", "<=", nowText())
    .where("creating", "=", 0)
    .execute();
  // Those of a deleted project stay as they are.
  const { deletedTenants } = parts.home.config();
  for (const branch of expired) {
    const project = await parts.db
      .selectFrom("projects")
      .selectAll()
      .where("id", "=", branch.project_id)
      .executeTakeFirstOrThrow();
    if (deletedTenants.has(project.tenant_id)) {
      continue;
    }
    try {
      await deleteBranch(parts, project, branch);
      parts.logger.info({ branch: branch.id }, "deleted: its time was over");
    } catch (error) {
      const reason = errorMessage(error);
      parts.logger.info({ branch: branch.id, reason }, "expired branch is still there");
    }
  }
}
