// Branches taken under load equal stock Postgres's own recovery to the same LSN, page by page.

import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { crc32c } from "../src/base/crc32c.ts";
import {
  type Lsn,
  parseLsn,
  parseWalFileName,
  segmentNumber,
  segmentOffset,
  walFileName,
} from "../src/base/lsn.ts";
import { listRelations, PagestreamClient } from "../src/pageserver/client.ts";
import {
  runInitdb,
  templateDirectory,
  writeTemplate,
} from "../src/pageserver/ingest/initdb-import.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import { DEFAULT_MAJOR, findInstallation, giveToPostgres } from "../src/postgres/installation.ts";
import { pgVersion } from "../src/postgres/versions.ts";
import type { RelationFork } from "../src/wal-decoder/record-sink.ts";
import {
  type ComparedPages,
  compareRelationFiles,
} from "../src/wal-verify/directory-comparison.ts";
import { TestCluster } from "../testing/cluster.ts";
import { recoverStock } from "../testing/redo/stock-recovery.ts";
import { copyTree, makePostgresDirectory } from "../testing/stock-cluster.ts";
import { checkConsistency, initializeTpcb, TpcbLoad, withClient } from "../testing/tpcb.ts";

let cluster: TestCluster;
let initdbDir: string;

before(async () => {
  cluster = await TestCluster.create({ start: false });
  // The pageserver is given a template whose data directory this test keeps, as stock's starting point.
  const installation = findInstallation();
  const scratch = join(cluster.home, "..", "initdb");
  makePostgresDirectory(scratch);
  initdbDir = join(scratch, "data");
  const superuserSecret = readFileSync(join(cluster.home, "superuser.scram"), "utf8").trim();
  await runInitdb(initdbDir, { installation, superuserSecret });
  const pageserver = join(cluster.home, "pageserver_1");
  const template = templateDirectory(pageserver, installation, false, superuserSecret);
  mkdirSync(template, { recursive: true });
  await writeTemplate(initdbDir, installation.major, template);
  await cluster.ok("start");
  await cluster.ok("tenant", "create", "--set-default");
  await cluster.startEndpoint("main");
});
after(() => cluster?.[Symbol.asyncDispose]());

interface Branch {
  readonly name: string;
  readonly timelineId: string;
  readonly lsn: Lsn;
}

/** Loads tables that reach most of heap and btree while TPC-B runs beside. */
async function churn(round: number): Promise<void> {
  await withClient(cluster.url(), async (client) => {
    await client.query(
      `create table if not exists churn(id int primary key, u uuid, v text, big text)`,
    );
    await client.query("create index if not exists churn_u on churn(u)");
    await client.query("create index if not exists churn_v on churn(v)");
    await client.query(
      `insert into churn select i, gen_random_uuid(), 'v' || i % 50, repeat(md5(i::text), 100)
       from generate_series($1::int, $1::int + 2999) i on conflict (id) do update set u = excluded.u`,
      [round * 2000],
    );
    await client.query("update churn set v = v || 'x' where id % 7 = $1", [round % 7]);
    await client.query("delete from churn where id % 11 = $1", [round % 11]);
    await client.query(round % 2 === 0 ? "vacuum churn" : "vacuum (freeze) churn");
    await client.query("begin; savepoint a; insert into churn values (-1); rollback to a; commit");
    if (round === 2) {
      await client.query("cluster churn using churn_u");
      await client.query(`create database copied${DEFAULT_MAJOR >= 15 ? " strategy wal_log" : ""}`);
    }
  });
}

test("five branches taken during TPC-B: every main and vm page as stock recovers it", async () => {
  await initializeTpcb(cluster.url());
  const load = new TpcbLoad(cluster.url(), { clients: 6 });
  const names: string[] = [];
  for (let round = 1; round <= 5; round++) {
    await load.progress(150);
    await churn(round);
    const name = `at_${round}`;
    await cluster.ok("timeline", "branch", "--branch-name", name);
    names.push(name);
    gatherWal();
  }
  await load.progress(50);
  await load.stop();
  // The oracle stops at the first record after the branch point, so there must be one.
  await cluster.query("main", "create table the_end()");
  await sleep(200);
  const branches = await findBranches(names);
  const systemId = await systemIdentifier();
  const base = join(cluster.home, "..", "initdb", "base");
  copyTree(initdbDir, base);
  replaceSystemId(base, systemId);
  // Its own segment names initdb's system; the gathered one replaces it.
  rmSync(join(base, "pg_wal", walFileName(1)));
  gatherWal();
  const walDir = completeWal(systemId);
  for (const branch of branches) {
    const outDir = join(cluster.home, "..", "initdb", branch.name);
    await recoverStock({ baseDir: base, walDir, targetLsn: branch.lsn, outDir });
    const source = await pagesOf(branch);
    const result = await compareRelationFiles({ directory: outDir, source: source.pages });
    source.close();
    assert.deepEqual(
      result.mismatches,
      [],
      `${branch.name}: ${result.mismatches.length} pages differ`,
    );
    assert.ok(result.pages > 3000, `only ${result.pages} pages were compared`);
    console.log(`${branch.name}: ${result.pages} pages of ${result.forks} forks are identical`);
  }
});

