import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { inSteadyTime } from "../../../simulation/simulated-time.ts";
import { eventually } from "../../../testing/eventually.ts";
import {
  commit,
  type Leader,
  readWal,
  SafekeeperCluster,
  SEGMENT,
  START,
  wholeWal,
} from "../../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { sleep } from "../../base/clock.ts";
import { generateTimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, segmentStart, walFileName } from "../../base/lsn.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { parseHostPort } from "../../postgres/wire/wire-client.ts";
import type { MembershipJson } from "../api.ts";
import { decodeControlFile, encodeControlFile } from "../control-file.ts";
import { snapshot } from "./snapshot.ts";
import { TAR_END, type TarEvent, TarReader, tarHeader, tarPadding } from "./tar.ts";

const BULK = Array.from({ length: 8 }, () => 300_000);

function membersOf(cluster: SafekeeperCluster, ...indexes: number[]) {
  return indexes.map((index) => {
    const { host, port } = parseHostPort(cluster.address(index).pgAddr);
    return { id: index + 1, host, pg_port: port };
  });
}

/** Three safekeepers that know of each other, with WAL. */
async function threeWithWal(t: TestContext) {
  const cluster = new SafekeeperCluster();
  t.after(() => cluster.destroy());
  for (const index of [0, 1, 2]) {
    await cluster.startNode(index);
  }
  for (const index of [0, 1, 2]) {
    const mconf = { generation: 1, members: membersOf(cluster, 0, 1, 2), new_members: null };
    await cluster.http(index).createTimeline({ ...cluster.createRequest(), mconf });
  }
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, BULK);
  await eventually("commit LSN", () =>
    [0, 1, 2].every((i) => cluster.state(i).commitLsn === wal.endLsn),
  );
  return { cluster, wal, leader };
}

function pull(cluster: SafekeeperCluster, index: number, hosts: readonly string[]) {
  return cluster.http(index).pullTimeline({
    tenant_id: cluster.tenantId,
    timeline_id: cluster.timelineId,
    http_hosts: [...hosts],
  });
}

/** The second generation, in which one that lost its disk may be filled. */
async function joint(cluster: SafekeeperCluster, ...indexes: number[]) {
  const members = membersOf(cluster, 0, 1, 2);
  const mconf = { generation: 2, members, new_members: members };
  for (const index of indexes) {
    await cluster.http(index).switchMembership(cluster.tenantId, cluster.timelineId, mconf);
  }
  return mconf;
}

async function loseDisk(cluster: SafekeeperCluster, index: number): Promise<void> {
  await cluster.stopNode(index);
  rmSync(cluster.workdir(index), { recursive: true });
  await cluster.startNode(index);
}

async function goesOn(cluster: SafekeeperCluster, leader: Leader, wal: WalBuilder, index: number) {
  await commit(leader, wal, [5000]);
  await eventually("catch-up", () => cluster.state(index).commitLsn === wal.endLsn);
  assert.ok((await readWal(cluster, index, START, wal.endLsn)).equals(wholeWal(wal)));
}

test("pull: a safekeeper that lost its disk comes back under load, and its vote then counts", async (t) => {
  const { cluster, wal, leader } = await threeWithWal(t);
  const hosts = [0, 1, 2].map((i) => cluster.httpAddr(i));
  await loseDisk(cluster, 2);
  await commit(leader, wal, BULK);
  await joint(cluster, 0, 1);
  const { safekeeper_host } = await pull(cluster, 2, hosts);
  assert.ok(hosts.slice(0, 2).includes(safekeeper_host!));
  assert.deepEqual(await pull(cluster, 2, hosts), { safekeeper_host: null });
  await goesOn(cluster, leader, wal, 2);
  assert.deepEqual(readdirSync(join(cluster.workdir(2), cluster.tenantId)), [cluster.timelineId]);
  // With one of the others it is a majority.
  leader.driver.close();
  await cluster.stopNode(0);
  const next = await cluster.lead();
  assert.equal(next.startLsn, wal.endLsn);
  await goesOn(cluster, next, wal, 2);
  // And it survives a restart.
  await cluster.stopNode(2);
  await cluster.startNode(2);
  assert.equal(cluster.state(2).flushLsn, wal.endLsn);
});

