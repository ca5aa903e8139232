// Projects that were deleted and are kept for a time: brought back, or removed for good.

import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/http.ts";
import { deletedProjectsQuery, projectsQuery, queryClient, sessionQuery } from "../api/queries.ts";
import type { ApiProject } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { FormDialog } from "../parts/dialog.tsx";
import { NameToConfirm } from "../parts/name-field.tsx";
import { ErrorNotice } from "../parts/notice.tsx";
import { timeText } from "../parts/words.ts";

/** Both lists: a project goes from one to the other. */
function readAgain() {
  return queryClient.invalidateQueries({ queryKey: projectsQuery.queryKey });
}

/** Nothing where there is none. */
export function DeletedProjects() {
  const deleted = useQuery(deletedProjectsQuery);
  const session = useQuery(sessionQuery);
  const [removing, setRemoving] = useState<ApiProject>();
  const recover = useMutation({
    mutationFn: ({ id }: ApiProject) => api("POST", `/projects/${id}/recover`),
    onSettled: readAgain,
  });
  const mayChange = session.data?.scope !== "read_only";
  const isEmpty = deleted.data === undefined || deleted.data.length === 0;
  if (isEmpty && deleted.error === null && recover.error === null) {
    return null;
  }
  return (
    <section aria-labelledby="deleted-title">
      <header className="section-head">
        <h2 id="deleted-title">Deleted, and kept for a time</h2>
      </header>
      {deleted.error && <ErrorNotice error={deleted.error} />}
      {recover.error && <ErrorNotice error={recover.error} />}
      <ul className="lines" aria-labelledby="deleted-title">
        {deleted.data?.map((project) => {
          const isBusy = recover.isPending && recover.variables.id === project.id;
          return (
            <li key={project.id}>
              <bdi>{project.name}</bdi>
              <span className="muted">
                deleted <Ago time={project.deleted_at} />, recoverable until{" "}
                {timeText(project.recoverable_until ?? "")}
              </span>
              {mayChange && (
                <>
                  <button
                    type="button"
                    className="small"
                    disabled={isBusy}
                    onClick={() => recover.mutate(project)}
                  >
                    {isBusy ? "Working…" : "Recover"}
                  </button>
                  <button
                    type="button"
                    className="small danger"
                    disabled={isBusy}
                    onClick={() => setRemoving(project)}
                  >
                    Delete for good…
                  </button>
                </>
              )}
            </li>
          );
        })}
      </ul>
      {removing && <RemoveProject project={removing} onClose={() => setRemoving(undefined)} />}
    </section>
  );
}

interface RemoveProjectProps {
  readonly project: ApiProject;
  readonly onClose: () => void;
}

function RemoveProject({ project, onClose }: RemoveProjectProps) {
  const [typed, setTyped] = useState("");
  const remove = useMutation({
    mutationFn: () => api("DELETE", `/projects/${project.id}?hard_delete=true`),
    onSuccess: onClose,
    onSettled: readAgain,
  });
  return (
    <FormDialog
      title={`Delete ${project.name} for good`}
      action="Delete for good"
      isDanger
      isPending={remove.isPending}
      isDisabled={typed !== project.name}
      error={remove.error}
      onSubmit={() => remove.mutate()}
      onClose={onClose}
    >
      <p>Its branches, their data and their history go now, and nothing brings them back.</p>
      <NameToConfirm name={project.name} value={typed} onChange={setTyped} />
    </FormDialog>
  );
}
