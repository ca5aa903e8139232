import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { inSteadyTime } from "../../simulation/simulated-time.ts";
import { eventually } from "../../testing/eventually.ts";
import { freePort } from "../../testing/free-port.ts";
import {
  commit,
  readWal,
  SafekeeperCluster,
  SEGMENT,
  START,
  wholeWal,
} from "../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { generateTimelineId } from "../base/ids.ts";
import { createLogger } from "../base/log.ts";
import { addLsn, formatLsn, parseLsn } from "../base/lsn.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { connectWire, parseHostPort } from "../postgres/wire/wire-client.ts";
import { decodeMembership } from "../safekeeper-protocol/messages.ts";
import { NO_PAGESERVER_FEEDBACK } from "../safekeeper-protocol/pageserver-feedback.ts";
import { BrokerClient, type TimelineInfo } from "../storage-broker/client.ts";
import { BrokerServer } from "../storage-broker/server.ts";
import { openReplication, openWalPush } from "./client.ts";
import { startSafekeeper } from "./safekeeper.ts";

const logger = createLogger("test", "silent");

const BULK = Array.from({ length: 12 }, () => 300_000);
const MIXED = [24, 100, 5000, 9000, 200_000, 60, 24, 700_000, 30];

test("safekeepers: WAL is committed on all, streamed out again, and survives restarts", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 3);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  assert.equal(leader.startLsn, START);
  await commit(leader, wal, MIXED);
  for (let i = 0; i < 20; i++) {
    await commit(leader, wal, [40]);
  }
  await eventually("announcement", () =>
    [0, 1, 2].every((i) => cluster.state(i).commitLsn === wal.endLsn),
  );
  for (const index of [0, 1, 2]) {
    assert.ok((await readWal(cluster, index, START, wal.endLsn)).equals(wholeWal(wal)));
  }
  for (const index of [0, 1, 2]) {
    await cluster.stopNode(index);
    await cluster.startNode(index);
    assert.equal(cluster.state(index).flushLsn, wal.endLsn);
    assert.equal(cluster.state(index).commitLsn, wal.endLsn);
  }
  await commit(leader, wal, [50]);
  leader.driver.close();
  const next = await cluster.lead();
  assert.equal(next.startLsn, wal.endLsn);
  await commit(next, wal, MIXED);
  assert.ok((await readWal(cluster, 2, START, wal.endLsn)).equals(wholeWal(wal)));
});

test("safekeepers: a minority may be away and is caught up from a donor by the next compute", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 3);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const first = await cluster.lead();
  await commit(first, wal, [100]);
  await cluster.stopNode(2);
  await commit(first, wal, MIXED);
  first.driver.close();
  const second = await cluster.lead();
  assert.equal(second.startLsn, wal.endLsn);
  await cluster.startNode(2);
  await commit(second, wal, [64]);
  await eventually("recovery", () => cluster.state(2).flushLsn === wal.endLsn);
  await eventually("commit LSN", () => cluster.state(2).commitLsn === wal.endLsn);
  assert.ok((await readWal(cluster, 2, START, wal.endLsn)).equals(wholeWal(wal)));
});

for (const [what, foreign] of [
  ["major", { pageMagic: PG_VERSIONS[16].pageMagic }],
  ["system", { systemId: 43n }],
] as const) {
  test(`safekeeper: WAL of another ${what} than the timeline's is refused and not kept`, async (t) => {
    const cluster = await SafekeeperCluster.start(t, 1);
    const leader = await cluster.lead();
    const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT, ...foreign });
    // Into the next segment: its first page names the system.
    wal.appendFilled(SEGMENT);
    leader.driver.setLocalWal((begin, end) => wal.read(begin, end));
    leader.driver.walAvailable(wal.endLsn);
    await eventually("a counted refusal", async () => {
      const metrics = await fetch(`http://${cluster.nodes[0]!.httpAddr}/metrics`);
      return /^safekeeper_refused_messages\w*{code="corrupt-wal"} [1-9]/m.test(
        await metrics.text(),
      );
    });
    assert.equal(cluster.state(0).flushLsn, START);
  });
}

test("safekeepers: without a majority nothing commits; it goes on when one is back", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 3);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [100]);
  await cluster.stopNode(0);
  await cluster.stopNode(1);
  const before = leader.events.committed;
  wal.appendFilled(500);
  leader.driver.walAvailable(wal.endLsn);
  await eventually("third", () => cluster.state(2).flushLsn === wal.endLsn);
  await sleep(100);
  assert.equal(leader.events.committed, before);
  await cluster.startNode(1);
  await eventually("commit", () => leader.events.committed === wal.endLsn);
});

