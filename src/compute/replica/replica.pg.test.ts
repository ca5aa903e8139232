import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type ComputeEndpoint, ComputeWorld } from "../../../testing/compute/compute-world.ts";
import { eventually } from "../../../testing/eventually.ts";
import { parseLsn } from "../../base/lsn.ts";

let world: ComputeWorld;

before(async () => {
  world = await ComputeWorld.start(3);
});

after(() => world.remove());

async function value(endpoint: ComputeEndpoint, sql: string): Promise<string | null | undefined> {
  return (await endpoint.query(sql))[0]?.[0];
}

/** Resolves when the replica has replayed all that the primary has committed until now. */
async function follows(primary: ComputeEndpoint, replica: ComputeEndpoint): Promise<void> {
  const flushed = await value(primary, "SELECT pg_current_wal_flush_lsn()");
  const lsn = parseLsn(flushed!)!;
  await eventually(`the replica to be at ${flushed}`, async () => {
    const replayed = await value(replica, "SELECT pg_last_wal_replay_lsn()");
    return parseLsn(replayed ?? "0/0")! >= lsn;
  });
}

async function primaryAndReplica(
  settings: Record<string, string> = {},
): Promise<{ primary: ComputeEndpoint; replica: ComputeEndpoint; timelineId: string }> {
  const { timeline_id: timelineId } = await world.createTimeline();
  const primary = await world.createEndpoint(timelineId, { settings });
  const replica = await world.createEndpoint(timelineId, { mode: "replica" });
  await primary.start();
  return { primary, replica, timelineId };
}

async function stop(...endpoints: readonly ComputeEndpoint[]): Promise<void> {
  for (const endpoint of endpoints) {
    await endpoint.daemon.kill("SIGTERM");
    assert.equal(endpoint.daemon.exitCode, 0);
  }
}

