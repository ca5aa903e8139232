// A branch written out: stock Postgres of each major starts on it, and has what the branch has.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type pg from "pg";
import { decodeControlFile } from "../../src/postgres/control-file.ts";
import { findInstallation, runPostgresTool } from "../../src/postgres/installation.ts";
import { hasRightChecksum } from "../../src/postgres/page-checksum.ts";
import { parseRelationPath } from "../../src/postgres/relation-path.ts";
import type { PgMajor } from "../../src/postgres/versions.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { EACH_MAJOR } from "../../testing/each-major.ts";
import { freePort } from "../../testing/free-port.ts";
import { makePostgresDirectory } from "../../testing/stock-cluster.ts";
import { withClient } from "../../testing/tpcb.ts";

const TOOLS = "/usr/lib/postgresql/15/bin";

let cluster: TestCluster;
let exports: string;
before(async () => {
  cluster = await TestCluster.create();
  exports = join(cluster.home, "..", "exports");
  makePostgresDirectory(exports);
});
after(() => cluster?.[Symbol.asyncDispose]());

/** Rows of all tables, catalogs too, in a form that two servers can be compared by. */
async function contentOf(url: string): Promise<Record<string, string>> {
  return withClient(url, async (client: pg.Client) => {
    const tables = await client.query<{ name: string }>(
      `select format('%I.%I', n.nspname, c.relname) as name from pg_class c
         join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'S', 'm') and n.nspname <> 'information_schema' order by 1`,
    );
    const content: Record<string, string> = {};
    for (const { name } of tables.rows) {
      const { rows } = await client.query<{ digest: string }>(
        `select count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) as digest
           from (select * from ${name} offset 0) t`,
      );
      content[name] = rows[0]!.digest;
    }
    return content;
  });
}

const CHECK = `select count(bt_index_check(c.oid, true)) from pg_class c join pg_am a on a.oid = c.relam
  where a.amname = 'btree' and c.relkind = 'i'`;

async function fill(endpoint: string): Promise<void> {
  const location = join(exports, `location-${endpoint}`);
  makePostgresDirectory(location);
  await cluster.query(
    endpoint,
    "create extension amcheck",
    "create table t as select i, md5(i::text) m from generate_series(1, 20000) i",
    "create index on t(m)",
    "create unlogged table u as select generate_series(1, 100) i",
    "create index on u(i)",
    "create table big as select i, repeat(md5(i::text), 200) b from generate_series(1, 500) i",
    "create sequence s",
    `create tablespace far location '${location}'`,
    "create table in_far tablespace far as select i, md5(i::text) m from generate_series(1, 2000) i",
    "create index on in_far(m) tablespace far",
    "select nextval('s') from generate_series(1, 70)",
    "select lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'))",
    "create table locked as select generate_series(1, 50) i",
    "begin; select * from locked for share; savepoint a; update locked set i = i + 1; commit",
    "vacuum (freeze) t",
    "delete from t where i % 7 = 0",
    "begin; insert into t values (-1, 'prepared'); prepare transaction 'p'",
    "create database other",
  );
}

/** Runs stock Postgres on the directory while `body` asks it. */
async function onStock(
  directory: string,
  major: PgMajor,
  body: (url: (database: string) => string) => Promise<void>,
): Promise<void> {
  const installation = findInstallation(major);
  const port = await freePort();
  const log = join(exports, `log-${port}`);
  const options = `-c port=${port} -c unix_socket_directories='' -c autovacuum=off -c fsync=off`;
  const run = (...args: string[]) =>
    runPostgresTool(installation, "pg_ctl", ["-D", directory, "-w", ...args]);
  await run("-l", log, "-o", options, "start");
  try {
    const password = cluster.password();
    await body((database) => `postgresql://cloud_admin:${password}@127.0.0.1:${port}/${database}`);
  } finally {
    await run("-m", "fast", "stop");
  }
  const text = readFileSync(log, "utf8");
  assert.match(text, /database system was shut down at/);
  assert.doesNotMatch(text, /recovery|ERROR|PANIC/);
}

/** Every file is its owner's only; every page has its checksum, where it is to have one. */
function checkFiles(directory: string, checksums: boolean, path = ""): number {
  let pages = 0;
  assert.equal(statSync(join(directory, path)).mode & 0o777, 0o700);
  for (const entry of readdirSync(join(directory, path), { withFileTypes: true })) {
    const name = join(path, entry.name);
    if (entry.isDirectory()) {
      pages += checkFiles(directory, checksums, name);
      continue;
    }
    assert.equal(statSync(join(directory, name)).mode & 0o777, 0o600, name);
    const file = parseRelationPath(name);
    if (file?.kind === "relation") {
      const bytes = readFileSync(join(directory, name));
      for (let block = 0; block < bytes.length / 8192; block++) {
        const page = bytes.subarray(block * 8192, (block + 1) * 8192);
        assert.ok(!checksums || hasRightChecksum(page, block), `${name} block ${block}`);
        pages++;
      }
    }
  }
  return pages;
}

