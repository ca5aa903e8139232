// One endpoint: its state, how its last start went, and what its agent and its Postgres have written.

import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { sessionQuery } from "../api/queries.ts";
import type { LogLevel, LogSource } from "../api/types.ts";
import { Empty } from "../parts/notice.tsx";
import { useProjectId, useTree } from "../projects/use-branch.ts";
import { STATES } from "./endpoints-page.tsx";
import { LastStart } from "./last-start.tsx";
import { logPath } from "./log-stream.ts";
import { LogView } from "./log-view.tsx";
import "../styles/endpoints.css";
import "../styles/logs.css";

const SOURCES: readonly (readonly [LogSource, string])[] = [
  ["compute", "Compute agent"],
  ["postgres", "Postgres"],
];
const LEVELS: readonly (readonly [LogLevel, string])[] = [
  ["trace", "all"],
  ["info", "info and graver"],
  ["warn", "warnings and errors"],
  ["error", "errors"],
];

export function EndpointPage() {
  const projectId = useProjectId();
  const { endpointId } = useParams({ from: "/projects/$projectId/endpoints/$endpointId" });
  const tree = useTree();
  const found = tree
    ?.flatMap(({ branch, endpoints }) => endpoints.map((endpoint) => ({ branch, endpoint })))
    .find(({ endpoint }) => endpoint.id === endpointId);
  return (
    <>
      <header className="page-head">
        <Link
          to="/projects/$projectId/endpoints"
          params={{ projectId }}
          search={(before) => before}
          className="button quiet"
        >
          ← Endpoints
        </Link>
        <h1>
          <code>{endpointId}</code>
        </h1>
        {found !== undefined && (
          <span>
            <span
              className={`dot ${found.endpoint.current_state === "active" ? "awake" : "asleep"}`}
            />{" "}
            {STATES[found.endpoint.current_state]}, on branch <bdi>{found.branch.name}</bdi>
          </span>
        )}
      </header>
      {tree !== undefined &&
        (found === undefined ? (
          <Empty>There is no such endpoint any more.</Empty>
        ) : (
          <>
            <LastStart endpoint={found.endpoint} />
            <Logs key={endpointId} projectId={projectId} endpointId={endpointId} />
          </>
        ))}
    </>
  );
}

interface LogsProps {
  readonly projectId: string;
  readonly endpointId: string;
}

function Logs({ projectId, endpointId }: LogsProps) {
  const session = useQuery(sessionQuery);
  const [source, setSource] = useState<LogSource>("compute");
  const [level, setLevel] = useState<LogLevel>("trace");
  const [isFollowing, setIsFollowing] = useState(true);
  const place = { projectId, endpointId, source, level };
  if (session.data?.scope === "read_only") {
    return (
      <Empty>Logs show statements of users: not to an API key that is for reading only.</Empty>
    );
  }
  return (
    <section className="logs" aria-labelledby="logs-title">
      <h2 id="logs-title">Logs</h2>
      <div className="row">
        <fieldset className="segments">
          <legend className="hidden">Whose log</legend>
          {SOURCES.map(([value, title]) => (
            <label key={value}>
              <input
                type="radio"
                name="log-source"
                checked={source === value}
                onChange={() => setSource(value)}
              />
              <span>{title}</span>
            </label>
          ))}
        </fieldset>
        <label className="inline-field">
          <span>Show</span>
          <select value={level} onChange={(event) => setLevel(event.target.value as LogLevel)}>
            {LEVELS.map(([value, title]) => (
              <option key={value} value={value}>
                {title}
              </option>
            ))}
          </select>
        </label>
        <label className="check">
          <input
            type="checkbox"
            checked={isFollowing}
            onChange={(event) => setIsFollowing(event.target.checked)}
          />
          Follow
        </label>
        <a className="button" href={`${logPath(place)}/download?source=${source}`} download>
          Download
        </a>
      </div>
      <LogView key={`${source} ${level}`} place={place} isFollowing={isFollowing} />
      <p className="hint muted">
        Times are in UTC. Passwords in statements are taken out; other values in them are not.
        Looking neither wakes the endpoint nor keeps it awake.
      </p>
    </section>
  );
}
