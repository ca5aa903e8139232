// What is kept beside relations (SLRUs, replication origins, prepared transactions) as stock recovers it.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type pg from "pg";
import type { StorageError } from "../src/base/errors.ts";
import { createLogger } from "../src/base/log.ts";
import { type Lsn, parseWalFileName, WAL_SEGMENT_SIZE } from "../src/base/lsn.ts";
import { readComputeState } from "../src/pageserver/compute-state.ts";
import { decodeSize } from "../src/pageserver/ingest/relation-heads.ts";
import {
  KEYSPACE_SLRU_SIZE,
  prefixField2,
  prefixField3,
  slruBlockPrefix,
} from "../src/pageserver/layers/key.ts";
import { StorageResources } from "../src/pageserver/storage/storage-resources.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";
import { WalFeeder } from "../src/pageserver/wal-receiver.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import { decodeOriginCheckpoint } from "../src/postgres/replication/origin-checkpoint.ts";
import type { PgMajor } from "../src/postgres/versions.ts";
import { SLRU_COMMIT_TS } from "../src/wal-decoder/record-sink.ts";
import { EACH_MAJOR } from "../testing/each-major.ts";
import { openImportedTimeline } from "../testing/imported-timeline.ts";
import { recoverStock } from "../testing/redo/stock-recovery.ts";
import { StockCluster } from "../testing/stock-cluster.ts";
import { moveCounters } from "./redo/counters.ts";

const PAGE = 8192;
const SLRU_DIRECTORIES = [
  "pg_xact",
  "pg_multixact/members",
  "pg_multixact/offsets",
  "pg_commit_ts",
];
const logger = createLogger("test");
logger.level = "warn";

async function prepareObjects(client: pg.Client): Promise<void> {
  await client.query("CREATE TABLE t (k int PRIMARY KEY, v int)");
  await client.query("INSERT INTO t SELECT n, 0 FROM generate_series(1, 60) n");
  await client.query(`CREATE PROCEDURE subtransactions(n int) LANGUAGE plpgsql AS $$
    BEGIN
      FOR i IN 1..n LOOP
        BEGIN
          UPDATE t SET v = i WHERE k = 1;
          IF i % 5 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
      END LOOP;
    END $$`);
  for (const name of ["a", "b", "c"]) {
    await client.query("SELECT pg_replication_origin_create($1)", [name]);
  }
}

/** Multixacts over the end of a page of offsets, and of all member offsets. */
async function makeMultixacts(cluster: StockCluster): Promise<void> {
  const [first, second] = [await cluster.connect(), await cluster.connect()];
  for (const client of [first, second]) {
    await client.query("BEGIN");
    for (let k = 1; k <= 60; k++) {
      // Another xid each time, or one multixact would do for all.
      await client.query("SAVEPOINT s");
      await client.query("SELECT 1 FROM t WHERE k = $1 FOR KEY SHARE", [k]);
    }
  }
  await first.query("COMMIT");
  await second.query("ROLLBACK");
}

/** Transactions as an apply worker makes them. */
async function replayRemote(client: pg.Client): Promise<void> {
  await client.query("SELECT pg_replication_origin_session_setup('a')");
  const remote = async (lsn: string, sql: string, end: string) => {
    await client.query("BEGIN");
    await client.query("SELECT pg_replication_origin_xact_setup($1, '2020-02-02 02:02:02+00')", [
      lsn,
    ]);
    await client.query(sql);
    await client.query(end);
  };
  await remote("7/1000", "UPDATE t SET v = 1 WHERE k = 2", "COMMIT");
  await remote("7/2000", "UPDATE t SET v = 1 WHERE k = 3", "ROLLBACK");
  await remote("7/3000", "CALL subtransactions(900)", "COMMIT");
  await remote("7/4000", "UPDATE t SET v = 2 WHERE k = 2", "PREPARE TRANSACTION 'remote'");
  await client.query("COMMIT PREPARED 'remote'");
  await remote("7/5000", "UPDATE t SET v = 3 WHERE k = 3", "PREPARE TRANSACTION 'remote stays'");
  await client.query("SELECT pg_replication_origin_session_reset()");
  await client.query("SELECT pg_replication_origin_advance('b', 'FFFFFFFF/10')");
  await client.query("SELECT pg_replication_origin_advance('b', '5/10')");
  await client.query("SELECT pg_replication_origin_advance('c', '5/10')");
}