test("pull: not with one of two others away, who may have what this one acknowledged", async (t) => {
  const { cluster, wal, leader } = await threeWithWal(t);
  // Only 0 and 2 have the newest WAL.
  await cluster.stopNode(1);
  await commit(leader, wal, [1000]);
  leader.driver.close();
  await loseDisk(cluster, 2);
  await cluster.stopNode(0);
  await cluster.startNode(1);
  const hosts = [0, 1].map((i) => cluster.httpAddr(i));
  await joint(cluster, 1);
  await assert.rejects(pull(cluster, 2, hosts), { code: "too-few-safekeepers" });
  assert.equal(existsSync(cluster.timelineDirectory(2)), false);
  await cluster.startNode(0);
  // It answers now, but would still take what a leader of the older generation sends.
  await assert.rejects(pull(cluster, 2, hosts), {
    message: /1 other safekeepers are in generation 2, 2 are needed/,
  });
  await joint(cluster, 0);
  assert.deepEqual(await pull(cluster, 2, hosts), { safekeeper_host: hosts[0] });
  const next = await cluster.lead();
  assert.equal(next.startLsn, wal.endLsn);
});

test("pull: not in the generation in which the lost disk may have acknowledged WAL", async (t) => {
  const { cluster, wal } = await threeWithWal(t);
  const refused = { kind: "conflict", code: "filled-in-its-generation" };
  await loseDisk(cluster, 2);
  const hosts = [0, 1].map((i) => cluster.httpAddr(i));
  await assert.rejects(pull(cluster, 2, hosts), refused);
  const members = membersOf(cluster, 0, 1, 2);
  const fill = (mconf: MembershipJson) =>
    cluster.http(2).pullTimeline({
      tenant_id: cluster.tenantId,
      timeline_id: cluster.timelineId,
      http_hosts: hosts,
      mconf,
    });
  // A newer one, but nobody is in it: a leader of the first still counts what the disk told.
  await assert.rejects(fill({ generation: 2, members }), refused);
  await assert.rejects(fill({ generation: 2, members, new_members: members }), {
    code: "too-few-safekeepers",
  });
  await fill(await joint(cluster, 0, 1));
  assert.equal(cluster.state(2).flushLsn, wal.endLsn);
  assert.equal(cluster.state(2).persistent.mconf.generation, 2);
});

test("pull: not where the membership is unknown", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 3);
  await loseDisk(cluster, 2);
  const hosts = [0, 1].map((i) => cluster.httpAddr(i));
  await assert.rejects(pull(cluster, 2, hosts), { code: "filled-in-its-generation" });
});

test("pull: nobody can create the timeline meanwhile, nor pull it twice; one that is no member cannot", async (t) => {
  const { cluster } = await threeWithWal(t);
  await loseDisk(cluster, 2);
  const place = cluster.nodes[2]!.timelines.reserve(cluster.tenantId, cluster.timelineId);
  const create = () => cluster.http(2).createTimeline(cluster.createRequest());
  await assert.rejects(create(), { code: "timeline-incoming" });
  await assert.rejects(pull(cluster, 2, [cluster.httpAddr(0)]), { code: "timeline-incoming" });
  place.release();
  await cluster.startNode(3);
  const hosts = [0, 1].map((i) => cluster.httpAddr(i));
  await assert.rejects(pull(cluster, 3, hosts), { code: "not-a-member" });
  await assert.rejects(pull(cluster, 3, ["127.0.0.1:1"]), { kind: "unavailable" });
  const mconf = { generation: 2, members: membersOf(cluster, 0, 1, 2, 3) };
  await cluster.http(3).pullTimeline({
    tenant_id: cluster.tenantId,
    timeline_id: cluster.timelineId,
    http_hosts: hosts,
    mconf,
  });
  assert.equal(cluster.state(3).persistent.mconf.generation, 2);
});

test("pull: what a crash left half-way is thrown away at the start", async (t) => {
  const { cluster, wal } = await threeWithWal(t);
  const whole = cluster.timelineDirectory(1);
  await loseDisk(cluster, 2);
  await cluster.stopNode(2);
  mkdirSync(join(cluster.workdir(2), cluster.tenantId), { recursive: true });
  cpSync(whole, `${cluster.timelineDirectory(2)}.incoming`, { recursive: true });
  await cluster.startNode(2);
  assert.deepEqual(readdirSync(join(cluster.workdir(2), cluster.tenantId)), []);
  await joint(cluster, 0, 1);
  await pull(cluster, 2, [cluster.httpAddr(0), cluster.httpAddr(1)]);
  assert.equal(cluster.state(2).flushLsn, wal.endLsn);
});