test("a branch taken in the past by LSN serves, and its amcheck is clean", async () => {
  const [branch] = await findBranches(["at_3"]);
  const text = `${Math.floor(branch!.lsn / 2 ** 32).toString(16)}/${(branch!.lsn % 2 ** 32).toString(16)}`;
  await cluster.ok("timeline", "branch", "--branch-name", "again", "--ancestor-start-lsn", text);
  await cluster.startEndpoint("again", "again");
  await cluster.startEndpoint("at_3", "at_3");
  const digest =
    "select count(*)::int as n, sum(hashtext(id || coalesce(v, '') || coalesce(u::text, '')))::text as h from churn";
  assert.deepEqual(await cluster.query("again", digest), await cluster.query("at_3", digest));
  await checkConsistency(cluster.url("again"));
  await checkConsistency(cluster.url("at_3"));
});

async function findBranches(names: string[]): Promise<Branch[]> {
  const http = cluster.config().pageservers[0]!.listenHttpAddr;
  const { tenantId } = cluster.endpointSpec("main");
  const listed = (await cluster.json("branch", "list")) as { name: string; timeline_id: string }[];
  const branches: Branch[] = [];
  for (const name of names) {
    const timelineId = listed.find((branch) => branch.name === name)!.timeline_id;
    const answer = await fetch(`http://${http}/v1/tenant/${tenantId}/timeline/${timelineId}`);
    const info = (await answer.json()) as { ancestor_lsn: string };
    branches.push({ name, timelineId, lsn: parseLsn(info.ancestor_lsn)! });
  }
  return branches;
}

async function systemIdentifier(): Promise<bigint> {
  const [row] = await cluster.query(
    "main",
    "select system_identifier::text as id from pg_control_system()",
  );
  return BigInt(row!["id"] as string);
}

/** Gives a stopped data directory another system identifier: offset 0 of pg_control. */
function replaceSystemId(dataDir: string, systemId: bigint): void {
  const path = join(dataDir, "global", "pg_control");
  const bytes = readFileSync(path);
  bytes.writeBigUInt64LE(systemId, 0);
  const { controlCrcOffset } = pgVersion(DEFAULT_MAJOR);
  bytes.writeUInt32LE(crc32c(bytes, 0, controlCrcOffset), controlCrcOffset);
  writeFileSync(path, bytes);
}

/** Copies the safekeeper's segments, again and again: it removes what the pageserver has stored. */
function gatherWal(): void {
  const walDir = join(cluster.home, "..", "initdb", "wal");
  makePostgresDirectory(walDir);
  const spec = cluster.endpointSpec("main");
  const stored = join(cluster.home, "safekeepers", "sk1", spec.tenantId, spec.timelineId);
  for (const name of readdirSync(stored)) {
    if (parseWalFileName(name) !== undefined) {
      cpSync(join(stored, name), join(walDir, name));
    }
  }
}

/** Puts initdb's own WAL before the safekeeper's, so that stock can start where initdb ended. */
function completeWal(systemId: bigint): string {
  const walDir = join(cluster.home, "..", "initdb", "wal");
  const control = decodeControlFile(
    readFileSync(join(initdbDir, "global/pg_control")),
    DEFAULT_MAJOR,
  );
  const start = startLsnOfMain(control.checkPointLsn);
  const first = walFileName(segmentNumber(start));
  const merged = readFileSync(join(walDir, first));
  readFileSync(join(initdbDir, "pg_wal", first)).copy(merged, 0, 0, segmentOffset(start));
  // xlp_sysid of the long page header (access/xlog_internal.h) is not covered by any checksum.
  merged.writeBigUInt64LE(systemId, 24);
  writeFileSync(join(walDir, first), merged);
  for (const name of readdirSync(walDir)) {
    giveToPostgres(join(walDir, name));
  }
  return walDir;
}

/** End of the shutdown checkpoint record, 114 bytes, that initdb left last. */
function startLsnOfMain(checkPoint: Lsn): Lsn {
  return (Math.ceil((checkPoint + 114) / 8) * 8) as Lsn;
}

async function pagesOf(branch: Branch): Promise<{ pages: ComparedPages; close(): void }> {
  const spec = cluster.endpointSpec("main");
  const timeline = { tenantId: spec.tenantId, timelineId: branch.timelineId };
  const client = await PagestreamClient.connect(spec.pageserver.pgAddr, timeline);
  const sizes = new Map<string, { rel: RelationFork; blocks: number }>();
  const name = (rel: RelationFork) => `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}/${rel.fork}`;
  const databases = [{ spcOid: 1664, dbOid: 0 }];
  for (const row of await cluster.query("main", "select oid::int as oid from pg_database")) {
    databases.push({ spcOid: 1663, dbOid: row["oid"] as number });
  }
  for (const { spcOid, dbOid } of databases) {
    for (const found of await listRelations(
      spec.pageserver.pgAddr,
      timeline,
      branch.lsn,
      spcOid,
      dbOid,
    )) {
      const rel = { spcOid, dbOid, relNumber: found.relNumber, fork: found.fork };
      sizes.set(name(rel), { rel, blocks: found.blocks });
    }
  }
  return {
    pages: {
      blocks: (rel) => sizes.get(name(rel))?.blocks,
      readPage: (rel, blkno) => client.getPage(rel, blkno, branch.lsn, branch.lsn),
      forks: () => [...sizes.values()].map(({ rel }) => rel),
    },
    close: () => client.close(),
  };
}
