import assert from "node:assert/strict";
import { closeSync, openSync, readdirSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import {
  commit,
  readWal,
  SafekeeperCluster,
  SEGMENT,
  START,
  wholeWal,
} from "../../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { generateTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { type Lsn, segmentNumber, segmentStart, walFileName } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { FaultyObjectStore } from "../../object-store/faulty-object-store.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { readObject } from "../../object-store/object-store.ts";
import { carryOut } from "../../object-store/store-steps.ts";
import { NO_PAGESERVER_FEEDBACK } from "../../safekeeper-protocol/pageserver-feedback.ts";
import { BrokerServer } from "../../storage-broker/server.ts";
import { decodeStoredHead, decodeStoredSegment } from "../../wal-decoder/stored-segment.ts";
import { openReplication } from "../client.ts";
import { parsePartialSegmentName, StoredWal } from "./stored-wal.ts";
import type { WalBackupSettings } from "./timeline-backup.ts";

const NEVER: WalBackupSettings = { partialTimeoutMs: 1e9, evictAfterMs: 1e9 };
const BULK = Array.from({ length: 12 }, () => 300_000);
const isPartial = (key: string) => key.endsWith(".partial");

async function startBroker(context: TestContext): Promise<string> {
  const server = new BrokerServer({ logger: createLogger("test", "silent") });
  const { port } = await server.listen("127.0.0.1", 0);
  context.after(() => server.close());
  return `http://127.0.0.1:${port}`;
}

/** A pageserver that has stored WAL up to `lsn` tells so, and goes. */
async function stored(cluster: SafekeeperCluster, index: number, lsn: Lsn): Promise<void> {
  await eventually("commit LSN", () => cluster.state(index).commitLsn >= lsn);
  const stream = await openReplication(
    { ...cluster.address(index), startLsn: cluster.state(index).commitLsn },
    { onWal() {}, onClose() {} },
  );
  stream.sendPageserverFeedback({ ...NO_PAGESERVER_FEEDBACK, remoteConsistentLsn: lsn });
  await eventually("feedback", () => cluster.state(index).remoteConsistentLsn >= lsn);
  stream.close();
}

/** Bytes of the segments in the store, each as it must be. */
async function checkSegments(store: MemoryObjectStore, wal: WalBuilder, end: Lsn): Promise<void> {
  for (
    let start = segmentStart(START, SEGMENT);
    start + SEGMENT <= end;
    start = (start + SEGMENT) as Lsn
  ) {
    const name = walFileName(segmentNumber(start, SEGMENT), 1, SEGMENT);
    const key = store.keys.find((candidate) => candidate.endsWith(`/${name}`));
    assert.ok(key !== undefined, `no object ${name} among ${store.keys.join(" ")}`);
    const expected = Buffer.alloc(SEGMENT);
    const from = Math.max(start, START) as Lsn;
    expected.set(wal.read(from, (start + SEGMENT) as Lsn), from - start);
    assert.ok(expected.equals(decodeStoredSegment(await readObject(store, key), name)), name);
  }
}

test("backup: one safekeeper uploads each segment, all learn of it, local WAL goes and is read from the store", async (t) => {
  const store = new MemoryObjectStore(new SeededRandom(1));
  const calls = new FaultyObjectStore(store, new SeededRandom(1));
  const broker = await startBroker(t);
  const cluster = await SafekeeperCluster.start(t, 3, { broker, store: calls, backup: NEVER });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  const nodes = [0, 1, 2];
  await eventually("peers", () => nodes.every((i) => cluster.timeline(i).peers.size === 2));
  await commit(leader, wal, BULK);
  const end = segmentStart(wal.endLsn, SEGMENT);
  await eventually("upload", () =>
    nodes.every((i) => cluster.state(i).persistent.backupLsn === end),
  );
  await checkSegments(store, wal, end);
  const segments = (end - segmentStart(START, SEGMENT)) / SEGMENT;
  assert.equal(store.keys.length, segments);
  // One put, and the two others look whether it is there.
  assert.equal(calls.calls, 3 * segments, "somebody uploaded twice");
  // Nothing goes before the pageserver has it.
  cluster.timeline(0).maintain();
  assert.equal(cluster.timeline(0).localWalStartLsn, START);
  await stored(cluster, 1, wal.endLsn);
  await commit(leader, wal, [40]);
  await eventually("removal", () =>
    nodes.every((i) => cluster.timeline(i).localWalStartLsn === end),
  );
  for (const i of nodes) {
    assert.ok((await readWal(cluster, i, START, wal.endLsn)).equals(wholeWal(wal)));
  }
  // Over a restart too.
  leader.driver.close();
  await cluster.stopNode(2);
  await cluster.startNode(2);
  const middle = wal.recordEnds[3]!;
  assert.ok(
    (await readWal(cluster, 2, middle, wal.endLsn)).equals(
      Buffer.from(wal.read(middle, wal.endLsn)),
    ),
  );
  const status = await cluster.http(2).timelineStatus(cluster.tenantId, cluster.timelineId);
  assert.equal(status.wal_backup?.state, "idle");
  assert.equal(status.wal_backup?.lag_bytes, wal.endLsn - end);
  await eventually("peers", async () => {
    const { peers } = await cluster.http(2).timelineStatus(cluster.tenantId, cluster.timelineId);
    return peers.length === 2;
  });
});

test("backup: without the store commits go on and no WAL is removed; errors are seen, and made up for", async (t) => {
  const inner = new MemoryObjectStore();
  const store = new FaultyObjectStore(inner, new SeededRandom(2));
  store.down = true;
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup: NEVER });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, BULK);
  await stored(cluster, 0, wal.endLsn);
  const status = () => cluster.http(0).timelineStatus(cluster.tenantId, cluster.timelineId);
  await eventually("failure", async () => (await status()).wal_backup?.state === "failing");
  assert.match((await status()).wal_backup!.last_error!, /service unavailable/);
  const metrics = await (await fetch(`http://${cluster.httpAddr(0)}/metrics`)).text();
  assert.match(metrics, /safekeeper_backup_errors_total [1-9]/);
  await commit(leader, wal, [40]);
  assert.equal(cluster.timeline(0).localWalStartLsn, START);
  // One call in five fails, and of the others one in five seems to.
  store.down = false;
  store.rates = { error: 0.2, lostReply: 0.2, partialRead: 0.2, delay: 0.5 };
  const end = segmentStart(wal.endLsn, SEGMENT);
  await eventually("upload", () => cluster.state(0).persistent.backupLsn === end);
  store.rates = {};
  await checkSegments(inner, wal, end);
  await eventually("removal", () => cluster.timeline(0).localWalStartLsn === end);
  await eventually("no error", async () => (await status()).wal_backup?.last_error === null);
  store.rates = { partialRead: 1 };
  await assert
    .rejects(readWal(cluster, 0, START, wal.endLsn).then((bytes) => assert.equal(bytes.length, 0)))
    .catch(() => undefined);
  store.rates = {};
  assert.ok((await readWal(cluster, 0, START, wal.endLsn)).equals(wholeWal(wal)));
});

