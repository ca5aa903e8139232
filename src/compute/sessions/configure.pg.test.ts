import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { type ComputeEndpoint, ComputeWorld } from "../../../testing/compute/compute-world.ts";
import { eventually } from "../../../testing/eventually.ts";
import { StorageError } from "../../base/errors.ts";
import { DEFAULT_MAJOR, postgresSocketDirectory } from "../../postgres/installation.ts";
import { scramSecret } from "../../postgres/scram.ts";
import { connectWire } from "../../postgres/wire/wire-client.ts";
import type { ConfigureRequest } from "../api.ts";
import { loadSettings } from "./settings.ts";

type Cluster = ConfigureRequest["spec"]["cluster"];

let world: ComputeWorld;
let endpoint: ComputeEndpoint;
let timelineId: string;

before(async () => {
  world = await ComputeWorld.start(1);
  timelineId = (await world.createTimeline()).timeline_id;
  endpoint = await world.createEndpoint(timelineId);
  await endpoint.start();
});

after(() => world.remove());

const configure = (
  cluster: Cluster,
  operations: ConfigureRequest["spec"]["delta_operations"] = [],
  on = endpoint,
) => on.client.configure({ spec: { cluster, delta_operations: operations } });

/** As any role, in any database: the socket asks for no password. */
async function queryAs(user: string, database: string, sql: string) {
  const connection = await connectWire({
    host: postgresSocketDirectory(endpoint.daemon.workdir),
    port: endpoint.spec.pgPort,
    parameters: { user, database },
    timeoutMs: 60_000,
  });
  try {
    return (await connection.query(sql)).rows;
  } finally {
    connection.close();
  }
}

const inserted = async () => (await endpoint.query("select pg_current_wal_insert_lsn()"))[0]![0];

test("configure: roles and databases are there, with rights of Neon's; twice is the same as once", async () => {
  const secret = scramSecret("first");
  const cluster = {
    roles: [{ name: "alice", encrypted_password: secret }, { name: "bob" }],
    databases: [
      { name: "shop", owner: "alice" },
      { name: "postgres", owner: "cloud_admin" },
    ],
  };
  assert.deepEqual(await configure(cluster), { restart_required: [] });
  // Postgres itself may write in between, such as its list of running transactions; but not each time.
  await eventually("a second time writes nothing", async () => {
    const before = await inserted();
    await configure(cluster);
    return (await inserted()) === before;
  });

  const { roles, databases } = await endpoint.client.catalogObjects();
  const names = roles.map(({ name }) => name);
  assert.deepEqual(
    ["alice", "bob", "neon_superuser", "cloud_admin"].filter((name) => !names.includes(name)),
    [],
  );
  const shop = { name: "shop", owner: "alice", options: null };
  assert.deepEqual(
    databases.find(({ name }) => name === "shop"),
    { ...shop, restrict_conn: false, invalid: false },
  );
  assert.deepEqual(await endpoint.client.roleSecret("alice"), { role_secret: secret });
  assert.deepEqual(await endpoint.client.roleSecret("bob"), { role_secret: null });
  assert.deepEqual(await endpoint.client.roleSecret("nobody"), { role_secret: null });
  // What users may do: make tables, schemas, roles, databases; read what others have; not be superuser.
  await queryAs("alice", "shop", "create table t as select 1 as n; create schema own");
  await queryAs("alice", "shop", "create role made_by_alice");
  await queryAs("alice", "postgres", "create database made_by_alice");
  assert.deepEqual(await queryAs("bob", "shop", "select n from t"), [["1"]]);
  assert.deepEqual(await queryAs("bob", "shop", "select count(*) > 0 from pg_stat_activity"), [
    ["t"],
  ]);
  await assert.rejects(queryAs("alice", "shop", "alter role alice superuser"), /superuser|denied/);
  const attributes = await endpoint.query(
    `select rolsuper, rolcreatedb, rolcreaterole, rolcanlogin, rolbypassrls, rolreplication
       from pg_roles where rolname in ('alice', 'neon_superuser') order by rolname`,
  );
  assert.deepEqual(attributes, [
    ["f", "t", "t", "t", "t", "t"],
    ["f", "t", "t", "f", "t", "t"],
  ]);
});

