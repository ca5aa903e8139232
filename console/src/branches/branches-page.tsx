// A project's branches as a tree over time: what each is, where it came from, and what can be done with it.

import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { sessionQuery, treeQuery } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { lsnText } from "../parts/words.ts";
import { useProjectId } from "../projects/use-branch.ts";
import { BranchDialog, type BranchWish } from "./branch-dialogs.tsx";
import { Tree } from "./tree.tsx";
import { type Axis, layoutTree } from "./tree-layout.ts";
import type { TreePoint } from "./tree-picture.tsx";

const AXIS_KEY = "strata.tree-axis";

export function BranchesPage() {
  const projectId = useProjectId();
  const { data } = useQuery(treeQuery(projectId));
  const session = useQuery(sessionQuery);
  const mayChange = session.data?.scope !== "read_only";
  const [axis, setAxis] = useState<Axis>(localStorage.getItem(AXIS_KEY) === "lsn" ? "lsn" : "time");
  const [search, setSearch] = useState("");
  const [wish, setWish] = useState<BranchWish>();
  const branches = data?.branches;
  const layout = useMemo(
    () =>
      branches === undefined
        ? undefined
        : layoutTree(matching(branches, search), axis, Date.parse(data?.now ?? "")),
    [branches, search, axis, data?.now],
  );
  if (branches === undefined || layout === undefined) {
    return <p className="empty" aria-busy="true" />;
  }
  const chooseAxis = (chosen: Axis) => {
    localStorage.setItem(AXIS_KEY, chosen);
    setAxis(chosen);
  };
  const branchFrom = (point: TreePoint) => {
    if (mayChange) {
      setWish({
        action: "create",
        of: point.lane.branch,
        at: point.isHead ? undefined : pointText(axis, point.at),
      });
    }
  };
  const head = branches.find(({ branch }) => branch.default) ?? branches[0];
  return (
    <>
      <header className="page-head">
        <h1>Branches</h1>
        <span className="muted">{branches.length}</span>
        <input
          type="search"
          aria-label="Find branches"
          placeholder="Find"
          value={search}
          onChange={(event) => setSearch(event.target.value)}
        />
        <fieldset className="segments">
          <legend className="hidden">What the picture goes by</legend>
          {(["time", "lsn"] as const).map((one) => (
            <label key={one}>
              <input
                type="radio"
                name="axis"
                checked={axis === one}
                onChange={() => chooseAxis(one)}
              />
              <span>{one === "time" ? "Time" : "LSN"}</span>
            </label>
          ))}
        </fieldset>
        {mayChange && head !== undefined && (
          <button
            type="button"
            className="primary"
            onClick={() => setWish({ action: "create", of: head, at: undefined })}
          >
            New branch
          </button>
        )}
      </header>
      <Tree
        layout={layout}
        axis={axis}
        onPoint={branchFrom}
        onAction={mayChange ? (of, action) => setWish({ action, of }) : undefined}
      />
      {mayChange && (
        <p className="muted hint">
          A point of a line, clicked, is where a new branch begins. What lies behind a line's last
          dot is as it was there.
        </p>
      )}
      {wish !== undefined && (
        <BranchDialog wish={wish} branches={branches} onClose={() => setWish(undefined)} />
      )}
    </>
  );
}

function matching(branches: readonly TreeBranch[], search: string): readonly TreeBranch[] {
  const word = search.trim().toLowerCase();
  return word === ""
    ? branches
    : branches.filter(
        ({ branch }) => branch.name.toLowerCase().includes(word) || branch.id.includes(word),
      );
}

/** As the API takes it: an LSN, or a time to the millisecond. */
function pointText(axis: Axis, at: number): string {
  return axis === "lsn" ? lsnText(at) : new Date(Math.round(at)).toISOString();
}
