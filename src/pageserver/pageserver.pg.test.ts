// A whole pageserver in this process, fed with a stock cluster's WAL by a stand-in for a safekeeper.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { prepareMixedWorkload, runMixedWorkload } from "../../testing/mixed-workload.ts";
import { recoverStock } from "../../testing/redo/stock-recovery.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";
import { sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import {
  generateTenantId,
  generateTimelineId,
  type TenantId,
  type TimelineId,
} from "../base/ids.ts";
import { createLogger } from "../base/log.ts";
import {
  formatLsn,
  type Lsn,
  MAX_LSN,
  parseLsn,
  segmentNumber,
  WAL_SEGMENT_SIZE,
  walFileName,
} from "../base/lsn.ts";
import { decodeControlFile } from "../postgres/control-file.ts";
import { WireServer } from "../postgres/wire/wire-server.ts";
import type { RelationFork } from "../wal-decoder/record-sink.ts";
import { type ComparedPages, compareRelationFiles } from "../wal-verify/directory-comparison.ts";
import {
  computeState,
  hasRelationsFrom,
  listRelations,
  PageserverHttpClient,
  PagestreamClient,
} from "./client.ts";
import { writeTemplate } from "./ingest/initdb-import.ts";
import { LAYER_KIND_IMAGE, parseLayerFileName } from "./layers/layer-format.ts";
import { Pageserver } from "./pageserver.ts";

const logger = createLogger("test");
// A stop of ingest is logged as an error, and is what one test is about.
logger.level = "fatal";

/** Serves WAL files up to `end` as a safekeeper does, to any number of connections. */
class FakeSafekeeper {
  readonly #server: WireServer;
  readonly #walDir: string;
  readonly #segments = new Map<string, Buffer>();
  end: Lsn;
  /** Flips bits of the byte at this LSN. */
  corruptAt: Lsn | undefined;
  pgAddr = "";

  constructor(walDir: string, end: Lsn) {
    this.#walDir = walDir;
    this.end = end;
    this.#server = new WireServer({
      logger,
      onQuery: async (session, sql) => {
        const lsn = parseLsn(/^START_REPLICATION PHYSICAL (\S+)$/.exec(sql)?.[1] ?? "");
        assert.ok(lsn !== undefined, sql);
        let next = lsn;
        const channel = session.copyBoth();
        let open = true;
        channel.onClose(() => {
          open = false;
        });
        channel.onData(() => {});
        void (async () => {
          while (open) {
            const size = Math.min(
              this.end - next,
              100_000,
              WAL_SEGMENT_SIZE - (next % WAL_SEGMENT_SIZE),
            );
            if (size > 0) {
              channel.send(this.#message(next, size));
              next = (next + size) as Lsn;
              await channel.drained();
            } else {
              await sleep(1);
            }
          }
        })();
      },
    });
  }

  #message(lsn: Lsn, size: number): Uint8Array {
    const name = walFileName(segmentNumber(lsn));
    let segment = this.#segments.get(name);
    if (segment === undefined) {
      segment = readFileSync(join(this.#walDir, name));
      this.#segments.set(name, segment);
    }
    const offset = lsn % WAL_SEGMENT_SIZE;
    const message = Buffer.alloc(25 + size);
    message[0] = "w".charCodeAt(0);
    message.writeBigUInt64BE(BigInt(lsn), 1);
    message.writeBigUInt64BE(BigInt(this.end), 9);
    message.set(segment.subarray(offset, offset + size), 25);
    if (this.corruptAt !== undefined && this.corruptAt >= lsn && this.corruptAt < lsn + size) {
      message[25 + this.corruptAt - lsn]! ^= 0x55;
    }
    return message;
  }

  async listen(): Promise<void> {
    const { port } = await this.#server.listen("127.0.0.1", 0);
    this.pgAddr = `127.0.0.1:${port}`;
  }

  close(): Promise<void> {
    return this.#server.close();
  }
}

let scratch: string;
let cluster: StockCluster;
let baseDir: string;
let endLsn: Lsn;
let middleLsn: Lsn;
let safekeeper: FakeSafekeeper;
let pageserver: Pageserver;
let http: PageserverHttpClient;
let pgAddr: string;
interface Ids {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
}

const root: Ids = { tenantId: generateTenantId(), timelineId: generateTimelineId() };

/** Where WAL is on its way it comes, however long that takes on a machine that others use too. */
const PATIENT_MS = 60_000;

function startPageserver(waitLsnTimeoutMs = PATIENT_MS): Promise<Pageserver> {
  return Pageserver.start({
    id: 1,
    workdir: join(scratch, "ps"),
    listenPg: "127.0.0.1:0",
    listenHttp: "127.0.0.1:0",
    logger,
    // Compactions all the time: what stock recovery makes is compared with what they leave.
    storage: {
      checkpointDistanceBytes: 4 << 20,
      minCompactionBytes: 1 << 20,
      levelAfterLayers: 3,
      imageRatio: 0.1,
    },
    upkeep: { compactionPeriodMs: 50 },
    waitLsnTimeoutMs,
    ancestorWaitMs: 200,
  });
}

async function openPageserver(waitLsnTimeoutMs?: number): Promise<void> {
  pageserver = await startPageserver(waitLsnTimeoutMs);
  pgAddr = `127.0.0.1:${pageserver.pgPort}`;
  http = new PageserverHttpClient(`127.0.0.1:${pageserver.httpPort}`);
}

/** What the broker would say. */
function announce(ids: Ids, commitLsn: Lsn, safekeeperId = 1): void {
  pageserver.receivers.update(ids.tenantId, ids.timelineId, {
    safekeeperId,
    pgAddr: safekeeper.pgAddr,
    commitLsn,
    remoteConsistentLsn: commitLsn,
  });
}

/** A root timeline in the pageserver with the content and system identifier of the cluster's base. */
async function importBase(ids: Ids): Promise<void> {
  const directory = join(scratch, `template-${ids.timelineId}`);
  mkdirSync(directory);
  const template = await writeTemplate(baseDir, 17, directory);
  const control = readControl(baseDir);
  const tenant = await pageserver.tenants.createTenant(ids.tenantId);
  const timeline = await tenant.createRoot({
    timelineId: ids.timelineId,
    pgVersion: 17,
    dataChecksums: false,
    systemId: control.systemId,
    walSegmentSize: control.segmentSize,
    startLsn: template.lsn,
    prevRecordLsn: template.prevRecordLsn,
    layerPaths: [
      { path: join(directory, template.layer.fileName), sizeBytes: template.layer.sizeBytes },
    ],
  });
  pageserver.receivers.start(timeline);
}

function readControl(directory: string) {
  return decodeControlFile(readFileSync(join(directory, "global/pg_control")), 17);
}

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "strata-ps-"));
  mkdirSync(join(scratch, "ps"));
  cluster = await StockCluster.create({ settings: { full_page_writes: "off" } });
  await cluster.start();
  await prepareMixedWorkload(await cluster.connect());
  await cluster.stop();
  baseDir = cluster.copyData("base");
  await cluster.start();
  await runMixedWorkload(cluster, { scale: 0.2, seed: 3 });
  const client = await cluster.connect();
  const answer = await client.query<{ lsn: string }>("SELECT pg_current_wal_lsn()::text AS lsn");
  middleLsn = parseLsn(answer.rows[0]!.lsn)!;
  await client.query("UPDATE accounts SET balance = balance + 1");
  await client.query("CREATE TABLE later AS SELECT g FROM generate_series(1, 1000) g");
  await cluster.stop();
  // The shutdown checkpoint is the last record; it starts here.
  endLsn = readControl(cluster.dataDir).checkPointLsn;
  safekeeper = new FakeSafekeeper(join(cluster.dataDir, "pg_wal"), endLsn);
  await safekeeper.listen();
  await openPageserver();
  await importBase(root);
});