test("configure: passwords and owners change; no secret reaches a log or a message", async () => {
  const [old, next] = [scramSecret("old"), scramSecret("next")];
  const role = (encrypted_password: string | null | undefined) => ({
    roles: [{ name: "carol", encrypted_password }],
  });
  await configure(role(old));
  await configure(role(undefined));
  assert.equal((await endpoint.client.roleSecret("carol")).role_secret, old);
  await configure(role(next));
  assert.equal((await endpoint.client.roleSecret("carol")).role_secret, next);
  await configure(role(null));
  assert.equal((await endpoint.client.roleSecret("carol")).role_secret, null);

  await configure({
    roles: [
      { name: "dave", options: [{ name: "NOLOGIN" }, { name: "connection limit", value: "3" }] },
    ],
    databases: [{ name: "moved", owner: "carol" }],
  });
  await configure({ databases: [{ name: "moved", owner: "dave" }] });
  assert.deepEqual(
    await endpoint.query(
      `select pg_get_userbyid(datdba), rolcanlogin, rolconnlimit
         from pg_database join pg_roles on rolname = 'dave' where datname = 'moved'`,
    ),
    [["dave", "f", "3"]],
  );
  const wrong = { name: "erin", encrypted_password: "plain-password" };
  await assert.rejects(configure({ roles: [wrong] }), (error: Error) => {
    assert.match(error.message, /roles\.0\.encrypted_password/);
    return !error.message.includes("plain-password");
  });
  await assert.rejects(
    configure({ roles: [{ name: "pg_mine", encrypted_password: next }] }),
    (error: Error) => /reserved/.test(error.message) && !error.message.includes(next),
  );
  for (const secret of [old, next]) {
    assert.ok(!endpoint.daemon.log.includes(secret.slice(20)));
  }
});

test("configure: any name that Postgres can have", async () => {
  const names = [`"`, `a'b"c\\d`, "ＲÖLE\u{1F418}", "; drop table t", "x".repeat(63), "%I $1 $$"];
  await configure({
    roles: names.map((name) => ({ name })),
    databases: names.map((name) => ({ name, owner: name })),
  });
  const found = await endpoint.client.catalogObjects();
  for (const name of names) {
    assert.ok(
      found.databases.some((one) => one.name === name && one.owner === name),
      name,
    );
  }
  const renamed = `${names[1]}!`;
  await configure({}, [
    { action: "rename_db", name: names[1]!, new_name: renamed },
    { action: "delete_db", name: names[2]! },
    { action: "delete_role", name: names[2]! },
  ]);
  const { databases, roles } = await endpoint.client.catalogObjects();
  assert.ok(databases.some(({ name }) => name === renamed));
  assert.ok(![...databases, ...roles].some(({ name }) => name === names[2]));
  for (const name of ["", "x".repeat(64), "a\0b", "\ud800", 7]) {
    await assert.rejects(configure({ roles: [{ name: name as string }] }), { kind: "invalid" });
  }
  for (const name of ["cloud_admin", "neon_superuser"]) {
    await assert.rejects(configure({ roles: [{ name }] }), { kind: "invalid" });
    await assert.rejects(configure({}, [{ action: "delete_role", name }]), { kind: "invalid" });
  }
  await assert.rejects(
    configure({ roles: [{ name: "frank", options: [{ name: "SUPERUSER" }] }] }),
    { kind: "invalid" },
  );
});

