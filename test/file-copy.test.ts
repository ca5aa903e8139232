// CREATE DATABASE with file_copy, of a database of 70 MB: others are served meanwhile, and a pageserver that
// is killed in the middle makes the copy anew.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Lsn, parseLsn } from "../src/base/lsn.ts";
import { PageserverHttpClient, PagestreamClient } from "../src/pageserver/client.ts";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { withClient } from "../testing/tpcb.ts";

const STRATEGY = DEFAULT_MAJOR >= 15 ? "strategy file_copy" : "";
const SUM = "select count(*)::int as n, md5(string_agg(t::text, '' order by i)) as sum from t";
const PG_DATABASE = { spcOid: 1664, dbOid: 0, relNumber: 1262, fork: 0 };
let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({});
  await cluster.startEndpoint("main");
  await cluster.query("main", "create database source");
  await withClient(cluster.url("main", "source"), async (client) => {
    await client.query(
      "create table t as select i, repeat(md5(i::text), 30) as filler from generate_series(1, 60000) i",
    );
    await client.query("create index on t(i)");
  });
  await cluster.ok("branch", "create", "other");
});
after(() => cluster?.[Symbol.asyncDispose]());

async function sumOf(database: string): Promise<unknown> {
  return withClient(
    cluster.url("main", database),
    async (client) => (await client.query(SUM)).rows[0],
  );
}

/** Where WAL ends, and how far the pageserver has taken it in. */
async function positions(): Promise<{ written: Lsn; takenIn: Lsn }> {
  const { tenantId, timelineId } = cluster.endpointSpec("main");
  const [row] = await cluster.query("main", "select pg_current_wal_flush_lsn()::text as lsn");
  const http = new PageserverHttpClient(cluster.config().pageservers[0]!.listenHttpAddr);
  const info = await http.getTimeline(tenantId, timelineId);
  return { written: parseLsn(`${row!["lsn"]}`)!, takenIn: parseLsn(info.last_record_lsn)! };
}

test("page reads on another branch do not wait for the copy", async () => {
  const { tenantId, pageserver } = cluster.endpointSpec("main");
  const http = new PageserverHttpClient(cluster.config().pageservers[0]!.listenHttpAddr);
  const branches = (await cluster.json("branch", "list")) as {
    name: string;
    timeline_id: string;
  }[];
  const timelineId = branches.find(({ name }) => name === "other")!.timeline_id;
  const lsn = parseLsn((await http.getTimeline(tenantId, timelineId)).last_record_lsn)!;
  const reader = await PagestreamClient.connect(pageserver.pgAddr, { tenantId, timelineId });
  await cluster.query("main", `create database copied template source ${STRATEGY}`);
  const { written } = await positions();
  // How long each takes, database-copy.test.ts looks at: here it depends on what else the machine does.
  let reads = 0;
  while ((await positions()).takenIn < written) {
    for (let i = 0; i < 20; i++, reads++) {
      await reader.getPage(PG_DATABASE, 0, lsn);
    }
  }
  reader.close();
  assert.ok(reads >= 20, `${reads} reads during the copy`);
  assert.deepEqual(await sumOf("copied"), await sumOf("source"));
});

/** Resolves while the pageserver has a record at hand that takes long: it has WAL, and does not get on. */
async function untilBusy(): Promise<void> {
  const { tenantId, timelineId } = cluster.endpointSpec("main");
  const http = new PageserverHttpClient(cluster.config().pageservers[0]!.listenHttpAddr);
  let last: Lsn | undefined;
  await eventually("a record that takes long", async () => {
    const info = await http.getTimeline(tenantId, timelineId);
    const takenIn = parseLsn(info.last_record_lsn)!;
    const isBusy = takenIn === last && parseLsn(info.last_received_msg_lsn ?? "0/0")! > takenIn;
    last = takenIn;
    return isBusy;
  });
}

test("a pageserver that is killed in the middle of a copy makes it anew", async () => {
  const creating = cluster.query("main", `create database again template source ${STRATEGY}`);
  await untilBusy();
  await cluster.kill9("pageserver");
  await cluster.ok("pageserver", "start");
  await creating;
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await sumOf("again"), await sumOf("source"));
  const [row] = await cluster.query("main", "select count(*)::int as n from pg_database");
  assert.equal(row!["n"], 6);
});
