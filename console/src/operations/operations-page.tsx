// What the control plane does and has done, as it happens.

import { useQuery } from "@tanstack/react-query";
import { operationsQuery } from "../api/queries.ts";
import { Ago } from "../parts/ago.tsx";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { ScrollPlace } from "../parts/scroll-place.tsx";
import { actionText, msText } from "../parts/words.ts";
import { useProjectId, useTree } from "../projects/use-branch.ts";

const DOTS: Readonly<Record<string, string>> = {
  running: "init",
  scheduling: "init",
  finished: "awake",
  failed: "failed",
};

export function OperationsPage() {
  const projectId = useProjectId();
  const operations = useQuery(operationsQuery(projectId));
  const tree = useTree() ?? [];
  const nameOf = (id: string | undefined) =>
    tree.find(({ branch }) => branch.id === id)?.branch.name ?? id ?? "—";
  return (
    <>
      <header className="page-head">
        <h1>Operations</h1>
        <span className="muted">newest first</span>
      </header>
      {operations.error && <ErrorNotice error={operations.error} />}
      {operations.data?.length === 0 && <Empty>Nothing was done yet.</Empty>}
      {operations.data !== undefined && operations.data.length > 0 && (
        <ScrollPlace label="Operations">
          <table>
            <thead>
              <tr>
                <th>What</th>
                <th>Status</th>
                <th>Branch</th>
                <th>Endpoint</th>
                <th>Begun</th>
                <th className="number">Took</th>
              </tr>
            </thead>
            <tbody>
              {operations.data.map((one) => (
                <tr key={one.id}>
                  <td>{actionText(one.action)}</td>
                  <td>
                    <span className={`dot ${DOTS[one.status] ?? "asleep"}`} /> {one.status}
                    {one.error !== undefined && <div className="error-text">{one.error}</div>}
                  </td>
                  <td dir="auto">{nameOf(one.branch_id)}</td>
                  <td>{one.endpoint_id === undefined ? "—" : <code>{one.endpoint_id}</code>}</td>
                  <td>
                    <Ago time={one.created_at} />
                  </td>
                  <td className="number">{msText(one.total_duration_ms)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollPlace>
      )}
    </>
  );
}