test("configure: renames and deletions may be asked for again", async () => {
  await configure({
    roles: [{ name: "grace" }, { name: "heidi" }],
    databases: [{ name: "old_db", owner: "grace" }],
  });
  const operations = [
    { action: "rename_role", name: "grace", new_name: "grace_hopper" },
    { action: "rename_db", name: "old_db", new_name: "new_db" },
  ] as const;
  const idle = await connectWire({
    host: postgresSocketDirectory(endpoint.daemon.workdir),
    port: endpoint.spec.pgPort,
    parameters: { user: "grace", database: "old_db" },
  });
  for (let i = 0; i < 2; i++) {
    await configure({ databases: [{ name: "new_db", owner: "grace_hopper" }] }, operations);
  }
  await assert.rejects(idle.query("select 1"));
  // A role that owns things, has rights in several databases, and gave some on.
  await queryAs(
    "grace_hopper",
    "new_db",
    "create table hers (n int); grant all on hers to heidi with grant option",
  );
  await queryAs(
    "heidi",
    "new_db",
    "create schema kept; create table kept.t as select 7 as n; grant select on hers to alice",
  );
  await queryAs("heidi", "shop", "create schema heidis; create table heidis.t (n int)");
  const remove = [{ action: "delete_role", name: "heidi" }] as const;
  for (let i = 0; i < 2; i++) {
    await configure({}, remove);
  }
  assert.deepEqual(
    await endpoint.query("select count(*) from pg_roles where rolname in ('heidi', 'grace')"),
    [["0"]],
  );
  assert.deepEqual(await queryAs("grace_hopper", "new_db", "select n from kept.t"), [["7"]]);
  await assert.rejects(configure({}, [{ action: "delete_role", name: "grace_hopper" }]), {
    kind: "conflict",
    code: "role-owns-database",
  });
  await queryAs("grace_hopper", "postgres", "alter database new_db is_template true");
  for (let i = 0; i < 2; i++) {
    await configure({}, [
      { action: "delete_db", name: "new_db" },
      { action: "delete_role", name: "grace_hopper" },
    ]);
  }
  await assert.rejects(configure({}, [{ action: "rename_db", name: "never", new_name: "there" }]), {
    kind: "not-found",
  });
});

test("configure: the sessions of a role that is deleted end", async () => {
  await configure({ roles: [{ name: "judy" }] });
  const open = await connectWire({
    host: postgresSocketDirectory(endpoint.daemon.workdir),
    port: endpoint.spec.pgPort,
    parameters: { user: "judy", database: "postgres" },
  });
  await open.query("select 1");
  await configure({}, [{ action: "delete_role", name: "judy" }]);
  await assert.rejects(open.query("select 1"), { message: /terminat|closed/ });
});

test("configure: a role is forgotten that holds rights of any kind from who does not own the thing", async () => {
  await configure({
    roles: [{ name: "alice" }, { name: "giver" }, { name: "taker" }],
    databases: [{ name: "rights", owner: "alice" }],
  });
  const things: readonly [privilege: string, thing: string, make: string][] = [
    ["usage", "schema granted", "create schema granted"],
    ["execute", "function granted()", "create function granted() returns int return 1"],
    ["execute", "procedure granted(int)", "create procedure granted(n int) begin atomic end"],
    ["select (n)", "table granted", 'create table granted (n int, "m %" int)'],
    ['update ("m %")', "table granted", "select 1"],
    ["usage", "sequence granted_seq", "create sequence granted_seq"],
    ["usage", "type granted_type", "create type granted_type as enum ('a')"],
    ["usage", "domain granted_domain", "create domain granted_domain as int"],
    ["select", "large object 4242", "select lo_create(4242)"],
    ["connect", "database rights", "select 1"],
  ];
  for (const [privilege, thing, make] of things) {
    await queryAs("alice", "rights", make);
    const grant = `grant ${privilege} on ${thing}`;
    await queryAs("alice", "rights", `${grant} to giver with grant option`);
    await queryAs("giver", "rights", `${grant} to taker`);
  }
  if (DEFAULT_MAJOR >= 15) {
    const grant = "grant set on parameter log_min_messages";
    await queryAs("cloud_admin", "rights", `${grant} to giver with grant option`);
    await queryAs("giver", "rights", `${grant} to taker`);
  }
  await configure({}, [{ action: "delete_role", name: "taker" }]);
  // Who gave keeps what he has.
  const kept = "select has_schema_privilege('giver', 'granted', 'usage with grant option')";
  assert.deepEqual(await queryAs("alice", "rights", kept), [["t"]]);
});

