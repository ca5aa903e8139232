// In which database, and as which role, a page runs statements on its branch.

import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type ComponentType, type ReactNode, useState } from "react";
import { databasesQuery, rolesQuery, sessionQuery } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { BranchSelect } from "../projects/branch-select.tsx";
import { useBranch } from "../projects/use-branch.ts";
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

interface OnBranchProps {
  /** Begun anew for each branch. */
  readonly Page: ComponentType<{ readonly branch: TreeBranch }>;
  /** What is not to be had with a key for reading only. */
  readonly refused: string;
}

/** A page that runs statements on the branch that is chosen. */
export function OnBranch({ Page, refused }: OnBranchProps) {
  const branch = useBranch();
  const session = useQuery(sessionQuery);
  if (branch === undefined) {
    return <p className="empty" aria-busy="true" />;
  }
  if (session.data?.scope === "read_only") {
    return <Empty>This API key is for reading only: {refused}.</Empty>;
  }
  return <Page key={branch.branch.id} branch={branch} />;
}

interface PlaceHeadProps {
  readonly title: string;
  readonly of: ReturnType<typeof usePlace>;
  readonly children: ReactNode;
}

/** Where such a page runs them, and why it cannot. */
export function PlaceHead({ title, of, children }: PlaceHeadProps) {
  return (
    <>
      <header className="page-head">
        <h1 className="hidden">{title}</h1>
        <BranchSelect />
        {of.pickers}
        {children}
      </header>
      <PlaceNotice of={of} />
    </>
  );
}

/** Nothing where it can. */
function PlaceNotice({ of }: { readonly of: ReturnType<typeof usePlace> }) {
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