test("safekeepers: a newer compute fences the older one, whose unacknowledged tail is cut", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 3);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const first = await cluster.lead();
  await commit(first, wal, [100, 3000]);
  await cluster.stopNode(0);
  await cluster.stopNode(1);
  // Only the third safekeeper gets this; then it goes away and the others go on without it.
  const lost = wal.fork(wal.endLsn);
  lost.appendFilled(20_000, 77);
  first.driver.setLocalWal((begin, end) => lost.read(begin, end));
  first.driver.walAvailable(lost.endLsn);
  await eventually("third", () => cluster.state(2).flushLsn === lost.endLsn);
  await cluster.stopNode(2);
  await cluster.startNode(0);
  await cluster.startNode(1);
  first.driver.close();
  const second = await cluster.lead();
  assert.equal(second.startLsn, wal.endLsn);
  await commit(second, wal, [24, 400, 70_000]);
  await cluster.startNode(2);
  await eventually("cut and caught up", () => cluster.state(2).flushLsn === wal.endLsn);
  await eventually("commit LSN", () => cluster.state(2).commitLsn === wal.endLsn);
  assert.ok((await readWal(cluster, 2, START, wal.endLsn)).equals(wholeWal(wal)));
  const third = await cluster.lead();
  await eventually("fencing", () => second.events.fencedBy === third.driver.term);
  const bumped = await cluster.http(0).termBump(cluster.tenantId, cluster.timelineId);
  assert.equal(bumped.current_term, third.driver.term + 1);
  await eventually("fencing by term_bump", () => third.events.fencedBy === bumped.current_term);
});

test("safekeeper: a torn tail after a crash is not taken for WAL", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [100, 5000, 400_000]);
  leader.driver.close();
  // As after a kill -9: the control file is that of the election, the last record is half there.
  const control = join(cluster.timelineDirectory(0), "safekeeper.control");
  const before = readFileSync(control);
  await cluster.stopNode(0);
  writeFileSync(control, before);
  await cluster.startNode(0);
  assert.equal(cluster.state(0).flushLsn, wal.endLsn);
  await cluster.stopNode(0);
  writeFileSync(control, before);
  const segments = readdirSync(cluster.timelineDirectory(0)).filter((name) => name.length === 24);
  const path = join(cluster.timelineDirectory(0), segments.sort()[0]!);
  const bytes = readFileSync(path);
  bytes.fill(0, (wal.recordEnds[2]! % SEGMENT) - 50_000);
  writeFileSync(path, bytes);
  await cluster.startNode(0);
  assert.equal(cluster.state(0).flushLsn, wal.recordEnds[1]);
});

test("safekeepers: what was committed is known again when all have crashed and no compute is there", async (t) => {
  const server = new BrokerServer({ logger });
  const { port } = await server.listen("127.0.0.1", 0);
  t.after(() => server.close());
  const url = `http://127.0.0.1:${port}`;
  const cluster = new SafekeeperCluster();
  t.after(() => cluster.destroy());
  const members = [1, 2, 3].map((id) => ({ id, host: "127.0.0.1", pg_port: id }));
  const control = (index: number) => join(cluster.timelineDirectory(index), "safekeeper.control");
  for (const index of [0, 1, 2]) {
    await cluster.startNode(index, { broker: url });
    const mconf = { generation: 1, members };
    await cluster.http(index).createTimeline({ ...cluster.createRequest(), mconf });
  }
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  const saved = [0, 1, 2].map((index) => readFileSync(control(index)));
  await commit(leader, wal, [100, 5000]);
  leader.driver.close();
  for (const index of [0, 1, 2]) {
    await cluster.stopNode(index);
    // As after a kill -9: the commit LSN of the last second was not written down.
    writeFileSync(control(index), saved[index]!);
  }
  await cluster.startNode(0, { broker: url });
  assert.equal(cluster.state(0).commitLsn, START);
  assert.equal(cluster.state(0).flushLsn, wal.endLsn);
  await cluster.startNode(1, { broker: url });
  await eventually("commit LSN", () =>
    [0, 1].every((i) => cluster.state(i).commitLsn === wal.endLsn),
  );
});

