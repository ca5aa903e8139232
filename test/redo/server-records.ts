// The part of the workload for records that are not about pages: the server's own, transactions, logical
// decoding, replication origins, tablespaces, databases, multixacts, truncation of SLRUs.

import type { StockCluster } from "../../testing/stock-cluster.ts";
import { burnXids, runAll } from "./sql.ts";

/** wal_level is logical before and replica after; Postgres ends restarted. */
export async function logicalDecoding(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await runAll(client, [
    "SELECT pg_create_logical_replication_slot('decoding', 'pgoutput')",
    "CREATE TABLE decoded (id int PRIMARY KEY, t text)",
    "ALTER TABLE decoded REPLICA IDENTITY FULL",
    "INSERT INTO decoded SELECT g, 'd' || g FROM generate_series(1, 200) g",
    "UPDATE decoded SET t = t || 'x' WHERE id % 3 = 0",
    "UPDATE decoded SET id = id + 1000 WHERE id % 5 = 0",
    "DELETE FROM decoded WHERE id % 7 = 0",
    "TRUNCATE decoded",
    "BEGIN; CREATE TABLE decoded_too (id int); ALTER TABLE decoded_too ADD t text; COMMIT",
    // Mappings of catalog rows, which a slot may still want under their old places.
    "VACUUM FULL pg_class",
    "SELECT pg_logical_emit_message(true, 'prefix', 'in a transaction')",
    "SELECT pg_logical_emit_message(false, 'prefix', repeat('outside ', 100))",
    "SELECT pg_drop_replication_slot('decoding')",
  ]);
  await cluster.stop();
  cluster.configure({ wal_level: "replica", max_connections: "90" });
  await cluster.start();
}

export async function replicationOrigins(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await runAll(client, [
    "CREATE TABLE remote (id int)",
    "SELECT pg_replication_origin_create('elsewhere')",
    "SELECT pg_replication_origin_create('nowhere')",
    "SELECT pg_replication_origin_advance('nowhere', '0/77')",
    "SELECT pg_replication_origin_session_setup('elsewhere')",
  ]);
  for (let i = 1; i <= 5; i++) {
    await client.query(`BEGIN;
      SELECT pg_replication_origin_xact_setup('1/${i}00', '2020-01-0${i}');
      INSERT INTO remote VALUES (${i});
      ${i % 2 === 0 ? "ROLLBACK" : "COMMIT"}`);
  }
  await runAll(client, [
    "BEGIN; SELECT pg_replication_origin_xact_setup('1/900', '2020-02-01')",
    "INSERT INTO remote VALUES (9); PREPARE TRANSACTION 'remote'",
    "SELECT pg_replication_origin_session_reset()",
    "COMMIT PREPARED 'remote'",
    "SELECT pg_replication_origin_drop('nowhere')",
  ]);
}

/** In-place tablespaces: directories of the data directory itself, which a recovered copy has too. */
export async function tablespaces(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await runAll(client, [
    "SET allow_in_place_tablespaces = on",
    "CREATE TABLESPACE kept LOCATION ''",
    "CREATE TABLESPACE emptied LOCATION ''",
    "CREATE TABLE away (id int PRIMARY KEY, t text) TABLESPACE kept",
    "INSERT INTO away SELECT g, 'a' || g FROM generate_series(1, 2000) g",
    "CREATE INDEX away_t ON away (t) TABLESPACE emptied",
    "DELETE FROM away WHERE id % 3 = 0",
    "VACUUM away",
    "ALTER INDEX away_t SET TABLESPACE pg_default",
    "CREATE TABLE moved AS SELECT g AS id FROM generate_series(1, 3000) g",
    "VACUUM moved",
    "ALTER TABLE moved SET TABLESPACE kept",
    "UPDATE moved SET id = -id WHERE id % 10 = 0",
    "CREATE DATABASE db_away TABLESPACE kept",
    "CREATE DATABASE db_moved",
    "ALTER DATABASE db_moved SET TABLESPACE kept",
    "DROP TABLESPACE emptied",
  ]);
}

