import assert from "node:assert/strict";
import { test } from "node:test";
import { formatBytes, formatTable, formatTimelineTree, type TimelineNode } from "./output.ts";

function node(id: string, ancestor: string | null = null, lsn: string | null = null): TimelineNode {
  return { timeline_id: id, ancestor_timeline_id: ancestor, ancestor_lsn: lsn };
}

test("formatTable: columns line up and no line ends in blanks", () => {
  assert.equal(
    formatTable(
      ["ENDPOINT", "STATUS"],
      [
        ["main", "running"],
        ["migration_check", "stopped"],
      ],
    ),
    [" ENDPOINT         STATUS", " main             running", " migration_check  stopped"].join(
      "\n",
    ),
  );
});

test("formatTimelineTree: neon_local's shape, children by branch point", () => {
  const timelines = [
    node("c3", "a1", "0/300"),
    node("b2", "a1", "0/200"),
    node("d4", "b2", "0/250"),
    node("e5", "d4", "0/260"),
    node("f6", "b2", "0/270"),
    node("a1"),
    node("z9"),
  ];
  const names = new Map([
    ["a1", "main"],
    ["b2", "dev"],
    ["c3", "late"],
    ["d4", "deep"],
    ["f6", "last"],
    ["z9", "other"],
  ]);
  assert.deepEqual(formatTimelineTree(timelines, names), [
    "main [a1]",
    "┣━ @0/200: dev [b2]",
    "┃  ┣━ @0/250: deep [d4]",
    "┃  ┃  ┗━ @0/260: _no_name_ [e5]",
    "┃  ┗━ @0/270: last [f6]",
    "┗━ @0/300: late [c3]",
    "other [z9]",
  ]);
});

test("formatTimelineTree: a chain thousands deep, and an ancestor that is not listed", () => {
  const chain = Array.from({ length: 5000 }, (_, i) =>
    node(`t${i}`, i === 0 ? "gone" : `t${i - 1}`, "0/10"),
  );
  const lines = formatTimelineTree(chain, new Map());
  assert.equal(lines.length, 5000);
  assert.equal(lines[0], "_no_name_ [t0]");
});

test("formatBytes: in the units of Postgres", () => {
  assert.deepEqual([0, 812, 1023, 65_536, 2_223_384, 2 ** 30 - 1, 3 * 2 ** 40].map(formatBytes), [
    "0",
    "812",
    "1kB",
    "64kB",
    "2.1MB",
    "1GB",
    "3TB",
  ]);
});
