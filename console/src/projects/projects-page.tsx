// All projects, a new one, and those that were deleted.

import { useMutation, useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/http.ts";
import { projectsQuery, queryClient, sessionQuery } from "../api/queries.ts";
import type { ApiProject } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { FormDialog } from "../parts/dialog.tsx";
import { NameField } from "../parts/name-field.tsx";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { DeletedProjects } from "./deleted-projects.tsx";

const MAJORS = [18, 17, 16, 15, 14];
const DEFAULT_MAJOR = 17;

export function ProjectsPage() {
  const projects = useQuery(projectsQuery);
  const session = useQuery(sessionQuery);
  const [isCreating, setIsCreating] = useState(false);
  const mayCreate = session.data?.scope === "all";
  return (
    <main className="page narrow">
      <header className="page-head">
        <h1>Projects</h1>
        {mayCreate && (
          <button type="button" className="primary" onClick={() => setIsCreating(true)}>
            New project
          </button>
        )}
      </header>
      {projects.error && <ErrorNotice error={projects.error} />}
      {projects.data?.length === 0 && (
        <Empty>
          <p>There is no project yet. One has branches, each a whole Postgres.</p>
        </Empty>
      )}
      {projects.data !== undefined && projects.data.length > 0 && (
        <ul className="cards">
          {projects.data.map((project) => (
            <li key={project.id}>
              <Link
                to="/projects/$projectId/branches"
                params={{ projectId: project.id }}
                className="card project-card"
              >
                <strong dir="auto">{project.name}</strong>
                <span className="muted">
                  PostgreSQL {project.pg_version} · made <Ago time={project.created_at} />
                </span>
                {project.name !== project.id && <code>{project.id}</code>}
              </Link>
            </li>
          ))}
        </ul>
      )}
      <DeletedProjects />
      {isCreating && <NewProject onClose={() => setIsCreating(false)} />}
    </main>
  );
}

function NewProject({ onClose }: { readonly onClose: () => void }) {
  const [name, setName] = useState("");
  const [major, setMajor] = useState(DEFAULT_MAJOR);
  const navigate = useNavigate();
  const create = useMutation({
    mutationFn: () =>
      api<{ project: ApiProject }>("POST", "/projects", {
        project: { ...(name === "" ? {} : { name }), pg_version: major },
      }),
    onSuccess: () => queryClient.invalidateQueries({ queryKey: projectsQuery.queryKey }),
  });
  const submit = () =>
    create.mutate(undefined, {
      // Nobody is taken elsewhere who has left it to itself: this is not called then.
      onSuccess: ({ project }) =>
        void navigate({ to: "/projects/$projectId/branches", params: { projectId: project.id } }),
    });
  return (
    <FormDialog
      title="New project"
      action="Create"
      isPending={create.isPending}
      error={create.error}
      onSubmit={submit}
      onClose={onClose}
    >
      <NameField value={name} onChange={setName} isOptional />
      <label className="field">
        <span>PostgreSQL</span>
        <select value={major} onChange={(event) => setMajor(Number(event.target.value))}>
          {MAJORS.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
        <small>A major that is not on this machine yet is fetched first.</small>
      </label>
    </FormDialog>
  );
}
