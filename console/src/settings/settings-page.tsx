// API keys: which there are, a new one, the end of one.

import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/http.ts";
import { keysQuery, projectsQuery, queryClient, sessionQuery } from "../api/queries.ts";
import type { ApiKey, CreatedApiKey } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { CodeBlock } from "../parts/copy.tsx";
import { Dialog, FormDialog } from "../parts/dialog.tsx";
import { NameField } from "../parts/name-field.tsx";
import { Empty, ErrorNotice } from "../parts/notice.tsx";

const SCOPES = { all: "everything", project: "one project", read_only: "reading only" } as const;
type Scope = keyof typeof SCOPES;

export function SettingsPage() {
  const session = useQuery(sessionQuery);
  return (
    <main className="page narrow">
      <header className="page-head">
        <h1>Settings</h1>
      </header>
      {session.data?.scope === "all" ? (
        <Keys />
      ) : (
        <Empty>Only an API key for everything may see the others.</Empty>
      )}
    </main>
  );
}

function Keys() {
  const keys = useQuery(keysQuery);
  const projects = useQuery(projectsQuery);
  const [isCreating, setIsCreating] = useState(false);
  const [revoking, setRevoking] = useState<ApiKey>();
  const [created, setCreated] = useState<CreatedApiKey>();
  const nameOf = (id: string) => projects.data?.find((one) => one.id === id)?.name ?? id;
  return (
    <section>
      <header className="section-head">
        <h2>API keys</h2>
        <button type="button" onClick={() => setIsCreating(true)}>
          New key
        </button>
      </header>
      {keys.error && <ErrorNotice error={keys.error} />}
      <ul className="lines">
        {keys.data?.map((key) => (
          <li key={key.id}>
            <bdi>{key.name}</bdi>
            <span className="badge">{SCOPES[key.scope as Scope] ?? key.scope}</span>
            {key.project_id !== undefined && <bdi>{nameOf(key.project_id)}</bdi>}
            <span className="muted">
              used <Ago time={key.last_used_at} />
            </span>
            <button type="button" className="small danger" onClick={() => setRevoking(key)}>
              Revoke
            </button>
          </li>
        ))}
      </ul>
      {isCreating && <NewKey onClose={() => setIsCreating(false)} onCreated={setCreated} />}
      {revoking && <Revoke apiKey={revoking} onClose={() => setRevoking(undefined)} />}
      {created && (
        <Dialog title={`Key ${created.name}`} onClose={() => setCreated(undefined)}>
          <div className="dialog-body">
            <p>It is shown this once.</p>
            <CodeBlock text={created.key} label="Key" />
          </div>
        </Dialog>
      )}
    </section>
  );
}

interface NewKeyProps {
  readonly onClose: () => void;
  readonly onCreated: (key: CreatedApiKey) => void;
}

function NewKey({ onClose, onCreated }: NewKeyProps) {
  const projects = useQuery(projectsQuery);
  const [name, setName] = useState("");
  const [scope, setScope] = useState<Scope>("all");
  const [project, setProject] = useState("");
  const needsProject = scope === "project";
  const create = useMutation({
    mutationFn: () =>
      api<CreatedApiKey>("POST", "/api_keys", {
        key_name: name,
        scope,
        ...(project === "" ? {} : { project_id: project }),
      }),
    onSuccess: (key) => {
      onClose();
      onCreated(key);
    },
    onSettled: () => queryClient.invalidateQueries({ queryKey: keysQuery.queryKey }),
  });
  return (
    <FormDialog
      title="New API key"
      action="Create"
      isPending={create.isPending}
      error={create.error}
      onSubmit={() => create.mutate()}
      onClose={onClose}
    >
      <NameField value={name} onChange={setName} maxLength={64} />
      <label className="field">
        <span>For</span>
        <select value={scope} onChange={(event) => setScope(event.target.value as Scope)}>
          {Object.entries(SCOPES).map(([value, title]) => (
            <option key={value} value={value}>
              {title}
            </option>
          ))}
        </select>
      </label>
      {scope !== "all" && (
        <label className="field">
          <span>Project</span>
          <select
            required={needsProject}
            value={project}
            onChange={(event) => setProject(event.target.value)}
          >
            <option value="">{needsProject ? "Choose one" : "All"}</option>
            {projects.data?.map(({ id, name: title }) => (
              <option key={id} value={id}>
                {title}
              </option>
            ))}
          </select>
        </label>
      )}
    </FormDialog>
  );
}

function Revoke({ apiKey, onClose }: { readonly apiKey: ApiKey; readonly onClose: () => void }) {
  const revoke = useMutation({
    mutationFn: () => api("DELETE", `/api_keys/${apiKey.id}`),
    onSuccess: onClose,
    onSettled: () => queryClient.invalidateQueries(),
  });
  return (
    <FormDialog
      title={`Revoke ${apiKey.name}`}
      action="Revoke"
      isDanger
      isPending={revoke.isPending}
      error={revoke.error}
      onSubmit={() => revoke.mutate()}
      onClose={onClose}
    >
      <p>It is no good from then on, and whoever is logged in with it is logged out.</p>
    </FormDialog>
  );
}
