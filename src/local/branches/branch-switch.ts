// Reset and restore: a branch's name comes to stand for a new timeline, which is metadata only.
//
// What happens, each step durable before the next, and what is there if it ends behind one:
// 1. The new timeline is made, unnamed, on the list of what is to be removed: the branch is as it was.
// 2. Endpoints that run are noted, then stopped: as it was, and they are stopped. The same command again starts them at its end.
// 3. In one step of the home's state the name stands for the new timeline, the old one has the other name or is on the list,
//    and it is noted that endpoints moved: whoever reads an endpoint.json sees the new timeline (endpoints.ts).
// 4. Each endpoint.json says so itself; endpoints start again; the old timeline is removed; the note goes.
// Behind the third step the same command again does what is left, and nothing else.

import { StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Lsn } from "../../base/lsn.ts";
import {
  childrenOf,
  createUnnamed,
  nameTimeline,
  removeUnfinished,
  requireFreeBranchName,
  resolveBranch,
} from "../branches.ts";
import type { Print } from "../daemon.ts";
import { startWhileLocked } from "../endpoints/start-endpoint.ts";
import {
  type Endpoint,
  endpointState,
  findEndpoint,
  listEndpoints,
  settleEndpoint,
  stopEndpoint,
} from "../endpoints.ts";
import type { StrataHome } from "../home.ts";
import { withLock } from "../lock.ts";
import { nameBranch, noteUnfinished, recordSwitch } from "../state/home-state.ts";

const START_TIMEOUT_MS = 90_000;

export interface SwitchedBranch {
  readonly tenantId: TenantId;
  readonly name: string;
  /** What was asked for, in a word of one's own: `reset 0/1234`. */
  readonly asked: string;
  /** The branch as it was stays under this name; absent: it goes. */
  readonly preserveUnder?: string | undefined;
  /** Endpoints that run are stopped, and started again on the new timeline; else they are a reason to refuse. */
  readonly restart: boolean;
}

export interface SwitchTarget {
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn };
}

/**
 * Call with the home locked. `target` is only asked where this is not what is left of the same command. StorageError
 * `conflict` where endpoints are in the way.
 */
export async function switchBranch(
  home: StrataHome,
  branch: SwitchedBranch,
  target: () => Promise<SwitchTarget>,
  say: Print,
): Promise<void> {
  const { tenantId, name } = branch;
  const before = resolveBranch(home.config(), tenantId, name);
  const ids = endpointsOn(home, tenantId, before)
    .filter(({ spec }) => typeof spec.mode === "string")
    .map(({ id }) => id);
  await withEndpointsLocked(home, ids, async () => {
    if (noteOf(home, branch)?.moved === undefined || noteOf(home, branch)?.asked !== branch.asked) {
      await changeOver(home, branch, ids, target, say);
    }
    await finish(home, branch, ids, say);
  });
}

function noteOf(home: StrataHome, { tenantId, name }: SwitchedBranch) {
  return home.config().branchSwitches.get(tenantId)?.get(name);
}

function endpointsOn(home: StrataHome, tenantId: TenantId, timelineId: TimelineId): Endpoint[] {
  return listEndpoints(home).filter(
    ({ spec }) => spec.tenantId === tenantId && spec.timelineId === timelineId,
  );
}

/** In one order, so that two commands never wait for each other. */
async function withEndpointsLocked(
  home: StrataHome,
  ids: readonly string[],
  body: () => Promise<void>,
): Promise<void> {
  const [id, ...others] = ids.toSorted();
  await (id === undefined
    ? body()
    : withLock(home.path, `endpoint ${id}`, () => withEndpointsLocked(home, others, body)));
}

/** Steps 1 to 3. */
async function changeOver(
  home: StrataHome,
  branch: SwitchedBranch,
  ids: readonly string[],
  target: () => Promise<SwitchTarget>,
  say: Print,
): Promise<void> {
  const { tenantId, name, asked, preserveUnder } = branch;
  // What is left of another one before this: its endpoints are on this branch now.
  settleAll(home, ids);
  const from = resolveBranch(home.config(), tenantId, name);
  if (preserveUnder !== undefined) {
    requireFreeBranchName(home.config(), tenantId, preserveUnder);
  }
  const { ancestor } = await target();
  refuseReaders(home, branch, from);
  const running = ids.filter((id) => endpointState(findEndpoint(home, id)).state === "running");
  if (running.length > 0 && !branch.restart) {
    throw new StorageError(
      "conflict",
      "branch-has-endpoints",
      `endpoints run on branch '${name}': ${running.join(", ")}; --restart stops them, and starts them again on the new state`,
    );
  }
  const members = home.config().memberships.get(tenantId)?.get(from)?.members;
  await removeUnfinished(home);
  const { timeline_id: to } = await createUnnamed(home, {
    tenantId,
    ancestor,
    safekeepers: members,
  });
  const restart = [...new Set([...running, ...(noteOf(home, branch)?.restart ?? [])])];
  home.update((draft) => recordSwitch(draft, tenantId, name, { asked, restart }));
  for (const id of running) {
    await stopEndpoint(findEndpoint(home, id), "fast", () => {});
    say(`Stopped endpoint ${id}`);
  }
  // Those that stay when it goes read its layers themselves.
  const children = preserveUnder === undefined ? await childrenOf(home, tenantId, from) : [];
  home.update((draft) => {
    nameTimeline(draft, tenantId, name, to);
    if (preserveUnder === undefined) {
      noteUnfinished(draft, tenantId, from);
    } else {
      nameBranch(draft, tenantId, preserveUnder, from);
    }
    recordSwitch(draft, tenantId, name, { asked, restart, moved: { from, to } });
  });
  const detached = children.filter((child) => child !== to);
  if (detached.length > 0) {
    say(`Detached from it, and as they were: ${detached.join(", ")}`);
  }
}

/** Step 4. */
async function finish(
  home: StrataHome,
  branch: SwitchedBranch,
  ids: readonly string[],
  say: Print,
): Promise<void> {
  const { tenantId, name } = branch;
  settleAll(home, ids);
  for (const id of noteOf(home, branch)?.restart ?? []) {
    if (ids.includes(id)) {
      const endpoint = findEndpoint(home, id);
      await startWhileLocked(home, endpoint, {
        timeoutMs: START_TIMEOUT_MS,
        print: () => {},
        onPortMoved: say,
      });
      say(`Started endpoint ${id}`);
    }
  }
  // What cannot be removed now stays on the list.
  await removeUnfinished(home);
  home.update((draft) => recordSwitch(draft, tenantId, name, undefined));
}

function settleAll(home: StrataHome, ids: readonly string[]): void {
  for (const id of ids) {
    settleEndpoint(findEndpoint(home, id));
  }
}

/** Read-only endpoints read what would go. */
function refuseReaders(home: StrataHome, branch: SwitchedBranch, from: TimelineId): void {
  const readers = endpointsOn(home, branch.tenantId, from).filter(
    ({ spec }) => typeof spec.mode !== "string",
  );
  if (branch.preserveUnder === undefined && readers.length > 0) {
    throw new StorageError(
      "conflict",
      "branch-has-endpoints",
      `read-only endpoints read branch '${branch.name}' as it is: ${readers.map(({ id }) => id).join(", ")}; destroy them, or keep what they read with --preserve-under`,
    );
  }
}
