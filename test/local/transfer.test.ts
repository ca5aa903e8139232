// Stock clusters in and out of a home: base backups become branches that are written, branched and checked.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { TestCluster } from "../../testing/cluster.ts";
import { prepareMixedWorkload, runMixedWorkload } from "../../testing/mixed-workload.ts";
import {
  STOCK_USER,
  StockCluster,
  takeBaseBackup,
  takeBaseBackupFile,
  writePostgresFile,
} from "../../testing/stock-cluster.ts";
import { withClient } from "../../testing/tpcb.ts";

let cluster: TestCluster;
let stock: StockCluster;
let backups: string;

before(async () => {
  cluster = await TestCluster.create();
  stock = await StockCluster.create({ initdbArgs: ["--data-checksums"] });
  await stock.start();
  const client = await stock.connect();
  await prepareMixedWorkload(client);
  await client.query("create role boss superuser login");
  await client.query("create extension amcheck");
  backups = join(stock.workdir, "backups");
  mkdirSync(backups);
});
after(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await stock?.destroy();
});

const connection = (user = STOCK_USER) => ({ host: stock.workdir, port: 5432, user });

const urlAs = (user: string) =>
  `postgresql://${user}@/postgres?port=5432&host=${encodeURIComponent(stock.workdir)}`;

const DIGEST = `select (select count(*) || ' ' || sum(hashtext(a::text)) from accounts a)
  || ' ' || (select count(*) || ' ' || coalesce(sum(hashtext(c::text)), 0) from child c) as digest`;
const CHECK = `select count(bt_index_check(c.oid, true)) from pg_class c join pg_am a on a.oid = c.relam
  where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p'`;

async function digestOf(endpoint: string): Promise<unknown> {
  return (await cluster.query(endpoint, DIGEST))[0];
}

test("a base backup under load: imported, started, checked, written, branched", async () => {
  const directory = join(backups, "plain");
  await Promise.all([
    runMixedWorkload(stock, { scale: 0.3 }),
    takeBaseBackup(connection(), stock.installation.major, directory, { withWal: true }),
  ]);
  const out = await cluster.ok("tenant", "import", "--from", directory, "--set-default");
  const [, , readable] = /at Lsn (\S+) .* readable from Lsn (\S+) on/.exec(out)!;
  assert.match(
    await cluster.fails("branch", "create", "early", "--at", "0/1000028"),
    new RegExp(`LSN 0/1000028 is before branch 'main' begins, at ${readable}`),
  );
  await cluster.ok("branch", "create", "at_backup_end", "--at", readable!);
  await cluster.startEndpoint("main");
  await cluster.query("main", CHECK);
  await cluster.query("main", "create table written as select generate_series(1, 1000) i");
  await cluster.ok("branch", "create", "dev");
  await cluster.startEndpoint("dev", "dev");
  assert.deepEqual(await digestOf("dev"), await digestOf("main"));
  await cluster.query("dev", CHECK);
  assert.deepEqual(await cluster.query("dev", "select count(*)::int as n from written"), [
    { n: 1000 },
  ]);
  const layers = await cluster.ok("layers", "--branch-name", "dev");
  assert.match(layers, /image .* main +disk +the first key to /);
  assert.match(layers, new RegExp(`readable from ${readable} to `));
  const picture = join(backups, "layers.svg");
  await cluster.ok("layers", "--svg", picture);
  assert.match(readFileSync(picture, "utf8"), /branch dev/);
  const [before] = await cluster.query("main", "select count(*)::int as n from accounts");
  await cluster.ok("endpoint", "stop", "main", "--mode", "immediate");
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await cluster.query("main", "select count(*)::int as n from accounts"), [
    before,
  ]);
});

test("backups in tar format, compressed, with the WAL beside; a superuser of another name", async () => {
  const { major } = stock.installation;
  const directory = join(backups, "tar");
  mkdirSync(directory);
  // As `pg_basebackup -Ft -z -X stream`: the WAL in an archive of its own.
  await withClient(urlAs("boss"), async (boss) => {
    await boss.query(`alter role ${STOCK_USER} rename to chief`);
    try {
      await takeBaseBackup(connection("boss"), major, join(backups, "unpacked"));
    } finally {
      await boss.query(`alter role chief rename to ${STOCK_USER}`);
    }
    await boss.query("select pg_switch_wal()");
  });
  const pack = (name: string, from: string) => {
    const { status, stderr } = spawnSync("tar", ["-czf", join(directory, name), "-C", from, "."]);
    // 1: the running server changed the directory meanwhile.
    assert.ok(status === 0 || status === 1, String(stderr));
  };
  pack("base.tar.gz", join(backups, "unpacked"));
  pack("pg_wal.tar.gz", join(stock.dataDir, "pg_wal"));
  // Exactly that long it had this name; WAL beyond the backup's end renames it back.
  await cluster.ok(
    "tenant",
    "import",
    "--from",
    directory,
    "--branch-name",
    "tar",
    "--set-default",
  );
  assert.ok(!readdirSync(cluster.home).includes("unpacked-backup"));
  await cluster.startEndpoint("tar", "tar");
  await cluster.query("tar", CHECK);
  const file = join(backups, "one.tar");
  await withClient(urlAs("boss"), async (boss) => {
    await boss.query(`alter role ${STOCK_USER} rename to chief`);
    try {
      await takeBaseBackupFile(connection("boss"), major, file);
    } finally {
      await boss.query(`alter role chief rename to ${STOCK_USER}`);
    }
  });
  const id = "0123456789abcdef0123456789abcdef";
  await cluster.ok("tenant", "import", "--from", file, "--tenant-id", id, "--branch-name", "chief");
  await cluster.ok("endpoint", "create", "chief", "--branch-name", "chief", "--tenant-id", id);
  await cluster.ok("endpoint", "start", "chief");
  assert.deepEqual(await cluster.query("chief", "select rolname from pg_roles where oid = 10"), [
    { rolname: "chief" },
  ]);
  assert.match(
    await cluster.fails("tenant", "import", "--from", stock.dataDir, "--tenant-id", id),
    /a server runs on it/,
  );
});

test("a server that was promoted, and stopped: WAL goes on from its second timeline", async () => {
  const promoted = await StockCluster.create();
  try {
    writePostgresFile(join(promoted.dataDir, "standby.signal"), "");
    await promoted.start();
    const standby = await promoted.connect();
    await standby.query("select pg_promote()");
    await standby.query("create table t as select generate_series(1, 1000) i");
    const directory = join(backups, "promoted");
    const from = { host: promoted.workdir, port: 5432, user: STOCK_USER };
    await takeBaseBackup(from, promoted.installation.major, directory, { withWal: true });
    await standby.query("insert into t select generate_series(1001, 1500)");
    await promoted.stop();
    for (const [name, path, rows] of [
      ["from_backup", directory, 1000],
      ["from_stopped", promoted.dataDir, 1500],
    ] as const) {
      await cluster.ok("tenant", "import", "--from", path, "--branch-name", name, "--set-default");
      await cluster.startEndpoint(name, name);
      await cluster.query(name, "insert into t values (0)");
      await cluster.ok("endpoint", "stop", name, "--mode", "immediate");
      await cluster.ok("endpoint", "start", name);
      assert.deepEqual(await cluster.query(name, "select count(*)::int as n from t"), [
        { n: rows + 1 },
      ]);
      await cluster.ok("endpoint", "stop", name);
    }
  } finally {
    await promoted.destroy();
  }
});
