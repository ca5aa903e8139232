// What goes on in a project, on each of its pages: whoever has closed a dialog, or left a page, finds it here.

import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { newestOperationsQuery } from "../api/queries.ts";
import type { ApiOperation } from "../api/types.ts";
import { actionText } from "../parts/words.ts";
import { useTree } from "../projects/use-branch.ts";
import { useRunning } from "../sql/sql-runs.ts";

const TICK_MS = 1000;
/** Most statements are over before anybody could read that they run. */
const LONG_MS = 1000;

export function UnderWay({ projectId }: { readonly projectId: string }) {
  const operations = useQuery(newestOperationsQuery(projectId)).data?.filter(isUnderWay) ?? [];
  const statements = useRunning().filter((one) => one.projectId === projectId);
  const now = useNow(operations.length + statements.length > 0);
  const tree = useTree() ?? [];
  const nameOf = (id: string | undefined) =>
    tree.find(({ branch }) => branch.id === id)?.branch.name;
  return (
    <ul className="under-way" aria-label="Under way">
      {operations.map(({ id, action, branch_id, created_at }) => (
        <li key={id}>
          <Link
            to="/projects/$projectId/operations"
            params={{ projectId }}
            search={(before) => before}
          >
            <span className="dot init" /> {actionText(action)} <bdi>{nameOf(branch_id)}</bdi>
            <Elapsed from={Date.parse(created_at)} now={now} />
          </Link>
        </li>
      ))}
      {statements
        .filter(({ begunAt }) => now - begunAt >= LONG_MS)
        .map(({ branchId, begunAt }) => (
          <li key={branchId}>
            <Link
              to="/projects/$projectId/sql"
              params={{ projectId }}
              search={{ branch: branchId }}
            >
              <span className="dot init" /> SQL on <bdi>{nameOf(branchId)}</bdi>
              <Elapsed from={begunAt} now={now} />
            </Link>
          </li>
        ))}
    </ul>
  );
}

function isUnderWay({ status }: ApiOperation): boolean {
  return status === "running" || status === "scheduling";
}

function Elapsed({ from, now }: { readonly from: number; readonly now: number }) {
  return <small>{Math.max(0, Math.floor((now - from) / 1000))} s</small>;
}

/** Goes on while something is shown of it. */
function useNow(isGoing: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!isGoing) {
      return;
    }
    const tick = () => setNow(Date.now());
    tick();
    const timer = setInterval(tick, TICK_MS);
    return () => clearInterval(timer);
  }, [isGoing]);
  return now;
}