for (const major of EACH_MAJOR) {
  test(`export: stock PostgreSQL ${major} has what the branch has, at its head and in its past`, async () => {
    const checksums = major % 2 === 1;
    await cluster.ok(
      ...["tenant", "create", "--set-default", "--pg-version", `${major}`],
      ...(checksums ? ["--data-checksums"] : []),
    );
    const id = `pg${major}`;
    // Catalogs are compared, which autovacuum would change meanwhile.
    await cluster.ok("endpoint", "create", id, "-c", "autovacuum=off");
    await cluster.ok("endpoint", "start", id);
    await fill(id);
    const [past] = await cluster.query(id, "select pg_current_wal_insert_lsn()::text as lsn");
    const before = await contentOf(cluster.url(id));
    await cluster.query(id, "update t set m = 'changed' where i < 1000", "drop table big");
    // Or what a database's sessions write into catalogs would differ.
    await cluster.ok("endpoint", "stop", id);
    const head = join(exports, `${id}-head`);
    assert.match(
      await cluster.ok("tenant", "export", "--to", head),
      /Exported branch 'main' at Lsn/,
    );
    const older = join(exports, `${id}-past`);
    makePostgresDirectory(older);
    await cluster.ok("tenant", "export", "--to", older, "--at", `${past!["lsn"]}`);
    assert.ok(checkFiles(head, checksums) > 2000);
    await cluster.ok("endpoint", "start", id);
    const branch = {
      postgres: await contentOf(cluster.url(id)),
      other: await contentOf(cluster.url(id, "other")),
    };
    await onStock(head, major, async (url) => {
      assert.deepEqual(await contentOf(url("postgres")), branch.postgres);
      assert.deepEqual(await contentOf(url("other")), branch.other);
      dumpsAreEqual(major, url("postgres"), cluster.url(id));
      await withClient(url("postgres"), async (client: pg.Client) => {
        await client.query(CHECK);
        assert.equal((await client.query("select * from u")).rowCount, 0);
        await client.query("insert into u values (1)");
        await client.query("commit prepared 'p'");
        assert.equal((await client.query("select * from t where i = -1")).rowCount, 1);
        await client.query("create table more as select generate_series(1, 1000)");
      });
    });
    checkWithTools(head, major, checksums);
    await onStock(older, major, async (url) => {
      const there = await contentOf(url("postgres"));
      // As after a crash: rows that WAL does not have, and a sequence that is logged 32 values ahead.
      assert.equal(there["public.u"], "0 0");
      const { "public.u": _u, "public.s": _s, ...logged } = before;
      assert.deepEqual({ ...there, ...logged }, there);
      await withClient(url("postgres"), (client: pg.Client) => client.query(CHECK));
    });
    const systemId = (directory: string) =>
      decodeControlFile(readFileSync(join(directory, "global/pg_control")), major).systemId;
    assert.notEqual(systemId(head), systemId(older));
    await cluster.ok("endpoint", "stop", id);
  });
}

function dumpsAreEqual(major: PgMajor, stock: string, branch: string): void {
  if (major > 15 || !existsSync(join(TOOLS, "pg_dump"))) {
    return;
  }
  const dump = (url: string) =>
    execFileSync(join(TOOLS, "pg_dump"), [url], { encoding: "utf8" }).replaceAll(
      /^\\(?:un)?restrict .*$/gm,
      "",
    );
  assert.equal(dump(stock), dump(branch));
}

function checkWithTools(directory: string, major: PgMajor, checksums: boolean): void {
  if (major === 15 && checksums && existsSync(join(TOOLS, "pg_checksums"))) {
    const out = execFileSync(join(TOOLS, "pg_checksums"), ["--check", "-D", directory], {
      encoding: "utf8",
    });
    assert.match(out, /Bad checksums:\s+0/);
  }
}

test("export: refused where something is, and below what is kept; nothing is left", async () => {
  const full = join(exports, "full");
  mkdirSync(full);
  writeFileSync(join(full, "precious"), "");
  assert.match(
    await cluster.fails("tenant", "export", "--to", full),
    /'.*full' is there and not an empty directory/,
  );
  const file = join(full, "precious");
  assert.match(
    await cluster.fails("tenant", "export", "--to", file),
    /precious' is there and not an empty/,
  );
  assert.match(
    await cluster.fails("tenant", "export", "--to", join(exports, "none/here")),
    /there is no '.*none'/,
  );
  const early = join(exports, "early");
  assert.match(
    await cluster.fails("tenant", "export", "--to", early, "--at", "0/1000028"),
    /below .*, the oldest LSN kept/,
  );
  assert.match(await cluster.fails("tenant", "export", "--to", early, "--branch-name", "no"), /no/);
  assert.deepEqual(
    readdirSync(exports).filter((name) => /early|partial/.test(name)),
    [],
  );
  assert.deepEqual(readdirSync(full), ["precious"]);
});
