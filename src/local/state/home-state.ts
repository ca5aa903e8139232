// What a home knows beyond its settings: names of branches, who holds which timeline, what has begun and not ended.

import type { MembershipRecord } from "../../storage-controller/controller-state.ts";
import { type Fields, hex, integer, Problem, record, string } from "./field-checks.ts";

export interface HomeState {
  readonly defaultTenantId?: string | undefined;
  /** Tenant id to branch name to timeline id. Maps, because a name can be `__proto__`. */
  readonly branchNameMappings: ReadonlyMap<string, ReadonlyMap<string, string>>;
  /** Tenant id to timeline id; absent for timelines that are on all safekeepers since their creation. */
  readonly memberships: ReadonlyMap<string, ReadonlyMap<string, MembershipRecord>>;
  /**
   * Tenant id to ids of timelines whose creation or removal began: a crash, or a safekeeper that was
   * away, can leave them without a name somewhere, so the next command cleans up.
   */
  readonly unfinishedTimelines: ReadonlyMap<string, ReadonlySet<string>>;
  /** Ids of tenants whose removal began: the next command that makes or removes something goes on with it. */
  readonly unfinishedTenants: ReadonlySet<string>;
  /** By tenant id: those that were deleted and are kept for a time, names and all (branches/deleted-tenants.ts). */
  readonly deletedTenants: ReadonlyMap<string, DeletedTenant>;
  /** Tenant id to branch name: resets and restores that have begun and not ended (branches/branch-switch.ts). */
  readonly branchSwitches: ReadonlyMap<string, ReadonlyMap<string, BranchSwitch>>;
}

/** The same for `StrataHome.update`, which writes what was changed in it. */
export interface HomeStateDraft extends HomeState {
  defaultTenantId?: string | undefined;
  readonly branchNameMappings: Map<string, Map<string, string>>;
  readonly memberships: Map<string, Map<string, MembershipRecord>>;
  readonly unfinishedTimelines: Map<string, Set<string>>;
  readonly unfinishedTenants: Set<string>;
  readonly deletedTenants: Map<string, DeletedTenant>;
  readonly branchSwitches: Map<string, Map<string, BranchSwitch>>;
}

export interface DeletedTenant {
  /** Milliseconds since 1970. */
  readonly deletedAtMs: number;
  /** From then on it may be removed for good, and not be recovered any more. */
  readonly recoverableUntilMs: number;
  /** It was the default one, and is again where it comes back and no other one is. */
  readonly wasDefault: boolean;
}

/** A name comes to stand for another timeline. */
export interface BranchSwitch {
  /** What was asked for: who asks for the same again finishes it. */
  readonly asked: string;
  /** Ids of endpoints that ran and are to run again. */
  readonly restart: readonly string[];
  /** Once the name has changed over: primary endpoints that are on `from` belong to `to`. */
  readonly moved?: { readonly from: string; readonly to: string } | undefined;
}

/** Fields of config.json of format 1, which had all of it. */
export const FORMAT_1_FIELDS = [
  "defaultTenantId",
  "branchNameMappings",
  "memberships",
  "unfinishedTimelines",
  "unfinishedTenants",
  "branchSwitches",
];

/** What a Date can hold. */
const MAX_TIME_MS = 8.64e15;

export function emptyState(): HomeStateDraft {
  return {
    branchNameMappings: new Map(),
    memberships: new Map(),
    unfinishedTimelines: new Map(),
    unfinishedTenants: new Set(),
    deletedTenants: new Map(),
    branchSwitches: new Map(),
  };
}

export function recordMembership(
  draft: HomeStateDraft,
  tenantId: string,
  timelineId: string,
  membership: MembershipRecord | undefined,
): void {
  if (membership === undefined) {
    draft.memberships.get(tenantId)?.delete(timelineId);
  } else {
    inner(draft.memberships, tenantId, () => new Map()).set(timelineId, membership);
  }
}

export function nameBranch(
  draft: HomeStateDraft,
  tenantId: string,
  name: string,
  timelineId: string,
): void {
  inner(draft.branchNameMappings, tenantId, () => new Map()).set(name, timelineId);
}

export function noteUnfinished(draft: HomeStateDraft, tenantId: string, timelineId: string): void {
  inner(draft.unfinishedTimelines, tenantId, () => new Set()).add(timelineId);
}

/** It has a name now, or is gone. */
export function forgetUnfinished(
  draft: HomeStateDraft,
  tenantId: string,
  timelineId: string,
): void {
  const unfinished = draft.unfinishedTimelines.get(tenantId);
  unfinished?.delete(timelineId);
  if (unfinished?.size === 0) {
    draft.unfinishedTimelines.delete(tenantId);
  }
}

