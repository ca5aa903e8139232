// Roles and databases of a branch.

import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/http.ts";
import { databasesQuery, queryClient, rolesQuery, sessionQuery } from "../api/queries.ts";
import type { ApiRole, TreeBranch } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { CodeBlock } from "../parts/copy.tsx";
import { Dialog, FormDialog } from "../parts/dialog.tsx";
import { Menu } from "../parts/menu.tsx";
import { NameField } from "../parts/name-field.tsx";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { BranchSelect } from "../projects/branch-select.tsx";
import { useBranch } from "../projects/use-branch.ts";

type Wish =
  | { readonly kind: "new-role" | "new-database" }
  | { readonly kind: "delete-role" | "delete-database" | "reset-password"; readonly name: string };

export function RolesPage() {
  const branch = useBranch();
  return branch === undefined ? (
    <p className="empty" aria-busy="true" />
  ) : (
    <RolesOf key={branch.branch.id} branch={branch} />
  );
}

function RolesOf({ branch: { branch } }: { readonly branch: TreeBranch }) {
  const roles = useQuery(rolesQuery(branch.project_id, branch.id));
  const databases = useQuery(databasesQuery(branch.project_id, branch.id));
  const session = useQuery(sessionQuery);
  const mayChange = session.data?.scope !== "read_only";
  const [wish, setWish] = useState<Wish>();
  const [shown, setShown] = useState<ApiRole>();
  const whyNot = mayChange ? undefined : "this API key is for reading only";
  return (
    <>
      <header className="page-head">
        <h1>Roles and databases</h1>
        <BranchSelect />
      </header>
      {(roles.error ?? databases.error) && (
        <ErrorNotice error={(roles.error ?? databases.error)!} />
      )}
      <section>
        <header className="section-head">
          <h2>Roles</h2>
          <button type="button" disabled={!mayChange} onClick={() => setWish({ kind: "new-role" })}>
            New role
          </button>
        </header>
        {roles.data?.length === 0 && <Empty>No roles of users yet.</Empty>}
        <ul className="lines">
          {roles.data?.map((role) => (
            <li key={role.name}>
              <bdi>{role.name}</bdi>
              {role.authentication_method === "no_login" && <span className="badge">no login</span>}
              <span className="muted">
                <Ago time={role.created_at} />
              </span>
              <Menu
                label={`Actions of role ${role.name}`}
                items={[
                  {
                    title: "New password…",
                    whyNot,
                    onSelect: () => setWish({ kind: "reset-password", name: role.name }),
                  },
                  {
                    title: "Delete…",
                    isDanger: true,
                    whyNot,
                    onSelect: () => setWish({ kind: "delete-role", name: role.name }),
                  },
                ]}
              />
            </li>
          ))}
        </ul>
      </section>
      <section>
        <header className="section-head">
          <h2>Databases</h2>
          <button
            type="button"
            disabled={!mayChange || roles.data?.length === 0}
            onClick={() => setWish({ kind: "new-database" })}
          >
            New database
          </button>
        </header>
        {databases.data?.length === 0 && <Empty>No databases of users yet.</Empty>}
        <ul className="lines">
          {databases.data?.map(({ name, owner_name, created_at }) => (
            <li key={name}>
              <bdi>{name}</bdi>
              <span className="muted">
                of <bdi>{owner_name}</bdi> · <Ago time={created_at} />
              </span>
              <Menu
                label={`Actions of database ${name}`}
                items={[
                  {
                    title: "Delete…",
                    isDanger: true,
                    whyNot,
                    onSelect: () => setWish({ kind: "delete-database", name }),
                  },
                ]}
              />
            </li>
          ))}
        </ul>
      </section>
      {wish !== undefined && (
        <WishDialog
          wish={wish}
          branch={branch}
          owners={roles.data?.map(({ name }) => name) ?? []}
          onClose={() => setWish(undefined)}
          onPassword={setShown}
        />
      )}
      {shown?.password !== undefined && (
        <Dialog title={`Password of ${shown.name}`} onClose={() => setShown(undefined)}>
          <div className="dialog-body">
            <CodeBlock text={shown.password} label="Password" />
          </div>
        </Dialog>
      )}
    </>
  );
}

interface WishDialogProps {
  readonly wish: Wish;
  readonly branch: TreeBranch["branch"];
  readonly owners: readonly string[];
  readonly onClose: () => void;
  readonly onPassword: (role: ApiRole) => void;
}

const WORDS = {
  "new-role": ["New role", "Create"],
  "new-database": ["New database", "Create"],
  "delete-role": ["Delete role", "Delete"],
  "delete-database": ["Delete database", "Delete"],
  "reset-password": ["New password of", "Make a new one"],
} as const;

function WishDialog({ wish, branch, owners, onClose, onPassword }: WishDialogProps) {
  const [name, setName] = useState("");
  const [owner, setOwner] = useState(owners[0] ?? "");
  const old = "name" in wish ? wish.name : "";
  const change = useMutation({
    mutationFn: () => {
      const base = `/projects/${branch.project_id}/branches/${branch.id}`;
      const word = encodeURIComponent(old);
      const requests = {
        "new-role": () => api("POST", `${base}/roles`, { role: { name } }),
        "new-database": () =>
          api("POST", `${base}/databases`, { database: { name, owner_name: owner } }),
        "delete-role": () => api("DELETE", `${base}/roles/${word}`),
        "delete-database": () => api("DELETE", `${base}/databases/${word}`),
        "reset-password": () => api("POST", `${base}/roles/${word}/reset_password`),
      };
      return requests[wish.kind]() as Promise<{ role?: ApiRole }>;
    },
    onSuccess: ({ role }) => {
      onClose();
      if (role?.password !== undefined) {
        onPassword(role);
      }
    },
    onSettled: () => queryClient.invalidateQueries({ queryKey: ["project", branch.project_id] }),
  });
  const isNew = wish.kind === "new-role" || wish.kind === "new-database";
  const [title, action] = WORDS[wish.kind];
  return (
    <FormDialog
      title={isNew ? title : `${title} ${old}`}
      action={action}
      isDanger={wish.kind.startsWith("delete")}
      isPending={change.isPending}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      {isNew && <NameField value={name} onChange={setName} maxLength={63} />}
      {wish.kind === "new-database" && (
        <label className="field">
          <span>Owner</span>
          <select value={owner} onChange={(event) => setOwner(event.target.value)}>
            {owners.map((one) => (
              <option key={one}>{one}</option>
            ))}
          </select>
        </label>
      )}
      {wish.kind === "delete-database" && <p>All that is in it is gone for good.</p>}
      {wish.kind === "reset-password" && (
        <p>Whoever has the old one does not come in with it any more.</p>
      )}
    </FormDialog>
  );
}