test("safekeeper: a damaged control file refuses its timeline alone", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  const other = { ...cluster.createRequest(), timeline_id: generateTimelineId() };
  await cluster.http(0).createTimeline(other);
  await cluster.stopNode(0);
  const control = join(cluster.timelineDirectory(0), "safekeeper.control");
  const bytes = readFileSync(control);
  bytes[40]! ^= 1;
  writeFileSync(control, bytes);
  // A creation that was cut off, and a deletion that was.
  mkdirSync(join(cluster.workdir(0), cluster.tenantId, generateTimelineId()));
  mkdirSync(join(cluster.workdir(0), cluster.tenantId, `${generateTimelineId()}.deleted`));
  await cluster.startNode(0);
  const http = cluster.http(0);
  await assert.rejects(http.timelineStatus(cluster.tenantId, cluster.timelineId), /checksum/);
  await assert.rejects(openWalPush(cluster.address(0)), /checksum/);
  const healthy = await http.timelineStatus(cluster.tenantId, other.timeline_id);
  assert.equal(healthy.flush_lsn, formatLsn(START));
  assert.equal(readdirSync(join(cluster.workdir(0), cluster.tenantId)).length, 2);
  assert.equal((await http.listTimelines()).length, 2);
});

test("safekeeper http: create is idempotent, conflicts and bad input are clear, delete deletes", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  const http = cluster.http(0);
  const request = cluster.createRequest();
  assert.equal((await http.createTimeline(request)).flush_lsn, formatLsn(START));
  const mconf = { generation: 1, members: [{ id: 1, host: "h", pg_port: 1 }] };
  for (const [other, differing] of [
    [{ start_lsn: "0/2000000" }, `start_lsn ${formatLsn(START)}, not 0/2000000`],
    [{ pg_version: 160004 }, "Postgres 17, not 16"],
    [{ system_id: "43" }, "system_id 42, not 43"],
    [{ wal_seg_size: 2 ** 24 }, "wal_seg_size 1048576, not 16777216"],
    [{ mconf }, "membership generation 0, not 1"],
  ] as const) {
    await assert.rejects(http.createTimeline({ ...request, ...other }), {
      kind: "conflict",
      message: new RegExp(`exists with ${differing}$`),
    });
  }
  await http.switchMembership(cluster.tenantId, cluster.timelineId, mconf);
  const repeated = { ...request, pg_version: 170011, system_id: "0", mconf };
  assert.equal((await http.createTimeline(repeated)).flush_lsn, formatLsn(START));
  const members = [...mconf.members, { id: 2, host: "h", pg_port: 1 }];
  await assert.rejects(http.createTimeline({ ...request, mconf: { ...mconf, members } }), {
    message: /exists with other members in membership generation 1$/,
  });
  const fresh = { ...request, timeline_id: generateTimelineId() };
  for (const bad of [
    { start_lsn: "nonsense" },
    { start_lsn: "0/0" },
    { start_lsn: "0/1500029" },
    { timeline_id: "xyz" },
    { pg_version: 9 },
    { wal_seg_size: 12345 },
    { system_id: "99999999999999999999" },
    { mconf: { generation: 1, members: [{ id: 9, host: "h", pg_port: 1 }] } },
  ]) {
    await assert.rejects(http.createTimeline({ ...fresh, ...bad }), { kind: "invalid" });
  }
  const unknown = http.timelineStatus(cluster.tenantId, generateTimelineId());
  await assert.rejects(unknown, { kind: "not-found" });
  const bump = (term: number) => http.termBump(cluster.tenantId, cluster.timelineId, term);
  assert.deepEqual(await bump(5), { previous_term: 0, current_term: 5 });
  await assert.rejects(bump(5), { kind: "conflict" });
  const remove = () => http.deleteTimeline(cluster.tenantId, cluster.timelineId);
  assert.deepEqual(await remove(), { dir_existed: true });
  assert.deepEqual(await remove(), { dir_existed: false });
  await assert.rejects(openWalPush(cluster.address(0)), { kind: "not-found" });
  assert.deepEqual(readdirSync(join(cluster.workdir(0), cluster.tenantId)), []);
});

