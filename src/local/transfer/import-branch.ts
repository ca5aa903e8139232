// A branch made of a stock cluster: imported by the pageserver, then given to safekeepers, then named.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { generateTimelineId, type TenantId, type TimelineId } from "../../base/ids.ts";
import type { ImportStatusJson, TimelineInfo } from "../../pageserver/api.ts";
import { findInstallation } from "../../postgres/installation.ts";
import { findNode } from "../../storage-controller/storage-controller.ts";
import {
  branchNames,
  removeUnfinished,
  requireFreeBranchName,
  requireNew,
  versionNumber,
} from "../branches.ts";
import { pgBinOf } from "../config.ts";
import { controllerOf } from "../controller.ts";
import { setAtEachStart } from "../credentials.ts";
import type { StrataHome } from "../home.ts";
import { forgetUnfinished, nameBranch, noteUnfinished } from "../state/home-state.ts";

export interface ImportedBranch {
  readonly tenantId: TenantId;
  /** Its id is of this command's making: where nothing comes of the branch nobody wants it. */
  readonly isNewTenant: boolean;
  /** Given: to go on with an import that was cut short, or to name one whose answer was lost. */
  readonly timelineId?: TimelineId | undefined;
  readonly branchName: string;
  /** Absolute: a data directory, or a base backup in plain format. */
  readonly path: string;
  /** Absent: all. */
  readonly safekeepers?: readonly number[] | undefined;
  /** Holds the home while it is changed, not while data is copied. */
  readonly lockHome: <T>(body: () => Promise<T>) => Promise<T>;
  readonly onBegin: (timelineId: TimelineId) => void;
  readonly onProgress: (status: ImportStatusJson) => void;
}

/**
 * The source stays as it is. Where this process ends early nothing is left that has a name; the pageserver breaks off by
 * itself. Errors of the pageserver say what is wrong with the source; then nothing is left either.
 */
export async function importBranch(
  home: StrataHome,
  wanted: ImportedBranch,
): Promise<TimelineInfo> {
  const { tenantId, branchName, lockHome } = wanted;
  requireInstallation(home, wanted.path);
  const timelineId = await lockHome(() => begin(home, wanted));
  wanted.onBegin(timelineId);
  const controller = controllerOf(home, lockHome);
  try {
    const info = await controller.importTimeline({
      ...wanted,
      timelineId,
      versionNumber: (major) => versionNumber(home.config(), major),
    });
    await lockHome(async () => {
      requireFreeBranchName(home.config(), tenantId, branchName);
      home.update((draft) => {
        nameBranch(draft, tenantId, branchName, timelineId);
        forgetUnfinished(draft, tenantId, timelineId);
        draft.unfinishedTenants.delete(tenantId);
      });
    });
    return info;
  } finally {
    // Whether or not it got a name: what did not is removed, at the latest by the next creation.
    await controller.releaseImport(tenantId, timelineId).catch(() => undefined);
    await lockHome(() => removeUnfinished(home)).catch(() => undefined);
  }
}

/** Before anything is copied for a major that no endpoint could be started of. */
function requireInstallation(home: StrataHome, path: string): void {
  let text: string;
  try {
    text = readFileSync(join(path, "PG_VERSION"), "latin1").trim();
  } catch {
    const message = `'${path}' is no data directory of Postgres: it has no PG_VERSION`;
    throw new StorageError("invalid", "not-a-data-directory", message);
  }
  const major = Number(text);
  findInstallation(major, { pgBin: pgBinOf(home.config(), major) });
}

async function begin(home: StrataHome, wanted: ImportedBranch): Promise<TimelineId> {
  const { tenantId, branchName, timelineId } = wanted;
  const config = home.config();
  requireFreeBranchName(config, tenantId, branchName);
  for (const id of wanted.safekeepers ?? []) {
    findNode(config.safekeepers, id, "safekeeper");
  }
  setAtEachStart(home, tenantId);
  await removeUnfinished(home, timelineId);
  if (timelineId === undefined) {
    const chosen = generateTimelineId();
    home.update((draft) => {
      noteUnfinished(draft, tenantId, chosen);
      if (wanted.isNewTenant) {
        draft.unfinishedTenants.add(tenantId);
      }
    });
    return chosen;
  }
  if (config.unfinishedTimelines.get(tenantId)?.has(timelineId) !== true) {
    const hasTenant = branchNames(config, tenantId).size > 0;
    if (hasTenant) {
      await requireNew(home, tenantId, timelineId);
    }
    home.update((draft) => noteUnfinished(draft, tenantId, timelineId));
  }
  return timelineId;
}
