// The tables of a home's state file (home.db): numbered steps from version to version, and which rows a state is.
//
//   home_values(name, value)                             default_tenant_id
//   branch_names(tenant_id, name, timeline_id)           in the order in which they were made
//   memberships(tenant_id, timeline_id, record)          JSON of a MembershipRecord
//   unfinished_timelines(tenant_id, timeline_id)
//   unfinished_tenants(tenant_id)
//   branch_switches(tenant_id, branch_name, record)      JSON of a BranchSwitch
//   deleted_tenants(tenant_id, record)                   since version 2: JSON of a DeletedTenant
//
// Ids are 32 hex digits. What a reader cannot make sense of is damage: it names the row, and changes nothing.

import { hex, Problem } from "./field-checks.ts";
import {
  type HomeState,
  type HomeStateDraft,
  nameBranch,
  noteUnfinished,
  parseDeletedTenant,
  parseMembership,
  parseSwitch,
  recordMembership,
  recordSwitch,
} from "./home-state.ts";

/** The version of a file (SQLite's user_version) is how many of them it has; one that was released never changes. */
export const HOME_MIGRATIONS: readonly string[] = [
  `create table home_values (name text not null primary key, value text not null);
   create table branch_names (tenant_id text not null, name text not null, timeline_id text not null,
     primary key (tenant_id, name));
   create table memberships (tenant_id text not null, timeline_id text not null, record text not null,
     primary key (tenant_id, timeline_id));
   create table unfinished_timelines (tenant_id text not null, timeline_id text not null,
     primary key (tenant_id, timeline_id));
   create table unfinished_tenants (tenant_id text not null primary key);
   create table branch_switches (tenant_id text not null, branch_name text not null, record text not null,
     primary key (tenant_id, branch_name));`,
  `create table deleted_tenants (tenant_id text not null primary key, record text not null);`,
];

/** As many texts as the table has columns. */
export type Row = readonly string[];

export interface StateTable {
  readonly name: string;
  /** The first `keys` of them tell rows apart. */
  readonly columns: readonly string[];
  readonly keys: number;
  rowsOf(state: HomeState): Iterable<Row>;
  /** Throws a Problem. */
  put(draft: HomeStateDraft, row: Row): void;
}

export const STATE_TABLES: readonly StateTable[] = [
  {
    name: "home_values",
    columns: ["name", "value"],
    keys: 1,
    rowsOf: ({ defaultTenantId: id }) => (id === undefined ? [] : [["default_tenant_id", id]]),
    put: (draft, [name, value]) => {
      if (name !== "default_tenant_id") {
        throw new Problem(`home_values.${name} unrecognized`);
      }
      draft.defaultTenantId = hex(value, "home_values.default_tenant_id");
    },
  },
  {
    name: "branch_names",
    columns: ["tenant_id", "name", "timeline_id"],
    keys: 2,
    rowsOf: ({ branchNameMappings }) => pairs(branchNameMappings, (id) => [id]),
    put: (draft, [tenant, name, timeline]) => {
      const at = `branch_names.${tenant}.${name}`;
      nameBranch(draft, hex(tenant, at), name!, hex(timeline, at));
    },
  },
  {
    name: "memberships",
    columns: ["tenant_id", "timeline_id", "record"],
    keys: 2,
    rowsOf: ({ memberships }) => pairs(memberships, (record) => [JSON.stringify(record)]),
    put: (draft, [tenant, timeline, text]) => {
      const at = `memberships.${tenant}.${timeline}`;
      const membership = parseMembership(json(text!, at), at);
      recordMembership(draft, hex(tenant, at), hex(timeline, at), membership);
    },
  },
  {
    name: "unfinished_timelines",
    columns: ["tenant_id", "timeline_id"],
    keys: 2,
    rowsOf: ({ unfinishedTimelines }) =>
      [...unfinishedTimelines].flatMap(([tenant, ids]) => [...ids].map((id) => [tenant, id])),
    put: (draft, [tenant, timeline]) => {
      const at = `unfinished_timelines.${tenant}`;
      noteUnfinished(draft, hex(tenant, at), hex(timeline, at));
    },
  },
  {
    name: "unfinished_tenants",
    columns: ["tenant_id"],
    keys: 1,
    rowsOf: ({ unfinishedTenants }) => [...unfinishedTenants].map((id) => [id]),
    put: (draft, [tenant]) => {
      draft.unfinishedTenants.add(hex(tenant, "unfinished_tenants"));
    },
  },
  {
    name: "branch_switches",
    columns: ["tenant_id", "branch_name", "record"],
    keys: 2,
    rowsOf: ({ branchSwitches }) => pairs(branchSwitches, (record) => [JSON.stringify(record)]),
    put: (draft, [tenant, name, text]) => {
      const at = `branch_switches.${tenant}.${name}`;
      recordSwitch(draft, hex(tenant, at), name!, parseSwitch(json(text!, at), at));
    },
  },
  {
    name: "deleted_tenants",
    columns: ["tenant_id", "record"],
    keys: 1,
    rowsOf: ({ deletedTenants }) =>
      [...deletedTenants].map(([id, deleted]) => [id, JSON.stringify(deleted)]),
    put: (draft, [tenant, text]) => {
      const at = `deleted_tenants.${tenant}`;
      draft.deletedTenants.set(hex(tenant, at), parseDeletedTenant(json(text!, at), at));
    },
  },
];

function pairs<T>(
  maps: ReadonlyMap<string, ReadonlyMap<string, T>>,
  rest: (value: T) => readonly string[],
): Row[] {
  return [...maps].flatMap(([tenant, map]) =>
    [...map].map(([key, value]) => [tenant, key, ...rest(value)]),
  );
}

function json(text: string, at: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Problem(`${at} is not JSON`);
  }
}