test("backup: a damaged segment is not uploaded, another safekeeper's is", async (t) => {
  const store = new MemoryObjectStore();
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup: NEVER });
  await cluster.stopNode(0);
  // Written without a store, so that it can be damaged before it is looked at.
  await cluster.startNode(0, {});
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, BULK);
  await eventually("commit LSN", () => cluster.state(0).commitLsn === wal.endLsn);
  leader.driver.close();
  await cluster.stopNode(0);
  const segno = segmentNumber(START, SEGMENT) + 1;
  const path = join(cluster.timelineDirectory(0), walFileName(segno, 1, SEGMENT));
  const fd = openSync(path, "r+");
  writeSync(fd, Buffer.from("rot"), 0, 3, 500_000);
  closeSync(fd);
  await cluster.startNode(0);
  const status = () => cluster.http(0).timelineStatus(cluster.tenantId, cluster.timelineId);
  await eventually("failure", async () => (await status()).wal_backup?.state === "failing");
  assert.match((await status()).wal_backup!.last_error!, /checksum/);
  assert.equal(cluster.state(0).persistent.backupLsn, (segno * SEGMENT) as Lsn);
  assert.equal(store.keys.length, 1);
});

test("backup: an object that differs from the committed WAL is never replaced, nor trusted", async (t) => {
  const store = new MemoryObjectStore();
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup: NEVER });
  const key = cluster.timeline(0).storedWal!.segmentKey(segmentNumber(START, SEGMENT));
  await store.put(key, Buffer.from("something else"));
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, BULK);
  const status = () => cluster.http(0).timelineStatus(cluster.tenantId, cluster.timelineId);
  await eventually("failure", async () => (await status()).wal_backup?.state === "failing");
  assert.match((await status()).wal_backup!.last_error!, /other content/);
  assert.equal(Buffer.from(await readObject(store, key)).toString(), "something else");
  assert.equal(cluster.state(0).persistent.backupLsn, START);
});

