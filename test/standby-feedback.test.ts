// hot_standby_feedback of a stock standby on a safekeeper holds back vacuum on the compute, as on a stock primary.

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type pg from "pg";
import { sleep } from "../src/base/clock.ts";
import {
  findInstallation,
  giveToPostgres,
  spawnPostgresTool,
} from "../src/postgres/installation.ts";
import { TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { freePort } from "../testing/free-port.ts";
import {
  STOCK_USER,
  StockCluster,
  takeBaseBackup,
  writePostgresFile,
} from "../testing/stock-cluster.ts";
import { connect } from "../testing/tpcb.ts";

const STOCK_MAJOR = 17;
const scratch = mkdtempSync(join(tmpdir(), "strata-feedback-"));
giveToPostgres(scratch);
const standbys = new Set<ChildProcess>();
const clients = new Set<pg.Client>();
let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
});
after(async () => {
  for (const client of clients) {
    await client.end();
  }
  for (const child of standbys) {
    await end(child);
  }
  await cluster?.[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
});

async function end(child: ChildProcess): Promise<void> {
  const closed = new Promise((resolve) => child.on("close", resolve));
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGQUIT");
    await closed;
  }
  standbys.delete(child);
}

async function open(url: string): Promise<pg.Client> {
  const client = await connect(url);
  clients.add(client);
  return client;
}

const until = <T>(what: string, holds: () => T | Promise<T>) =>
  eventually(what, holds, { logs: () => `${standbyLogs()}\n${cluster.logTails(4)}` });

function standbyLogs(): string {
  const names = readdirSync(scratch).filter((name) => name.endsWith(".log"));
  return names.map((name) => readFileSync(join(scratch, name), "utf8").slice(-2000)).join("\n");
}

/** A running stock standby of `primary`, and its URL. */
async function startStandby(
  primary: pg.ClientConfig,
  options: { major: number; name: string; conninfo: string },
): Promise<{ child: ChildProcess; url: string }> {
  const directory = join(scratch, options.name);
  await takeBaseBackup(primary, options.major, directory);
  const port = await freePort();
  writePostgresFile(join(directory, "standby.signal"), "");
  appendFileSync(
    join(directory, "postgresql.auto.conf"),
    `primary_conninfo = '${options.conninfo.replaceAll("'", "''")}'
port = ${port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
hot_standby_feedback = on
max_standby_streaming_delay = 0
wal_receiver_status_interval = 1
wal_retrieve_retry_interval = 200\n`,
  );
  const child = spawnPostgresTool(findInstallation(options.major), "postgres", ["-D", directory]);
  standbys.add(child);
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on("data", (chunk: Buffer) => appendFileSync(`${directory}.log`, chunk));
  }
  const user = [primary.user, primary.password ?? []].flat().join(":");
  const url = `postgresql://${user}@127.0.0.1:${port}/postgres`;
  await until("the standby answers", () =>
    connect(url).then(
      (client) => client.end().then(() => true),
      () => false,
    ),
  );
  return { child, url };
}

/** Dead rows that VACUUM had to leave. */
async function vacuum(primary: pg.Client): Promise<number> {
  let said = "";
  const listen = (notice: { message?: string | undefined; detail?: string | undefined }) => {
    said += `${notice.message}\n${notice.detail}\n`;
  };
  primary.on("notice", listen);
  await primary.query("vacuum verbose seen");
  primary.off("notice", listen);
  // As 15 to 18 and as 14 say it.
  const found =
    /(\d+) are dead but not yet removable/.exec(said) ??
    /(\d+) dead row versions cannot be removed yet/.exec(said);
  assert.ok(found !== null, said);
  return Number(found[1]);
}

