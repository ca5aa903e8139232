// Branches taken under load equal stock Postgres's own recovery to the same LSN, page by page.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Lsn, parseLsn } from "../src/base/lsn.ts";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { TestCluster } from "../testing/cluster.ts";
import { BranchRecovery } from "../testing/redo/branch-recovery.ts";
import { compareWithStorage } from "../testing/redo/storage-comparison.ts";
import { checkConsistency, initializeTpcb, TpcbLoad, withClient } from "../testing/tpcb.ts";

let cluster: TestCluster;
let recovery: BranchRecovery;

before(async () => {
  cluster = await TestCluster.create({ start: false });
  recovery = await BranchRecovery.prepare(cluster);
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
  }
  await load.progress(50);
  await load.stop();
  const branches = await findBranches(names);
  const main = cluster.endpointSpec("main");
  const directories = new Map<string, string>();
  const compare = (directory: string, { timelineId, lsn }: Branch) =>
    compareWithStorage(directory, main.pageserver.pgAddr, { ...main, timelineId }, lsn);
  for (const branch of branches) {
    const directory = await recovery.recover(main, branch.lsn, branch.name);
    directories.set(branch.name, directory);
    const { pages, forks, slruPages, files, mismatches } = await compare(directory, branch);
    assert.deepEqual(mismatches, [], branch.name);
    assert.ok(pages > 3000, `only ${pages} pages were compared`);
    assert.ok(slruPages >= 3 && files >= 4, `${slruPages} SLRU pages, ${files} other files`);
    console.log(`${branch.name}: ${pages} pages of ${forks} forks are identical`);
  }
  // A comparison that cannot fail says nothing: what came later differs in each way.
  const { mismatches } = await compare(directories.get("at_1")!, branches.at(-1)!);
  for (const way of [
    /^1663\/\d+\/\d+, fork 0, block \d+: byte/,
    /^1663\/\d+\/\d+, fork 2, block \d+: (byte|\d+ blocks recovered)/,
    /blocks recovered/,
    /^1663\/\d+\/\d+, fork \d, .*no such file recovered/,
    /^pg_xact page 0: byte/,
    /^pg_filenode\.map of 1663\/\d{5}: no such file recovered/,
  ]) {
    assert.ok(
      mismatches.some((line) => way.test(line)),
      `${way} not in\n${mismatches.join("\n")}`,
    );
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
