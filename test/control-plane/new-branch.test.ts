// A branch with an endpoint is answered when that starts: who connects at once waits for it, and is let in by what holds on the branch.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { StrataHome } from "../../src/local/home.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { withClient } from "../../testing/tpcb.ts";

let world: ControlPlaneWorld;
let project: string;
let parent: string;
let first: string;

before(async () => {
  world = await ControlPlaneWorld.create();
  const created = await world.createProject("branches");
  project = created.project.id;
  parent = created.endpoints[0].id;
  first = created.connection_uris[0].connection_parameters.password;
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

function query(endpoint: string, role: string, password: string, sql: string) {
  const { proxy } = new StrataHome(world.cluster.home).config();
  const options = encodeURIComponent(`endpoint=${endpoint}`);
  const url = `postgresql://${role}:${password}@${proxy!.listenPgAddr}/neondb?options=${options}&sslmode=no-verify`;
  return withClient(url, async (client) => (await client.query(sql)).rows);
}

async function newBranch(name: string): Promise<string> {
  const body = { branch: { name }, endpoints: [{ type: "read_write" }] };
  const made = await world.api("POST", `/projects/${project}/branches`, body);
  assert.equal(made.operations.at(-1).action, "start_compute");
  return made.endpoints[0].id;
}

test("a new branch: one request behind the other, each is there for who connects at once", async () => {
  await query(parent, "neondb_owner", first, "create table t as select 1 as one");
  for (const name of ["a", "b", "c"]) {
    const endpoint = await newBranch(name);
    const rows = await query(endpoint, "neondb_owner", first, "select one from t");
    assert.deepEqual(rows, [{ one: 1 }]);
  }
  const operations = await world.settled(project);
  assert.deepEqual(new Set(operations.map(({ status }) => status)), new Set(["finished"]));
});

test("a new branch: passwords and roles that SQL gave its parent hold from the first connection on", async () => {
  const changes = `alter role neondb_owner password 'other-word-1';
    create role guest login password 'guest-word-1'`;
  await query(parent, "neondb_owner", first, changes);
  const endpoint = await newBranch("d");
  const results = await Promise.allSettled([
    query(endpoint, "neondb_owner", "other-word-1", "select 1 as one"),
    query(endpoint, "guest", "guest-word-1", "select 1 as one"),
    query(endpoint, "neondb_owner", first, "select 1 as one"),
    query(endpoint, "nosuch", "guest-word-1", "select 1 as one"),
  ]);
  const told = results.map((one) => (one.status === "fulfilled" ? one.value : one.reason.message));
  assert.deepEqual(told.slice(0, 2), [[{ one: 1 }], [{ one: 1 }]]);
  assert.match(told[2], /password authentication failed/);
  assert.match(told[3], /password authentication failed/);
});
