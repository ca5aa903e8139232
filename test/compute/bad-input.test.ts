// What a compute cannot do with what it is given: one clear error, by command and by HTTP, and what runs goes on.

import assert from "node:assert/strict";
import { existsSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import type { ConfigureRequest } from "../../src/compute/api.ts";
import { clientOf, findEndpoint } from "../../src/local/endpoints.ts";
import { StrataHome } from "../../src/local/home.ts";
import { TestCluster } from "../../testing/cluster.ts";

let cluster: TestCluster;
let postgresPid: number | null;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select generate_series(1, 1000) i");
  ({ postgresPid } = await agent().status());
});

after(() => cluster?.[Symbol.asyncDispose]());

// It is the same Postgres, and it takes writes.
afterEach(async () => {
  await cluster.query("main", "insert into t values (0)", "delete from t where i = 0");
  assert.equal((await agent().status()).postgresPid, postgresPid);
});

function agent() {
  return clientOf(findEndpoint(new StrataHome(cluster.home), "main"));
}

/** By command, in exactly these words, and no endpoint of the name `bad` is there then. */
async function refused(line: string | RegExp, ...args: string[]): Promise<void> {
  const error = await cluster.fails(...args);
  if (typeof line === "string") {
    assert.equal(error, `command failed: ${line}`);
  } else {
    assert.match(error, line);
  }
  assert.ok(!existsSync(join(cluster.home, "endpoints", "bad")));
}

/** By HTTP, with these words behind the agent's address. */
async function refusedByAgent(
  kind: string,
  words: string | RegExp,
  cluster: ConfigureRequest["spec"]["cluster"],
): Promise<void> {
  await assert.rejects(agent().configure({ spec: { cluster } }), (error: Error) => {
    const said = error.message.replace(/^compute [\d.:]+: /, "");
    if (typeof words === "string") {
      assert.equal(said, words);
    } else {
      assert.match(said, words);
    }
    assert.equal((error as { kind?: string }).kind, kind);
    return true;
  });
}

const creating = (setting: string) => [
  "endpoint",
  "create",
  "bad",
  "--allow-multiple",
  "-c",
  setting,
];
const setting = (name: string, value: string) => ({ settings: [{ name, value }] });

test("forbidden settings are refused by name, before anything is made or changed", async () => {
  const why =
    "cannot be changed: what is durable, where files are, or who runs commands rests on it";
  for (const name of ["fsync", "Full_Page_Writes", "data_directory", "primary_conninfo"]) {
    await refused(`setting '${name}' ${why}`, ...creating(`${name}=off`));
    await refusedByAgent("invalid", `setting '${name}' ${why}`, setting(name, "off"));
  }
  await refused(/argument '1a=1' is invalid. key=value is wanted$/, ...creating("1a=1"));
  await refusedByAgent("invalid", /^work_mem: /, setting("work_mem", "much"));
  assert.deepEqual(await cluster.query("main", "show work_mem"), [{ work_mem: "4MB" }]);
});

test("a cache that is larger than the disk, or too small, is refused with the size that there is", async () => {
  const { blocks, bsize } = statfsSync(cluster.home);
  const disk = Math.floor((blocks * bsize) / 2 ** 20);
  const name = "strata.local_cache";
  const larger = `the limit of the local cache (${name}) must not be larger than the disk, which has ${disk}MB; it is '900TB'`;
  await refused(larger, "endpoint", "create", "bad", "--allow-multiple", "--local-cache", "900TB");
  await refusedByAgent(
    "invalid",
    /must not be larger than the disk, which has \d+MB; it is '900TB'$/,
    setting(name, "900TB"),
  );
  await refused(
    /must be at least 16MB, or 0 for no limit; it is '1MB'$/,
    ...creating(`${name}=1MB`),
  );
});

test("an extension, its version, its database or a directory of extensions that is not there is named", async () => {
  const extension = (name: string, database = "postgres", version?: string) => ({
    extensions: [{ name, database, ...(version === undefined ? {} : { version }) }],
  });
  await refusedByAgent(
    "not-found",
    "there is no extension 'no_such' in this installation of Postgres: pg_available_extensions lists those that there are, and an endpoint's --extension-dir brings more",
    extension("no_such"),
  );
  await refusedByAgent(
    "not-found",
    "extension 'plpgsql' has no version '9': there is 1.0",
    extension("plpgsql", "postgres", "9"),
  );
  await refusedByAgent(
    "not-found",
    "there is no database 'nowhere'",
    extension("plpgsql", "nowhere"),
  );
  const missing = join(cluster.home, "nowhere");
  const args = ["endpoint", "create", "bad", "--allow-multiple", "--extension-dir"];
  await refused(`extension directory '${missing}': there is no such directory`, ...args, missing);
  await refused(
    `extension directory '${cluster.home}': it has no share/extension, where NAME.control and NAME--VERSION.sql belong; NAME.so belongs into lib`,
    ...args,
    cluster.home,
  );
});

test("a replica of a branch that was deleted, or that never was, is refused by the branch's name", async () => {
  const replica = ["endpoint", "create", "bad", "--replica", "--branch-name"];
  await refused("Found no timeline id for branch name 'nowhere'", ...replica, "nowhere");
  await cluster.ok("timeline", "branch", "--branch-name", "gone");
  await cluster.ok("branch", "delete", "gone");
  await refused("Found no timeline id for branch name 'gone'", ...replica, "gone");
});

test("a Postgres that dies at its start: its last words are the command's", async () => {
  const branch = (name: string) => ["timeline", "branch", "--branch-name", name];
  await cluster.ok(...branch("dies"));
  const create = ["endpoint", "create", "dies", "--branch-name", "dies"];
  await cluster.ok(...create, "-c", "shared_preload_libraries=not_there");
  const library =
    /could not access file "not_there": No such file or directory.*Postgres ended while starting: exit code 1/;
  await refused(library, "endpoint", "start", "dies");
  await cluster.ok("endpoint", "stop", "dies", "--destroy").catch(() => undefined);
  await cluster.ok(...branch("no-memory"));
  const memory = ["endpoint", "create", "no-memory", "--branch-name", "no-memory"];
  await cluster.ok(...memory, "-c", "shared_buffers=4000GB");
  await refused(
    /could not map anonymous shared memory.*Postgres ended while starting/,
    "endpoint",
    "start",
    "no-memory",
  );
});
