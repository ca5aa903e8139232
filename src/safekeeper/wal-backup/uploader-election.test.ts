import assert from "node:assert/strict";
import { test } from "node:test";
import { monotonicMs } from "../../base/clock.ts";
import { generateTimelineId, parseTimelineId } from "../../base/ids.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import type { KnownPeer } from "../timeline.ts";
import { uploadRank } from "./uploader-election.ts";

const TIMELINE = parseTimelineId("22222222222222222222222222222222");
const GB = 2 ** 30;

/** Everybody's rank, where all know of all; `commits` by node id. */
function ranks(commits: Record<number, number>, timelineId = TIMELINE, reportedAgoMs = 0) {
  const entries = Object.entries(commits).map(([id, lsn]) => [Number(id), toLsn(lsn)] as const);
  return entries.map(([id, commitLsn]) => {
    const peers = new Map(
      entries
        .filter(([other]) => other !== id)
        .map(([other, lsn]) => [other, peer(lsn, reportedAgoMs)]),
    );
    return uploadRank(id, timelineId, { commitLsn }, peers);
  });
}

function peer(commitLsn: Lsn, reportedAgoMs: number): KnownPeer {
  const positions = { generation: 0, term: 1, lastLogTerm: 1, flushLsn: commitLsn, commitLsn };
  return {
    ...positions,
    remoteConsistentLsn: commitLsn,
    reportedAtMs: monotonicMs() - reportedAgoMs,
  };
}

test("uploadRank: all who know the same elect one, and the others wait in line", () => {
  assert.deepEqual(
    ranks({ 1: GB, 2: GB, 3: GB }).toSorted((a, b) => a - b),
    [0, 20_000, 40_000],
  );
  assert.deepEqual(ranks({ 1: GB }), [0]);
});

test("uploadRank: timelines are shared out", () => {
  const firsts = new Set<number>();
  for (let i = 0; i < 200; i++) {
    firsts.add(ranks({ 1: GB, 2: GB, 3: GB }, generateTimelineId()).indexOf(0));
  }
  assert.deepEqual([...firsts].sort(), [0, 1, 2]);
});

test("uploadRank: one far behind is last, one not heard of for long does not count", () => {
  const [first, second, behind] = ranks({ 1: GB, 2: GB - 8, 3: GB - 200 * 2 ** 20 });
  assert.deepEqual([first, second].sort(), [0, 20_000]);
  assert.equal(behind, 40_000);
  assert.deepEqual(ranks({ 1: GB, 2: GB, 3: GB }, TIMELINE, 60_000), [0, 0, 0]);
});