test("configure: what the owner of a database sets for it keeps nobody from his work", async () => {
  const roles = [{ name: "alice" }, { name: "bob" }, { name: "leaves" }];
  await configure({ roles, databases: [{ name: "own", owner: "alice" }] });
  await queryAs("leaves", "own", "select lo_create(4243)");
  await queryAs("alice", "own", 'create schema "schön"');
  for (const setting of [
    "role = 'bob'",
    "client_encoding = 'LATIN1'",
    "standard_conforming_strings = off",
    "local_preload_libraries = 'not_there'",
    "statement_timeout = 1",
    "idle_in_transaction_session_timeout = 1",
    ...(DEFAULT_MAJOR >= 17 ? ["transaction_timeout = 1"] : []),
  ]) {
    await queryAs("alice", "postgres", `alter database own set ${setting}`);
  }
  await configure({ extensions: [{ database: "own", name: "plpgsql" }] });
  const on = { database: "own", schema: "schön", privileges: ["USAGE"], role: "bob" };
  assert.equal((await endpoint.client.grant(on)).schema, "schön");
  await configure({}, [{ action: "delete_role", name: "leaves" }]);
  await queryAs("alice", "postgres", "alter database own reset all");
  assert.deepEqual(
    await queryAs("alice", "own", "select lomowner::regrole from pg_largeobject_metadata"),
    [["alice"]],
  );
});

test("configure: what Postgres refuses is no fault of ours, and no fence", async () => {
  const refusals: readonly [ConfigureRequest["spec"]["cluster"], string][] = [
    [{ roles: [{ name: "pg_mine" }] }, "invalid"],
    [{ roles: [{ name: "twice" }, { name: "twice" }] }, "conflict"],
    [{ databases: [{ name: "nobodys", owner: "nobody" }] }, "not-found"],
    [{ extensions: [{ database: "closed", name: "plpgsql" }] }, "conflict"],
  ];
  await configure({
    roles: [{ name: "alice" }],
    databases: [{ name: "closed", owner: "alice" }],
  });
  await endpoint.query("alter database closed is_template true allow_connections false");
  for (const [cluster, kind] of refusals) {
    await assert.rejects(configure(cluster), { kind }, JSON.stringify(cluster));
  }
  await assert.rejects(
    configure({}, [
      { action: "delete_db", name: "closed" },
      { action: "delete_db", name: "postgres" },
    ]),
    { kind: "invalid" },
  );
  const { databases } = await endpoint.client.catalogObjects();
  assert.ok(
    databases.some(({ name }) => name === "closed"),
    "nothing was dropped before that",
  );
  await configure({}, [{ action: "delete_db", name: "closed" }]);
  assert.ok(
    !(await endpoint.client.catalogObjects()).databases.some(({ name }) => name === "closed"),
  );
});

test("configure: extensions, also those that only a superuser may make", async () => {
  // Of the shipped installations only plpgsql is sure to be there.
  const extensions = [{ database: "shop", name: "plpgsql", version: "1.0" }];
  await configure({ extensions });
  await assert.rejects(configure({ extensions: [{ database: "shop", name: "not there" }] }));
  await assert.rejects(configure({ extensions: [{ database: "no such", name: "plpgsql" }] }));
});

test("configure: settings are loaded, and what needs a restart is named", async () => {
  const settings = (...pairs: [string, string][]) => ({
    settings: pairs.map(([name, value]) => ({ name, value, vartype: "string" })),
  });
  const shown = async (name: string) => (await endpoint.query(`show ${name}`))[0]![0];
  const shared = ["shared_buffers", "16MB"] as [string, string];
  const open = await endpoint.connect();
  await open.query("create temp table kept as select 1 as n");
  assert.deepEqual(await configure(settings(shared, ["work_mem", "7MB"])), {
    restart_required: [],
  });
  assert.equal(await shown("work_mem"), "7MB");
  // A session that is open goes on, with what it has, and has the setting too.
  assert.deepEqual((await open.query("show work_mem")).rows, [["7MB"]]);
  assert.deepEqual((await open.query("select n from kept")).rows, [["1"]]);
  open.close();
  assert.deepEqual(await configure(settings(shared, ["max_connections", "120"])), {
    restart_required: ["max_connections"],
  });
  assert.equal(await shown("work_mem"), "4MB");
  for (const bad of [
    ["no_such_setting", "1"],
    ["fsync", "off"],
    ["work_mem", "much"],
    // These wait for a restart, which would be the end of it.
    ["max_files_per_process", "much"],
    ["Autovacuum_Freeze_Max_Age", "1"],
  ] as const) {
    await assert.rejects(configure(settings(shared, ["maintenance_work_mem", "9MB"], [...bad])), {
      kind: "invalid",
    });
  }
  // Nor does a later reload find what was refused.
  await endpoint.query("select pg_reload_conf(), pg_sleep(0.3)");
  assert.equal(await shown("maintenance_work_mem"), "64MB");
  await configure({ roles: [{ name: "ivan" }] });
  assert.equal(await shown("work_mem"), "4MB");
  // Postgres that is built anew has them, also those that had to wait.
  const { postgresPid, restarts } = await endpoint.client.status();
  process.kill(postgresPid!, "SIGKILL");
  await endpoint.running(restarts + 1);
  assert.equal(await shown("max_connections"), "120");
});

