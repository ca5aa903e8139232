// A proposer that sends what is not its timeline's WAL: the safekeeper refuses it and keeps nothing of it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../src/base/ids.ts";
import { addLsn, parseLsn } from "../src/base/lsn.ts";
import type { TimelineInfo } from "../src/pageserver/api.ts";
import { encodeMessage } from "../src/postgres/wire/wire-messages.ts";
import { openWalPush, SafekeeperHttpClient } from "../src/safekeeper/client.ts";
import { NO_MEMBERSHIP } from "../src/safekeeper-protocol/membership.ts";
import {
  type AcceptorMessage,
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerGreeting,
  type ProposerMessage,
} from "../src/safekeeper-protocol/messages.ts";
import { TestCluster } from "../testing/cluster.ts";
import { timelineInfo } from "../testing/damage.ts";
import { converse, lastError, simpleQuery, startupPacket } from "../testing/hostile-client.ts";

const NOBODY = "0123456789abcdef0123456789abcdef";

let cluster: TestCluster;
let tenantId: string;
let timelineId: string;
before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select generate_series(1, 1000) i");
  ({ tenantId, timelineId } = cluster.endpointSpec("main"));
});
after(() => cluster?.[Symbol.asyncDispose]());

/** Sends the messages to the safekeeper as a proposer; how it ends the connection, or `accepted`. */
async function push(
  ids: Ids,
  messages: readonly ProposerMessage[],
  onAnswer: (answer: AcceptorMessage) => void = () => {},
): Promise<string> {
  const pgAddr = cluster.config().safekeepers[0]!.listenPgAddr;
  const channel = await openWalPush({ pgAddr, ...ids });
  let answers = 0;
  // ProposerElected has no answer.
  const wanted = messages.filter(({ type }) => type !== "elected").length;
  const end = new Promise<string>((resolve) => {
    channel.onClose((error) => resolve(error?.message ?? "closed"));
    channel.onData((payload) => {
      onAnswer(decodeAcceptorMessage(payload));
      answers++;
      if (answers === wanted) {
        resolve("accepted");
      }
    });
  });
  for (const message of messages) {
    channel.send(encodeProposerMessage(message));
  }
  const answer = await end;
  channel.destroy();
  return answer;
}

interface Ids {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
}

function greeting(ids: Ids, info: TimelineInfo): ProposerGreeting {
  return {
    type: "greeting",
    ...ids,
    mconf: NO_MEMBERSHIP,
    pgVersion: 170_000,
    systemId: BigInt(info.system_id),
    walSegSize: info.wal_seg_size,
  };
}

test("a proposer of a foreign system, major or tenant is refused by the safekeeper", async () => {
  const ids = { tenantId: parseTenantId(tenantId), timelineId: parseTimelineId(timelineId) };
  const info = await timelineInfo(cluster, tenantId, timelineId);
  const right = greeting(ids, info);
  const greet = (changes: Partial<ProposerGreeting>) => push(ids, [{ ...right, ...changes }]);
  assert.equal(await greet({}), "accepted");
  assert.equal(
    await greet({ systemId: 4711n }),
    `system identifier is 4711, expected ${info.system_id}`,
  );
  assert.match(
    await greet({ pgVersion: 160_004 }),
    /^Postgres version is 160004, expected 17\d{4}$/,
  );
  const tenant = parseTenantId(NOBODY);
  assert.equal(await greet({ tenantId: tenant }), `tenant id is ${NOBODY}, expected ${tenantId}`);
  assert.equal(
    await greet({ walSegSize: 1 << 20 }),
    `WAL segment size is ${1 << 20}, expected ${info.wal_seg_size}`,
  );
});

