// The endpoints of a project: whether they are awake, and waking, suspending, restarting them.

import { useMutation, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/http.ts";
import { queryClient, sessionQuery } from "../api/queries.ts";
import type { ApiEndpoint } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { CopyButton } from "../parts/copy.tsx";
import { FormDialog } from "../parts/dialog.tsx";
import { Menu } from "../parts/menu.tsx";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { ScrollPlace } from "../parts/scroll-place.tsx";
import { useProjectId, useTree } from "../projects/use-branch.ts";

export const STATES = { active: "awake", idle: "asleep", init: "being made" } as const;
/** What can be chosen, in seconds as the API counts. */
export const TIMEOUTS: readonly [string, number][] = [
  ["5 minutes (default)", 0],
  ["1 minute", 60],
  ["15 minutes", 900],
  ["1 hour", 3600],
  ["1 day", 86_400],
  ["never", -1],
];

export function EndpointsPage() {
  const projectId = useProjectId();
  const tree = useTree();
  const session = useQuery(sessionQuery);
  const mayChange = session.data?.scope !== "read_only";
  const [settingsOf, setSettingsOf] = useState<ApiEndpoint>();
  const [deleting, setDeleting] = useState<ApiEndpoint>();
  const act = useMutation({
    mutationFn: ({ id, verb }: { id: string; verb: string }) =>
      api("POST", `/projects/${projectId}/endpoints/${encodeURIComponent(id)}/${verb}`),
    onSettled: () => queryClient.invalidateQueries({ queryKey: ["project", projectId] }),
  });
  const rows = (tree ?? []).flatMap(({ branch, endpoints }) =>
    endpoints.map((endpoint) => ({ branch, endpoint })),
  );
  return (
    <>
      <header className="page-head">
        <h1>Endpoints</h1>
        <span className="muted">{rows.length}</span>
      </header>
      {act.error && <ErrorNotice error={act.error} />}
      {tree !== undefined && rows.length === 0 && (
        <Empty>No branch has an endpoint: one is made together with a branch.</Empty>
      )}
      {rows.length > 0 && (
        <ScrollPlace label="Endpoints">
          <table>
            <thead>
              <tr>
                <th>Endpoint</th>
                <th>State</th>
                <th>Branch</th>
                <th>Kind</th>
                <th>Last active</th>
                <th className="acts">
                  <span className="hidden">Actions</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {rows.map(({ branch, endpoint }) => {
                const isBusy = act.isPending && act.variables.id === endpoint.id;
                const isAwake = endpoint.current_state === "active";
                const verb = isAwake ? "suspend" : "start";
                const may = mayChange ? undefined : "this API key is for reading only";
                return (
                  <tr key={endpoint.id}>
                    <td>
                      <Link
                        to="/projects/$projectId/endpoints/$endpointId"
                        params={{ projectId, endpointId: endpoint.id }}
                        search={(before) => before}
                        title="Its last start, its logs"
                      >
                        <code>{endpoint.id}</code>
                      </Link>{" "}
                      <CopyButton text={endpoint.host} label="Copy host" />
                    </td>
                    <td>
                      <span className={`dot ${isAwake ? "awake" : "asleep"}`} />{" "}
                      {isBusy ? "working…" : STATES[endpoint.current_state]}
                      {endpoint.disabled && <span className="badge">disabled</span>}
                    </td>
                    <td dir="auto">{branch.name}</td>
                    <td>{endpoint.type === "read_only" ? "read-only" : "reads and writes"}</td>
                    <td>
                      <Ago time={endpoint.last_active} />
                    </td>
                    <td className="acts">
                      <div className="row end">
                        <button
                          type="button"
                          className="small"
                          disabled={isBusy || !mayChange}
                          onClick={() => act.mutate({ id: endpoint.id, verb })}
                        >
                          {isAwake ? "Suspend" : "Wake"}
                        </button>
                        <Menu
                          label={`Actions of ${endpoint.id}`}
                          items={[
                            {
                              title: "Restart",
                              whyNot: may ?? (isAwake ? undefined : "it sleeps"),
                              onSelect: () => act.mutate({ id: endpoint.id, verb: "restart" }),
                            },
                            {
                              title: "Settings…",
                              whyNot: may,
                              onSelect: () => setSettingsOf(endpoint),
                            },
                            {
                              title: "Delete…",
                              isDanger: true,
                              whyNot: may,
                              onSelect: () => setDeleting(endpoint),
                            },
                          ]}
                        />
                      </div>
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </ScrollPlace>
      )}
      {settingsOf && (
        <EndpointSettings endpoint={settingsOf} onClose={() => setSettingsOf(undefined)} />
      )}
      {deleting && <DeleteEndpoint endpoint={deleting} onClose={() => setDeleting(undefined)} />}
    </>
  );
}

interface DialogProps {
  readonly endpoint: ApiEndpoint;
  readonly onClose: () => void;
}

function pathOf({ project_id, id }: ApiEndpoint): string {
  return `/projects/${project_id}/endpoints/${encodeURIComponent(id)}`;
}

function EndpointSettings({ endpoint, onClose }: DialogProps) {
  const [timeout, setTimeoutSeconds] = useState(endpoint.suspend_timeout_seconds);
  const [isDisabled, setIsDisabled] = useState(endpoint.disabled);
  const known = TIMEOUTS.some(([, seconds]) => seconds === endpoint.suspend_timeout_seconds);
  const change = useMutation({
    mutationFn: () =>
      api("PATCH", pathOf(endpoint), {
        endpoint: { suspend_timeout_seconds: timeout, disabled: isDisabled },
      }),
    onSuccess: onClose,
    onSettled: () => queryClient.invalidateQueries({ queryKey: ["project", endpoint.project_id] }),
  });
  return (
    <FormDialog
      title={`Settings of ${endpoint.id}`}
      action="Save"
      isPending={change.isPending}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      <label className="field">
        <span>Falls asleep after</span>
        <select value={timeout} onChange={(event) => setTimeoutSeconds(Number(event.target.value))}>
          {TIMEOUTS.map(([title, seconds]) => (
            <option key={seconds} value={seconds}>
              {title}
            </option>
          ))}
          {!known && (
            <option value={endpoint.suspend_timeout_seconds}>
              {endpoint.suspend_timeout_seconds} s
            </option>
          )}
        </select>
      </label>
      <label className="check">
        <input
          type="checkbox"
          checked={isDisabled}
          onChange={(event) => setIsDisabled(event.target.checked)}
        />
        Disabled: it takes no connections
      </label>
    </FormDialog>
  );
}

function DeleteEndpoint({ endpoint, onClose }: DialogProps) {
  const change = useMutation({
    mutationFn: () => api("DELETE", pathOf(endpoint)),
    onSuccess: onClose,
    onSettled: () => queryClient.invalidateQueries({ queryKey: ["project", endpoint.project_id] }),
  });
  return (
    <FormDialog
      title={`Delete ${endpoint.id}`}
      action="Delete"
      isDanger
      isPending={change.isPending}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      <p>Connections to it end, and its name is nobody's then. The branch and its data stay.</p>
    </FormDialog>
  );
}
