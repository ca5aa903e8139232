// Who gets in: over TCP whoever has the password, on the unix socket the owner; other users of the machine do not.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { mayReach, postgresUser } from "../../src/postgres/installation.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { withClient } from "../../testing/tpcb.ts";

/** Of no user that there is; only root can be it. */
const STRANGER = 54_321;
const PASSWORD_FAILED = /password authentication failed/;
const asRoot = process.getuid?.() === 0;
const hasPsql = spawnSync("psql", ["--version"]).status === 0;

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({ start: false, ownInitdb: true });
  await cluster.ok("start");
  await cluster.ok("tenant", "create", "--set-default");
  await cluster.ok(
    "endpoint",
    "create",
    "main",
    "-c",
    "log_statement=all",
    "-c",
    "log_connections=on",
  );
  await cluster.startEndpoint();
  await cluster.query("main", "create table t as select 42 as answer");
});

after(() => cluster?.[Symbol.asyncDispose]());

async function answer(url: string): Promise<unknown> {
  return withClient(
    url,
    async (client) => (await client.query("select 42 as answer")).rows[0].answer,
  );
}

function withPassword(url: string, password: string): string {
  return url.replace(/cloud_admin:[^@]*@/, `cloud_admin${password}@`);
}

/** What must not be seen: the password and what could be guessed against. */
function secrets(): string[] {
  const secret = readFileSync(join(cluster.home, "superuser.scram"), "utf8").trim();
  return [cluster.password(), secret, secret.split(/[$:]/).at(-1)!];
}

async function checkAccess(id: string): Promise<void> {
  const url = cluster.url(id);
  assert.equal(await answer(url), 42);
  assert.equal(await answer(cluster.socketUrl(id)), 42);
  await assert.rejects(answer(withPassword(url, ":wrong")), PASSWORD_FAILED);
  // An empty password is one, too; none at all ends in the client.
  await assert.rejects(answer(withPassword(url, "")), /password/);
  await assert.rejects(
    answer(`${withPassword(url, ":wrong")}?replication=database`),
    PASSWORD_FAILED,
  );
}

test("primary, branch and read-only endpoint take the password that init made, and no other", async () => {
  const [at] = await cluster.query("main", "select pg_current_wal_flush_lsn()::text lsn");
  const printed = await cluster.ok("branch", "create", "dev", "--start");
  assert.ok(printed.includes(cluster.url("dev")), printed);
  await cluster.ok("endpoint", "create", "past", "--lsn", `${at!["lsn"]}`);
  assert.ok((await cluster.ok("endpoint", "start", "past")).includes(cluster.url("past")));
  for (const id of ["main", "dev", "past"]) {
    await checkAccess(id);
  }
  const list = (await cluster.json("endpoint", "list")) as { connection_uri: string }[];
  assert.deepEqual(
    list.map((one) => one.connection_uri),
    ["dev", "main", "past"].map((id) => cluster.url(id)),
  );
  await cluster.ok("endpoint", "stop", "dev");
  await cluster.ok("endpoint", "stop", "past");
});

test("a role of the user's has the password that it was given", async () => {
  await cluster.query("main", "create role app login password 'of the app'");
  const url = cluster.url().replace(/cloud_admin:[^@]*@/, "app:of%20the%20app@");
  assert.equal(await answer(url), 42);
  await assert.rejects(answer(url.replace("of%20the", "of%20no")), PASSWORD_FAILED);
});

test("the home and every socket are closed to other users", () => {
  const user = postgresUser();
  if (user !== undefined) {
    // So the data directory is on the disk that the home was put on.
    assert.ok(statSync(join(cluster.home, "endpoints/main/pgdata")).isDirectory());
  }
  const { mode, gid } = statSync(cluster.home);
  assert.equal(mode & 0o777, user === undefined ? 0o700 : 0o710);
  assert.equal(gid, user?.gid ?? process.getgid?.());
  const socket = decodeURIComponent(new URL(cluster.socketUrl()).hostname);
  assert.equal(statSync(socket).mode & 0o777, 0o700);
  for (const name of readdirSync(socket)) {
    assert.equal(statSync(join(socket, name)).mode & 0o077, 0, name);
  }
  for (const name of ["superuser.password", "superuser.scram", "config.json"]) {
    assert.equal(statSync(join(cluster.home, name)).mode & 0o077, 0, name);
  }
  if (user !== undefined) {
    // It passes through, and that is all.
    const closed = ["storage_broker", "safekeepers", "object_store", "pageserver_1/tenants"];
    for (const path of [...closed, "superuser.password", "endpoints/main/compute.log"]) {
      assert.equal(mayReach(join(cluster.home, path), user), false, path);
    }
  }
});

