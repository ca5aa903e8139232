// A database of 14 that is moved to another tablespace and back, while the background writer still has its files open.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { NO_QUORUM, ShimmedPostgres } from "../../../testing/compute/shimmed-postgres.ts";
import { eventually } from "../../../testing/eventually.ts";
import { removeRemoteFiles, StockPages } from "../../../testing/redo/stock-pages.ts";
import { copyTree, makePostgresDirectory, StockCluster } from "../../../testing/stock-cluster.ts";
import { processIds } from "../../base/proc.ts";

/** Does nearly nothing but to write. */
const SETTINGS = {
  shared_buffers: "4MB",
  bgwriter_delay: "10ms",
  bgwriter_lru_maxpages: "1000",
  bgwriter_lru_multiplier: "10",
  autovacuum: "off",
};

function backgroundWriter(dataDirectory: string): number {
  const pid = processIds().find((one) => {
    try {
      return (
        readlinkSync(`/proc/${one}/cwd`) === dataDirectory &&
        readFileSync(`/proc/${one}/cmdline`, "latin1").includes("background writer")
      );
    } catch {
      return false;
    }
  });
  assert.ok(pid !== undefined);
  return pid;
}

/** What a process has open in `directory`, by what the system calls it now. */
function openFiles(pid: number, directory: string): string[] {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  return links.filter((link) => link.startsWith(`${directory}/`));
}

test("a database of 14 that comes back to its tablespace: what the background writer still has open is no other relation's", async () => {
  const stock = await StockCluster.create({ pgMajor: 14 });
  let postgres: ShimmedPostgres | undefined;
  try {
    await stock.start();
    await stock.stop();
    const workdir = stock.place("moved");
    const [dataDirectory, location] = [join(workdir, "data"), join(workdir, "location")];
    makePostgresDirectory(workdir);
    makePostgresDirectory(location);
    copyTree(stock.dataDir, dataDirectory);
    removeRemoteFiles(dataDirectory);
    postgres = await ShimmedPostgres.start({
      ...{ installation: stock.installation, workdir, dataDirectory, settings: SETTINGS },
      ...{ pages: new StockPages(stock.dataDir), wal: NO_QUORUM },
    });
    const client = await postgres.connect();
    await client.query(`CREATE TABLESPACE other LOCATION '${location}'`);
    await client.query(
      "CREATE TABLE big AS SELECT repeat('x', 400) FROM generate_series(1, 40000)",
    );
    await client.query("CREATE DATABASE moved");
    const inside = await postgres.connect("moved");
    await inside.query(
      "CREATE TABLE t AS SELECT i, repeat('y', 400) AS pad FROM generate_series(1, 4000) i",
    );
    const { rows } = await inside.query(
      "SELECT oid, pg_relation_filenode('t') AS file FROM pg_database WHERE datname = 'moved'",
    );
    const directory = join(dataDirectory, "base", String(rows[0].oid));
    const file = join(directory, String(rows[0].file));
    const pid = backgroundWriter(dataDirectory);
    await eventually("the background writer has written rows of the database", async () => {
      await inside.query("UPDATE t SET i = i WHERE i % 20 = 0");
      await client.query("SELECT count(*) FROM big TABLESAMPLE SYSTEM (20)");
      return openFiles(pid, directory).includes(file);
    });
    process.kill(pid, "SIGSTOP");
    try {
      const before = openFiles(pid, dataDirectory).length;
      await inside.end();
      await client.query("ALTER DATABASE moved SET TABLESPACE other");
      // What is made meanwhile takes another one's turn.
      await client.query("CREATE TABLE made (i int)");
      await client.query("ALTER DATABASE moved SET TABLESPACE pg_default");
      const open = openFiles(pid, dataDirectory);
      assert.equal(open.length, before);
      const ofDatabase = open.filter((link) => link.startsWith(`${directory}/`));
      assert.ok(ofDatabase.includes(`${file} (deleted)`), ofDatabase.join("\n"));
      assert.deepEqual(
        ofDatabase.filter((link) => !link.endsWith(" (deleted)")),
        [],
      );
    } finally {
      process.kill(pid, "SIGCONT");
    }
    const again = await postgres.connect("moved");
    const { rows: counted } = await again.query("SELECT count(*)::int AS n FROM t");
    assert.equal(counted[0].n, 4000);
  } finally {
    await postgres?.stop("SIGQUIT");
    await stock.destroy();
  }
});