async function load(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  for (let k = 4; k < 50; k++) {
    await client.query("UPDATE t SET v = v + 1 WHERE k = $1", [k]);
  }
  await client.query("BEGIN; CALL subtransactions(2500); COMMIT");
  await client.query("BEGIN; CALL subtransactions(100); ROLLBACK");
  await client.query("BEGIN; CALL subtransactions(100); PREPARE TRANSACTION 'gone'");
  await client.query("ROLLBACK PREPARED 'gone'");
  await client.query("BEGIN; CALL subtransactions(100); PREPARE TRANSACTION 'done'");
  await client.query("COMMIT PREPARED 'done'");
  await client.query("SELECT pg_logical_emit_message(true, 'test', 'in a transaction')");
  await client.query("SELECT pg_logical_emit_message(false, 'test', 'outside')");
  await client.query("SELECT pg_create_restore_point('here'), pg_switch_wal()");
  await client.query("CHECKPOINT");
}

/** Everything older goes: segments of pg_xact, pg_commit_ts and of multixacts. */
async function freezeAll(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await client.query("COMMIT PREPARED 'remote stays'");
  await client.query("SELECT pg_replication_origin_drop('c')");
  await client.query("ALTER DATABASE template0 ALLOW_CONNECTIONS true");
  for (const database of ["template0", "template1", "postgres"]) {
    await (await cluster.connect(database)).query("VACUUM (FREEZE)");
  }
  await client.query("UPDATE t SET v = 0 WHERE k = 5");
}

async function ingestAll(cluster: StockCluster, timeline: Timeline): Promise<void> {
  const feeder = new WalFeeder(timeline, logger);
  const directory = join(cluster.dataDir, "pg_wal");
  for (const name of readdirSync(directory).sort()) {
    const segno = parseWalFileName(name);
    if (segno !== undefined && (segno + 1) * WAL_SEGMENT_SIZE > timeline.startLsn) {
      const bytes = readFileSync(join(directory, name));
      try {
        await feeder.feed(
          bytes.subarray(Math.max(0, timeline.startLsn - segno * WAL_SEGMENT_SIZE)),
        );
      } catch (error) {
        // The last segment ends in zeros; the caller knows how far it should have come.
        assert.equal((error as StorageError).code, "zeroed-wal", String(error));
      }
      feeder.publish();
      await timeline.ingestReady();
    }
  }
}

function segmentsAt(timeline: Timeline, lsn: Lsn): Map<string, number> {
  return new Map(
    [...timeline.scan([KEYSPACE_SLRU_SIZE], lsn)].map(({ prefix, value }) => [
      `${SLRU_DIRECTORIES[prefixField2(prefix)]}/${prefixField3(prefix).toString(16).toUpperCase().padStart(4, "0")}`,
      decodeSize(value),
    ]),
  );
}

/**
 * Every segment that either has, byte for byte. Returns the names of those that stock has. Of commit
 * timestamps only pages that can be asked for: where stock's recovery turns them off, it removes the
 * files but not what its buffers hold, and writes that again.
 */
function compareSlrus(timeline: Timeline, lsn: Lsn, recovered: string): string[] {
  const ours = segmentsAt(timeline, lsn);
  const oldest = readComputeState(timeline, lsn).checkPoint["oldestCommitTsXid"] as number;
  const oldestPage = Math.floor(oldest / 819);
  const names: string[] = [];
  SLRU_DIRECTORIES.forEach((directory, kind) => {
    for (const file of readdirSync(join(recovered, directory))) {
      const name = `${directory}/${file}`;
      names.push(name);
      const stock = readFileSync(join(recovered, name));
      const blocks = ours.get(name) ?? 0;
      ours.delete(name);
      // nextXid is kept rounded up, so pages of timestamps may come before their first record.
      const ahead = kind === SLRU_COMMIT_TS ? 2 : 0;
      assert.ok(
        blocks >= stock.length / PAGE && blocks <= stock.length / PAGE + ahead,
        `${name} has ${blocks} pages, ${stock.length / PAGE} in stock`,
      );
      const segno = Number.parseInt(file, 16);
      for (let block = 0; block < blocks; block++) {
        if (kind === SLRU_COMMIT_TS && segno * 32 + block < oldestPage) {
          continue;
        }
        const page = timeline.readPage(slruBlockPrefix(kind, segno), block, lsn);
        const expected = new Uint8Array(PAGE);
        expected.set(stock.subarray(block * PAGE, (block + 1) * PAGE));
        assert.deepEqual(page ?? new Uint8Array(PAGE), expected, `${name} block ${block}`);
      }
    }
  });
  assert.deepEqual([...ours.keys()], [], "segments that stock does not have");
  return names;
}

