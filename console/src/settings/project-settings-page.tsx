// What holds for a whole project: its name, how far back its history goes, when endpoints fall asleep, who may connect.

import { useMutation, useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { api } from "../api/http.ts";
import { projectsQuery, queryClient, sessionQuery } from "../api/queries.ts";
import type { ApiProject } from "../api/types.ts";
import { TIMEOUTS } from "../endpoints/endpoints-page.tsx";
import { FormDialog } from "../parts/dialog.tsx";
import { NameField, NameToConfirm } from "../parts/name-field.tsx";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { useProjectId } from "../projects/use-branch.ts";

const HOUR = 3600;
const MAX_RETENTION_HOURS = 30 * 24;

export function ProjectSettingsPage() {
  const projectId = useProjectId();
  const projects = useQuery(projectsQuery);
  const session = useQuery(sessionQuery);
  const project = projects.data?.find(({ id }) => id === projectId);
  return (
    <div className="settings">
      <header className="page-head">
        <h1>Project settings</h1>
      </header>
      {projects.error && <ErrorNotice error={projects.error} />}
      {session.data?.scope === "read_only" ? (
        <Empty>This API key is for reading only.</Empty>
      ) : (
        project !== undefined && <Settings key={project.id} project={project} />
      )}
    </div>
  );
}

/** What of a project's settings is changed here; others stay. */
interface KnownSettings {
  readonly allowed_ips?: { readonly ips?: readonly string[] };
}

function Settings({ project }: { readonly project: ApiProject }) {
  const known = project.settings as KnownSettings;
  const defaults = project.default_endpoint_settings as { suspend_timeout_seconds?: number };
  const [name, setName] = useState(project.name);
  const [hours, setHours] = useState(`${project.history_retention_seconds / HOUR}`);
  const [timeout, setTimeoutSeconds] = useState(defaults.suspend_timeout_seconds ?? 0);
  const [addresses, setAddresses] = useState((known.allowed_ips?.ips ?? []).join("\n"));
  const [isDeleting, setIsDeleting] = useState(false);
  const save = useMutation({
    mutationFn: () =>
      api("PATCH", `/projects/${project.id}`, {
        project: {
          name,
          history_retention_seconds: Math.round(Number(hours) * HOUR),
          default_endpoint_settings: { suspend_timeout_seconds: timeout },
          settings: { allowed_ips: { ...known.allowed_ips, ips: addressesOf(addresses) } },
        },
      }),
    onSettled: () => queryClient.invalidateQueries({ queryKey: projectsQuery.queryKey }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    save.mutate();
  };
  const isShorter = Number(hours) * HOUR < project.history_retention_seconds;
  return (
    <>
      <form className="card settings-form" onSubmit={submit}>
        <NameField value={name} onChange={setName} />
        <label className="field">
          <span>Hours of history</span>
          <input
            required
            type="number"
            min={0}
            max={MAX_RETENTION_HOURS}
            step="any"
            value={hours}
            onChange={(event) => setHours(event.target.value)}
          />
          <small>
            So far back can be branched, restored and asked for; at most {MAX_RETENTION_HOURS}.
          </small>
          {isShorter && <small className="error-text">What is older is given up for good.</small>}
        </label>
        <label className="field">
          <span>New endpoints fall asleep after</span>
          <select
            value={timeout}
            onChange={(event) => setTimeoutSeconds(Number(event.target.value))}
          >
            {[...TIMEOUTS, ...unknownTimeout(timeout)].map(([title, seconds]) => (
              <option key={seconds} value={seconds}>
                {title}
              </option>
            ))}
          </select>
          <small>Those that there are have settings of their own, on the page of endpoints.</small>
        </label>
        <label className="field">
          <span>Addresses that may connect</span>
          <textarea
            rows={4}
            spellCheck={false}
            placeholder="all"
            value={addresses}
            onChange={(event) => setAddresses(event.target.value)}
          />
          <small>
            One a line: an address, a range as 10.0.0.1-10.0.0.9, or a network as 10.0.0.0/8. Where
            there is none, all may. It holds for connections through the proxy.
          </small>
        </label>
        {save.error && <ErrorNotice error={save.error} />}
        <div className="row actions">
          <button type="submit" className="primary" disabled={save.isPending}>
            {save.isPending ? "Working…" : "Save"}
          </button>
          <span role="status">{save.isSuccess && "Saved"}</span>
        </div>
      </form>
      <div className="row">
        <button type="button" className="danger" onClick={() => setIsDeleting(true)}>
          Delete the project…
        </button>
      </div>
      {isDeleting && <DeleteProject project={project} onClose={() => setIsDeleting(false)} />}
    </>
  );
}

function DeleteProject({
  project,
  onClose,
}: {
  readonly project: ApiProject;
  readonly onClose: () => void;
}) {
  const [typed, setTyped] = useState("");
  const navigate = useNavigate();
  const remove = useMutation({
    mutationFn: () => api("DELETE", `/projects/${project.id}`),
    onSuccess: async () => {
      await navigate({ to: "/" });
      await queryClient.invalidateQueries({ queryKey: projectsQuery.queryKey });
    },
  });
  return (
    <FormDialog
      title={`Delete ${project.name}`}
      action="Delete"
      isDanger
      isPending={remove.isPending}
      isDisabled={typed !== project.name}
      error={remove.error}
      onSubmit={() => remove.mutate()}
      onClose={onClose}
    >
      <p>
        All its branches, their data and their history go with it. For a time, seven days where
        nothing else is set, it is on the page of projects, and can be recovered there.
      </p>
      <NameToConfirm name={project.name} value={typed} onChange={setTyped} />
    </FormDialog>
  );
}

function addressesOf(text: string): string[] {
  return text.split(/[\s,]+/).filter((one) => one !== "");
}

function unknownTimeout(seconds: number): readonly (readonly [string, number])[] {
  return TIMEOUTS.some(([, known]) => known === seconds) ? [] : [[`${seconds} s`, seconds]];
}