after(async () => {
  await pageserver.close({ flush: false });
  await safekeeper.close();
  await cluster.destroy();
  await rm(scratch, { recursive: true, force: true });
});

function remoteSource(client: PagestreamClient, ids: Ids, lsn: Lsn): ComparedPages {
  const notFound = (error: unknown) => {
    if (error instanceof StorageError && error.kind === "not-found") {
      return undefined;
    }
    throw error;
  };
  return {
    blocks: (rel) => client.relSize(rel, lsn).catch(notFound),
    readPage: (rel, blkno) => client.getPage(rel, blkno, lsn),
    forks: () => forksByLsn.get(`${ids.timelineId} ${lsn}`) ?? [],
  };
}

const forksByLsn = new Map<string, RelationFork[]>();

async function compareWithRecovery(ids: Ids, lsn: Lsn): Promise<void> {
  const outDir = join(cluster.workdir, `out-${ids.timelineId}-${lsn}`);
  await recoverStock({ baseDir, walDir: join(cluster.dataDir, "pg_wal"), targetLsn: lsn, outDir });
  const state = await computeState(pgAddr, ids, lsn);
  const forks: RelationFork[] = [];
  for (const { spcOid, dbOid } of [...state.databases, { spcOid: 1664, dbOid: 0 }]) {
    const relations = await listRelations(pgAddr, ids, lsn, spcOid, dbOid);
    for (const rel of relations) {
      forks.push({ spcOid, dbOid, relNumber: rel.relNumber, fork: rel.fork });
    }
    const highest = Math.max(...relations.map(({ relNumber }) => relNumber));
    for (const relNumber of [1, highest, highest + 1]) {
      const has = await hasRelationsFrom(pgAddr, ids, lsn, { spcOid, dbOid, relNumber });
      assert.equal(has, relNumber <= highest);
    }
  }
  forksByLsn.set(`${ids.timelineId} ${lsn}`, forks);
  const client = await PagestreamClient.connect(pgAddr, ids);
  try {
    const result = await compareRelationFiles({
      directory: outDir,
      source: remoteSource(client, ids, lsn),
    });
    assert.deepEqual(result.mismatches, []);
    assert.ok(result.pages > 1000, `${result.pages} pages`);
    // Requests in one go come back in order, each for what it asked.
    const rel = forks.find((fork) => fork.fork === 0 && fork.dbOid === 5)!;
    const blocks = await client.relSize(rel, lsn);
    const pages = await Promise.all(
      Array.from({ length: 500 }, (_, i) => client.getPage(rel, i % blocks, lsn)),
    );
    assert.ok(pages.every((page, i) => Buffer.compare(page, pages[i % blocks]!) === 0));
  } finally {
    client.close();
    await rm(outDir, { recursive: true, force: true });
  }
}