test("backup: a peer's word for an object of another size is not taken", async (t) => {
  const store = new MemoryObjectStore();
  const cluster = await SafekeeperCluster.start(t, 1, { backup: NEVER, store });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const segment = segmentStart(START, SEGMENT);
  const key = cluster.timeline(0).storedWal!.segmentKey(segmentNumber(START, SEGMENT));
  await store.put(key, new Uint8Array(SEGMENT - 1));
  const positions = { flushLsn: START, commitLsn: START, remoteConsistentLsn: START };
  const backupLsn = (segment + SEGMENT) as Lsn;
  cluster.timeline(0).peerReported(2, {
    generation: 0,
    term: 0,
    lastLogTerm: 0,
    ...positions,
    backupLsn,
  });
  await commit(await cluster.lead(), wal, BULK);
  const status = () => cluster.http(0).timelineStatus(cluster.tenantId, cluster.timelineId);
  await eventually("failure", async () => (await status()).wal_backup?.state === "failing");
  assert.match((await status()).wal_backup!.last_error!, /has 1048575 bytes/);
  assert.equal(cluster.state(0).persistent.backupLsn, START);
});

test("backup: safekeepers that know nothing of each other all upload, and none does harm", async (t) => {
  const store = new MemoryObjectStore(new SeededRandom(5));
  const calls = new FaultyObjectStore(store, new SeededRandom(5), { lostReply: 0.2, delay: 0.5 });
  // No broker: each takes itself for the only candidate.
  const cluster = await SafekeeperCluster.start(t, 3, { store: calls, backup: NEVER });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  await commit(await cluster.lead(), wal, BULK);
  const end = segmentStart(wal.endLsn, SEGMENT);
  const nodes = [0, 1, 2];
  await eventually("upload", () =>
    nodes.every((i) => cluster.state(i).persistent.backupLsn === end),
  );
  await checkSegments(store, wal, end);
  assert.equal(store.keys.length, (end - segmentStart(START, SEGMENT)) / SEGMENT);
  await eventually("no failure", async () => {
    const all = nodes.map((i) =>
      cluster.http(i).timelineStatus(cluster.tenantId, cluster.timelineId),
    );
    return (await Promise.all(all)).every(({ wal_backup }) => wal_backup?.state === "idle");
  });
});

test("backup: objects of a release before are found equal, read, and come back to the disk", async (t) => {
  const store = new MemoryObjectStore();
  const backup = new EvictionSwitch();
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  for (const length of BULK) {
    wal.appendFilled(length);
  }
  const end = segmentStart(wal.endLsn, SEGMENT);
  const segment = segmentStart(START, SEGMENT);
  const before = Buffer.concat([new Uint8Array(START - segment), wholeWal(wal)]);
  const stored = cluster.timeline(0).storedWal!;
  for (let at = 0; at < end - segment; at += SEGMENT) {
    const key = stored.segmentKey(segmentNumber((segment + at) as Lsn, SEGMENT));
    await store.put(key, before.subarray(at, at + SEGMENT));
  }
  const leader = await cluster.lead();
  await commit(leader, wal, []);
  await eventually("upload", () => cluster.state(0).persistent.backupLsn === end);
  leader.driver.close();
  await backup.on();
  await eventually("eviction", () => cluster.timeline(0).placement.evicted);
  backup.off();
  await cluster.stopNode(0);
  for (const key of store.keys) {
    const object = await readObject(store, key);
    assert.equal(decodeStoredHead(object, key) === undefined, !isPartial(key), "it was replaced");
    await store.put(key, decodeStoredSegment(object, key));
  }
  await cluster.startNode(0);
  assert.ok((await readWal(cluster, 0, START, wal.endLsn)).equals(wholeWal(wal)));
});