test("safekeeper pg: commands, wrong commands and garbage", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  const { pgAddr, tenantId, timelineId } = cluster.address(0);
  const options = `-c tenant_id=${tenantId} timeline_id=${timelineId}`;
  const wire = await connectWire({ ...parseHostPort(pgAddr), parameters: { options } });
  const identity = await wire.query("IDENTIFY_SYSTEM");
  assert.deepEqual(identity.rows, [["42", "1", formatLsn(START), null]]);
  const status = await wire.query("TIMELINE_STATUS");
  const [flushed, committed, membership] = status.rows[0]!;
  assert.deepEqual([flushed, committed], [formatLsn(START), formatLsn(START)]);
  assert.equal(decodeMembership(Buffer.from(membership!, "hex")).generation, 0);
  assert.deepEqual((await wire.query("SHOW wal_segment_size")).rows, [["1MB"]]);
  await assert.rejects(wire.query("SELECT 1"), { kind: "unsupported" });
  for (const below of ["0/8", formatLsn(addLsn(START, -1))]) {
    const wanted = /the timeline begins at 0\/102028; the first segment .* is that of 0\/200000 /;
    await assert.rejects(wire.copyBoth(`START_REPLICATION PHYSICAL ${below}`), wanted);
  }
  const slot = `START_REPLICATION SLOT "s" PHYSICAL ${formatLsn(START)} TIMELINE 1`;
  await assert.rejects(wire.copyBoth(slot), /no replication slots/);
  for (const verb of ["CREATE", "ALTER", "DROP"]) {
    await assert.rejects(wire.query(`${verb}_REPLICATION_SLOT s`), /no replication slots/);
  }
  await assert.rejects(wire.query("BASE_BACKUP (LABEL 'x')"), /from a running endpoint/);
  await assert.rejects(wire.copyBoth("START_REPLICATION PHYSICAL x"), { kind: "invalid" });
  const stale = `START_REPLICATION PHYSICAL ${formatLsn(START)} (term='7')`;
  await assert.rejects(wire.copyBoth(stale), { kind: "fenced" });
  await assert.rejects(wire.copyBoth("START_WAL_PUSH (proto_version '2')"), {
    kind: "unsupported",
  });
  wire.close();
  for (const garbage of ["g", "a".repeat(60), "v12345678901234567890", "\0"]) {
    const channel = await openWalPush(cluster.address(0));
    const closed = Promise.withResolvers<Error | undefined>();
    channel.onClose(closed.resolve);
    channel.onData(() => {});
    channel.send(Buffer.from(garbage));
    assert.ok((await closed.promise) instanceof StorageError);
  }
  const { host, port } = parseHostPort(pgAddr);
  const socket = createConnection({ host, port });
  socket.on("error", () => {});
  socket.resume();
  socket.end(Buffer.alloc(5000, 0xff));
  await new Promise((resolve) => socket.on("close", resolve));
  assert.equal(cluster.state(0).flushLsn, START);
});

test("safekeepers: old WAL goes when neither a pageserver nor a safekeeper needs it; asking for it says so", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 3);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [100]);
  await cluster.stopNode(2);
  await commit(leader, wal, BULK);
  const live = [0, 1];
  await eventually("commit LSN", () =>
    live.every((i) => cluster.state(i).commitLsn === wal.endLsn),
  );
  const streams = await Promise.all(
    live.map((i) =>
      openReplication(
        { ...cluster.address(i), startLsn: wal.endLsn },
        { onWal() {}, onClose() {} },
      ),
    ),
  );
  const remoteConsistentLsn = wal.recordEnds[10]!;
  // What a pageserver claims beyond the commit LSN does not count, and it is told only once here.
  for (const stream of streams) {
    stream.sendPageserverFeedback({
      ...NO_PAGESERVER_FEEDBACK,
      lastReceivedLsn: wal.endLsn,
      diskConsistentLsn: remoteConsistentLsn,
      remoteConsistentLsn,
      replyTime: 5,
    });
  }
  await eventually("feedback", () =>
    live.every((i) => cluster.state(i).remoteConsistentLsn === remoteConsistentLsn),
  );
  await commit(leader, wal, [24]);
  await eventually("commit LSN", () =>
    live.every((i) => cluster.state(i).commitLsn === wal.endLsn),
  );
  for (const i of live) {
    cluster.timeline(i).maintain();
    assert.equal(cluster.timeline(i).localWalStartLsn, START, "safekeeper 3 lacks it");
  }
  await cluster.startNode(2);
  await eventually("catch-up", () => cluster.state(2).flushLsn === wal.endLsn);
  await commit(leader, wal, [24]);
  await eventually("removal", () =>
    live.every((i) => readdirSync(cluster.timelineDirectory(i)).length <= 3),
  );
  assert.equal(cluster.timeline(2).localWalStartLsn, START, "its pageserver may need it");
  await assert.rejects(
    openReplication({ ...cluster.address(0), startLsn: START }, { onWal() {}, onClose() {} }),
    /is not here/,
  );
  const from = wal.recordEnds[11]!;
  const tail = await readWal(cluster, 0, from, wal.endLsn);
  assert.ok(tail.equals(Buffer.from(wal.read(from, wal.endLsn))));
  await eventually(
    "feedback at the compute",
    () => leader.driver.pageserverLsn === wal.recordEnds[12],
  );
  for (const stream of streams) {
    stream.close();
  }
  leader.driver.close();
  await cluster.stopNode(0);
  await cluster.startNode(0);
  assert.equal(cluster.state(0).flushLsn, wal.endLsn);
});

