// What bad-input.fuzz.ts would meet by luck only: single attacks on a safekeeper's WAL service.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { inSteadyTime } from "../../simulation/simulated-time.ts";
import { converse, lastError, simpleQuery, startupPacket } from "../../testing/hostile-client.ts";
import { commit, SafekeeperCluster, SEGMENT, START } from "../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { addLsn, formatLsn, type Lsn } from "../base/lsn.ts";
import { encodeMessage } from "../postgres/wire/wire-messages.ts";
import { NO_MEMBERSHIP } from "../safekeeper-protocol/membership.ts";
import { encodeProposerMessage, type ProposerMessage } from "../safekeeper-protocol/messages.ts";

/** A safekeeper whose WAL is committed up to its middle record. */
async function halfCommitted(t: TestContext) {
  const cluster = await SafekeeperCluster.start(t, 1);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [100, 3000, 20_000]);
  leader.driver.close();
  const committed = wal.endLsn;
  wal.appendFilled(9000);
  wal.appendFilled(500);
  const { term } = cluster.state(0).persistent;
  const history = cluster.state(0).persistent.termHistory;
  const append = (begin: Lsn, end: Lsn): ProposerMessage => ({
    type: "append-request",
    generation: 0,
    term,
    beginLsn: begin,
    endLsn: end,
    commitLsn: committed,
    truncateLsn: START,
    walData: wal.read(begin, end),
  });
  assert.equal(await push(cluster, [append(committed, wal.endLsn)]), "");
  assert.equal(cluster.state(0).flushLsn, wal.endLsn);
  assert.equal(cluster.state(0).commitLsn, committed);
  return { cluster, wal, committed, term, history };
}

/** Sends the greeting and `messages`; the error that it got, "" for none. */
async function push(cluster: SafekeeperCluster, messages: ProposerMessage[]): Promise<string> {
  const frames = [greeting(cluster), ...messages.map(frame)];
  const { pgAddr } = cluster.address(0);
  const { answers } = await converse(pgAddr, opening(cluster), frames, {
    hangUp: true,
    least: 1,
  });
  return lastError(answers)?.get("M") ?? "";
}

const frame = (message: ProposerMessage) => encodeMessage("d", encodeProposerMessage(message));

function greeting({ tenantId, timelineId }: SafekeeperCluster): Uint8Array {
  return frame({
    type: "greeting",
    tenantId,
    timelineId,
    mconf: NO_MEMBERSHIP,
    pgVersion: 170010,
    systemId: 42n,
    walSegSize: SEGMENT,
  });
}

function opening(cluster: SafekeeperCluster): Uint8Array[] {
  const { tenantId, timelineId } = cluster;
  const options = `-c timeline_id=${timelineId} tenant_id=${tenantId}`;
  return [startupPacket({ options, replication: "true" }), simpleQuery("START_WAL_PUSH")];
}

test("bad input: a leader cuts the log at a record end only, or nothing changes", async (t) => {
  const { cluster, wal, committed, term, history } = await halfCommitted(t);
  const before = cluster.state(0);
  const cutAt = (lsn: Lsn, newTerm: number): ProposerMessage => ({
    type: "elected",
    generation: 0,
    term: newTerm,
    startStreamingAt: lsn,
    termHistory: [...history, { term: newTerm, lsn }],
  });
  const inside = addLsn(committed, 4000);
  assert.equal(
    await push(cluster, [cutAt(inside, term + 1)]),
    `no WAL record ends at ${formatLsn(inside)}`,
  );
  assert.deepEqual(cluster.state(0), before);
  await cluster.stopNode(0);
  await cluster.startNode(0);
  assert.equal(cluster.state(0).flushLsn, wal.endLsn);
  const end = wal.recordEnds.at(-2)!;
  assert.equal(await push(cluster, [cutAt(end, term + 1)]), "");
  assert.equal(cluster.state(0).flushLsn, end);
});

test("bad input: a term that leaves no room is refused, and the next compute goes on", async (t) => {
  const { cluster, wal, term } = await halfCommitted(t);
  for (const distant of [2 ** 40, Number.MAX_SAFE_INTEGER]) {
    const vote = { type: "vote-request" as const, generation: 0, term: distant };
    assert.match(await push(cluster, [vote]), /^term \d+ is more than 1048576 above .* term_bump/);
  }
  assert.equal(cluster.state(0).persistent.term, term);
  const next = await cluster.lead();
  assert.equal(next.startLsn, wal.endLsn);
});

test("bad input: a proposer that does not greet is told so and cut off", async (t) => {
  inSteadyTime(t);
  const cluster = await SafekeeperCluster.start(t, 1, { startupTimeoutMs: 300 });
  const { pgAddr } = cluster.address(0);
  const { answers, closed } = await converse(pgAddr, opening(cluster), [], { quietMs: 5000 });
  assert.equal(lastError(answers)?.get("M"), "no greeting within 300 ms");
  assert.ok(closed);
  // One that has greeted may take its time.
  const patient = await converse(pgAddr, opening(cluster), [greeting(cluster)], { quietMs: 600 });
  assert.equal(patient.closed, false);
  assert.equal(patient.answers.at(-1)?.type, "d");
});