test("backup: only what is the timeline's own goes into the store, and no byte of it may be wrong", async (t) => {
  const store = new MemoryObjectStore();
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup: NEVER });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  await commit(await cluster.lead(), wal, BULK);
  const end = segmentStart(wal.endLsn, SEGMENT);
  await eventually("upload", () => cluster.state(0).persistent.backupLsn === end);
  const stored = cluster.timeline(0).storedWal!;
  const key = stored.segmentKey(segmentNumber(START, SEGMENT));
  const object = await readObject(store, key);
  const segment = segmentStart(START, SEGMENT);
  assert.equal(decodeStoredHead(object, key)?.begin, START - segment);
  const isZero = (bytes: Uint8Array) => bytes.every((byte) => byte === 0);
  assert.ok(isZero(await stored.read(segment, START - segment)));
  const middle = (START + 300_001) as Lsn;
  const right = wal.read(middle, (middle + 5000) as Lsn);
  assert.deepEqual(Buffer.from(await stored.read(middle, 5000)), Buffer.from(right));
  // One that has read nothing yet.
  const fresh = () => new StoredWal(store, cluster.tenantId, cluster.timelineId, SEGMENT);
  for (const at of [0, 9, 20, 28, 45, object.length - 1]) {
    const damaged = Buffer.from(object);
    damaged[at]! ^= 1;
    await store.put(key, damaged);
    await assert.rejects(fresh().read(segment, SEGMENT), { code: /^stored-wal-/ }, `byte ${at}`);
  }
  // That of another segment, and one that is not whole.
  await store.put(
    key,
    await readObject(store, stored.segmentKey(segmentNumber(START, SEGMENT) + 1)),
  );
  const elsewhere = { kind: "corrupt", code: "stored-wal-elsewhere" };
  await assert.rejects(fresh().read(middle, 5000), elsewhere);
  await assert.rejects(fresh().check(middle), elsewhere);
  const bytes = decodeStoredSegment(object, key).subarray(0, SEGMENT - 8);
  await store.put(
    key,
    await carryOut(stored.encode(segment, bytes, START), store, () => undefined),
  );
  const short = { kind: "corrupt", code: "stored-wal-short" };
  await assert.rejects(fresh().check(middle), short);
  await assert.rejects(fresh().read(segment, SEGMENT), short);
  assert.deepEqual(Buffer.from(await fresh().read(middle, 5000)), Buffer.from(right));
  // What was known of an object that failed is not relied upon.
  await store.put(key, object);
  await stored.check(middle);
  await store.put(key, decodeStoredSegment(object, key));
  await assert.rejects(stored.read(middle, 5000), { kind: "corrupt" });
  assert.deepEqual(Buffer.from(await stored.read(middle, 5000)), Buffer.from(right));
});

/** Puts and gets wait as long as it is closed. */
class GatedStore extends MemoryObjectStore {
  readonly puts: string[] = [];
  waiting = 0;
  gate = Promise.withResolvers<void>();

  override async put(...args: Parameters<MemoryObjectStore["put"]>): Promise<void> {
    this.waiting++;
    await this.gate.promise;
    this.waiting--;
    await super.put(...args);
    this.puts.push(args[0]);
  }

  override async get(...args: Parameters<MemoryObjectStore["get"]>) {
    const { signal } = args[1] ?? {};
    const aborted = new Promise<never>((_, reject) =>
      signal?.addEventListener("abort", () => reject(signal.reason)),
    );
    await Promise.race([this.gate.promise, aborted]);
    return super.get(...args);
  }
}

