// One project: its name, its pages, and what they have in common.

import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { projectsQuery, treeQuery } from "../api/queries.ts";
import { ConnectDialog } from "../branches/connect-dialog.tsx";
import { UnderWay } from "../operations/under-way.tsx";
import { ErrorNotice } from "../parts/notice.tsx";
import { PROJECT_PAGES } from "./pages.ts";
import { useBranch } from "./use-branch.ts";

export function ProjectLayout() {
  const { projectId } = useParams({ from: "/projects/$projectId" });
  const projects = useQuery(projectsQuery);
  const tree = useQuery(treeQuery(projectId));
  const current = useBranch();
  const [isConnecting, setIsConnecting] = useState(false);
  const project = projects.data?.find(({ id }) => id === projectId);
  return (
    <div className="project">
      <nav className="side" aria-label="Project">
        <div className="side-head">
          <strong dir="auto">{project?.name ?? projectId}</strong>
          {project !== undefined && <span className="muted">PostgreSQL {project.pg_version}</span>}
        </div>
        <ul>
          {PROJECT_PAGES.map(([to, title]) => (
            <li key={to}>
              <Link to={to} params={{ projectId }} search={(before) => before}>
                {title}
              </Link>
            </li>
          ))}
        </ul>
        <button
          type="button"
          className="primary"
          disabled={current === undefined}
          onClick={() => setIsConnecting(true)}
        >
          Connect
        </button>
        <UnderWay projectId={projectId} />
      </nav>
      <main className="page">
        {tree.error !== null && tree.data === undefined ? (
          <ErrorNotice error={tree.error} />
        ) : (
          <Outlet />
        )}
      </main>
      {isConnecting && current !== undefined && (
        <ConnectDialog branch={current} onClose={() => setIsConnecting(false)} />
      )}
    </div>
  );
}
