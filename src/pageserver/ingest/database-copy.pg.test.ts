// CREATE DATABASE with file_copy against stock recovery, byte for byte: copies of copies, after the source is gone, on
// branches, after a crash in the middle of the WAL, and after all history below is collected.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { EACH_MAJOR } from "../../../testing/each-major.ts";
import { pageSource } from "../../../testing/imported-timeline.ts";
import { recoverStock } from "../../../testing/redo/stock-recovery.ts";
import { StockCluster } from "../../../testing/stock-cluster.ts";
import { StorageFixture } from "../../../testing/storage-fixture.ts";
import { generateTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { type Lsn, parseWalFileName, WAL_SEGMENT_SIZE } from "../../base/lsn.ts";
import { decodeControlFile } from "../../postgres/control-file.ts";
import type { PgMajor } from "../../postgres/versions.ts";
import { compareRelationFiles } from "../../wal-verify/directory-comparison.ts";
import type { Timeline } from "../storage/timeline.ts";
import { WalFeeder } from "../wal-receiver.ts";
import { writeTemplate } from "./initdb-import.ts";
import { readRelations } from "./relation-heads.ts";

const DEFAULT_TABLESPACE = 1663;
const logger = createLogger("test", "silent");

/** What a run of the workload left: LSNs between its statements, and the oid of the first copy. */
interface Marks {
  readonly beforeCopy: Lsn;
  readonly copied: Lsn;
  readonly sourceGone: Lsn;
  readonly copiedOid: number;
}

async function prepareSource(cluster: StockCluster): Promise<void> {
  await (await cluster.connect()).query("create database source");
  const client = await cluster.connect("source");
  await client.query("create table t as select i, md5(i::text) v from generate_series(1, 20000) i");
  await client.query(
    "create index on t(v); create index on t using gin((array[i])); create sequence s",
  );
  await client.query("create table gone as select i from generate_series(1, 1000) i");
  await client.query("vacuum t");
}

/** `source` to `copied` to `again`; each is written to on both sides of the copy, then the source goes. */
async function runWorkload(cluster: StockCluster, major: PgMajor): Promise<Marks> {
  const strategy = major >= 15 ? "strategy file_copy" : "";
  const admin = await cluster.connect();
  const inDatabase = async (database: string, ...statements: string[]) => {
    const client = await cluster.connect(database);
    for (const statement of statements) {
      await client.query(statement);
    }
    await client.end();
  };
  await inDatabase("source", "update t set v = v || 'x' where i % 3 = 0", "drop table gone");
  const beforeCopy = await cluster.currentLsn(admin);
  await admin.query(`create database copied template source ${strategy}`);
  const copied = await cluster.currentLsn(admin);
  await inDatabase("source", "delete from t where i % 2 = 0", "vacuum t");
  await inDatabase(
    "copied",
    "update t set v = 'y' where i % 5 = 0",
    "delete from t where i > 15000",
    "vacuum t",
    "insert into t select i, 'new' from generate_series(1, 4000) i",
    "select nextval('s')",
  );
  await admin.query(`create database again template copied ${strategy}`);
  await admin.query("drop database source");
  const sourceGone = await cluster.currentLsn(admin);
  await inDatabase("again", "update t set v = 'z' where i % 7 = 0", "vacuum full t");
  await inDatabase("copied", "truncate t");
  const row = await admin.query("select oid::int from pg_database where datname = 'copied'");
  return { beforeCopy, copied, sourceGone, copiedOid: row.rows[0].oid };
}

/** All WAL from where the timeline is; the last segment ends in zeros. At most up to `until`, and what was begun. */
async function feed(timeline: Timeline, walDir: string, until = Number.POSITIVE_INFINITY) {
  const feeder = new WalFeeder(timeline, logger);
  const from = timeline.lastRecordLsn;
  for (const name of readdirSync(walDir).sort()) {
    const segno = parseWalFileName(name);
    if (segno === undefined || (segno + 1) * WAL_SEGMENT_SIZE <= from) {
      continue;
    }
    const segment = readFileSync(join(walDir, name));
    for (let at = Math.max(0, from - segno * WAL_SEGMENT_SIZE); at < segment.length; at += 65_536) {
      if (timeline.lastRecordLsn >= until) {
        return;
      }
      try {
        await feeder.feed(segment.subarray(at, Math.min(at + 65_536, segment.length)));
      } catch (error) {
        assert.equal((error as { code?: string }).code, "zeroed-wal", String(error));
        feeder.publish();
        return;
      }
      feeder.publish();
      await timeline.ingestReady();
    }
  }
}

async function importBase(fixture: StorageFixture, baseDir: string, major: PgMajor) {
  const control = decodeControlFile(readFileSync(join(baseDir, "global", "pg_control")), major);
  const { layer, lsn, prevRecordLsn } = await writeTemplate(baseDir, major, fixture.directory);
  return fixture.manager.tenant(fixture.tenantId).createRoot({
    timelineId: generateTimelineId(),
    pgVersion: major,
    dataChecksums: control.dataChecksums,
    systemId: control.systemId,
    walSegmentSize: control.segmentSize,
    startLsn: lsn,
    prevRecordLsn,
    layerPaths: [{ path: join(fixture.directory, layer.fileName), sizeBytes: layer.sizeBytes }],
  });
}

for (const major of EACH_MAJOR) {
  test(`file_copy of ${major}: every page as stock recovers it, on main and on branches, with the source gone`, async (t) => {
    const settings = { full_page_writes: "off", autovacuum: "off" };
    // Redo makes no checksums: pages get them when they are served.
    const initdbArgs = major >= 18 ? ["--no-data-checksums"] : [];
    const cluster = await StockCluster.create({ pgMajor: major, settings, initdbArgs });
    t.after(() => cluster.destroy());
    await using fixture = await StorageFixture.create({ checkpointDistanceBytes: 1 << 20 });
    await cluster.start();
    await prepareSource(cluster);
    await cluster.stop();
    const baseDir = cluster.copyData("base");
    await cluster.start();
    const marks = await runWorkload(cluster, major);
    await cluster.stop();
    const walDir = join(cluster.dataDir, "pg_wal");

    const { timelineId } = await importBase(fixture, baseDir, major);
    const timeline = (id = timelineId) => fixture.manager.timeline(fixture.tenantId, id);
    await feed(timeline(), walDir, marks.copied);
    // What was not flushed comes again: the copy too, perhaps a part of it a second time.
    await fixture.reopen();
    await feed(timeline(), walDir);
    const branch = async (ancestorLsn: Lsn) => {
      const parameters = { timelineId: generateTimelineId(), ancestorTimelineId: timelineId };
      const made = await fixture.manager
        .tenant(fixture.tenantId)
        .createBranch({ ...parameters, ancestorLsn });
      return made.timelineId;
    };
    const before = await branch(marks.beforeCopy);
    const copied = await branch(marks.copied);
    const sourceGone = await branch(marks.sourceGone);
    const end = timeline().lastRecordLsn;
    await timeline().checkpoint();
    await timeline().advanceGcCutoff(end);
    while (await timeline().compact("collect")) {
      // Until nothing of main's own history is left but what branches read.
    }
    await fixture.reopen();

    const at = (id: string) => timeline(id as typeof timelineId).lastRecordLsn;
    assert.deepEqual(
      readRelations(timeline(before), at(before), DEFAULT_TABLESPACE, marks.copiedOid),
      [],
    );
    for (const [name, id] of Object.entries({ copied, sourceGone, end: timelineId })) {
      const lsn = at(id);
      const outDir = join(cluster.workdir, name);
      await recoverStock({ baseDir, walDir, targetLsn: lsn, outDir, pgMajor: major });
      const source = pageSource(timeline(id), lsn);
      const result = await compareRelationFiles({ directory: outDir, source });
      assert.deepEqual(result.mismatches, [], name);
      assert.ok(result.pages > 1000, `${result.pages} pages compared`);
      const found = readRelations(timeline(id), lsn, DEFAULT_TABLESPACE, marks.copiedOid);
      assert.ok(found.length > 200, `${found.length} forks of the copy`);
    }
  });
}
