// Where each branch is drawn: a lane each, children below their parents, x by time or by LSN.

import type { TreeBranch } from "../api/types.ts";
import { lsnNumber } from "../parts/words.ts";

export type Axis = "time" | "lsn";

export interface Lane {
  readonly branch: TreeBranch;
  /** From the top, from 0. */
  readonly lane: number;
  readonly depth: number;
  readonly parent: Lane | undefined;
  /** On the axis: milliseconds or LSN. `begin` <= `head` <= `end`. */
  readonly begin: number;
  /** The last commit; what lies behind it is as it was there. */
  readonly head: number;
  readonly end: number;
}

export interface TreeLayout {
  readonly lanes: readonly Lane[];
  readonly from: number;
  readonly to: number;
}

/** A picture of a second's history would be one of rounding. */
const MIN_SPAN = { time: 60_000, lsn: 64 * 1024 };

/** `nowMs`: where lines end on the time axis. */
export function layoutTree(branches: readonly TreeBranch[], axis: Axis, nowMs: number): TreeLayout {
  const ids = new Set(branches.map(({ branch }) => branch.id));
  const childrenOf = Map.groupBy(branches, ({ branch }) =>
    branch.parent_id !== undefined && ids.has(branch.parent_id) ? branch.parent_id : "",
  );
  const lanes: Lane[] = [];
  const placed = new Set<string>();
  const place = (one: TreeBranch, parent: Lane | undefined): void => {
    if (placed.has(one.branch.id)) {
      return;
    }
    placed.add(one.branch.id);
    const lane = laneOf(one, lanes.length, parent, axis, nowMs);
    lanes.push(lane);
    for (const child of sorted(childrenOf.get(one.branch.id) ?? [])) {
      place(child, lane);
    }
  };
  for (const root of sorted(childrenOf.get("") ?? [])) {
    place(root, undefined);
  }
  const begin = Math.min(...lanes.map((lane) => lane.begin));
  const end = Math.max(...lanes.map((lane) => lane.end));
  if (lanes.length === 0) {
    return { lanes, from: 0, to: 1 };
  }
  return { lanes, from: Math.min(begin, end - MIN_SPAN[axis]), to: end };
}

function laneOf(
  one: TreeBranch,
  lane: number,
  parent: Lane | undefined,
  axis: Axis,
  nowMs: number,
): Lane {
  const made = Date.parse(one.branch.created_at);
  const base = { branch: one, lane, depth: parent === undefined ? 0 : parent.depth + 1, parent };
  if (axis === "lsn") {
    const begin = lsnNumber(one.begin_lsn ?? one.branch.parent_lsn ?? "0/0");
    const head = Math.max(begin, lsnNumber(one.head_lsn ?? "0/0"));
    return { ...base, begin, head, end: head };
  }
  const known = one.begin_time === undefined ? made : Date.parse(one.begin_time);
  const begin = Math.min(nowMs, Math.max(known, parent?.begin ?? known));
  const head = one.head_time === undefined ? begin : Date.parse(one.head_time);
  return { ...base, begin, head: clamp(head, begin, nowMs), end: nowMs };
}

/** The default branch first, then as they were made. */
function sorted(branches: readonly TreeBranch[]): readonly TreeBranch[] {
  return branches.toSorted(
    (a, b) =>
      Number(b.branch.default) - Number(a.branch.default) ||
      a.branch.created_at.localeCompare(b.branch.created_at) ||
      a.branch.id.localeCompare(b.branch.id),
  );
}

export function clamp(value: number, from: number, to: number): number {
  return Math.min(to, Math.max(from, value));
}

const TIME_STEPS_MS = [
  ...[1, 2, 5, 10, 15, 30].map((seconds) => seconds * 1000),
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * 60_000),
  ...[1, 2, 3, 6, 12].map((hours) => hours * 3_600_000),
  ...[1, 2, 7, 14, 30, 90, 365].map((days) => days * 86_400_000),
];

/** Round values between `from` and `to`, about `count`. */
export function ticks(axis: Axis, from: number, to: number, count: number): readonly number[] {
  const wanted = (to - from) / Math.max(1, count);
  const step =
    axis === "lsn"
      ? 2 ** Math.ceil(Math.log2(Math.max(1, wanted)))
      : (TIME_STEPS_MS.find((one) => one >= wanted) ?? wanted);
  // Round in local time, as they are read.
  const shift = axis === "lsn" ? 0 : new Date(to).getTimezoneOffset() * 60_000;
  const found: number[] = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) {
    found.push(at);
  }
  return found;
}