function compareRest(timeline: Timeline, lsn: Lsn, recovered: string, major: PgMajor): void {
  const state = readComputeState(timeline, lsn);
  const origins = decodeOriginCheckpoint(
    readFileSync(join(recovered, "pg_logical", "replorigin_checkpoint")),
  );
  assert.deepEqual(
    state.replicationOrigins,
    origins
      .sort((a, b) => a.originId - b.originId)
      .map(({ originId, remoteLsn }) => ({ originId, remoteLsn: `${remoteLsn}` })),
  );
  const digits = major >= 17 ? 16 : 8;
  const prepared = state.twoPhase.map(({ fullXid, base64 }) => ({
    name: BigInt(fullXid).toString(16).toUpperCase().padStart(digits, "0"),
    bytes: Buffer.from(base64, "base64"),
  }));
  assert.deepEqual(
    prepared.map(({ name }) => name),
    readdirSync(join(recovered, "pg_twophase")),
  );
  for (const { name, bytes } of prepared) {
    const file = readFileSync(join(recovered, "pg_twophase", name));
    assert.deepEqual(bytes, file.subarray(0, file.length - 4), name);
  }
  const control = decodeControlFile(readFileSync(join(recovered, "global", "pg_control")), major);
  const ours = decodeControlFile(Buffer.from(state.controlFile, "base64"), major);
  assert.equal(ours.trackCommitTimestamp, control.trackCommitTimestamp);
  const { checkPoint } = control;
  // A checkpoint record may know more than recovery, which leaves its number alone.
  assert.ok((state.checkPoint["oldestCommitTsXid"] as number) >= checkPoint.oldestCommitTsXid);
  for (const name of ["nextMulti", "nextMultiOffset", "oldestMulti", "oldestMultiDb"] as const) {
    assert.equal(state.checkPoint[name], checkPoint[name], name);
  }
  assert.ok(BigInt(state.checkPoint["nextFullXid"] as string) >= checkPoint.nextFullXid);
}

for (const major of EACH_MAJOR) {
  test(`PostgreSQL ${major}: SLRUs, origins and prepared transactions equal stock recovery`, async () => {
    const scratch = await mkdtemp(join(tmpdir(), "strata-slrus-"));
    const cluster = await StockCluster.create({
      pgMajor: major,
      settings: { autovacuum: "off", track_commit_timestamp: "on", wal_level: "logical" },
    });
    try {
      moveCounters(cluster);
      const baseDir = cluster.copyData("base");
      await cluster.start();
      const client = await cluster.connect();
      await prepareObjects(client);
      await load(cluster);
      await makeMultixacts(cluster);
      await replayRemote(client);
      const loaded = await cluster.currentLsn(client);
      await freezeAll(cluster);
      await load(cluster);
      const frozen = await cluster.currentLsn(client);
      await cluster.stop("immediate");
      cluster.configure({ track_commit_timestamp: "off" });
      await cluster.start();
      const off = await cluster.currentLsn(await cluster.connect());
      await load(cluster);
      await cluster.stop();
      cluster.configure({ track_commit_timestamp: "on" });
      await cluster.start();
      await load(cluster);
      const end = await cluster.currentLsn(await cluster.connect());
      await (await cluster.connect()).query("CREATE TABLE after_the_end()");
      await cluster.stop();

      const resources = new StorageResources(logger);
      const timeline = await openImportedTimeline(
        resources,
        baseDir,
        join(scratch, "timeline"),
        major,
      );
      await ingestAll(cluster, timeline);
      assert.ok(timeline.lastRecordLsn > end);
      const walDir = join(cluster.dataDir, "pg_wal");
      const compare = async (name: string, targetLsn: Lsn) => {
        const outDir = join(cluster.workdir, name);
        await recoverStock({ baseDir, walDir, targetLsn, outDir, pgMajor: major });
        compareRest(timeline, targetLsn, outDir, major);
        return compareSlrus(timeline, targetLsn, outDir);
      };
      const before = await compare("loaded", loaded);
      // What was recovered and stopped is also a cluster to begin from.
      const imported = await openImportedTimeline(
        resources,
        join(cluster.workdir, "loaded"),
        join(scratch, "imported"),
        major,
      );
      compareRest(imported, imported.lastRecordLsn, join(cluster.workdir, "loaded"), major);
      compareSlrus(imported, imported.lastRecordLsn, join(cluster.workdir, "loaded"));
      await imported.close();
      const after = await compare("frozen", frozen);
      for (const directory of ["pg_xact", "pg_commit_ts"]) {
        assert.ok(
          before.some((name) => name.startsWith(directory) && !after.includes(name)),
          `no segment of ${directory} was truncated`,
        );
      }
      assert.deepEqual(
        [...segmentsAt(timeline, off).keys()].filter((name) => name.startsWith("pg_commit_ts")),
        [],
      );
      const { checkPoint } = readComputeState(timeline, off);
      assert.deepEqual([checkPoint["oldestCommitTsXid"], checkPoint["newestCommitTsXid"]], [0, 0]);
      await compare("end", end);
      await timeline.close();
    } finally {
      await cluster.destroy();
      await rm(scratch, { recursive: true, force: true });
    }
  });
}
