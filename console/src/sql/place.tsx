// In which database, and as which role, a page runs statements on its branch.

import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { databasesQuery, rolesQuery } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { ErrorNotice } from "../parts/notice.tsx";
import type { SqlPlace } from "./sql-stream.ts";

/** Until somebody chooses: the first database, as who owns it. */
export function usePlace({ branch: { id, project_id: projectId } }: TreeBranch) {
  const roles = useQuery(rolesQuery(projectId, id));
  const databases = useQuery(databasesQuery(projectId, id));
  const [chosenDatabase, setDatabase] = useState<string>();
  const [chosenRole, setRole] = useState<string>();
  const database = chosenDatabase ?? databases.data?.[0]?.name ?? "postgres";
  const role =
    chosenRole ??
    databases.data?.find(({ name }) => name === database)?.owner_name ??
    roles.data?.[0]?.name;
  const isKnown = databases.data !== undefined && role !== undefined;
  const place: SqlPlace | undefined = isKnown
    ? { projectId, branchId: id, database, role }
    : undefined;
  return {
    /** Undefined: not known yet, or there is no role. */
    place,
    hasNoRole: roles.data?.length === 0,
    error: roles.error ?? databases.error,
    pickers: (
      <>
        <Picker
          label="Database"
          value={database}
          names={databases.data?.map(({ name }) => name)}
          onChange={setDatabase}
        />
        <Picker
          label="Role"
          value={role}
          names={roles.data?.map(({ name }) => name)}
          onChange={setRole}
        />
      </>
    ),
  };
}

/** Why nothing can be run; nothing where it can. */
export function PlaceNotice({ of }: { readonly of: ReturnType<typeof usePlace> }) {
  return (
    <>
      {of.error !== null && <ErrorNotice error={of.error} />}
      {of.hasNoRole && (
        <p className="notice">
          This branch has no roles of users, and the superuser does not come in here:{" "}
          <Link from="/projects/$projectId" to="/projects/$projectId/roles" search={(now) => now}>
            make a role
          </Link>
          .
        </p>
      )}
    </>
  );
}

interface PickerProps {
  readonly label: string;
  readonly value: string | undefined;
  readonly names: readonly string[] | undefined;
  readonly onChange: (name: string) => void;
}

function Picker({ label, value, names = [], onChange }: PickerProps) {
  const all = value === undefined || names.includes(value) ? names : [value, ...names];
  return (
    <label className="inline-field">
      <span>{label}</span>
      <select value={value ?? ""} onChange={(event) => onChange(event.target.value)}>
        {all.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}
