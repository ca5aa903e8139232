// A project's branches as a tree over time: what each is, where it came from, and what can be done with it.

import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import { sessionQuery, treeQuery } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { Menu, type MenuItem } from "../parts/menu.tsx";
import { bytesText, lsnText } from "../parts/words.ts";
import { useProjectId } from "../projects/use-branch.ts";
import { type BranchAction, BranchDialog, type BranchWish } from "./branch-dialogs.tsx";
import { type Axis, layoutTree } from "./tree-layout.ts";
import { AXIS_HEIGHT, LANE_HEIGHT, TreePicture, type TreePoint } from "./tree-picture.tsx";

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
      <div className="tree">
        <ul className="tree-names" style={{ paddingTop: AXIS_HEIGHT }}>
          {layout.lanes.map((lane) => (
            <li key={lane.branch.branch.id} style={{ height: LANE_HEIGHT }}>
              <BranchName branch={lane.branch} depth={lane.depth} />
            </li>
          ))}
        </ul>
        <TreePicture layout={layout} axis={axis} onPoint={branchFrom} />
        <ul className="tree-facts" style={{ paddingTop: AXIS_HEIGHT }}>
          {layout.lanes.map(({ branch }) => (
            <li key={branch.branch.id} style={{ height: LANE_HEIGHT }}>
              <span className="fact" title="Last commit">
                <Ago time={branch.head_time} />
              </span>
              <span className="fact" title="Layers that it made">
                {branch.layers_bytes === undefined ? "" : bytesText(branch.layers_bytes)}
              </span>
              <Menu
                label={`Actions of ${branch.branch.name}`}
                items={
                  mayChange ? itemsOf(branch, (action) => setWish({ action, of: branch })) : []
                }
              />
            </li>
          ))}
        </ul>
      </div>
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

function BranchName({
  branch: { branch, endpoints },
  depth,
}: {
  readonly branch: TreeBranch;
  readonly depth: number;
}) {
  const isAwake = endpoints.some((one) => one.current_state === "active");
  const state =
    branch.current_state === "ready" ? (isAwake ? "awake" : "asleep") : branch.current_state;
  return (
    <span className="branch-name" style={{ paddingInlineStart: 12 + Math.min(depth, 8) * 12 }}>
      <span className={`dot ${state}`} title={state} />
      <span className="hidden">{state}</span>
      <Link
        to="/projects/$projectId/sql"
        params={{ projectId: branch.project_id }}
        search={{ branch: branch.id }}
        title={`${branch.name}\n${branch.id}`}
        dir="auto"
      >
        {branch.name}
      </Link>
      {branch.default && <span className="badge">default</span>}
      {branch.protected && <span className="badge">protected</span>}
      {branch.expires_at !== undefined && <span className="badge warning">expires</span>}
    </span>
  );
}

function itemsOf(branch: TreeBranch, act: (action: BranchAction) => void): MenuItem[] {
  const { branch: of } = branch;
  const isArchived = of.current_state === "archived" ? "it is archived" : undefined;
  const item = (title: string, action: BranchAction, whyNot?: string) => ({
    title,
    onSelect: () => act(action),
    whyNot,
  });
  return [
    item("Branch from here…", "create", isArchived),
    item("Rename…", "rename"),
    item(
      "Reset from parent…",
      "reset",
      of.parent_id === undefined ? "it has no parent" : isArchived,
    ),
    item("Restore to a point in time…", "restore", isArchived),
    item(of.protected ? "Unprotect" : "Protect…", "protect"),
    item("Let it expire…", "expire", of.default ? "it is the default branch" : undefined),
    item("Make it the default…", "default", of.default ? "it is the default branch" : undefined),
    {
      ...item(
        "Delete…",
        "delete",
        of.default ? "it is the default branch" : of.protected ? "it is protected" : undefined,
      ),
      isDanger: true,
    },
  ];
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
