// verifyWal against stock Postgres: nothing to report of a sound history, everything of a spoiled one.

import assert from "node:assert/strict";
import {
  closeSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import pg from "pg";
import { RecordedHistory } from "../../testing/redo/recorded-history.ts";
import { recoverStock } from "../../testing/redo/stock-recovery.ts";
import {
  copyTree,
  STOCK_USER,
  type StockCluster,
  writePostgresFile,
} from "../../testing/stock-cluster.ts";
import { crc32c } from "../base/crc32c.ts";
import { StorageError } from "../base/errors.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import { runPostgresTool } from "../postgres/installation.ts";
import { RM_BTREE_ID, RM_HEAP_ID } from "../postgres/rmgr.ts";
import type { PgMajor } from "../postgres/versions.ts";
import { DELTA_RECORD } from "../wal-decoder/delta.ts";
import { ReplayedCluster } from "./replayed-cluster.ts";
import { type VerifyOptions, type VerifyReport, verifyWal } from "./verify.ts";

const SETTINGS = {
  full_page_writes: "off",
  wal_consistency_checking: "'all'",
  wal_log_hints: "on",
  autovacuum: "off",
};
/** The smallest segments: many files of little WAL. */
const INITDB = ["--wal-segsize=1"];
const SEGMENT = 1024 * 1024;

async function prepareTables(client: pg.Client): Promise<void> {
  await client.query("CREATE TABLE t (id int PRIMARY KEY, tags int[], note text)");
  await client.query("CREATE INDEX ON t USING gin (tags)");
  await client.query("CREATE INDEX ON t USING hash (note)");
  await client.query("CREATE INDEX ON t USING brin (id)");
  await client.query("CREATE TABLE places (at point, name text, address inet)");
  for (const column of ["at", "name", "address"]) {
    await client.query(`CREATE INDEX places_${column} ON places USING spgist (${column})`);
  }
  await client.query(
    "CREATE TABLE gone AS SELECT i, repeat('x', 500) FROM generate_series(1, 200) i",
  );
  await client.query("CREATE TABLE dropped AS SELECT * FROM gone");
  await client.query("CREATE TABLE shrunk AS SELECT * FROM gone");
  await client.query("CREATE SEQUENCE s");
  await client.query("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 100) i");
}

/** A little of everything: rows, indexes, vacuum, sequences, subtransactions, prepared transactions, maps. */
async function changeTables(client: pg.Client, from: number): Promise<void> {
  await client.query(
    `INSERT INTO t SELECT i, ARRAY[i % 7, i % 11], md5(i::text) FROM generate_series(${from}, ${from} + 149) i`,
  );
  await client.query(
    `INSERT INTO places SELECT point(i % 17, i), md5(i::text), '10.0.0.0'::inet + i * 300
     FROM generate_series(${from}, ${from} + 299) i`,
  );
  await client.query("CREATE INDEX places_built ON places USING gist (at)");
  await client.query("DROP INDEX IF EXISTS places_kept");
  await client.query("ALTER INDEX places_built RENAME TO places_kept");
  await client.query(`UPDATE t SET note = note || 'x' WHERE id % 5 = 0 AND id >= ${from}`);
  await client.query(`DELETE FROM t WHERE id % 3 = 0 AND id >= ${from}`);
  await client.query("VACUUM (FREEZE) t");
  await client.query("SELECT nextval('s') FROM generate_series(1, 40)");
  await client.query(`BEGIN; SAVEPOINT a; INSERT INTO t VALUES (-${from}); ROLLBACK TO a; COMMIT`);
  await client.query(`BEGIN; INSERT INTO t VALUES (-${from}); PREPARE TRANSACTION 'p${from}'`);
}

/**
 * A backup as pg_basebackup makes one, with files from later than its start: a table that WAL before the
 * copy still changes is dropped in it already.
 */
async function onlineBackup(cluster: StockCluster, client: pg.Client): Promise<string> {
  await client.query("SELECT pg_backup_start('online', true)");
  await client.query("UPDATE gone SET i = i + 1");
  await client.query("DROP TABLE gone");
  await changeTables(client, 2000);
  await client.query("CHECKPOINT");
  const directory = cluster.copyData("online");
  await changeTables(client, 3000);
  const answer = await client.query<{ labelfile: string }>(
    "SELECT labelfile FROM pg_backup_stop()",
  );
  writePostgresFile(join(directory, "backup_label"), answer.rows[0]!.labelfile);
  rmSync(join(directory, "postmaster.pid"));
  for (const name of segmentNames(join(directory, "pg_wal"))) {
    rmSync(join(directory, "pg_wal", name));
  }
  return directory;
}

/**
 * What a crash leaves, without full-page images: records since the checkpoint are of pages that are gone
 * from the files, by a drop and by a truncation.
 */
async function crashCopy(
  cluster: StockCluster,
  client: pg.Client,
): Promise<{ directory: string; beforeDrop: Lsn }> {
  // Postgres's own check cannot mask a page of zeros (mask_unused_space).
  await client.query("SET wal_consistency_checking = ''");
  await client.query("CHECKPOINT");
  await client.query("UPDATE dropped SET i = i + 1");
  const beforeDrop = await cluster.currentLsn(client);
  await client.query("DROP TABLE dropped");
  await client.query("DELETE FROM shrunk WHERE i > 20");
  await client.query("VACUUM shrunk");
  await client.query("INSERT INTO shrunk SELECT i, repeat('y', 500) FROM generate_series(1, 30) i");
  const directory = cluster.copyData("crashed");
  rmSync(join(directory, "postmaster.pid"));
  await client.query("RESET wal_consistency_checking");
  return { directory, beforeDrop };
}

function segmentNames(walDir: string): string[] {
  return readdirSync(walDir)
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .sort();
}

function patch(path: string, offset: number, change: (byte: number) => number): void {
  const fd = openSync(path, "r+");
  try {
    const byte = new Uint8Array(1);
    assert.equal(readSync(fd, byte, 0, 1, offset), 1);
    byte[0] = change(byte[0]!);
    writeSync(fd, byte, 0, 1, offset);
  } finally {
    closeSync(fd);
  }
}

describe("verifyWal", () => {
  let history: RecordedHistory;
  let recovered: string;
  let online: string;
  let crashed: string;
  let beforeDrop: Lsn;
  let relPath = "";
  let options: { baseDir: string; walDir: string; untilLsn: Lsn };
  let copies = 0;

  before(async () => {
    history = await RecordedHistory.record({
      initdbArgs: INITDB,
      settings: SETTINGS,
      prepare: prepareTables,
      run: async (cluster) => {
        const client = await cluster.connect();
        await changeTables(client, 1);
        online = await onlineBackup(cluster, client);
        ({ directory: crashed, beforeDrop } = await crashCopy(cluster, client));
        await changeTables(client, 4000);
        const path = await client.query<{ path: string }>(
          "SELECT pg_relation_filepath('t') AS path",
        );
        relPath = path.rows[0]!.path;
      },
    });
    recovered = await history.recover("recovered");
    const { baseDir, walDir, endLsn } = history;
    options = { baseDir, walDir, untilLsn: endLsn };
  });

  after(() => history?.destroy());

  function copy(directory: string): string {
    const target = join(history.cluster.workdir, `copy-${copies++}`);
    copyTree(directory, target);
    return target;
  }

  /** The WAL in a directory of its own. */
  function copyWal(): string {
    const target = join(history.cluster.workdir, `copy-${copies++}`);
    mkdirSync(target);
    for (const name of segmentNames(history.walDir)) {
      copyFileSync(join(history.walDir, name), join(target, name));
    }
    return target;
  }

  /** One segment in the middle of what is replayed. */
  function middle(walDir: string): string {
    const names = usedNames(walDir);
    return join(walDir, names[names.length >> 1]!);
  }

  /** From the base's segment to that of the end. */
  function usedNames(walDir: string): string[] {
    const hex = (lsn: number) =>
      "00000001" +
      Math.floor(lsn / 2 ** 32)
        .toString(16)
        .toUpperCase()
        .padStart(8, "0") +
      Math.floor((lsn % 2 ** 32) / SEGMENT)
        .toString(16)
        .toUpperCase()
        .padStart(8, "0");
    return segmentNames(walDir).filter(
      (name) => name >= hex(history.startLsn) && name <= hex(history.endLsn),
    );
  }

  function assertClean(report: VerifyReport): void {
    assert.deepEqual(report.firstMismatches, []);
    assert.equal(report.mismatches, 0);
  }

  async function assertRefused(wanted: Partial<VerifyOptions>, kind: string, message: RegExp) {
    await assert.rejects(verifyWal({ ...options, ...wanted }), (error) => {
      assert.ok(error instanceof StorageError, String(error));
      assert.match(error.message, message);
      assert.doesNotMatch(error.message, /\n/);
      assert.equal(error.kind, kind);
      return true;
    });
  }

  test("every after-image, and every byte that Postgres recovers, is as replayed", async () => {
    const report = await verifyWal({ ...options, againstDir: recovered, exact: true });
    assertClean(report);
    assert.equal(report.end.kind, "until");
    assert.ok(report.images > 2000, `${report.images} images`);
    assert.ok(report.against!.pages > 1000 && report.against!.slruPages >= 3);
    assert.equal(report.against!.tolerated, 0);
    const inserts = report.opcodes.find((one) => one.rmid === RM_HEAP_ID && one.info === 0)!;
    assert.ok(inserts.records >= 600 && inserts.images >= 500, JSON.stringify(inserts));
    assert.equal(
      report.opcodes.reduce((sum, one) => sum + one.records, 0),
      report.records,
    );
  });

  test("pages are the same where few fit the memory", async () => {
    const temporaryDirectory = join(history.cluster.workdir, "overflow");
    mkdirSync(temporaryDirectory);
    const small = { cacheBytes: 1, temporaryDirectory };
    let spilled = -1;
    const report = await verifyWal({
      ...options,
      ...small,
      againstDir: recovered,
      exact: true,
      prepare: (cluster) => {
        cluster.onDelta = ({ delta }) => {
          spilled = cluster.store.spilledPages;
          return delta;
        };
      },
    });
    assertClean(report);
    assert.ok(spilled > 20, `${spilled} pages spilled`);
    assert.deepEqual(readdirSync(temporaryDirectory), []);
  });

  test("the server's own files are as replayed, but for what is not WAL-logged", async () => {
    const { baseDir, walDir } = options;
    const report = await verifyWal({ baseDir, walDir, againstDir: history.cluster.dataDir });
    assertClean(report);
    assert.equal(report.end.kind, "end");
    // The sequence, and three metapages of SP-GiST indexes: their lastUsedPages are never logged.
    assert.ok(report.against!.tolerated >= 4, `${report.against!.tolerated} tolerated`);
    const exact = await verifyWal({
      baseDir,
      walDir,
      againstDir: history.cluster.dataDir,
      exact: true,
    });
    assert.ok(exact.mismatches > 10, "hint bits");
  });

  test("a backup of the running server is replayed until it is consistent, and on", async () => {
    const outDir = join(history.cluster.workdir, "recovered-online");
    const { untilLsn: targetLsn, walDir } = options;
    await recoverStock({ baseDir: online, walDir, targetLsn, outDir });
    const fromOnline = { ...options, baseDir: online, againstDir: outDir, exact: true };
    assertClean(await verifyWal(fromOnline));
    const label = readFileSync(join(online, "backup_label"), "utf8");
    const start = parseLsn(/^START WAL LOCATION: (\S+)/.exec(label)![1]!)!;
    await assertRefused(
      { baseDir: online, untilLsn: (start + 100_000) as Lsn },
      "invalid",
      /stopped at .*before the end of the backup/,
    );
    const unlabelled = copy(online);
    rmSync(join(unlabelled, "backup_label"));
    // From the checkpoint in its middle: the copy was made while nothing was written. It has hint bits
    // that the backup's full-page images take away.
    assertClean(await verifyWal({ ...fromOnline, baseDir: unlabelled, exact: false }));
  });

  test("what differs in the directory is reported with block, offset and last record", async () => {
    const spoiled = copy(recovered);
    const file = join(spoiled, relPath);
    // The top of pd_lsn, which is then beyond any LSN.
    patch(file, 3, (byte) => byte ^ 0x80);
    patch(file, 8192 + 8100, (byte) => byte ^ 1);
    patch(join(spoiled, "pg_xact", "0000"), 180, (byte) => byte ^ 0x40);
    patch(join(spoiled, `${relPath}_vm`), 30, (byte) => byte ^ 1);
    patch(join(spoiled, "global", "pg_filenode.map"), 20, (byte) => byte ^ 1);
    const prepared = join(spoiled, "pg_twophase");
    rmSync(join(prepared, readdirSync(prepared)[0]!));
    const report = await verifyWal({ ...options, againstDir: spoiled });
    assert.equal(report.mismatches, 6);
    const found = report.firstMismatches.map(({ kind, block, offset, record }) => ({
      kind,
      block,
      offset,
      changed: record !== undefined && record.lsn > history.startLsn,
    }));
    assert.deepEqual(
      found.sort((a, b) => a.kind.localeCompare(b.kind) || a.offset! - b.offset!),
      [
        { kind: "file", block: undefined, offset: 20, changed: false },
        { kind: "file", block: undefined, offset: undefined, changed: false },
        { kind: "page", block: 0, offset: 3, changed: true },
        { kind: "page", block: 0, offset: 30, changed: true },
        { kind: "page", block: 1, offset: 8100, changed: true },
        { kind: "slru", block: 0, offset: 180, changed: true },
      ],
    );
    assert.equal(
      report.opcodes.reduce((sum, one) => sum + one.pageMismatches, 0),
      3,
    );
  });

  test("files that are too long, too short, missing or too many are reported", async () => {
    const spoiled = copy(recovered);
    truncateSync(join(spoiled, relPath), 8192);
    cpSync(join(spoiled, relPath), join(spoiled, "base", "1", "77777"));
    rmSync(join(spoiled, `${relPath}_vm`));
    const report = await verifyWal({ ...options, againstDir: spoiled });
    const what = report.firstMismatches.map((one) => one.what).sort();
    assert.equal(what.length, 3, what.join("; "));
    assert.match(what[0]!, /^1 blocks recovered, \d+ here/);
    assert.match(what[1]!, /^1 blocks recovered, no fork here/);
    assert.match(what[2]!, /no such file recovered/);
  });

  test("a fault in redo shows in after-images and in pages, under its opcode", async () => {
    const report = await verifyWal({
      ...options,
      againstDir: recovered,
      prepare: (cluster) => {
        cluster.onDelta = ({ delta }) => {
          // A heap DELETE that forgets who did it: xmax is at the start of its main data.
          if (delta[0] === DELTA_RECORD && delta[1] === RM_HEAP_ID && (delta[2]! & 0x70) === 0x10) {
            delta[20 + delta[8]! * 8] = 3;
          }
          return delta;
        };
      },
    });
    const deletes = report.opcodes.find((one) => one.rmid === RM_HEAP_ID && one.info === 0x10)!;
    assert.ok(deletes.imageMismatches > 100, JSON.stringify(deletes));
    assert.equal(report.firstMismatches[0]!.kind, "image");
    assert.equal(report.firstMismatches[0]!.record!.rmid, RM_HEAP_ID);
    const others = report.opcodes.filter((one) => one.rmid === RM_BTREE_ID);
    assert.ok(others.every((one) => one.imageMismatches === 0));
    assert.equal(report.firstMismatches.length, 20);
  });

  test("a crashed server's files, some gone since the checkpoint, are as its recovery makes them", async () => {
    const stopped = copy(crashed);
    await startAndStop(stopped);
    const own = { baseDir: crashed, walDir: join(crashed, "pg_wal"), againstDir: stopped };
    assertClean(await verifyWal({ ...own, exact: true }));
    // With the drop left out, what was skipped for it shows that the base is not whole.
    await assertRefused(
      { ...own, untilLsn: beforeDrop },
      "corrupt",
      /changes block 0 of 1663.* \(and 13 more\), which the base/,
    );
  });

  test("ReplayedCluster: nothing of a file shows again after it was truncated", () => {
    const cluster = new ReplayedCluster(history.baseDir);
    try {
      const rel = [...cluster.forks()].find((one) => one.fork === 0 && one.blocks > 4)!;
      assert.ok(cluster.readPage(rel, 1)!.some((byte) => byte !== 0));
      cluster.relationTruncate(rel, 1, 1);
      assert.equal(cluster.blocks(rel), 1);
      assert.equal(cluster.readPage(rel, 1), undefined);
      cluster.blockImage(rel, 3, new Uint8Array(8192).fill(7));
      assert.equal(cluster.blocks(rel), 4);
      assert.ok(cluster.readPage(rel, 1)!.every((byte) => byte === 0));
      assert.ok(cluster.readPage(rel, 3)!.every((byte) => byte === 7));
      assert.ok(cluster.readPage(rel, 0)!.some((byte) => byte !== 0));
    } finally {
      cluster.close();
    }
  });

  /** Starts Postgres on a directory, which recovers first, and stops it in good order. */
  async function startAndStop(
    directory: string,
    change?: (client: pg.Client) => Promise<void>,
  ): Promise<void> {
    const { workdir, installation } = history.cluster;
    const pgCtl = (...args: string[]) =>
      runPostgresTool(installation, "pg_ctl", ["-D", directory, "-w", ...args]);
    await pgCtl("-o", `-k ${workdir}`, "-l", `${directory}.log`, "start");
    try {
      // A connection alone prunes pages of the catalogs.
      if (change !== undefined) {
        const client = new pg.Client({ host: workdir, user: STOCK_USER, database: "postgres" });
        await client.connect();
        await change(client);
        await client.end();
      }
    } finally {
      await pgCtl("-m", "fast", "stop");
    }
  }

  test("the timeline of a promoted server is followed by its history file", async () => {
    const promoted = copy(recovered);
    await startAndStop(promoted, (client) => changeTables(client, 5000));
    const walDir = copyWal();
    const names = readdirSync(join(promoted, "pg_wal")).filter((name) => /^00000002/.test(name));
    for (const name of names) {
      copyFileSync(join(promoted, "pg_wal", name), join(walDir, name));
    }
    const { baseDir } = options;
    const report = await verifyWal({ baseDir, walDir, againstDir: promoted });
    assertClean(report);
    assert.ok(report.end.lsn > history.endLsn);
    const noUntil = { untilLsn: undefined as never, walDir };
    rmSync(join(walDir, "00000002.history"));
    await assertRefused(
      noUntil,
      "invalid",
      /from timeline 1 to 2, but there is no 00000002.history/,
    );
    writeFileSync(join(walDir, "00000002.history"), "1\t0/100\tno recovery target specified\n");
    await assertRefused(
      noUntil,
      "invalid",
      /is not in the history of timeline 2, which left it at 0\/100/,
    );
    writeFileSync(join(walDir, "00000002.history"), "one\n");
    await assertRefused(noUntil, "invalid", /00000002.history' is not a timeline history: 'one'/);
  });

  test("a base that is none is refused", async () => {
    const empty = join(history.cluster.workdir, "empty");
    mkdirSync(empty);
    await assertRefused({ baseDir: `${empty}/x` }, "not-found", /there is no '.*\/x'/);
    await assertRefused(
      { baseDir: empty },
      "invalid",
      /not a data directory.*it has no PG_VERSION/,
    );
    await assertRefused({ baseDir: join(online, "PG_VERSION") }, "invalid", /it is a file/);
    writeFileSync(join(empty, "base.tar.gz"), "");
    await assertRefused({ baseDir: empty }, "invalid", /unpack base.tar.gz first/);
    const base = copy(online);
    writeFileSync(join(base, "backup_label"), "nothing\n");
    await assertRefused({ baseDir: base }, "invalid", /does not say where its WAL starts/);
    const label = readFileSync(join(online, "backup_label"), "utf8");
    writeFileSync(join(base, "backup_label"), `${label}INCREMENTAL FROM LSN: 0/2000028\n`);
    await assertRefused({ baseDir: base }, "unsupported", /incremental backup.*pg_combinebackup/);
    writeFileSync(join(base, "tablespace_map"), "16999 /srv/space\n");
    await assertRefused({ baseDir: base }, "invalid", /tablespace 16999 .* is missing/);
    writeFileSync(join(base, "PG_VERSION"), "13\n");
    await assertRefused({ baseDir: base }, "unsupported", /Postgres 13 is not supported/);
    writeFileSync(join(base, "PG_VERSION"), "17\n");
    patch(join(base, "global", "pg_control"), 40, (byte) => byte ^ 1);
    await assertRefused({ baseDir: base }, "corrupt", /pg_control: .*no valid checksum/);
  });

  test("a directory to compare with must be of the same cluster, and stopped", async () => {
    await assertRefused({ againstDir: online }, "invalid", /its server runs or crashed/);
    const other = copy(recovered);
    const control = new Uint8Array(readFileSync(join(other, "global", "pg_control")));
    control[0]! ^= 1;
    const crcOffset = 288;
    new DataView(control.buffer).setUint32(crcOffset, crc32c(control, 0, crcOffset), true);
    writeFileSync(join(other, "global", "pg_control"), control);
    await assertRefused(
      { againstDir: other },
      "invalid",
      /it is of system \d+, and the base is of/,
    );
    await assertRefused({ againstDir: history.walDir }, "invalid", /not a data directory/);
  });

  test("WAL that is none, or another's, is refused", async () => {
    const nowhere = join(history.cluster.workdir, "nowhere");
    await assertRefused({ walDir: nowhere }, "not-found", /there is no '.*nowhere'/);
    const file = join(online, "PG_VERSION");
    await assertRefused({ walDir: file }, "invalid", /is not a directory of WAL/);
    await assertRefused({ walDir: online }, "invalid", /there are no WAL segments in/);
    const walDir = copyWal();
    const first = join(walDir, usedNames(walDir)[0]!);
    patch(first, 24, (byte) => byte ^ 1);
    await assertRefused({ walDir }, "invalid", /WAL of system \d+, expected \d+/);
    patch(first, 24, (byte) => byte ^ 1);
    patch(first, 0, () => 0x18);
    await assertRefused({ walDir }, "invalid", /it is WAL of Postgres 18, and the base is of 17/);
    writeFileSync(first, "hello".repeat(300_000));
    await assertRefused(
      { walDir },
      "invalid",
      /it is no WAL of Postgres 14 to 18: page magic is 6568/,
    );
    writeFileSync(first, "");
    await assertRefused({ walDir }, "invalid", /it is no WAL segment: it has 0 bytes/);
    const later = middle(walDir);
    copyFileSync(join(history.walDir, usedNames(walDir)[0]!), first);
    writeFileSync(later, "hello".repeat(300_000));
    await assertRefused({ walDir }, "corrupt", /it is no WAL of Postgres 14 to 18/);
  });

  test("a missing, short, compressed or damaged segment in the middle is named", async () => {
    const walDir = copyWal();
    const path = middle(walDir);
    const name = path.slice(-24);
    truncateSync(path, SEGMENT / 2);
    await assertRefused({ walDir }, "corrupt", /ends after 524288 of 1048576 bytes, and more/);
    renameSync(path, `${path}.lz4`);
    await assertRefused({ walDir }, "unsupported", new RegExp(`${name}.lz4' is compressed`));
    rmSync(`${path}.lz4`);
    await assertRefused({ walDir }, "not-found", new RegExp(`segment ${name} is missing`));
    copyFileSync(join(history.walDir, name), path);
    patch(path, 300_000, (byte) => byte ^ 1);
    await assertRefused({ walDir }, "corrupt", /the WAL after .* is damaged: .*; it goes on at/);
    copyFileSync(join(history.walDir, name), path);
    const fd = openSync(path, "r+");
    writeSync(fd, new Uint8Array(SEGMENT / 2), 0, SEGMENT / 2, SEGMENT / 4);
    closeSync(fd);
    await assertRefused({ walDir }, "corrupt", /is damaged: .*; it goes on at/);
    const names = usedNames(walDir);
    rmSync(join(walDir, names[0]!));
    await assertRefused({ walDir }, "not-found", /in which the base starts at .*, is missing/);
    copyFileSync(join(history.walDir, names[0]!), join(walDir, names[0]!));
    for (const later of segmentNames(walDir)) {
      renameSync(join(walDir, later), join(walDir, `${later}.gz`));
    }
    await assertRefused({ walDir }, "unsupported", /\.gz' is compressed: decompress the WAL first/);
    for (const one of readdirSync(walDir)) {
      rmSync(join(walDir, one));
    }
    copyFileSync(join(history.walDir, name), join(walDir, "000000010000000000000001"));
    await assertRefused({ walDir }, "invalid", /the base is newer than the WAL/);
  });

  test("WAL that just ends, wherever, is replayed up to there", async () => {
    const walDir = copyWal();
    const names = usedNames(walDir);
    const last = names[names.length >> 1]!;
    for (const name of segmentNames(walDir).filter((one) => one > last)) {
      rmSync(join(walDir, name));
    }
    const path = join(walDir, last);
    const whole = new Uint8Array(readFileSync(path));
    const { baseDir } = options;
    const endOf = async () => {
      const report = await verifyWal({ baseDir, walDir });
      assertClean(report);
      return report.end;
    };
    const missing = await endOf();
    assert.match(missing.reason, /there is no segment/);
    writeFileSync(path, whole.subarray(0, 500_000));
    const cut = await endOf();
    assert.equal(cut.kind, "torn");
    assert.match(cut.reason, /ends after 500000 of 1048576 bytes/);
    assert.ok(cut.lsn < missing.lsn);
    const zeros = whole.slice();
    zeros.fill(0, 500_000);
    writeFileSync(path, zeros);
    assert.ok((await endOf()).lsn <= missing.lsn);
    // A recycled file: what follows is WAL, but from an older place.
    const recycled = whole.slice();
    recycled.copyWithin(60 * 8192, 8192, 9 * 8192);
    recycled.fill(0, 68 * 8192);
    writeFileSync(path, recycled);
    const stale = await endOf();
    assert.equal(stale.kind, "torn");
    assert.match(stale.reason, /page says it is at/);
    renameSync(path, `${path}.partial`);
    assert.deepEqual(await endOf(), stale);
    assert.ok(!existsSync(path));
  });
});

// 16 has its turn in test/wal-verify.test.ts.
for (const pgMajor of [14, 15, 18] as const) {
  test(`verifyWal on Postgres ${pgMajor}: images, and the server's own files`, async () => {
    await verifyMajor(pgMajor);
  });
}

async function verifyMajor(pgMajor: PgMajor): Promise<void> {
  const history = await RecordedHistory.record({
    pgMajor,
    settings: { ...SETTINGS, track_commit_timestamp: "on" },
    prepare: prepareTables,
    run: async (cluster) => changeTables(await cluster.connect(), 1),
  });
  try {
    const { baseDir, walDir } = history;
    const report = await verifyWal({ baseDir, walDir, againstDir: history.cluster.dataDir });
    assert.deepEqual(report.firstMismatches, []);
    assert.equal(report.major, pgMajor);
    assert.ok(report.images > 500 && report.against!.pages > 500);
  } finally {
    await history.destroy();
  }
}
