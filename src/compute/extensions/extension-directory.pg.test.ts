// Extensions from a directory of the user's own, in SQL and in C, on every major alike.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ComputeWorld } from "../../../testing/compute/compute-world.ts";
import { NO_COMPILER } from "../../../testing/compute/shim-program.ts";
import { checkExtensionDirectory } from "../../postgres/extension-directory.ts";
import { DEFAULT_MAJOR } from "../../postgres/installation.ts";

let world: ComputeWorld;
let own: string;

/** What PG_MODULE_MAGIC makes (fmgr.h), as the headers of a server may not be here. */
const MAGIC =
  DEFAULT_MAJOR >= 18
    ? `struct magic { int len, version, args, keys, name, float8; char extra[32]; const char *names[2]; };
       static const struct magic magic = { sizeof(struct magic), ${DEFAULT_MAJOR * 100}, 100, 32, 64, 1, "PostgreSQL", {0, 0} };`
    : DEFAULT_MAJOR >= 15
      ? `struct magic { int len, version, args, keys, name, float8; char extra[32]; };
         static const struct magic magic = { sizeof(struct magic), ${DEFAULT_MAJOR * 100}, 100, 32, 64, 1, "PostgreSQL" };`
      : `struct magic { int len, version, args, keys, name, float8; };
         static const struct magic magic = { sizeof(struct magic), ${DEFAULT_MAJOR * 100}, 100, 32, 64, 1 };`;
/** FunctionCallInfoBaseData has its first argument at byte 32. */
const LIBRARY = `
  ${MAGIC}
  const struct magic *Pg_magic_func(void) { return &magic; }
  static const struct { int version; } info = { 1 };
  const void *pg_finfo_own_add_one(void) { return &info; }
  unsigned long own_add_one(const char *call) { return *(const long *)(call + 32) + 1; }
  `;

before(async () => {
  world = await ComputeWorld.start(1);
  own = mkdtempSync(join(tmpdir(), "strata-extensions-"));
  chmodSync(own, 0o755);
  mkdirSync(join(own, "share", "extension"), { recursive: true });
  mkdirSync(join(own, "lib"));
  writeControl("own_sql", "relocatable = true");
  writeSql(
    "own_sql--1.0.sql",
    "create function own_answer() returns int language sql as 'select 42'",
  );
});

after(async () => {
  rmSync(own, { recursive: true, force: true });
  await world.remove();
});

function writeControl(name: string, more = ""): void {
  const text = `default_version = '1.0'\ncomment = 'of the test'\n${more}\n`;
  writeFileSync(join(own, "share", "extension", `${name}.control`), text);
}

function writeSql(name: string, sql: string): void {
  writeFileSync(join(own, "share", "extension", name), `${sql};\n`);
}

function compile(name: string, source: string): void {
  const c = join(own, "source.c");
  writeFileSync(c, source);
  const { status, stderr } = spawnSync(
    "cc",
    ["-shared", "-fPIC", "-o", join(own, "lib", `${name}.so`), c],
    { encoding: "utf8" },
  );
  assert.equal(status, 0, stderr);
}

test("extension directory: its extensions are beside those of the installation, also after a crash and on a branch", {
  skip: NO_COMPILER,
}, async () => {
  compile("own_c", LIBRARY);
  writeControl("own_c", "module_pathname = '$libdir/own_c'");
  writeSql(
    "own_c--1.0.sql",
    "create function own_add_one(int8) returns int8 as 'MODULE_PATHNAME' language c strict",
  );
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id, { extensionDir: own });
  await endpoint.start();
  const available = `select name from pg_available_extensions where name in ('own_sql', 'own_c', 'pg_trgm', 'plpgsql') order by 1`;
  assert.deepEqual((await endpoint.query(available)).flat(), [
    "own_c",
    "own_sql",
    "pg_trgm",
    "plpgsql",
  ]);
  await endpoint.query(
    "create extension own_sql; create extension own_c; create extension pg_trgm",
  );
  const used =
    "select own_answer(), own_add_one(41), similarity('abc', 'abc'), to_tsvector('english', 'dogs')";
  const expected = [["42", "42", "1", "'dog':1"]];
  assert.deepEqual(await endpoint.query(used), expected);
  const postmaster = (await endpoint.client.status()).postgresPid!;
  process.kill(postmaster, "SIGKILL");
  await endpoint.running(1);
  assert.deepEqual(await endpoint.query(used), expected);
  const lsn = (await endpoint.client.status()).commitLsn!;
  await endpoint.daemon.kill("SIGTERM");

  // A branch's endpoint needs it, too: without, the libraries cannot be found, and that is said.
  const branch = await world.createTimeline({ timelineId: timeline_id, lsn });
  const without = await world.createEndpoint(branch.timeline_id, {});
  await without.start();
  assert.deepEqual(await without.query("select own_answer()"), [["42"]]);
  await assert.rejects(without.query("select own_add_one(1)"), /own_c": No such file/);
  await without.daemon.kill("SIGTERM");
});

test("extension directory: a library with a WAL resource manager of its own ends the start, and a configuration changes nothing", {
  skip: NO_COMPILER,
}, async () => {
  compile(
    "own_rmgr",
    "extern void RegisterCustomRmgr(int, const void *); void _PG_init(void) { RegisterCustomRmgr(200, 0); }",
  );
  const { timeline_id } = await world.createTimeline();
  const preload = "shared_preload_libraries";
  const refused =
    /shared_preload_libraries: library 'own_rmgr' has a WAL resource manager of its own \(RegisterCustomRmgr\), whose records storage cannot replay/;
  const wrong = await world.createEndpoint(timeline_id, {
    extensionDir: own,
    settings: { [preload]: "pg_stat_statements, own_rmgr" },
  });
  wrong.daemon.start();
  await wrong.daemon.exited();
  assert.match(wrong.daemon.log, refused);

  const endpoint = await world.createEndpoint(timeline_id, { extensionDir: own });
  await endpoint.start();
  const configure = (value: string) => {
    const settings = [
      { name: preload, value },
      { name: "shared_buffers", value: "16MB" },
    ];
    return endpoint.client.configure({ spec: { cluster: { settings } } });
  };
  await assert.rejects(configure("own_rmgr"), { kind: "unsupported", message: refused });
  const answer = { restart_required: [preload] };
  assert.deepEqual(await configure("pg_stat_statements"), answer);
  process.kill((await endpoint.client.status()).postgresPid!, "SIGKILL");
  await endpoint.running(1);
  assert.deepEqual(await endpoint.query(`show ${preload}`), [["pg_stat_statements"]]);
  await endpoint.daemon.kill("SIGTERM");
});

test("extension directory: what is none is refused, by the agent too", async () => {
  const missing = { kind: "invalid", message: /there is no such directory$/ };
  assert.throws(() => checkExtensionDirectory(join(own, "nowhere")), missing);
  assert.throws(() => checkExtensionDirectory(join(own, "lib")), {
    message: /it has no share\/extension, where NAME\.control and NAME--VERSION\.sql belong/,
  });
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id, { extensionDir: join(own, "nowhere") });
  endpoint.daemon.start();
  await endpoint.daemon.exited();
  assert.match(endpoint.daemon.log, /extension directory '.*nowhere': there is no such directory/);
});