test("pull: a hostile or broken snapshot leaves nothing, and no other timeline is touched", async (t) => {
  const { cluster, wal, leader } = await threeWithWal(t);
  // It would be elected again, and the others be ahead of what the liar says.
  leader.driver.close();
  await joint(cluster, 0, 1);
  const good = await fetch(
    `http://${cluster.httpAddr(0)}/v1/tenant/${cluster.tenantId}/timeline/${cluster.timelineId}/snapshot/3`,
  );
  const archive = Buffer.from(await good.arrayBuffer());
  const files: { name: string; bytes: Buffer }[] = [];
  for (const event of eventsOf(archive, 100_000)) {
    if (event.type === "begin") {
      files.push({ name: event.name, bytes: Buffer.alloc(0) });
    } else if (event.type === "data") {
      files.at(-1)!.bytes = Buffer.concat([files.at(-1)!.bytes, event.bytes]);
    }
  }
  assert.equal(files[0]!.name, "safekeeper.control");
  assert.equal(files.length, 4);
  await loseDisk(cluster, 2);
  const [control, first, second, third] = files as [File, File, File, File];
  const state = decodeControlFile(control.bytes);
  const other = {
    ...control,
    bytes: Buffer.from(encodeControlFile({ ...state, timelineId: generateTimelineId() })),
  };
  const flipped = { ...second, bytes: Buffer.from(second.bytes) };
  flipped.bytes[700_001]! ^= 1;
  // Nothing in it is wrong: a walk waits for the rest of the record.
  const endLsn = (wal.endLsn - 8) as Lsn;
  const unfinished = {
    ...control,
    bytes: Buffer.from(encodeControlFile({ ...state, flushedLsn: endLsn, commitLsn: START })),
  };
  const shorter = { ...third, bytes: Buffer.from(third.bytes).fill(0, endLsn % SEGMENT) };
  const longer = {
    ...control,
    bytes: Buffer.from(encodeControlFile({ ...state, flushedLsn: (wal.endLsn + 8) as Lsn })),
  };
  const bad: [string, Buffer][] = [
    ["empty", Buffer.alloc(0)],
    ["cut", archive.subarray(0, archive.length - 1500)],
    ["cut in the end mark", archive.subarray(0, archive.length - 10)],
    ["garbage", Buffer.alloc(100_000, "x")],
    ["no control file", tar(first, second, third)],
    ["another timeline's", tar(other, first, second, third)],
    ["a missing segment", tar(control, first, third)],
    ["the last segment missing", tar(control, first, second)],
    ["twice", tar(control, first, first, second, third)],
    [
      "one more",
      tar(control, first, second, third, { ...third, name: "000000010000000000000004" }),
    ],
    ["a damaged record", tar(control, first, flipped, third)],
    ["a last record that is not whole", tar(unfinished, first, second, shorter)],
    ["less WAL than it says", tar(longer, first, second, third)],
    ["a path", tar(control, { ...first, name: "../evil" }, second, third)],
    ["an absolute path", tar(control, { ...first, name: "/tmp/evil" }, second, third)],
    ["a short segment", tar(control, { ...first, bytes: first.bytes.subarray(0, 512) })],
    ["two control files", tar(control, control, first, second, third)],
    ["a huge control file", Buffer.from(tarHeader("safekeeper.control", 8 ** 10))],
    [
      "a damaged header",
      Buffer.concat([archive.subarray(0, 3), Buffer.from("!"), archive.subarray(4)]),
    ],
    ["something behind the end", Buffer.concat([archive, tar(third)])],
  ];
  const status = await cluster.http(0).timelineStatus(cluster.tenantId, cluster.timelineId);
  let answer: Buffer = archive;
  const liar = await listen(t, (request, response) => {
    if (request.url === "/v1/status") {
      response.end(JSON.stringify({ id: 1 }));
    } else if (request.url!.includes("/snapshot/")) {
      response.end(answer);
    } else {
      response.end(JSON.stringify({ ...status, flush_lsn: "FF/0" }));
    }
  });
  for (const [what, bytes] of bad) {
    answer = bytes;
    await assert.rejects(
      pull(cluster, 2, [liar, cluster.httpAddr(1)]),
      (error: { code: string }) => /^(bad-|corrupt-wal|wal-|record-)/.test(error.code),
      what,
    );
    const directory = join(cluster.workdir(2), cluster.tenantId);
    assert.deepEqual(existsSync(directory) ? readdirSync(directory) : [], [], what);
  }
  answer = archive;
  await pull(cluster, 2, [liar, cluster.httpAddr(1)]);
  assert.ok((await readWal(cluster, 2, START, wal.endLsn)).equals(wholeWal(wal)));
});

