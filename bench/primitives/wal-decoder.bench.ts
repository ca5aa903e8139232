// WAL decoding speed on real WAL: small records (full_page_writes off) and with full-page images.

import { join } from "node:path";
import { type Lsn, parseLsn } from "../../src/base/lsn.ts";
import { PG_VERSIONS } from "../../src/postgres/versions.ts";
import { interpretRecord } from "../../src/wal-decoder/interpret-record.ts";
import type { RecordSink } from "../../src/wal-decoder/record-sink.ts";
import { WalStream } from "../../src/wal-decoder/wal-stream.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";
import { readWalFiles } from "../../testing/wal-files.ts";

let touched = 0;
const ignore = () => {};
const nullSink: RecordSink = {
  blockDelta: (_rel, blkno, delta) => {
    touched += blkno + delta.length;
  },
  blockImage: (_rel, blkno) => {
    touched += blkno;
  },
  visibilityMapClear: ignore,
  relationCreate: ignore,
  relationTruncate: ignore,
  relationDrop: ignore,
  databaseCreateFileCopy: ignore,
  databaseCreateWalLog: ignore,
  databaseDrop: ignore,
  relationMapUpdate: ignore,
  slruZeroPage: ignore,
  clogTruncate: ignore,
  transactionStatus: ignore,
  multixactCreate: ignore,
  multixactTruncate: ignore,
  twoPhasePrepare: ignore,
  twoPhaseForget: ignore,
  sawXid: ignore,
  nextOid: ignore,
  checkpoint: ignore,
  runningTransactions: ignore,
  walLevel: ignore,
  tablespaceCreate: ignore,
  tablespaceDrop: ignore,
  commitTimestamps: ignore,
  commitTsTruncate: ignore,
  parameterChange: ignore,
  replicationOriginAdvance: ignore,
  replicationOriginDrop: ignore,
  subscriptionsDetached: ignore,
  statistics: ignore,
  auxFile: ignore,
  auxFileGone: ignore,
  transactionEnd: ignore,
};

/** TPC-B without a client: the same four changes and a commit, over and over. */
const PROCEDURE = `
  CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
  INSERT INTO accounts SELECT g, 1, 0, '' FROM generate_series(1, 200000) g;
  CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
  INSERT INTO tellers SELECT g, 1, 0, '' FROM generate_series(1, 100) g;
  CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
  CREATE PROCEDURE tpcb(n int) LANGUAGE plpgsql AS $$
  DECLARE a int; t int;
  BEGIN
    FOR i IN 1..n LOOP
      a := 1 + (random() * 199999)::int;
      t := 1 + (random() * 99)::int;
      UPDATE accounts SET abalance = abalance + 1 WHERE aid = a;
      UPDATE tellers SET tbalance = tbalance + 1 WHERE tid = t;
      INSERT INTO history VALUES (1, 1, 1, 1, now(), '');
      COMMIT;
    END LOOP;
  END $$`;

async function measure(name: string, settings: Record<string, string>): Promise<void> {
  const cluster = await StockCluster.create({ settings });
  try {
    await cluster.start();
    const client = await cluster.connect();
    const flushLsn = async () => {
      const answer = await client.query<{ lsn: string }>(
        "SELECT pg_current_wal_flush_lsn() AS lsn",
      );
      return parseLsn(answer.rows[0]!.lsn)!;
    };
    await client.query(PROCEDURE);
    await client.query("CHECKPOINT");
    const from = await flushLsn();
    await client.query("SET synchronous_commit = off");
    await client.query("CALL tpcb(150000)");
    await client.query("SET synchronous_commit = on");
    await client.query("CREATE TABLE done ()");
    const to = await flushLsn();
    await cluster.stop();
    const chunks = [...readWalFiles(join(cluster.dataDir, "pg_wal"), from, to)];
    for (let round = 0; round < 4; round++) {
      report(`${name}, walk and CRC`, chunks, from, to, () => {});
      report(`${name}, interpret`, chunks, from, to, (stream) => {
        interpretRecord(stream.record, nullSink);
      });
    }
  } finally {
    await cluster.destroy();
  }
}

function report(
  name: string,
  chunks: readonly Uint8Array[],
  from: Lsn,
  to: Lsn,
  handle: (stream: WalStream) => void,
): void {
  const stream = new WalStream({ startLsn: from, pageMagic: PG_VERSIONS[17].pageMagic });
  let records = 0;
  // CPU time: the machine may be busy with something else.
  const begin = process.cpuUsage();
  for (const chunk of chunks) {
    stream.feed(chunk);
    while (stream.next()) {
      handle(stream);
      records++;
    }
  }
  const { user, system } = process.cpuUsage(begin);
  const seconds = (user + system) / 1e6;
  const rate = (records / seconds / 1e6).toFixed(2);
  const mib = ((to - from) / 2 ** 20 / seconds).toFixed(0);
  console.log(`${name}: ${records} records, ${rate} M/s, ${mib} MiB/s`);
}

await measure("small records", { full_page_writes: "off", autovacuum: "off" });
await measure("page images", { autovacuum: "off", checkpoint_timeout: "30s" });
console.log(`(${touched % 10})`);