export async function serverRecords(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  const [begin, end] =
    cluster.installation.major === 14
      ? ["pg_start_backup('b', true, false)", "pg_stop_backup(false, false)"]
      : ["pg_backup_start('b', true)", "pg_backup_stop(false)"];
  const isOn = (await client.query("SHOW full_page_writes")).rows[0]?.["full_page_writes"] === "on";
  const fullPageWrites = async (value: string) => {
    await client.query(`ALTER SYSTEM SET full_page_writes = ${value}`);
    await runAll(client, ["SELECT pg_reload_conf()", "SELECT pg_sleep(0.3)", "CHECKPOINT"]);
  };
  await runAll(client, [
    "CREATE TABLE hints (id int, t text)",
    "INSERT INTO hints SELECT g, 'h' || g FROM generate_series(1, 500) g",
    `SELECT ${begin}`,
    "INSERT INTO hints SELECT g, 'during the backup' FROM generate_series(1, 50) g",
    `SELECT ${end}`,
    "SELECT pg_create_restore_point('here')",
    "CHECKPOINT",
    // Hint bits are the first change since the checkpoint.
    "SELECT count(*) FROM hints",
    "SELECT pg_switch_wal()",
    "BEGIN; LOCK TABLE hints IN ACCESS EXCLUSIVE MODE; COMMIT",
  ]);
  await fullPageWrites(isOn ? "off" : "on");
  await client.query("UPDATE hints SET t = 'other' WHERE id % 9 = 0");
  await fullPageWrites(isOn ? "on" : "off");
  await client.query("ALTER SYSTEM RESET full_page_writes");
}

/** More open subtransactions than a session announces, ended in every way. */
export async function subtransactions(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await client.query("CREATE TABLE nested (id int)");
  const nest = (count: number, from: number) =>
    Array.from(
      { length: count },
      (_, i) => `SAVEPOINT s${i}; INSERT INTO nested VALUES (${from + i})`,
    );
  await runAll(client, ["BEGIN", ...nest(150, 0), "ROLLBACK TO s70", "COMMIT"]);
  await runAll(client, ["BEGIN", ...nest(80, 1000), "ROLLBACK"]);
  await runAll(client, ["BEGIN", ...nest(70, 2000), "PREPARE TRANSACTION 'nested'"]);
  await client.query("COMMIT PREPARED 'nested'");
  // pg_xact, pg_commit_ts: over the end of a page, and of a segment (counters.ts).
  await burnXids(client, 1200);
}

/** Over the ends of an offsets page and of the member numbers (counters.ts), of up to five members. */
export async function multixacts(cluster: StockCluster): Promise<void> {
  const sessions = await Promise.all(Array.from({ length: 5 }, () => cluster.connect()));
  const first = sessions[0]!;
  await runAll(first, [
    "CREATE TABLE shared (id int PRIMARY KEY, n int)",
    "INSERT INTO shared SELECT g, 0 FROM generate_series(1, 100) g",
    "CREATE TABLE referring (id int REFERENCES shared)",
  ]);
  const locks = ["FOR KEY SHARE", "FOR SHARE", "FOR KEY SHARE", "FOR SHARE", "FOR KEY SHARE"];
  for (let round = 0; round < 14; round++) {
    const key = 1 + ((round * 7) % 100);
    for (const [i, session] of sessions.entries()) {
      await session.query(`BEGIN; SELECT * FROM shared WHERE id = ${key} ${locks[i]}`);
    }
    for (const [i, session] of sessions.entries()) {
      if (i === sessions.length - 1 && round % 2 === 0) {
        // The others are gone, but their locks stand in the row: a multixact with an updater.
        await session.query(`UPDATE shared SET n = n + 1 WHERE id = ${key}`);
      }
      await session.query((round + i) % 4 === 0 ? "ROLLBACK" : "COMMIT");
    }
  }
  for (let id = 1; id <= 20; id++) {
    await sessions[0]!.query(`BEGIN; SELECT * FROM shared WHERE id = ${id} FOR KEY SHARE`);
    await sessions[1]!.query(`BEGIN; UPDATE shared SET n = ${id} WHERE id = ${id}`);
    await sessions[2]!.query(`BEGIN; INSERT INTO referring VALUES (${id})`);
    for (const [i, session] of sessions.slice(0, 3).entries()) {
      await session.query((id + i) % 5 === 0 ? "ROLLBACK" : "COMMIT");
    }
  }
  await runAll(first, ["VACUUM shared", "VACUUM (FREEZE) shared", "VACUUM (FREEZE) referring"]);
}

/** Freezes everything everywhere, so that old transaction ids, multixacts and timestamps go. */
export async function freezeAll(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await runAll(client, [
    "UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'",
    "SELECT txid_current()",
  ]);
  const databases = await client.query<{ datname: string }>("SELECT datname FROM pg_database");
  for (const { datname } of databases.rows) {
    const session = await cluster.connect(datname);
    await session.query("VACUUM (FREEZE)");
    await session.end();
  }
  await client.query("UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'");
}