test("another user of the machine can neither list the home nor connect", {
  skip: !asRoot,
}, (t) => {
  const as = (command: string, ...args: string[]) =>
    spawnSync(command, args, { uid: STRANGER, gid: STRANGER, encoding: "utf8" });
  assert.equal(as("ls", "/").status, 0);
  for (const path of ["", "config.json", "superuser.password", "endpoints/main/compute.log"]) {
    const { status, stderr } = as("cat", join(cluster.home, path));
    assert.notEqual(status, 0, path);
    assert.match(stderr, /Permission denied/);
  }
  const [socket, port] = [cluster.socketUrl(), cluster.endpointSpec().pgPort];
  const path = `${decodeURIComponent(new URL(socket).hostname)}/.s.PGSQL.${port}`;
  const connect = `require("net").connect(${JSON.stringify(path)}).on("connect", () => process.exit(0)).on("error", (e) => { console.error(e.code); process.exit(1); })`;
  // Ours may lie where that user does not come.
  const folder = mkdtempSync(join(tmpdir(), "strata-node-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755);
  const node = join(folder, "node");
  copyFileSync(process.execPath, node);
  assert.match(as(node, "-e", connect).stderr, /EACCES/);
});

test("psql needs no password, and shows none in its arguments", { skip: !hasPsql }, async () => {
  assert.equal(
    (await cluster.ok("psql", "main", "--", "-XAtc", "select answer from t")).trim(),
    "42",
  );
  const child = spawn(
    process.execPath,
    [
      join(import.meta.dirname, "../../src/cli/main.ts"),
      "psql",
      "--",
      "-XAtc",
      "select pg_sleep(60)",
    ],
    { env: { ...process.env, STRATA_HOME: cluster.home }, stdio: "ignore" },
  );
  try {
    await eventually("psql to run", () =>
      commandLines().some((line) => /^psql|\/psql\0/.test(line)),
    );
    for (const line of commandLines()) {
      for (const secret of secrets()) {
        assert.ok(!line.includes(secret), line);
      }
    }
  } finally {
    await cluster.query(
      "main",
      "select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'pg_sleep' and pid <> pg_backend_pid()",
    );
    child.kill();
  }
});

function commandLines(): string[] {
  return readdirSync("/proc").flatMap((name) => {
    try {
      return /^\d+$/.test(name) ? [readFileSync(`/proc/${name}/cmdline`, "latin1")] : [];
    } catch {
      return [];
    }
  });
}

test("a home of an earlier version: its next start makes a password, sets it everywhere, and closes the home", async () => {
  // As it was: no password, no files, and every folder open.
  await overSocket("alter role cloud_admin password null");
  await assert.rejects(answer(cluster.url()), PASSWORD_FAILED);
  const [at] = await overSocket("select pg_current_wal_flush_lsn()::text lsn");
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("safekeeper", "stop", "1");
  const old = cluster.password();
  for (const name of ["superuser.password", "superuser.scram", "superuser.older"]) {
    rmSync(join(cluster.home, name), { force: true });
  }
  chmodSync(cluster.home, 0o755);
  chmodSync(join(cluster.home, "safekeepers"), 0o755);

  assert.match(
    await cluster.fails("endpoint", "start", "main"),
    /not running|strata start' makes one/,
  );
  await cluster.ok("start");
  assert.notEqual(cluster.password(), old);
  assert.equal(statSync(cluster.home).mode & 0o007, 0);
  assert.equal(statSync(join(cluster.home, "safekeepers")).mode & 0o077, 0);
  await cluster.ok("endpoint", "start", "main");
  await checkAccess("main");
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  await checkAccess("main");

  // In the past nothing can be set.
  await cluster.ok("endpoint", "create", "older", "--lsn", `${at!["lsn"]}`);
  await cluster.ok("endpoint", "start", "older");
  assert.equal(await answer(cluster.socketUrl("older")), 42);
  await assert.rejects(answer(cluster.url("older")), PASSWORD_FAILED);
  assert.match(cluster.log("endpoints/older/compute.log"), /connect through the socket/);

  // What is made from now on has it from initdb, by a pageserver that was running all the time.
  await cluster.ok("tenant", "create", "--set-default");
  await cluster.ok("endpoint", "create", "newer");
  await cluster.ok("endpoint", "start", "newer");
  assert.equal(cluster.endpointSpec("newer").superuserSecret, undefined);
  await checkAccess("newer");
});

async function overSocket(sql: string): Promise<Record<string, unknown>[]> {
  return withClient(cluster.socketUrl(), async (client) => (await client.query(sql)).rows);
}

test("no log has the password or its secret", async () => {
  let logs = 0;
  const walk = (directory: string) => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name);
      if (entry.isDirectory() && entry.name !== "pgdata" && entry.name !== "tenants") {
        walk(path);
      } else if (entry.name.endsWith(".log")) {
        logs++;
        const text = readFileSync(path, "utf8");
        for (const secret of secrets()) {
          assert.ok(!text.includes(secret), path);
        }
      }
    }
  };
  walk(cluster.home);
  assert.ok(logs >= 6, `${logs} logs`);
  // There is something that logs what it is told.
  assert.match(cluster.log("endpoints/main/postgres.log"), /create role app/);
});