interface DebugDump {
  readonly timelines: readonly [
    {
      readonly memory: { readonly flush_lsn: string };
      readonly disk_content: { readonly files: readonly File[] };
      readonly control_file: { readonly acceptor_state: { readonly term_history: unknown[] } };
    },
  ];
}

interface File {
  readonly name: string;
  readonly bytes: Buffer;
}

function tar(...files: File[]): Buffer {
  const parts = files.flatMap(({ name, bytes }) => [
    tarHeader(name, bytes.length),
    bytes,
    tarPadding(bytes.length),
  ]);
  return Buffer.concat([...parts, TAR_END]);
}

function* eventsOf(archive: Buffer, chunkBytes: number): Generator<TarEvent> {
  const reader = new TarReader();
  for (let at = 0; at < archive.length; at += chunkBytes) {
    yield* reader.read(archive.subarray(at, at + chunkBytes));
  }
  reader.finish();
}

async function listen(t: TestContext, handler: RequestListener): Promise<string> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test("tar: an archive is read in chunks of any size", () => {
  const archive = tar({ name: "a", bytes: Buffer.from("hello\n") });
  for (const size of [1, 7, 511, 512, 513, 5000]) {
    const seen: unknown[] = [];
    for (const event of eventsOf(archive, size)) {
      if (event.type === "begin") {
        seen.push([event.name, event.sizeBytes]);
      } else if (event.type === "data") {
        seen.push(...event.bytes);
      } else {
        seen.push("end");
      }
    }
    assert.deepEqual(seen, [["a", 6], ...Buffer.from("hello\n"), "end"], `${size}`);
  }
});

test("digest, copy, checkpoint, debug dump: over local WAL and WAL that only the store has", async (t) => {
  const store = new MemoryObjectStore();
  const backup = { partialTimeoutMs: 1e9, evictAfterMs: 100 };
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const { tenantId, timelineId } = cluster;
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [...BULK, 100, 200, 300]);
  await eventually("commit LSN", () => cluster.state(0).commitLsn === wal.endLsn);
  const sha256 = (from: Lsn, to: Lsn) =>
    createHash("sha256").update(wal.read(from, to)).digest("hex");
  const http = cluster.http(0);
  const middle = wal.recordEnds[4]!;
  assert.equal(
    await http.digest(tenantId, timelineId, START, wal.endLsn),
    sha256(START, wal.endLsn),
  );
  leader.driver.close();
  await eventually("eviction", () => cluster.timeline(0).placement.evicted);
  assert.equal(await http.digest(tenantId, timelineId, START, middle), sha256(START, middle));
  for (const [from, to] of [
    [middle, START],
    [0 as Lsn, middle],
    [START, (wal.endLsn + 8) as Lsn],
  ] as const) {
    await assert.rejects(http.digest(tenantId, timelineId, from, to), { code: "bad-lsn-range" });
  }
  for (const end of [wal.recordEnds[1]!, middle, wal.recordEnds.at(-2)!, wal.endLsn]) {
    const target = generateTimelineId();
    const request = { target_timeline_id: target, until_lsn: formatLsn(end) };
    await http.copyTimeline(tenantId, timelineId, request);
    const copy = await http.timelineStatus(tenantId, target);
    assert.deepEqual([copy.flush_lsn, copy.commit_lsn], [formatLsn(end), formatLsn(end)]);
    assert.equal(await http.digest(tenantId, target, START, end), sha256(START, end));
    const segments = store.keys.filter(
      (key) => /\/[0-9A-F]{24}$/.test(key) && key.includes(target),
    );
    assert.equal(
      segments.length,
      (segmentStart((end - 1) as Lsn, SEGMENT) - segmentStart(START, SEGMENT)) / SEGMENT,
    );
    await assert.rejects(http.copyTimeline(tenantId, timelineId, request), {
      code: "timeline-exists",
    });
    assert.deepEqual(await http.deleteTimeline(tenantId, target), { dir_existed: true });
    await eventually("objects", () => !store.keys.some((key) => key.includes(target)));
  }
  for (const until_lsn of [
    formatLsn((middle + 8) as Lsn),
    "0/8",
    formatLsn((wal.endLsn + 8) as Lsn),
  ]) {
    const target = generateTimelineId();
    await assert.rejects(
      http.copyTimeline(tenantId, timelineId, { target_timeline_id: target, until_lsn }),
    );
    await assert.rejects(http.timelineStatus(tenantId, target), { kind: "not-found" });
  }
  const path = `http://${cluster.httpAddr(0)}/v1/tenant/${tenantId}/timeline/${timelineId}`;
  const headers = { "content-type": "application/json" };
  assert.equal((await fetch(`${path}/checkpoint`, { method: "POST", headers })).status, 200);
  const control = decodeControlFile(
    readFileSync(join(cluster.timelineDirectory(0), "safekeeper.control")),
  );
  assert.equal(control.commitLsn, wal.endLsn);
  const answer = await fetch(`http://${cluster.httpAddr(0)}/v1/debug_dump?dump_all=true`);
  const dump = (await answer.json()) as DebugDump;
  assert.equal(dump.timelines[0].memory.flush_lsn, formatLsn(wal.endLsn));
  assert.ok(
    dump.timelines[0].disk_content.files.some(({ name }: File) => name === "safekeeper.control"),
  );
  assert.equal(dump.timelines[0].control_file.acceptor_state.term_history.length, 1);
});