test("safekeeper: a kill after old WAL was removed finds the end of the log", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, BULK);
  await eventually("commit LSN", () => cluster.state(0).commitLsn === wal.endLsn);
  const stream = await openReplication(
    { ...cluster.address(0), startLsn: wal.endLsn },
    { onWal() {}, onClose() {} },
  );
  const remoteConsistentLsn = wal.endLsn;
  stream.sendPageserverFeedback({ ...NO_PAGESERVER_FEEDBACK, remoteConsistentLsn, replyTime: 5 });
  await eventually("removal", () => cluster.timeline(0).localWalStartLsn > START);
  // What a kill leaves: nothing is written any more, and another process takes the directory over.
  const { tenantId, timelineId } = cluster;
  const copy = new SafekeeperCluster();
  t.after(() => copy.destroy());
  cpSync(cluster.workdir(0), copy.workdir(0), { recursive: true });
  const node = await copy.startNode(0);
  assert.equal(node.timelines.get(tenantId, timelineId).state.flushLsn, wal.endLsn);
  stream.close();
});

test("safekeeper and broker: what one pageserver stored counts at every safekeeper", async (t) => {
  const server = new BrokerServer({ logger });
  const { port } = await server.listen("127.0.0.1", 0);
  t.after(() => server.close());
  const cluster = await SafekeeperCluster.start(t, 3, { broker: `http://127.0.0.1:${port}` });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, BULK);
  const nodes = [0, 1, 2];
  await eventually("commit LSN", () =>
    nodes.every((i) => cluster.state(i).commitLsn === wal.endLsn),
  );
  const stream = await openReplication(
    { ...cluster.address(1), startLsn: wal.endLsn },
    { onWal() {}, onClose() {} },
  );
  const remoteConsistentLsn = wal.recordEnds[9]!;
  stream.sendPageserverFeedback({
    ...NO_PAGESERVER_FEEDBACK,
    lastReceivedLsn: wal.endLsn,
    diskConsistentLsn: remoteConsistentLsn,
    remoteConsistentLsn,
    replyTime: 5,
  });
  await eventually("removal everywhere", () =>
    nodes.every(
      (i) =>
        cluster.state(i).remoteConsistentLsn === remoteConsistentLsn &&
        readdirSync(cluster.timelineDirectory(i)).length <= 3,
    ),
  );
  stream.close();
});

test("safekeeper and broker: commits are told at once, over a restart of the broker too", async (t) => {
  inSteadyTime(t);
  let server = new BrokerServer({ logger });
  const port = await freePort();
  await server.listen("127.0.0.1", port);
  const url = `http://127.0.0.1:${port}`;
  const cluster = await SafekeeperCluster.start(t, 1, { broker: url });
  const client = new BrokerClient(url, logger);
  t.after(async () => {
    client.close();
    await server.close();
  });
  const infos: TimelineInfo[] = [];
  const { tenantId, timelineId } = cluster;
  client.subscribe({ timeline: { tenantId, timelineId }, onInfo: (info) => infos.push(info) });
  await eventually("first info", () => infos.length > 0);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [100]);
  await eventually("info of the commit", () => infos.at(-1)?.commitLsn === wal.endLsn, {
    timeoutMs: 900,
  });
  assert.equal(infos.at(-1)?.safekeeperConnstr, cluster.address(0).pgAddr);
  assert.equal(infos.at(-1)?.safekeeperId, 1);
  await server.close();
  server = new BrokerServer({ logger });
  await server.listen("127.0.0.1", port);
  await commit(leader, wal, [100]);
  await eventually("info after the restart", () => infos.at(-1)?.commitLsn === wal.endLsn);
  const answer = await fetch(`${url}/metrics`);
  assert.match(await answer.text(), /storage_broker_published_messages_total [1-9]/);
  assert.equal((await fetch(`${url}/status`)).status, 200);
  assert.equal((await fetch(`${url}/nothing`)).status, 404);
});

test("startSafekeeper: a port in use is a conflict that names it", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  const { pgAddr } = cluster.address(0);
  const start = (listenPg: string, listenHttp: string) =>
    startSafekeeper({
      nodeId: 2,
      workdir: join(cluster.directory, "other"),
      listenPg,
      listenHttp,
      broker: undefined,
      logger,
    });
  await assert.rejects(start("127.0.0.1:0", pgAddr), { code: "port-in-use" });
  await assert.rejects(start(pgAddr, "127.0.0.1:0"), { code: "port-in-use" });
  assert.equal(parseLsn(formatLsn(START)), START);
});
