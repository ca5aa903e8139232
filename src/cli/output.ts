// How listings look, borderless tables and the tree of timelines as neon_local prints them; and how progress does.

import { parseLsn } from "../base/lsn.ts";
import type { TimelineInfo } from "../pageserver/api.ts";

export type TimelineNode = Pick<
  TimelineInfo,
  "timeline_id" | "ancestor_timeline_id" | "ancestor_lsn"
>;

/** Bytes as a person reads them, in the units of Postgres: `812`, `64kB`, `2.1MB`. */
export function formatBytes(bytes: number): string {
  const units = ["", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : Number(value.toFixed(1))}${units[unit]}`;
}

/** Columns as wide as their widest cell, one space before and after each. */
export function formatTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  const widths = header.map((title, column) =>
    rows.reduce((widest, row) => Math.max(widest, row[column]?.length ?? 0), title.length),
  );
  return [header, ...rows]
    .map((row) =>
      widths
        .map((width, i) => ` ${(row[i] ?? "").padEnd(width)} `)
        .join("")
        .trimEnd(),
    )
    .join("\n");
}

/**
 * The lines of `timeline list`: roots by name, children by branch point, then name. A timeline whose
 * ancestor is not in the list counts as a root; ids in `names` map to branch names.
 */
export function formatTimelineTree(
  timelines: readonly TimelineNode[],
  names: ReadonlyMap<string, string>,
): string[] {
  const name = (node: TimelineNode) => names.get(node.timeline_id) ?? "_no_name_";
  const lsn = (node: TimelineNode) => parseLsn(node.ancestor_lsn ?? "") ?? 0;
  const sorted = timelines.toSorted(
    (a, b) => lsn(a) - lsn(b) || name(a).localeCompare(name(b), "en"),
  );
  const known = new Set(timelines.map((node) => node.timeline_id));
  const children = Map.groupBy(sorted, (node) => {
    const ancestor = node.ancestor_timeline_id;
    return ancestor !== null && known.has(ancestor) ? ancestor : "";
  });
  const lines: string[] = [];
  // An explicit stack: branches can be thousands deep.
  const roots = (children.get("") ?? []).toSorted((a, b) => name(a).localeCompare(name(b), "en"));
  const stack = roots.toReversed().map((node) => ({ node, own: "", below: "" }));
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    lines.push(`${top.own}${name(top.node)} [${top.node.timeline_id}]`);
    const nodes = children.get(top.node.timeline_id) ?? [];
    for (const [i, node] of nodes.entries().toArray().toReversed()) {
      const last = i === nodes.length - 1;
      const own = `${top.below}${last ? "┗━" : "┣━"} @${node.ancestor_lsn ?? "Unknown Lsn"}: `;
      stack.push({ node, own, below: `${top.below}${last ? "   " : "┃  "}` });
    }
  }
  return lines;
}

/** One line on the terminal, written over itself; nothing where stderr is none. */
export class ProgressLine {
  readonly #isTerminal: boolean;
  #shown = "";

  constructor(isTerminal: boolean | undefined) {
    this.#isTerminal = isTerminal === true;
  }

  show(line: string): void {
    if (this.#isTerminal && line !== this.#shown) {
      process.stderr.write(`\r\x1b[K${line}`);
      this.#shown = line;
    }
  }

  clear(): void {
    if (this.#shown !== "") {
      process.stderr.write("\r\x1b[K");
      this.#shown = "";
    }
  }
}
