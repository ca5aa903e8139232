// What Neon's control plane asks a compute for beside its configuration: insights, extensions, rights, hot blocks.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type ComputeEndpoint, ComputeWorld } from "../../../testing/compute/compute-world.ts";
import { eventually } from "../../../testing/eventually.ts";

let world: ComputeWorld;
let endpoint: ComputeEndpoint;
let timelineId: string;

before(async () => {
  world = await ComputeWorld.start(1);
  timelineId = (await world.createTimeline()).timeline_id;
  endpoint = await world.createEndpoint(timelineId, {
    settings: { shared_preload_libraries: "pg_stat_statements", shared_buffers: "64MB" },
  });
  await endpoint.start();
  const roles = [{ name: "alice" }];
  const databases = [{ name: "shop", owner: "alice" }];
  await endpoint.client.configure({ spec: { cluster: { roles, databases } } });
});

after(() => world.remove());

test("insights: what it takes, then the statements of users with the longest times", async () => {
  const message = /is in no database: .* CREATE EXTENSION pg_stat_statements/;
  await assert.rejects(endpoint.client.insights(), { code: "no-pg-stat-statements", message });
  const extensions = [{ database: "shop", name: "pg_stat_statements" }];
  await endpoint.client.configure({ spec: { cluster: { extensions } } });
  await endpoint.query("set role alice; select pg_sleep(0.05) as slept_by_alice");
  const { pg_stat_statements: rows } = await endpoint.client.insights();
  const mine = rows.find(({ query }) => String(query).includes("slept_by_alice"));
  assert.ok(Number(mine?.["mean_exec_time"]) >= 50, JSON.stringify(rows));
  assert.ok(rows.length <= 10);
  const times = rows.map((row) => Number(row["mean_exec_time"]) + Number(row["mean_plan_time"]));
  assert.deepEqual(
    times,
    times.toSorted((a, b) => b - a),
  );
  assert.ok(!rows.some(({ query }) => String(query).includes("pg_extension")), "none of ours");
});

test("extensions: installed, counted by version and owner; what is not there is named", async () => {
  const { client } = endpoint;
  const install = (extension: string, database: string, version: string) =>
    client.installExtension({ extension, database, version });
  assert.deepEqual(await install("pg_trgm", "shop", "1.5"), {
    extension: "pg_trgm",
    version: "1.5",
  });
  await install("pg_trgm", "postgres", "1.6");
  await install("pg_trgm", "shop", "1.6");
  const { extensions } = await client.installedExtensions();
  const trgm = { extname: "pg_trgm", version: "1.6", n_databases: 2, owned_by_superuser: "1" };
  assert.deepEqual(
    extensions.filter(({ extname }) => extname === "pg_trgm"),
    [trgm],
  );
  assert.ok(
    extensions.some(({ extname, n_databases }) => extname === "plpgsql" && n_databases > 2),
  );
  await assert.rejects(install("no_such", "shop", "1.0"), {
    kind: "not-found",
    message:
      /there is no extension 'no_such' in this installation of Postgres: pg_available_extensions/,
  });
  await assert.rejects(install("pg_trgm", "shop", "99"), {
    kind: "not-found",
    message: /extension 'pg_trgm' has no version '99': there is 1\.\d/,
  });
  await assert.rejects(install("pg_trgm", "nowhere", "1.6"), {
    kind: "not-found",
    message: /there is no database 'nowhere'$/,
  });
  await assert.rejects(install("pg_trgm", "", "1.6"), { kind: "invalid" });
});

test("grants: a role may use a schema; what is not there, or no right of a schema, is refused", async () => {
  const { client } = endpoint;
  await endpoint.query("create schema private; create role bob");
  const grant = (schema: string, role: string, privileges: string[]) =>
    client.grant({ database: "postgres", schema, role, privileges });
  const has = "select has_schema_privilege('bob', 'private', 'usage, create')";
  assert.deepEqual(await endpoint.query(has), [["f"]]);
  const answer = { database: "postgres", schema: "private", role: "bob" };
  assert.deepEqual(await grant("private", "bob", ["usage", "CREATE"]), {
    ...answer,
    privileges: ["USAGE", "CREATE"],
  });
  assert.deepEqual(await endpoint.query(has), [["t"]]);
  await assert.rejects(grant("nowhere", "bob", ["ALL"]), { kind: "not-found" });
  await assert.rejects(grant("private", "nobody", ["ALL"]), { kind: "not-found" });
  await assert.rejects(grant("private", "bob", ["ALL; drop schema private"]), { kind: "invalid" });
  await assert.rejects(grant("private", "bob", []), { kind: "invalid" });
});

