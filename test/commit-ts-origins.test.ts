// Commit timestamps and replication origins over restarts, kills and branches of a whole cluster.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { TestCluster } from "../testing/cluster.ts";
import { withClient } from "../testing/tpcb.ts";

const ORIGINS = 12;
const SLOTS = DEFAULT_MAJOR >= 18 ? "max_active_replication_origins" : "max_replication_slots";
/** Of every row: its transaction's time, taken when it committed, and what Postgres says of it now. */
const WRONG_ROWS = `select count(*)::int n from t
  where pg_xact_commit_timestamp(xmin) is null or pg_xact_commit_timestamp(xmin)
    not between added and added + interval '10 s'`;
const STATUS = `select external_id, remote_lsn::text from pg_replication_origin_status order by 1`;

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.ok(
    ...["endpoint", "create", "main", "-c", "track_commit_timestamp=on"],
    ...["-c", `${SLOTS}=${ORIGINS}`],
  );
  await cluster.ok("endpoint", "start", "main");
});
after(() => cluster?.[Symbol.asyncDispose]());

async function restart(settings: Record<string, string> = {}): Promise<void> {
  await cluster.ok("endpoint", "stop", "main", "--mode", "immediate");
  cluster.setPostgres("main", settings);
  await cluster.ok("endpoint", "start", "main");
}

/** One row a transaction, over some pages of pg_commit_ts; only the last waits for its WAL. */
async function addRows(count: number): Promise<void> {
  await cluster.query(
    "main",
    "set synchronous_commit = off",
    `call add_rows(${count - 1})`,
    "set synchronous_commit = on",
    "insert into t values (now())",
  );
}

async function replayUpTo(lsn: string): Promise<void> {
  await withClient(cluster.url(), async (client) => {
    await client.query("select pg_replication_origin_session_setup('origin 1')");
    await client.query("begin");
    await client.query("select pg_replication_origin_xact_setup($1, now())", [lsn]);
    await client.query("insert into t values (now())");
    await client.query("commit");
  });
}

test("timestamps and origins are there after a kill, and on a branch as they were", async () => {
  await cluster.query(
    "main",
    "create table t (added timestamptz)",
    `create procedure add_rows(n int) language plpgsql as $$
     begin for i in 1..n loop insert into t values (now()); commit; end loop; end $$`,
  );
  await addRows(2000);
  await cluster.query(
    "main",
    `select pg_replication_origin_create('origin ' || i) from generate_series(1, ${ORIGINS}) i`,
    `select pg_replication_origin_advance('origin ' || i, ('A/' || i)::pg_lsn)
       from generate_series(1, ${ORIGINS}) i`,
  );
  await replayUpTo("B/10");
  const atBranch = await cluster.query("main", STATUS);
  assert.equal(atBranch.length, ORIGINS);
  assert.deepEqual(atBranch[0], { external_id: "origin 1", remote_lsn: "B/10" });
  await cluster.ok("timeline", "branch", "--branch-name", "then");

  await addRows(1000);
  await replayUpTo("C/10");
  // By itself the first would not wait for its WAL.
  await cluster.query("main", "select pg_replication_origin_advance('origin 3', '9/9')");
  await cluster.query("main", "select pg_replication_origin_drop('origin 2')");
  await cluster.kill9("postgres-main");
  // Fewer slots than origins: Postgres would not start if it were taken literally.
  await restart({ [SLOTS]: "4" });
  assert.deepEqual(await cluster.query("main", WRONG_ROWS), [{ n: 0 }]);
  assert.deepEqual(
    await cluster.query("main", STATUS),
    atBranch
      .filter((origin) => origin["external_id"] !== "origin 2")
      .map((origin) =>
        origin["external_id"] === "origin 1"
          ? { ...origin, remote_lsn: "C/10" }
          : origin["external_id"] === "origin 3"
            ? { ...origin, remote_lsn: "9/9" }
            : origin,
      ),
  );

  await cluster.ok(
    ...["endpoint", "create", "then", "--branch-name", "then"],
    ...["-c", "track_commit_timestamp=on"],
  );
  await cluster.ok("endpoint", "start", "then");
  assert.deepEqual(await cluster.query("then", STATUS), atBranch);
  assert.deepEqual(await cluster.query("then", WRONG_ROWS), [{ n: 0 }]);
  assert.deepEqual(await cluster.query("then", "select count(*)::int n from t"), [{ n: 2001 }]);
});

test("the xids that a restart skips have no timestamp, and asking for one is no error", async () => {
  const tracked = `select count(pg_xact_commit_timestamp(x::text::xid))::int n
    from generate_series((select min(xmin::text::bigint) from t),
                         (pg_current_xact_id()::text::bigint - 1)) x`;
  const rows = await cluster.query("main", "select count(*)::int n from t");
  await restart();
  await addRows(1);
  const counted = (await cluster.query("main", tracked))[0]!["n"] as number;
  // Also the transactions that made and dropped origins.
  assert.ok(counted > (rows[0]!["n"] as number) && counted < (rows[0]!["n"] as number) + 100);
});

test("switched off all timestamps go, and switched on again only newer ones come", async () => {
  await restart({ track_commit_timestamp: "off" });
  await assert.rejects(cluster.query("main", WRONG_ROWS), /could not get commit timestamp data/);
  await addRows(900);
  await restart({ track_commit_timestamp: "on" });
  await addRows(900);
  await restart();
  const known =
    "select count(pg_xact_commit_timestamp(xmin))::int known, count(*)::int - 3903 later from t";
  assert.deepEqual(await cluster.query("main", known), [{ known: 900, later: 900 }]);
});