test("backup: timelines take turns, however much WAL one of them has", async (t) => {
  const store = new GatedStore();
  const cluster = await SafekeeperCluster.start(t, 1, { backup: NEVER, store });
  const others = [generateTimelineId(), generateTimelineId()];
  for (const timeline_id of others) {
    await cluster.http(0).createTimeline({ ...cluster.createRequest(), timeline_id });
  }
  const ids = [cluster.timelineId, ...others];
  for (const [i, id] of ids.entries()) {
    const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
    await commit(await cluster.lead(id), wal, i < 2 ? [...BULK, ...BULK] : BULK.slice(0, 4));
    // The first two have begun, and wait for the store; the third one is in line.
    await eventually("its turn is asked for", async () => {
      const { wal_backup } = await cluster.http(0).timelineStatus(cluster.tenantId, id);
      return wal_backup?.state === "uploading" && store.waiting === Math.min(i + 1, 2);
    });
  }
  store.gate.resolve();
  await eventually("uploads", () => store.puts.length >= 13);
  const turn = store.puts.findIndex((key) => key.includes(`/${ids[2]}/`));
  assert.ok(turn >= 0 && turn < 5, `the third one came after ${turn} others`);
});

test("eviction: a store that does not answer keeps no safekeeper from stopping", async (t) => {
  const store = new GatedStore();
  store.gate.resolve();
  const backup = { partialTimeoutMs: 1e9, evictAfterMs: 200 };
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const first = await cluster.lead();
  await commit(first, wal, [100]);
  first.driver.close();
  await eventually("eviction", () => cluster.timeline(0).placement.evicted);
  store.gate = Promise.withResolvers();
  const waking = cluster.timeline(0).wake();
  waking.catch(() => undefined);
  await cluster.stopNode(0);
  await assert.rejects(waking, { code: "timeline-closed" });
});

test("backup: the partial segment follows the log, and one only is left, over crashes too", async (t) => {
  const store = new MemoryObjectStore();
  const backup = { partialTimeoutMs: 0, evictAfterMs: 1e9 };
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const partials = () => store.keys.filter(isPartial);
  const parsed = () => parsePartialSegmentName(partials()[0]!.split("/").at(-1)!, SEGMENT);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead();
  await commit(leader, wal, [100, 5000]);
  await eventually("partial", () => cluster.timeline(0).partialIsCurrent);
  assert.equal(parsed()?.flushLsn, wal.endLsn);
  const object = await readObject(store, partials()[0]!);
  const bytes = Buffer.from(decodeStoredSegment(object, "partial"));
  assert.ok(bytes.subarray(START - segmentStart(START, SEGMENT)).equals(wholeWal(wal)));
  // What a crash leaves: an upload that the control file does not know of.
  const orphan = partials()[0]!.replace(/_[0-9A-F]{16}_/, "_0000000000100A00_");
  const foreign = partials()[0]!.replace(/_sk1\./, "_sk9.");
  await store.put(orphan, Buffer.from("x"));
  await store.put(foreign, Buffer.from("x"));
  await cluster.stopNode(0);
  await cluster.startNode(0);
  await eventually("connection", () => leader.driver.pageserverLsn >= 0);
  await commit(leader, wal, [100]);
  await eventually("newer partial", () => cluster.timeline(0).partialIsCurrent);
  await eventually("orphan", () => partials().length === 2);
  assert.ok(store.keys.includes(foreign));
  // A whole segment makes it unnecessary; the next one begins.
  await commit(leader, wal, BULK);
  await eventually("next partial", () => cluster.timeline(0).partialIsCurrent);
  await eventually("one partial", () => partials().filter((key) => key !== foreign).length === 1);
  assert.equal(cluster.timeline(0).placement.partial?.segno, segmentNumber(wal.endLsn, SEGMENT));
});

/** Evicts what is idle when it is on, however busy the machine is. */
class EvictionSwitch implements WalBackupSettings {
  readonly partialTimeoutMs = 1e9;
  #afterMs = 1e9;
  #looks = 0;

  get evictAfterMs(): number {
    this.#looks++;
    return this.#afterMs;
  }