test("replica: follows inserts and DDL, and writes nothing itself", async () => {
  const { primary, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT generate_series(1, 1000) n");
  await replica.start();
  assert.equal(await value(replica, "SELECT count(*) FROM t"), "1000");
  await primary.query("INSERT INTO t SELECT generate_series(1, 5000)");
  await primary.query("CREATE TABLE made (a int PRIMARY KEY, b text)");
  await primary.query("INSERT INTO made SELECT g, 'row ' || g FROM generate_series(1, 3000) g");
  await primary.query("CREATE DATABASE second");
  await primary.query("ALTER TABLE t ADD COLUMN added int DEFAULT 7");
  await follows(primary, replica);
  assert.equal(await value(replica, "SELECT count(*) FROM t WHERE added = 7"), "6000");
  assert.equal(await value(replica, "SELECT b FROM made WHERE a = 2999"), "row 2999");
  assert.equal(await value(replica, "SELECT 1 FROM pg_database WHERE datname = 'second'"), "1");
  await assert.rejects(replica.query("INSERT INTO t VALUES (1)"), /read-only/);
  const status = await replica.client.status();
  assert.equal(status.mode, "replica");
  assert.equal(status.term, null);
  await eventually("the status to tell how far it is", async () => {
    const { replayLsn, replayLagBytes } = await replica.client.status();
    return replayLsn !== null && replayLagBytes === 0;
  });
  await stop(primary, replica);
});

test("replica: a transaction that is open at its start is neither committed nor aborted", async () => {
  const { primary, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t (n int, who text)");
  await primary.query("INSERT INTO t VALUES (0, 'before')");
  const open = await primary.connect();
  await open.query("BEGIN");
  await open.query("INSERT INTO t VALUES (1, 'open')");
  await open.query("SAVEPOINT s");
  await open.query("INSERT INTO t VALUES (2, 'open in a subtransaction')");
  const aborts = await primary.connect();
  await aborts.query("BEGIN");
  await aborts.query("INSERT INTO t VALUES (3, 'aborts')");
  await primary.query("BEGIN; INSERT INTO t VALUES (4, 'prepared'); PREPARE TRANSACTION 'p'");
  // Two of them, so that a replica begins between.
  for (let n = 0; n < 2; n++) {
    await primary.query("CHECKPOINT");
    await primary.query("INSERT INTO t VALUES (5, 'committed')");
  }
  await replica.start();
  const seen = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";
  assert.equal(await value(replica, seen), "0,5,5");
  await aborts.query("ROLLBACK");
  await primary.query("INSERT INTO t VALUES (6, 'later')");
  await follows(primary, replica);
  // Again: what was seen has left hint bits.
  assert.equal(await value(replica, seen), "0,5,5,6");
  await open.query("COMMIT");
  await primary.query("COMMIT PREPARED 'p'");
  await follows(primary, replica);
  assert.equal(await value(replica, seen), "0,1,2,4,5,5,6");
  open.close();
  aborts.close();
  await stop(primary, replica);
});

test("replica: a lock that is held at its start keeps readers out", async () => {
  const { primary, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT 1 AS n");
  const locks = await primary.connect();
  await locks.query("BEGIN");
  await locks.query("LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
  for (let n = 0; n < 3; n++) {
    await primary.query("CHECKPOINT");
    await primary.query(`CREATE TABLE other${n} (n int)`);
  }
  await replica.start();
  await assert.rejects(
    replica.query("SET lock_timeout = '300ms'; SELECT n FROM t"),
    /lock timeout/,
  );
  await locks.query("COMMIT");
  await follows(primary, replica);
  assert.equal(await value(replica, "SELECT n FROM t"), "1");
  locks.close();
  await stop(primary, replica);
});

test("replica: goes on when its primary is stopped, killed and started again", async () => {
  const { primary, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT generate_series(1, 100) n");
  await replica.start();
  const pid = (await replica.client.status()).postgresPid;
  for (let round = 1; round <= 2; round++) {
    await stop(primary);
    assert.equal(await value(replica, "SELECT count(*) FROM t"), `${100 + (round - 1) * 2}`);
    await primary.start();
    await primary.query("INSERT INTO t VALUES (0)");
    process.kill((await primary.client.status()).postgresPid!, "SIGKILL");
    await primary.running(1);
    await primary.query("INSERT INTO t VALUES (0)");
    await follows(primary, replica);
    assert.equal(await value(replica, "SELECT count(*) FROM t"), `${100 + round * 2}`);
  }
  // The same Postgres all the time.
  assert.equal((await replica.client.status()).postgresPid, pid);
  await stop(primary, replica);
});

test("replica: of a branch that nobody has written to, and goes on when somebody does", async () => {
  const { primary, timelineId, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT generate_series(1, 100) n");
  const [[at]] = (await primary.query("SELECT pg_current_wal_flush_lsn()")) as [[string]];
  const branch = await world.createTimeline({ timelineId, lsn: at });
  const onBranch = await world.createEndpoint(branch.timeline_id, { mode: "replica" });
  await onBranch.start();
  assert.equal(await value(onBranch, "SELECT count(*) FROM t"), "100");
  const writer = await world.createEndpoint(branch.timeline_id);
  await writer.start();
  await writer.query("INSERT INTO t VALUES (101)");
  await eventually("the replica to see it", async () => {
    return (await value(onBranch, "SELECT count(*) FROM t").catch(() => "")) === "101";
  });
  await replica.start();
  assert.equal(await value(replica, "SELECT count(*) FROM t"), "100");
  await stop(primary, replica, writer, onBranch);
});

test("replica: a superuser's promotion is an error, and it goes on as a replica", async () => {
  const { primary, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT 1 AS n");
  await replica.start();
  await assert.rejects(replica.query("SELECT pg_promote()"), /could not create file "promote"/);
  await assert.rejects(replica.query("INSERT INTO t VALUES (2)"), /read-only/);
  await primary.query("INSERT INTO t VALUES (2)");
  await follows(primary, replica);
  assert.equal(await value(replica, "SELECT count(*) FROM t"), "2");
  await stop(primary, replica);
});

test("replica: one that was made a primary all the same is built anew, and nothing of it is kept", async () => {
  const { primary, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT 1 AS n");
  await replica.start();
  const directory = await value(replica, "SHOW data_directory");
  rmSync(join(directory!, "promote"));
  await replica.query("SELECT pg_promote(false)");
  // Whether it can be written to before it is noticed, is chance.
  await eventually("it is noticed", async () => {
    await replica.query("INSERT INTO t VALUES (666)").catch(() => undefined);
    return (await replica.client.status()).restarts > 0;
  });
  await replica.running(1);
  assert.match(
    replica.daemon.log,
    /somebody made its Postgres a primary: nothing written there is kept/,
  );
  await primary.query("INSERT INTO t VALUES (2)");
  await follows(primary, replica);
  for (const one of [primary, replica]) {
    assert.equal(await value(one, "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1,2");
  }
  assert.equal(await value(replica, "SELECT pg_is_in_recovery()"), "t");
  await stop(primary, replica);
});

test("replica: a primary with more room than it has gets a replica with as much", async () => {
  const { primary, replica, timelineId } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT 1 AS n");
  await replica.start();
  assert.equal(await value(replica, "SHOW max_connections"), "100");
  await stop(primary);
  const larger = await world.createEndpoint(timelineId, {
    settings: { max_connections: "150", max_locks_per_transaction: "80" },
  });
  await larger.start();
  await larger.query("INSERT INTO t VALUES (2)");
  await eventually("the replica to be built anew", async () => {
    return (await value(replica, "SELECT count(*) FROM t").catch(() => "")) === "2";
  });
  assert.equal(await value(replica, "SHOW max_connections"), "150");
  assert.equal(await value(replica, "SHOW max_locks_per_transaction"), "80");
  await stop(larger, replica);
});

test("replica: a primary that had more room for a while only does not stop it, where it hears of that later", async () => {
  const { primary, replica, timelineId } = await primaryAndReplica();
  await primary.query("CREATE TABLE t AS SELECT 1 AS n");
  await replica.start();
  process.kill(replica.daemon.pid, "SIGSTOP");
  await stop(primary);
  const larger = await world.createEndpoint(timelineId, { settings: { max_connections: "150" } });
  await larger.start();
  await larger.query("INSERT INTO t VALUES (2)");
  await stop(larger);
  await primary.start();
  await primary.query("INSERT INTO t VALUES (3)");
  process.kill(replica.daemon.pid, "SIGCONT");
  await eventually("the replica to go on", async () => {
    return (await value(replica, "SELECT count(*) FROM t").catch(() => "")) === "3";
  });
  await stop(primary, replica);
});

test("replica: one that is to be an hour behind starts all the same, and is behind from then on", async () => {
  const { primary, timelineId } = await primaryAndReplica();
  const late = await world.createEndpoint(timelineId, {
    mode: "replica",
    settings: { recovery_min_apply_delay: "1h" },
  });
  await primary.query("CREATE TABLE t (n int)");
  for (let n = 1; n <= 3; n++) {
    await primary.query(`INSERT INTO t VALUES (${n})`);
    await primary.query("CHECKPOINT");
  }
  await late.start();
  assert.equal(await value(late, "SELECT count(*) FROM t"), "3");
  await primary.query("INSERT INTO t VALUES (4)");
  await primary.query("CHECKPOINT");
  await eventually("it to have the WAL", async () => {
    const received = await value(late, "SELECT pg_last_wal_receive_lsn()");
    const flushed = await value(primary, "SELECT pg_current_wal_flush_lsn()");
    return received === flushed;
  });
  assert.equal(await value(late, "SELECT count(*) FROM t"), "3");
  await stop(primary, late);
});

test("replica: ids that storage has rounded over are not taken for known", async () => {
  const { primary, replica } = await primaryAndReplica();
  await primary.query("CREATE TABLE t (n int)");
  for (let n = 0; n < 2; n++) {
    await primary.query("INSERT INTO t VALUES (0)");
    await primary.query("CHECKPOINT");
  }
  // Its id is behind both records, and below the 1024 that storage rounds up to.
  const late = await primary.connect();
  await late.query("BEGIN");
  await late.query("INSERT INTO t VALUES (1)");
  const later = await primary.connect();
  await later.query("BEGIN");
  await later.query("INSERT INTO t VALUES (2)");
  await replica.start();
  await later.query("COMMIT");
  await follows(primary, replica);
  // Whoever takes the first for aborted says so in hint bits here.
  assert.equal(await value(replica, "SELECT sum(n) FROM t"), "2");
  await late.query("COMMIT");
  await follows(primary, replica);
  assert.equal(await value(replica, "SELECT sum(n) FROM t"), "3");
  late.close();
  later.close();
  await stop(primary, replica);
});