/** pg_language: nothing in the workload rewrites it. */
const QUIET: RelationFork = { spcOid: 1663, dbOid: 5, relNumber: 2612, fork: 0 };

test("WAL from a safekeeper, pages over pagestream: equal to stock recovery", async () => {
  announce(root, endLsn);
  await compareWithRecovery(root, endLsn);
  const info = await http.getTimeline(root.tenantId, root.timelineId);
  assert.equal(info.last_record_lsn, formatLsn(endLsn));
  assert.equal(info.walreceiver.state, "streaming");
});

test("a branch in the past reads as the past, its parent's later WAL does not show", async () => {
  const timelineId = generateTimelineId();
  const info = await http.createTimeline(root.tenantId, {
    new_timeline_id: timelineId,
    ancestor_timeline_id: root.timelineId,
    ancestor_start_lsn: formatLsn(middleLsn),
  });
  assert.equal(info.ancestor_lsn, formatLsn(middleLsn));
  assert.equal(info.start_lsn, formatLsn(middleLsn));
  assert.equal(info.prev_record_lsn, "0/0");
  await compareWithRecovery({ tenantId: root.tenantId, timelineId }, middleLsn);
  const again = await http.createTimeline(root.tenantId, {
    new_timeline_id: timelineId,
    ancestor_timeline_id: root.timelineId,
    ancestor_start_lsn: formatLsn(middleLsn),
  });
  assert.deepEqual(again, info);
  await assert.rejects(
    http.createTimeline(root.tenantId, {
      new_timeline_id: timelineId,
      ancestor_timeline_id: root.timelineId,
      ancestor_start_lsn: formatLsn((middleLsn - 4096) as Lsn),
    }),
    { kind: "conflict" },
  );
  await http.deleteTimeline(root.tenantId, timelineId);
  await assert.rejects(http.getTimeline(root.tenantId, timelineId), { kind: "not-found" });
});

test("restart without a flush: WAL is taken in again from what is on disk", async () => {
  const branch = await http.createTimeline(root.tenantId, {
    new_timeline_id: generateTimelineId(),
    ancestor_timeline_id: root.timelineId,
  });
  await pageserver.close({ flush: false });
  await openPageserver();
  const before = await http.getTimeline(root.tenantId, root.timelineId);
  assert.ok(parseLsn(before.last_record_lsn)! < endLsn, before.last_record_lsn);
  // The branch's content is in WAL that its ancestor has to take in again: its readers wait.
  const branchClient = await PagestreamClient.connect(pgAddr, {
    tenantId: root.tenantId,
    timelineId: branch.timeline_id,
  });
  const onBranch = branchClient.getPage(QUIET, 0, endLsn);
  announce(root, endLsn);
  assert.equal((await onBranch).length, 8192);
  branchClient.close();
  await http.deleteTimeline(root.tenantId, branch.timeline_id);
  await compareWithRecovery(root, endLsn);
  await http.checkpoint(root.tenantId, root.timelineId);
  const info = await http.getTimeline(root.tenantId, root.timelineId);
  assert.equal(info.disk_consistent_lsn, formatLsn(endLsn));
  await imagesMade();
  await compareWithRecovery(root, endLsn);
});