  /** Resolves when the safekeeper has looked at it many times. */
  async on(): Promise<void> {
    this.#afterMs = 0;
    const from = this.#looks;
    await eventually("maintenance", () => this.#looks > from + 10);
  }

  off(): void {
    this.#afterMs = 1e9;
  }
}

test("eviction: an idle timeline leaves the disk, and is back with the first reader or writer", async (t) => {
  const store = new MemoryObjectStore();
  const backup = new EvictionSwitch();
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const first = await cluster.lead();
  await commit(first, wal, [...BULK, 77]);
  await backup.on();
  assert.equal(cluster.timeline(0).placement.evicted, false, "evicted under its proposer");
  first.driver.close();
  const files = () => readdirSync(cluster.timelineDirectory(0)).sort();
  const evicted = () => eventually("eviction", () => cluster.timeline(0).placement.evicted);
  await evicted();
  assert.deepEqual(files(), ["safekeeper.control"]);
  // A restart neither brings it back nor minds that there is no WAL.
  await cluster.stopNode(0);
  await cluster.startNode(0);
  assert.equal(cluster.timeline(0).placement.evicted, true);
  assert.equal(cluster.state(0).flushLsn, wal.endLsn);
  backup.off();
  assert.ok((await readWal(cluster, 0, START, wal.endLsn)).equals(wholeWal(wal)));
  assert.equal(files().length, 2);
  await backup.on();
  await evicted();
  const second = await cluster.lead();
  assert.equal(second.startLsn, wal.endLsn);
  await commit(second, wal, [...BULK, 50]);
  await eventually("commit LSN", () => cluster.state(0).commitLsn === wal.endLsn);
  second.driver.close();
  await evicted();
  const status = await cluster.http(0).timelineStatus(cluster.tenantId, cluster.timelineId);
  assert.equal(status.eviction_state, "offloaded");
  assert.ok((await readWal(cluster, 0, START, wal.endLsn)).equals(wholeWal(wal)));
});

test("eviction: a store that fails keeps the timeline asleep, not wrong", async (t) => {
  const inner = new MemoryObjectStore();
  const store = new FaultyObjectStore(inner, new SeededRandom(3));
  const backup = { partialTimeoutMs: 1e9, evictAfterMs: 200 };
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const first = await cluster.lead();
  await commit(first, wal, [100, 200]);
  first.driver.close();
  await eventually("eviction", () => cluster.timeline(0).placement.evicted);
  store.down = true;
  await assert.rejects(readWal(cluster, 0, START, wal.endLsn), /service unavailable/);
  store.down = false;
  const [key] = inner.keys;
  const whole = await readObject(inner, key!);
  const damaged = Buffer.from(whole);
  damaged[damaged.length - 10]! ^= 1;
  for (const wrong of [damaged, whole.subarray(0, -8), new Uint8Array(0)]) {
    await inner.put(key!, wrong);
    await assert.rejects(cluster.timeline(0).wake());
    assert.equal(cluster.timeline(0).placement.evicted, true);
  }
  await inner.put(key!, whole);
  assert.ok((await readWal(cluster, 0, START, wal.endLsn)).equals(wholeWal(wal)));
});

test("removal: a safekeeper that was away gets from the store what the others no longer have", async (t) => {
  const store = new MemoryObjectStore();
  const backup = { partialTimeoutMs: 1e9, evictAfterMs: 300 };
  const cluster = await SafekeeperCluster.start(t, 3, { store, backup });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const first = await cluster.lead();
  await commit(first, wal, [100]);
  await cluster.stopNode(2);
  await commit(first, wal, BULK);
  await eventually("commit LSN", () =>
    [0, 1].every((i) => cluster.state(i).commitLsn === wal.endLsn),
  );
  first.driver.close();
  await eventually("eviction", () => [0, 1].every((i) => cluster.timeline(i).placement.evicted));
  await cluster.startNode(2);
  const second = await cluster.lead();
  await commit(second, wal, [50]);
  await eventually("recovery", () => cluster.state(2).commitLsn === wal.endLsn);
  assert.ok(cluster.timeline(0).localWalStartLsn > START);
  assert.equal(cluster.timeline(2).localWalStartLsn, START);
  assert.ok((await readWal(cluster, 2, START, wal.endLsn)).equals(wholeWal(wal)));
});
