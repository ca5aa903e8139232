import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DEFAULT_MAJOR } from "../../src/postgres/installation.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { dumpMajor } from "../../testing/control-plane/dump-major.ts";

// Schemas over the API: how those of two branches differ, and branches that have a schema and no rows. pg_dump makes them.

const MAJOR = dumpMajor();
const skip = MAJOR === undefined ? "no pg_dump on this machine" : false;

let world: ControlPlaneWorld;
let project: string;
let main: { id: string; endpoint: string };
let password: string;

before(async () => {
  world = await ControlPlaneWorld.create();
  const body = { project: { name: "schemas", pg_version: MAJOR ?? DEFAULT_MAJOR } };
  const created = await world.api("POST", "/projects", body);
  project = created.project.id;
  main = { id: created.branch.id, endpoint: created.endpoints[0].id };
  password = created.connection_uris[0].connection_parameters.password;
  await world.settled(project);
  await ask(main.endpoint, "create table notes (id int primary key, note text not null)");
  await ask(main.endpoint, "insert into notes values (1, 'one'), (2, 'two')");
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

const login = (database = "neondb", user = "neondb_owner") => ({ user, password, database });
const ask = <T extends object>(endpoint: string, sql: string, database?: string) =>
  world.sql<T>(endpoint, login(database), sql);
const neon = (...args: string[]) => world.neon(...args, "--project-id", project);

async function compare(branch: string, query: Record<string, string>): Promise<string> {
  const search = new URLSearchParams({ db_name: "neondb", ...query });
  const path = `/projects/${project}/branches/${branch}/compare_schema?${search}`;
  return (await world.api("GET", path)).diff;
}

test("compare_schema: from the parent's to the branch's, or from any point; Neon's schema-diff", {
  skip,
}, async () => {
  const created = await neon("branches", "create", "--name", "dev");
  const dev = { id: created.branch.id, endpoint: created.endpoints[0].id };
  await world.settled(project);
  assert.equal(await compare(dev.id, {}), "");
  const [{ lsn }] = await ask<{ lsn: string }>(
    dev.endpoint,
    "select pg_current_wal_flush_lsn() as lsn",
  ).then((rows) => rows as [{ lsn: string }]);
  await ask(dev.endpoint, "alter table notes add column at timestamptz");
  const changed = await compare(dev.id, {});
  assert.match(changed, /^--- a\/neondb\n\+\+\+ b\/neondb\n@@ -\d+,\d+ \+\d+,\d+ @@\n/);
  const lines = changed.split("\n").filter((line) => /^[-+](?![-+])/.test(line));
  assert.deepEqual(lines, [
    "-    note text NOT NULL",
    "+    note text NOT NULL,",
    "+    at timestamp with time zone",
  ]);
  // Its own past, and the other way round.
  assert.equal(await compare(dev.id, { base_branch_id: dev.id, base_lsn: lsn }), changed);
  assert.match(await compare(main.id, { base_branch_id: dev.id }), /^-.*timestamp with/m);
  assert.equal(await compare(dev.id, { lsn }), "");
  const none = await world.request(
    "GET",
    `/api/v2/projects/${project}/branches/${main.id}/compare_schema?db_name=neondb`,
  );
  assert.equal(none.status, 400);
  assert.match(none.body.message, /has no parent/);
  const patch: string = await neon("branches", "schema-diff", "main", "dev", "--no-color");
  assert.match(patch, /^\+ {4}at timestamp with time zone$/m);
});

test("schema-only: a root with roles, databases and schema of a point, and no rows", {
  skip,
}, async () => {
  await ask(main.endpoint, "create schema shop");
  await ask(main.endpoint, "create view shop.all_notes as select * from notes");
  await ask(main.endpoint, "create role reader nologin noinherit");
  await ask(main.endpoint, "alter role reader set search_path = shop, public");
  await ask(main.endpoint, "grant reader to neondb_owner");
  await ask(main.endpoint, "grant select on notes to reader");
  await ask(main.endpoint, "create database second");
  await ask(main.endpoint, "create table there (n int check (n > 0))", "second");
  const created = await neon("branches", "create", "--name", "empty", "--schema-only");
  assert.equal(created.branch.init_source, "schema-only");
  assert.equal(created.branch.parent_id, undefined);
  await world.settled(project);
  const endpoint = created.endpoints[0].id;
  const seen = await ask(
    endpoint,
    `select (select count(*)::int from notes) as notes,
            (select count(*)::int from shop.all_notes) as "all",
            has_table_privilege('reader', 'notes', 'select') as granted,
            pg_has_role('neondb_owner', 'reader', 'member') as member,
            pg_has_role('reader', 'neon_superuser', 'member') as super,
            (select pg_get_userbyid(relowner) from pg_class where relname = 'notes') as owner,
            (select setconfig from pg_db_role_setting
              where setrole = 'reader'::regrole and setdatabase = 0) as settings`,
  );
  assert.deepEqual(seen, [
    {
      ...{ notes: 0, all: 0, granted: true, member: true, super: false, owner: "neondb_owner" },
      settings: ["search_path=shop, public"],
    },
  ]);
  await assert.rejects(ask(endpoint, "insert into there values (0)", "second"), { code: "23514" });
  await ask(endpoint, "insert into notes values (7, 'mine')");
  assert.deepEqual(await ask(main.endpoint, "select count(*)::int as n from notes"), [{ n: 2 }]);
  assert.equal(await compare(created.branch.id, { base_branch_id: main.id }), "");
  // Only what was asked for is left of what made it.
  const { endpoints } = await world.api("GET", `/projects/${project}/endpoints`);
  const ofBranch = endpoints.filter(
    ({ branch_id }: { branch_id: string }) => branch_id === created.branch.id,
  );
  assert.equal(ofBranch.length, 1);
  const readOnly = await world.request("POST", `/api/v2/projects/${project}/branches`, {
    body: { branch: { init_source: "schema-only" }, endpoints: [{ type: "read_only" }] },
  });
  assert.equal(readOnly.status, 501);
});

test("schema-only: where no pg_dump is new enough, that is said, and nothing is left", async (context) => {
  if (MAJOR !== undefined && MAJOR >= DEFAULT_MAJOR) {
    context.skip(`this machine's pg_dump does PostgreSQL ${DEFAULT_MAJOR}`);
    return;
  }
  const made = await world.api("POST", "/projects", { project: { name: "newer" } });
  await world.settled(made.project.id);
  const path = `/projects/${made.project.id}/branches`;
  const refused = await world.request("POST", `/api/v2${path}`, {
    body: { branch: { name: "empty", init_source: "schema-only" } },
  });
  // 501 where the answer did not have to wait too long.
  assert.ok([201, 501].includes(refused.status), JSON.stringify(refused.body));
  const failed = (await world.settled(made.project.id)).filter(({ status }) => status === "failed");
  assert.deepEqual(
    failed.map(({ action }) => action),
    ["create_branch"],
  );
  assert.match(failed[0]!.error ?? "", new RegExp(`pg_dump of PostgreSQL ${DEFAULT_MAJOR}`));
  const { branches } = await world.api("GET", path);
  assert.deepEqual(
    branches.map(({ name }: { name: string }) => name),
    ["main"],
  );
});
