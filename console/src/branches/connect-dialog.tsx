// How programs reach a branch: one URI, and how each language takes it.

import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/http.ts";
import { databasesQuery, rolesQuery, sessionQuery } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { CodeBlock } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { ErrorNotice } from "../parts/notice.tsx";
import { SNIPPETS } from "./snippets.ts";

export function ConnectDialog({
  branch: { branch },
  onClose,
}: {
  readonly branch: TreeBranch;
  readonly onClose: () => void;
}) {
  const { id, project_id: projectId } = branch;
  const session = useQuery(sessionQuery);
  const roles = useQuery(rolesQuery(projectId, id));
  const databases = useQuery(databasesQuery(projectId, id));
  const [chosenRole, setRole] = useState<string>();
  const [chosenDatabase, setDatabase] = useState<string>();
  const [isPooled, setIsPooled] = useState(false);
  const [kind, setKind] = useState(0);
  const database = chosenDatabase ?? databases.data?.[0]?.name;
  const role =
    chosenRole ??
    databases.data?.find(({ name }) => name === database)?.owner_name ??
    roles.data?.[0]?.name;
  const uri = useQuery({
    queryKey: ["project", projectId, "uri", id, role, database, isPooled],
    enabled: role !== undefined && database !== undefined,
    queryFn: async () => {
      const query = new URLSearchParams({
        ...{ branch_id: id, role_name: role!, database_name: database! },
        ...(isPooled ? { pooled: "true" } : {}),
      });
      return (await api<{ uri: string }>("GET", `/projects/${projectId}/connection_uri?${query}`))
        .uri;
    },
  });
  const error = roles.error ?? databases.error ?? uri.error;
  return (
    <Dialog title={`Connect to ${branch.name}`} onClose={onClose} isWide>
      <div className="dialog-body">
        <div className="row">
          <Choice
            label="Role"
            value={role}
            names={roles.data?.map(({ name }) => name)}
            onChange={setRole}
          />
          <Choice
            label="Database"
            value={database}
            names={databases.data?.map(({ name }) => name)}
            onChange={setDatabase}
          />
          <label className="check">
            <input
              type="checkbox"
              checked={isPooled}
              onChange={(event) => setIsPooled(event.target.checked)}
            />
            Through the pooler
          </label>
        </div>
        {error && <ErrorNotice error={error} />}
        {roles.data?.length === 0 && (
          <p className="notice">
            This branch has no roles of users: make one under Roles and databases.
          </p>
        )}
        <div className="tabs" role="tablist" aria-label="Program">
          {SNIPPETS.map(({ title }, i) => (
            <button
              key={title}
              type="button"
              role="tab"
              aria-selected={i === kind}
              onClick={() => setKind(i)}
            >
              {title}
            </button>
          ))}
        </div>
        {uri.data !== undefined && session.data && (
          <CodeBlock
            text={SNIPPETS[kind]!.text(uri.data, session.data.proxy_http_port)}
            label={SNIPPETS[kind]!.title}
          />
        )}
        <p className="muted">
          A branch that sleeps wakes when somebody connects. The password is in the text: treat it
          as one.
        </p>
      </div>
    </Dialog>
  );
}

interface ChoiceProps {
  readonly label: string;
  readonly value: string | undefined;
  readonly names: readonly string[] | undefined;
  readonly onChange: (name: string) => void;
}

function Choice({ label, value, names = [], onChange }: ChoiceProps) {
  return (
    <label className="field">
      <span>{label}</span>
      <select value={value ?? ""} onChange={(event) => onChange(event.target.value)}>
        {names.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}