/** A Postgres that counts its loads, but for what `failing` matches: that is refused, or, for a load, does not come. */
function standIn(failing?: RegExp) {
  const file = { content: "old", loaded: "old" };
  let loads = 0;
  return {
    file,
    session: {
      async query(sql: string) {
        if (failing?.test(sql) === true) {
          throw new StorageError("unavailable", "no-answer", "no answer");
        }
        if (sql.includes("pg_reload_conf") && failing?.source !== "never") {
          file.loaded = file.content;
          loads++;
        }
        const rows = sql.includes("pg_conf_load_time") ? [[`${loads}`]] : [];
        return { columns: [], rows };
      },
    },
    settings: {
      write: () => {
        file.content = "new";
      },
      restore: () => {
        file.content = "old";
      },
    },
  };
}

test("loadSettings: they are in the file, and loaded", async () => {
  const { session, settings, file } = standIn();
  assert.deepEqual(await loadSettings(session, settings), []);
  assert.deepEqual(file, { content: "new", loaded: "new" });
});

for (const [what, failing] of [
  ["the check", /pg_file_settings/],
  ["the order to load them", /pg_reload_conf/],
  ["the look at what waits for a restart", /pending_restart/],
] as const) {
  test(`loadSettings: where ${what} gets no answer, nothing is changed`, async () => {
    const { session, settings, file } = standIn(failing);
    await assert.rejects(loadSettings(session, settings), { code: "no-answer" });
    assert.deepEqual(file, { content: "old", loaded: "old" });
  });
}

test("loadSettings: where Postgres loads nothing, the file is what it was", async () => {
  await inSimulatedTime(async () => {
    const { session, settings, file } = standIn(/never/);
    await assert.rejects(loadSettings(session, settings), { code: "no-reload" });
    assert.deepEqual(file, { content: "old", loaded: "old" });
  });
});

test("loadSettings: what fails is told, also where Postgres is gone and the file with it", async () => {
  const { session, settings } = standIn(/pg_file_settings/);
  const restore = () => {
    throw new StorageError("unavailable", "not-running", "Postgres does not run");
  };
  await assert.rejects(loadSettings(session, { ...settings, restore }), { code: "no-answer" });
});

test("configure: a read-only endpoint says so, and shows what there is", async () => {
  const [[lsn]] = (await endpoint.query("select pg_current_wal_flush_lsn()")) as [[string]];
  const past = await world.createEndpoint(timelineId, { mode: { static: lsn } });
  await past.start();
  await assert.rejects(configure({ roles: [{ name: "judy" }] }, [], past), { code: "read-only" });
  const { databases } = await past.client.catalogObjects();
  assert.ok(databases.some(({ name }) => name === "shop"));
  await past.daemon.kill("SIGTERM");
});

test("database_schema: SQL, or what to install", async () => {
  try {
    const schema = await endpoint.client.databaseSchema("shop");
    assert.match(schema, /CREATE TABLE public\.t/);
    await assert.rejects(endpoint.client.databaseSchema("no such"), { kind: "not-found" });
  } catch (error) {
    assert.equal((error as { code?: string }).code, "no-pg-dump");
    assert.match((error as Error).message, new RegExp(`postgresql-client-${DEFAULT_MAJOR}`));
  }
});