// After the restart: to detach may flush all that the parent has.
test("a branch that is detached reads as before", async () => {
  const timelineId = generateTimelineId();
  const info = await http.createTimeline(root.tenantId, {
    new_timeline_id: timelineId,
    ancestor_timeline_id: root.timelineId,
    ancestor_start_lsn: formatLsn(middleLsn),
  });
  await http.detachFromAncestor(root.tenantId, timelineId);
  const detached = await http.getTimeline(root.tenantId, timelineId);
  assert.deepEqual([detached.ancestor_timeline_id, detached.ancestor_lsn], [null, null]);
  assert.equal(detached.min_readable_lsn, info.min_readable_lsn);
  await compareWithRecovery({ tenantId: root.tenantId, timelineId }, middleLsn);
  await http.deleteTimeline(root.tenantId, timelineId);
  await assert.rejects(http.getTimeline(root.tenantId, timelineId), { kind: "not-found" });
});

/** Waits until upkeep has made image layers beside the imported ones. */
async function imagesMade(): Promise<void> {
  for (let tries = 0; ; tries++) {
    const { historic_layers: layers } = await http.listLayers(root.tenantId, root.timelineId);
    const imageLsns = layers.flatMap(({ layer_file_name: name }) => {
      const parsed = parseLayerFileName(name)!;
      return parsed.kind === LAYER_KIND_IMAGE ? [parsed.lsnStart] : [];
    });
    if (new Set(imageLsns).size >= 2) {
      return;
    }
    assert.ok(tries < 300, layers.map((layer) => layer.layer_file_name).join("\n"));
    await sleep(100);
  }
}

test("a request waits for its LSN, and times out where it does not come", async () => {
  const ids = { tenantId: root.tenantId, timelineId: generateTimelineId() };
  await importBase(ids);
  let client = await PagestreamClient.connect(pgAddr, ids);
  try {
    let answered = false;
    const waiting = client.getPage(QUIET, 0, MAX_LSN, middleLsn).then((page) => {
      answered = true;
      return page;
    });
    // In order: answered after the one before it, although it need not wait.
    const second = client.relSize(QUIET, MAX_LSN, 8 as Lsn);
    await sleep(50);
    assert.equal(answered, false);
    safekeeper.end = middleLsn;
    announce(ids, middleLsn);
    assert.equal((await waiting).length, 8192);
    assert.ok((await second) > 0);
    client.close();
    await pageserver.close({ flush: true });
    await openPageserver(100);
    client = await PagestreamClient.connect(pgAddr, ids);
    await assert.rejects(client.getPage(QUIET, 0, MAX_LSN, endLsn), {
      kind: "unavailable",
      code: "lsn-timeout",
    });
    assert.equal((await client.getPage(QUIET, 0, MAX_LSN, middleLsn)).length, 8192);
    safekeeper.end = endLsn;
  } finally {
    client.close();
    await http.deleteTimeline(ids.tenantId, ids.timelineId);
    await pageserver.close({ flush: true });
    await openPageserver();
  }
});

test("wrong requests get errors of their kind and leave the connection usable", async () => {
  const client = await PagestreamClient.connect(pgAddr, root);
  try {
    const missing = { ...QUIET, relNumber: 999_999 };
    await assert.rejects(client.relSize(missing, MAX_LSN, 8 as Lsn), { kind: "not-found" });
    await assert.rejects(client.getPage(missing, 0, MAX_LSN, 8 as Lsn), { kind: "not-found" });
    await assert.rejects(client.getPage(QUIET, 1 << 20, endLsn), { code: "no-block" });
    await assert.rejects(client.relSize(QUIET, 0 as Lsn), { kind: "invalid" });
    await assert.rejects(client.relSize(QUIET, 64 as Lsn), { code: "lsn-too-old" });
    await assert.rejects(client.relSize(QUIET, middleLsn, endLsn), { code: "bad-lsn" });
    await assert.rejects(client.slruSegment(0, 4000, endLsn), { code: "no-slru-segment" });
    assert.equal(await client.relExists(missing, endLsn), false);
    assert.equal(await client.relExists(QUIET, endLsn), true);
    assert.ok((await client.dbSize(5, endLsn)) > 7_000_000);
    const { blocks, data } = await client.slruSegment(0, 0, endLsn);
    assert.equal(data.length, blocks * 8192);
  } finally {
    client.close();
  }
  const unknown = { tenantId: root.tenantId, timelineId: generateTimelineId() };
  await assert.rejects(PagestreamClient.connect(pgAddr, unknown), { kind: "not-found" });
  await assert.rejects(computeState(pgAddr, root, 64 as Lsn), { kind: "invalid" });
});