/** What is seen of a standby's snapshot, from before it to after it. */
async function observe(primary: pg.Client, standbyUrl: string): Promise<Record<string, unknown>> {
  const heldXmin = async () => {
    const { rows } = await primary.query(
      "select backend_xmin from pg_stat_replication where backend_xmin is not null",
    );
    return rows.length > 0;
  };
  // Truncation would need a lock that the reader is in the way of, feedback or not.
  await primary.query(`create table seen with (autovacuum_enabled = off, vacuum_truncate = off)
    as select generate_series(1, 1000) n`);
  const standby = await open(standbyUrl);
  const replayed = async () => {
    const { rows: at } = await primary.query("select pg_current_wal_lsn()::text as lsn");
    await until("the standby has it", async () => {
      const sql = `select pg_last_wal_replay_lsn() >= '${at[0].lsn}' as done`;
      return (await standby.query(sql)).rows[0].done;
    });
  };
  await replayed();
  await until("the standby's xmin holds on the primary", heldXmin);
  const reader = await open(standbyUrl);
  await reader.query("begin isolation level repeatable read");
  const count = async () => (await reader.query("select count(*)::int n from seen")).rows[0].n;
  const before = await count();
  await primary.query("delete from seen where n > 500");
  // Longer than the standby takes to tell its newest xmin.
  await sleep(2500);
  const left = await vacuum(primary);
  await replayed();
  const during = await count();
  await reader.query("commit");
  await until("vacuum gets rid of them", async () => (await vacuum(primary)) === 0);
  await replayed();
  return { before, left, during, after: await count() };
}

const EXPECTED = { before: 1000, left: 500, during: 1000, after: 500 };

const MAJORS = [14, 17];
const branch = (major: number) => `on${major}`;
const senders = async (major: number) =>
  (await cluster.query(branch(major), "select backend_xmin from pg_stat_replication")).length;

for (const major of MAJORS) {
  test(`vacuum waits for what a standby of PostgreSQL ${major} sees, no longer`, async () => {
    const id = branch(major);
    await cluster.ok("timeline", "create", "--branch-name", id, "--pg-version", `${major}`);
    await cluster.startEndpoint(id, id);
    const { tenantId, timelineId, pgPort: port } = cluster.endpointSpec(id);
    const ports = cluster.config().safekeepers.map((node) => node.listenPgAddr.split(":")[1]);
    const password = cluster.password();
    const address = { host: "127.0.0.1", port, user: "cloud_admin", password };
    const { url } = await startStandby(address, {
      major,
      name: id,
      conninfo: `host=127.0.0.1,127.0.0.1,127.0.0.1 port=${ports.join(",")} user=strata
        options='-c timeline_id=${timelineId} -c tenant_id=${tenantId}'`.replaceAll("\n", " "),
    });
    assert.deepEqual(await observe(await open(cluster.url(id)), url), EXPECTED);
  });
}

test("Postgres shuts down in spite of it, and is told again when it is back; without standbys not", async () => {
  const [major] = MAJORS;
  const postgres = cluster.pid(`postgres-${branch(major!)}`);
  process.kill(postgres, "SIGINT");
  // A walsender whose peer does not confirm what it was sent would hold it up for ever.
  await until("the old one is gone", async () => !existsSync(`/proc/${postgres}`));
  await until("the new one is told", () =>
    senders(major!).then(
      (count) => count === 1,
      () => false,
    ),
  );
  for (const child of standbys) {
    await end(child);
  }
  for (const each of MAJORS) {
    await until("nothing is held", async () => (await senders(each)) === 0);
  }
});

test("a stock primary does the same", async () => {
  const stock = await StockCluster.create({ pgMajor: STOCK_MAJOR });
  try {
    await stock.start();
    const primary = await stock.connect();
    const address = { host: stock.workdir, port: 5432, user: STOCK_USER };
    const { child, url } = await startStandby(address, {
      major: STOCK_MAJOR,
      name: "stock",
      conninfo: `host=${stock.workdir} port=5432 user=${STOCK_USER}`,
    });
    assert.deepEqual(await observe(primary, url), EXPECTED);
    await end(child);
  } finally {
    await stock.destroy();
  }
});