test("snapshot: of the record in the middle of which it begins, the half that is in the store counts too", async (t) => {
  const store = new MemoryObjectStore();
  const backup = { partialTimeoutMs: 1e9, evictAfterMs: 100 };
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [700_000, 500_000, 100]);
  await eventually("commit LSN", () => cluster.state(0).commitLsn === wal.endLsn);
  leader.driver.close();
  const timeline = cluster.timeline(0);
  await eventually("eviction", () => timeline.placement.evicted);
  t.after(timeline.hold());
  const readAll = async () => {
    for await (const _ of snapshot(timeline)) {
      // Only whether it comes to its end.
    }
  };
  await readAll();
  assert.equal(timeline.localWalStartLsn, 2 * SEGMENT);
  assert.ok(wal.recordEnds.every((end) => end !== timeline.localWalStartLsn));
  const path = join(cluster.timelineDirectory(0), walFileName(2, 1, SEGMENT));
  const bytes = readFileSync(path);
  bytes[1000]! ^= 1;
  writeFileSync(path, bytes);
  await assert.rejects(readAll(), { kind: "corrupt" });
});

test("delete: objects go with the timeline, over a restart too; only_local and exclude leave them", async (t) => {
  inSteadyTime(t);
  const store = new MemoryObjectStore();
  const settings = { store, backup: { partialTimeoutMs: 1e9, evictAfterMs: 1e9 } };
  const cluster = await SafekeeperCluster.start(t, 1, settings);
  const { tenantId, timelineId } = cluster;
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, BULK);
  await eventually("upload", () => store.keys.length === 2);
  leader.driver.close();
  const http = cluster.http(0);
  const exclude = async (generation: number, ids: number[]) => {
    const path = `http://${cluster.httpAddr(0)}/v1/tenant/${tenantId}/timeline/${timelineId}/exclude`;
    const mconf = { generation, members: ids.map((id) => ({ id, host: "h", pg_port: 1 })) };
    const headers = { "content-type": "application/json" };
    return (await fetch(path, { method: "PUT", headers, body: JSON.stringify({ mconf }) })).status;
  };
  assert.equal(await exclude(0, []), 409);
  assert.equal(await exclude(1, [1, 2]), 409);
  assert.equal(await exclude(1, [2]), 200);
  await assert.rejects(http.timelineStatus(tenantId, timelineId), { kind: "not-found" });
  assert.equal(store.keys.length, 2);
  await http.createTimeline(cluster.createRequest());
  assert.deepEqual(await http.deleteTimeline(tenantId, timelineId, true), { dir_existed: true });
  await sleep(700);
  assert.equal(store.keys.length, 2);
  await http.createTimeline(cluster.createRequest());
  assert.deepEqual(await http.deleteTimeline(tenantId, timelineId), { dir_existed: true });
  // Until its objects are gone a new timeline of that name would lose its own.
  await assert.rejects(http.createTimeline(cluster.createRequest()), { code: "timeline-deleting" });
  await cluster.stopNode(0);
  assert.equal(store.keys.length, 2, "stopped before it began");
  await cluster.startNode(0);
  await eventually("objects", () => store.keys.length === 0);
  await eventually("directory", () => readdirSync(join(cluster.workdir(0), tenantId)).length === 0);
  await http.createTimeline(cluster.createRequest());
});