test("garbage on the page service port ends that connection only", async () => {
  for (const bytes of [
    Buffer.from("GET / HTTP/1.1\r\n\r\n"),
    Buffer.alloc(4096, 0xff),
    Buffer.from([0, 0, 0, 8, 4, 210, 22, 47, 81, 0, 0]),
  ]) {
    const socket = connect(pageserver.pgPort, "127.0.0.1");
    socket.on("error", () => {});
    socket.end(bytes);
    await new Promise((resolve) => socket.on("close", resolve).resume());
  }
  const client = await PagestreamClient.connect(pgAddr, root);
  assert.equal((await client.getPage(QUIET, 0, endLsn)).length, 8192);
  client.close();
});

test("a corrupt record stops ingest of that timeline, which goes on serving", async () => {
  const ids = { tenantId: root.tenantId, timelineId: generateTimelineId() };
  await importBase(ids);
  safekeeper.corruptAt = (middleLsn - 200) as Lsn;
  announce(ids, endLsn);
  try {
    let info = await http.getTimeline(ids.tenantId, ids.timelineId);
    for (let i = 0; i < PATIENT_MS / 10 && info.walreceiver.state !== "failed"; i++) {
      await sleep(10);
      info = await http.getTimeline(ids.tenantId, ids.timelineId);
    }
    assert.equal(info.walreceiver.state, "failed");
    assert.match(
      info.walreceiver.error ?? "",
      /ingest WAL from safekeeper \d+: .*[0-9A-F]+\/[0-9A-F]+/,
    );
    const last = parseLsn(info.last_record_lsn)!;
    assert.ok(last > parseLsn(info.start_lsn)! && last <= middleLsn, info.last_record_lsn);
    const client = await PagestreamClient.connect(pgAddr, ids);
    assert.equal((await client.getPage(QUIET, 0, MAX_LSN, last)).length, 8192);
    client.close();
    const metrics = await (await fetch(`http://127.0.0.1:${pageserver.httpPort}/metrics`)).text();
    assert.match(metrics, /pageserver_wal_ingest_failures_total\{code="[^"]+"\} 1/);
  } finally {
    safekeeper.corruptAt = undefined;
    await http.deleteTimeline(ids.tenantId, ids.timelineId);
  }
});

test("the management API creates from initdb and refuses what is wrong", async () => {
  const tenantId = generateTenantId();
  const timelineId = generateTimelineId();
  await assert.rejects(http.createTimeline(tenantId, { new_timeline_id: timelineId }), {
    kind: "not-found",
  });
  assert.equal(await http.createTenant(tenantId), tenantId);
  assert.equal(await http.createTenant(tenantId), tenantId);
  const info = await http.createTimeline(tenantId, { new_timeline_id: timelineId, pg_version: 17 });
  const again = await http.createTimeline(tenantId, { new_timeline_id: timelineId });
  assert.deepEqual(again, info);
  assert.notEqual(info.prev_record_lsn, "0/0");
  const start = parseLsn(info.start_lsn)!;
  const state = await computeState(pgAddr, { tenantId, timelineId }, start);
  assert.equal(state.systemId, BigInt(info.system_id));
  assert.equal(state.checkPoint.timeLineId, 1);
  assert.deepEqual(
    state.databases.map((database) => database.dbOid),
    [1, 4, 5],
  );
  assert.equal(state.relationMaps.length, 4);
  const branch = (ancestor_start_lsn: string) =>
    http.createTimeline(tenantId, {
      new_timeline_id: generateTimelineId(),
      ancestor_timeline_id: timelineId,
      ancestor_start_lsn,
    });
  await assert.rejects(branch("0/zz"), { kind: "invalid" });
  await assert.rejects(branch("0/8"), { kind: "invalid" });
  await assert.rejects(branch(formatLsn((start + 64) as Lsn)), { kind: "unavailable" });
  await assert.rejects(http.createTimeline(tenantId, { new_timeline_id: "xyz" }), {
    kind: "invalid",
  });
  await assert.rejects(
    http.createTimeline(tenantId, { new_timeline_id: generateTimelineId(), pg_version: 13 }),
    {
      kind: "invalid",
    },
  );
  const listed = await http.listTimelines(tenantId);
  assert.deepEqual(
    listed.map((timeline) => timeline.timeline_id),
    [timelineId],
  );
  assert.ok((await http.listTenants()).some((tenant) => tenant.id === tenantId));
});
