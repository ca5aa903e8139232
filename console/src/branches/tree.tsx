// The branches, one below the other: a name, a line of the picture, facts and a menu each. There can be hundreds: only those in sight are in the page.

import { Link } from "@tanstack/react-router";
import { useRef } from "react";
import type { TreeBranch } from "../api/types.ts";
import { Ago } from "../parts/ago.tsx";
import { Menu, type MenuItem } from "../parts/menu.tsx";
import { useRowsInSight } from "../parts/rows-in-sight.ts";
import { bytesText } from "../parts/words.ts";
import type { BranchAction } from "./branch-dialogs.tsx";
import type { Axis, Lane, TreeLayout } from "./tree-layout.ts";
import { AXIS_HEIGHT, LANE_HEIGHT, TreePicture, type TreePoint } from "./tree-picture.tsx";

interface TreeProps {
  readonly layout: TreeLayout;
  readonly axis: Axis;
  readonly onPoint: (point: TreePoint) => void;
  /** Undefined: whoever looks may change nothing. */
  readonly onAction: ((of: TreeBranch, action: BranchAction) => void) | undefined;
}

export function Tree({ layout, axis, onPoint, onAction }: TreeProps) {
  const place = useRef<HTMLDivElement>(null);
  const { lanes } = layout;
  const range = useRowsInSight(place, {
    count: lanes.length,
    rowHeight: LANE_HEIGHT,
    top: AXIS_HEIGHT,
  });
  const inSight = lanes.slice(range.from, range.to);
  const listStyle = {
    height: AXIS_HEIGHT + lanes.length * LANE_HEIGHT,
    paddingTop: AXIS_HEIGHT + range.from * LANE_HEIGHT,
  };
  return (
    <div ref={place} className="tree">
      <ul className="tree-names" style={listStyle}>
        {inSight.map((lane) => (
          <li key={lane.branch.branch.id} {...rowProps(lane, lanes.length)}>
            <BranchName branch={lane.branch} depth={lane.depth} />
          </li>
        ))}
      </ul>
      <TreePicture layout={layout} range={range} axis={axis} onPoint={onPoint} />
      <ul className="tree-facts" style={listStyle}>
        {inSight.map((lane) => (
          <li key={lane.branch.branch.id} {...rowProps(lane, lanes.length)}>
            <Facts branch={lane.branch} onAction={onAction} />
          </li>
        ))}
      </ul>
    </div>
  );
}

/** With where it is among all, for who does not see it. */
function rowProps({ lane }: Lane, count: number) {
  return { style: { height: LANE_HEIGHT }, "aria-setsize": count, "aria-posinset": lane + 1 };
}

function Facts({
  branch,
  onAction,
}: Pick<TreeProps, "onAction"> & { readonly branch: TreeBranch }) {
  return (
    <>
      <span className="fact" title="Last commit">
        <Ago time={branch.head_time} />
      </span>
      <span className="fact" title="Layers that it made">
        {branch.layers_bytes === undefined ? "" : bytesText(branch.layers_bytes)}
      </span>
      <Menu
        label={`Actions of ${branch.branch.name}`}
        items={onAction === undefined ? [] : itemsOf(branch, (action) => onAction(branch, action))}
      />
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