test("check_writability: true on a primary, refused by what only reads; while no majority answers, said in time", async () => {
  const { client } = endpoint;
  assert.equal(await client.checkWritability(), true);
  const { postgresPid } = await client.status();
  const safekeeper = world.safekeepers[0]!.daemon;
  process.kill(safekeeper.pid, "SIGSTOP");
  try {
    const first = client.checkWritability();
    first.catch(() => undefined);
    await eventually("the first one waits", async () => {
      const [row] = await endpoint.query(
        "select count(*) from pg_stat_activity where application_name = 'strata_agent'",
      );
      return row![0] === "1";
    });
    await assert.rejects(client.checkWritability(), { message: /an earlier check still waits/ });
    await assert.rejects(first, { kind: "unavailable", message: /10 s were not enough/ });
  } finally {
    process.kill(safekeeper.pid, "SIGCONT");
  }
  await eventually("writes go through again", () => client.checkWritability());
  assert.equal((await client.status()).postgresPid, postgresPid);
});

test("lfc: the list of hot blocks is written and read in when asked, without the extension, and nothing of it stays", async () => {
  const { client } = endpoint;
  assert.deepEqual(await client.prewarmState(), { status: "not_prewarmed" });
  assert.deepEqual(await client.prewarm(), { status: "skipped" }, "there is no list");
  await endpoint.query("create extension pg_buffercache");
  await endpoint.query(
    "create table hot as select n, repeat('x', 800) as pad from generate_series(1, 9000) n; create table gone (n int)",
  );
  await endpoint.query("insert into gone select generate_series(1, 10000)");
  await endpoint.query("select count(*) from hot where pad > ''");
  assert.equal((await client.offload()).status, "offloading");
  await eventually("it is written", async () => {
    const state = await client.offloadState();
    return state.status === "completed" && state.blocks > 1000;
  });
  await endpoint.query("drop table gone");

  await endpoint.daemon.kill("SIGTERM");
  await endpoint.start();
  const blocksOf = async (name: string) => {
    const [row] = await endpoint.query(
      `select count(*) from pg_buffercache where relfilenode = pg_relation_filenode('${name}')
          and reldatabase = (select oid from pg_database where datname = current_database())`,
    );
    return Number(row![0]);
  };
  assert.ok((await blocksOf("hot")) < 1000);
  const begun = await client.prewarm();
  assert.equal(begun.status, "prewarming");
  const done = await eventually("it is read in", async () => {
    const state = await client.prewarmState();
    return state.status === "completed" ? state : undefined;
  });
  assert.ok((await blocksOf("hot")) >= 1000, JSON.stringify(done));
  // Blocks of the table that is gone.
  assert.ok(done!.status === "completed" && done!.skipped >= 44, JSON.stringify(done));
  assert.ok(done!.status === "completed" && done!.prewarmed + done!.skipped === done!.total);
  assert.deepEqual(
    await endpoint.query("select proname from pg_proc where proname like 'strata%'"),
    [],
  );
  // Locked relations are left out, and hold up nobody.
  const session = await endpoint.connect();
  await session.query("begin; lock table hot in access exclusive mode");
  await client.prewarm();
  await eventually("the rest is read", async () => {
    const state = await client.prewarmState();
    return state.status === "completed" && state.skipped >= 900;
  });
  session.close();
  assert.equal((await client.cancelPrewarm()).status, "completed");
});

test("lfc, extensions, grants: refused by what only reads", async () => {
  const [[lsn]] = (await endpoint.query("select pg_current_wal_flush_lsn()")) as [[string]];
  const past = await world.createEndpoint(timelineId, { mode: { static: lsn } });
  await past.start();
  const { client } = past;
  const refused = { kind: "unsupported", code: "read-only" };
  await assert.rejects(client.offload(), refused);
  await assert.rejects(client.prewarm(), refused);
  await assert.rejects(client.checkWritability(), refused);
  await assert.rejects(
    client.grant({ database: "postgres", schema: "private", role: "bob", privileges: ["ALL"] }),
    refused,
  );
  const trgm = { extension: "pg_trgm", database: "shop", version: "1.6" };
  await assert.rejects(client.installExtension(trgm), refused);
  assert.ok((await client.installedExtensions()).extensions.length > 1);
  await past.daemon.kill("SIGTERM");
});