/** Undefined: it has ended. */
export function recordSwitch(
  draft: HomeStateDraft,
  tenantId: string,
  name: string,
  branchSwitch: BranchSwitch | undefined,
): void {
  if (branchSwitch === undefined) {
    draft.branchSwitches.get(tenantId)?.delete(name);
  } else {
    inner(draft.branchSwitches, tenantId, () => new Map()).set(name, branchSwitch);
  }
}

function inner<T>(map: Map<string, T>, key: string, make: () => T): T {
  let found = map.get(key);
  if (found === undefined) {
    found = make();
    map.set(key, found);
  }
  return found;
}

/** Of config.json of format 1. Throws a Problem. */
export function parseFormat1(from: Fields): HomeStateDraft {
  const draft = emptyState();
  const tenant = from["defaultTenantId"];
  if (tenant !== undefined) {
    draft.defaultTenantId = hex(tenant, "defaultTenantId");
  }
  for (const [tenantId, name, id, at] of entries(from, "branchNameMappings")) {
    nameBranch(draft, tenantId, name, hex(id, at));
  }
  for (const [tenantId, timelineId, value, at] of entries(from, "memberships")) {
    recordMembership(draft, tenantId, hex(timelineId, at), parseMembership(value, at));
  }
  for (const [tenantId, ids] of Object.entries(record(from["unfinishedTimelines"] ?? {}, ""))) {
    const at = `unfinishedTimelines.${tenantId}`;
    for (const id of idList(ids, at)) {
      noteUnfinished(draft, hex(tenantId, at), id);
    }
  }
  for (const id of idList(from["unfinishedTenants"] ?? [], "unfinishedTenants")) {
    draft.unfinishedTenants.add(id);
  }
  for (const [tenantId, name, value, at] of entries(from, "branchSwitches")) {
    recordSwitch(draft, tenantId, name, parseSwitch(value, at));
  }
  return draft;
}

/** Tenant id, key, value and path of each entry of an object of objects. */
function entries(from: Fields, field: string): [string, string, unknown, string][] {
  return Object.entries(record(from[field] ?? {}, field)).flatMap(([tenant, values]) => {
    const path = `${field}.${tenant}`;
    return Object.entries(record(values, path)).map(
      ([key, value]): [string, string, unknown, string] => [
        hex(tenant, field),
        key,
        value,
        `${path}.${key}`,
      ],
    );
  });
}

/** A list; older homes have an object of branch names to ids. */
function idList(value: unknown, path: string): string[] {
  const list: unknown[] = Array.isArray(value) ? value : Object.values(record(value, path));
  return list.map((id, i) => hex(id, `${path}.${i}`));
}

/** Throws a Problem. */
export function parseMembership(value: unknown, at: string): MembershipRecord {
  const ids = (given: unknown, path: string): number[] => {
    if (!Array.isArray(given) || given.length > 32) {
      throw new Problem(`${path} expected at most 32 ids`);
    }
    return given.map((id: unknown, i) => integer(id, `${path}.${i}`, 1, 9999));
  };
  const from = record(value, at, ["generation", "members", "newMembers", "excluding"]);
  const optional = (field: string) =>
    from[field] === undefined ? undefined : ids(from[field], `${at}.${field}`);
  return {
    generation: integer(from["generation"], `${at}.generation`, 1, 2 ** 32 - 1),
    members: ids(from["members"], `${at}.members`),
    newMembers: optional("newMembers"),
    excluding: optional("excluding"),
  };
}

/** Throws a Problem. */
export function parseDeletedTenant(value: unknown, at: string): DeletedTenant {
  const from = record(value, at, ["deletedAtMs", "recoverableUntilMs", "wasDefault"]);
  const time = (field: string) => integer(from[field], `${at}.${field}`, 0, MAX_TIME_MS);
  if (typeof from["wasDefault"] !== "boolean") {
    throw new Problem(`${at}.wasDefault expected true or false`);
  }
  return {
    deletedAtMs: time("deletedAtMs"),
    recoverableUntilMs: time("recoverableUntilMs"),
    wasDefault: from["wasDefault"],
  };
}

/** Throws a Problem. */
export function parseSwitch(value: unknown, at: string): BranchSwitch {
  const from = record(value, at, ["asked", "restart", "moved"]);
  const moved =
    from["moved"] === undefined ? undefined : record(from["moved"], `${at}.moved`, ["from", "to"]);
  const restart = from["restart"];
  if (!Array.isArray(restart)) {
    throw new Problem(`${at}.restart expected a list`);
  }
  return {
    asked: string(from["asked"], `${at}.asked`, /^/, "a string"),
    restart: restart.map((id: unknown) => string(id, `${at}.restart`, /./, "endpoint ids")),
    moved: moved && {
      from: hex(moved["from"], `${at}.moved.from`),
      to: hex(moved["to"], `${at}.moved.to`),
    },
  };
}