test("messages out of order, oversized, of another generation or a stale term: the compute commits on", async () => {
  const ids = { tenantId: parseTenantId(tenantId), timelineId: parseTimelineId(timelineId) };
  const info = await timelineInfo(cluster, tenantId, timelineId);
  const { listenHttpAddr, listenPgAddr } = cluster.config().safekeepers[0]!;
  const client = new SafekeeperHttpClient(`http://${listenHttpAddr}`);
  const before = await client.timelineStatus(ids.tenantId, ids.timelineId);
  const { term } = before.acceptor_state;
  const greet = greeting(ids, info);
  const append = (appendTerm: number, generation = 1): ProposerMessage => {
    const end = parseLsn(before.flush_lsn)!;
    const range = { beginLsn: end, endLsn: end, commitLsn: end, truncateLsn: end };
    const walData = new Uint8Array(0);
    return { type: "append-request", generation, term: appendTerm, ...range, walData };
  };
  assert.equal(await push(ids, [append(term)]), "append-request before the greeting");
  assert.equal(
    await push(ids, [greet, append(term + 1)]),
    `AppendRequest of term ${term + 1} before its ProposerElected (term is ${term})`,
  );
  assert.equal(
    await push(ids, [greet, { type: "vote-request", generation: 7, term: term + 1 }]),
    "vote request in membership generation 7, but this safekeeper is in 1",
  );
  assert.equal(
    await push(ids, [greet, append(term, 7)]),
    "AppendRequest in membership generation 7, but this safekeeper is in 1",
  );
  // Not an error: the answers tell the proposer that it is fenced.
  const answers: AcceptorMessage[] = [];
  const stale: ProposerMessage[] = [
    { type: "vote-request", generation: 1, term },
    append(term - 1),
  ];
  assert.equal(await push(ids, [greet, ...stale], (one) => answers.push(one)), "accepted");
  const [, vote, response] = answers;
  assert.ok(vote?.type === "vote-response" && !vote.voteGiven && vote.term === term);
  assert.ok(response?.type === "append-response" && response.term === term);
  assert.equal(response.flushLsn, 0);
  const stranger = { ...ids, timelineId: parseTimelineId(NOBODY) };
  await assert.rejects(push(stranger, [greet]), /timeline \w+\/\w+ is not on this safekeeper$/);

  const options = `-c timeline_id=${timelineId} tenant_id=${tenantId}`;
  const oversized = encodeMessage("d", Buffer.alloc(8));
  oversized.writeInt32BE(2 ** 31 - 1, 1);
  const opening = [startupPacket({ options }), simpleQuery("START_WAL_PUSH")];
  const end = await converse(listenPgAddr, opening, [oversized], { quietMs: 5000 });
  assert.match(lastError(end.answers)?.get("M") ?? "", /claims a length of 2147483647 bytes$/);
  assert.ok(end.closed);

  await cluster.query("main", "insert into t values (0)", "delete from t where i = 0");
  const after = await client.timelineStatus(ids.tenantId, ids.timelineId);
  assert.equal(after.acceptor_state.term, term);
  assert.ok(parseLsn(after.commit_lsn)! > parseLsn(before.commit_lsn)!);
});

test("pushed WAL with a bad CRC or an impossible length is refused and not kept", async () => {
  // So that a small record fits into the page where the branch begins.
  for (let offset = 0; offset < 64 || offset > 8000; ) {
    const sql = "select pg_current_wal_insert_lsn() as lsn";
    const [row] = await cluster.query("main", "create temporary table x()", sql);
    offset = parseLsn(String(row!["lsn"]))! % 8192;
  }
  const id = parseTimelineId("beef".repeat(8));
  const ids = { tenantId: parseTenantId(tenantId), timelineId: id };
  await cluster.ok("timeline", "branch", "--branch-name", "pushed", "--timeline-id", id);
  const info = await timelineInfo(cluster, tenantId, id);
  const begin = parseLsn(info.start_lsn)!;
  const record = (length: number) => {
    const bytes = Buffer.alloc(32);
    bytes.writeUInt32LE(length);
    return bytes;
  };
  const lead = (term: number, walData: Uint8Array) =>
    push(ids, [
      greeting(ids, info),
      { type: "vote-request", generation: 1, term },
      {
        type: "elected",
        generation: 1,
        term,
        startStreamingAt: begin,
        termHistory: [{ term, lsn: begin }],
      },
      {
        type: "append-request",
        generation: 1,
        term,
        beginLsn: begin,
        endLsn: addLsn(begin, walData.length),
        commitLsn: begin,
        truncateLsn: begin,
        walData,
      },
    ]);
  const refused = (problem: string) => new RegExp(`^WAL at ${info.start_lsn}: .*${problem}`);
  assert.match(await lead(1, record(32)), refused("record checksum"));
  assert.match(await lead(2, record(5)), refused("record.* 5\\b"));
  assert.match(await lead(3, record(0x7ffffff0)), refused("record.* 2147483632\\b"));
  const safekeeper = cluster.config().safekeepers[0]!.listenHttpAddr;
  const status = await fetch(`http://${safekeeper}/v1/tenant/${tenantId}/timeline/${id}`);
  assert.equal(((await status.json()) as { flush_lsn: string }).flush_lsn, info.start_lsn);
  await cluster.startEndpoint("pushed", "pushed");
  assert.deepEqual(await cluster.query("pushed", "select count(*)::int n from t"), [{ n: 1000 }]);
  await cluster.ok("endpoint", "stop", "pushed");
});
