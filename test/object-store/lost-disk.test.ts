// A pageserver's machine that is thrown away: its disk comes back from the object store, page by page as they are read.
//
// The store is a directory; `STRATA_TEST_S3` names another one (`npm run test:s3` does).

import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { parseLsn } from "../../src/base/lsn.ts";
import { randomBytes } from "../../src/base/random.ts";
import type { ScrubReportWire } from "../../src/pageserver/api.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { freeConfig, TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { checkConsistency, checkTpcb, initializeTpcb, TpcbLoad } from "../../testing/tpcb.ts";

const STORE = process.env["STRATA_TEST_S3"];
let cluster: TestCluster;

before(async () => {
  const config = await freeConfig(3);
  const run = randomBytes(4).toString("hex");
  cluster = await TestCluster.create({
    safekeepers: 3,
    // Small layers and compaction all the time, so that there is something to bring over and to evict.
    pageserverOptions: {
      "checkpoint-distance": `${2 << 20}`,
      "compaction-period-ms": "200",
      "eviction-period-ms": "500",
      "max-resident-bytes": `${8 << 20}`,
    },
    config: { ...config, ...(STORE === undefined ? {} : { remoteStorage: within(STORE, run) }) },
  });
  await cluster.startEndpoint("main");
  await initializeTpcb(cluster.url());
});
after(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

/** A prefix of its own below the store's. */
function within(location: string, name: string): string {
  const [path, query] = location.split("?");
  return `${path}/${name}${query === undefined ? "" : `?${query}`}`;
}

async function timeline(branch: string) {
  const { listenHttpAddr } = cluster.config().pageservers[0]!;
  const http = new PageserverHttpClient(listenHttpAddr);
  const listed = (await cluster.json("branch", "list")) as { name: string; timeline_id: string }[];
  const { timeline_id: timelineId } = listed.find(({ name }) => name === branch)!;
  const [tenant] = await http.listTenants();
  const ids = [parseTenantId(tenant!.id), parseTimelineId(timelineId)] as const;
  const directory = join(cluster.home, "pageserver_1/tenants", ids[0], "timelines", ids[1]);
  return {
    directory,
    info: () => http.getTimeline(...ids),
    layers: () => http.listLayers(...ids),
    checkpoint: () => http.checkpoint(...ids),
  };
}

/** Until the store has all that is committed. */
async function stored(branch: string): Promise<void> {
  const { info, checkpoint } = await timeline(branch);
  await checkpoint();
  const { last_record_lsn: last } = await info();
  const isStored = async () => {
    const { remote_consistent_lsn: remote } = await info();
    return parseLsn(remote)! >= parseLsn(last)!;
  };
  // Of many small layers, under load.
  await eventually("the store has it", isStored, { timeoutMs: 180_000 });
}

test("under load the pageserver dies and its disk is lost: nothing that was committed is", async () => {
  const load = new TpcbLoad(cluster.url(), { clients: 4 });
  try {
    await load.progress(500);
    await stored("main");
    await cluster.ok("branch", "create", "dev", "--parent", "main");
    await load.progress(200);
    await cluster.kill9("pageserver");
    cluster.loseDisk();
    await cluster.ok("pageserver", "start");
    await load.progress(500);
  } finally {
    await load.stop();
  }
  await checkTpcb(cluster.url(), load.acknowledged);
  await checkConsistency(cluster.url());
});

test("a branch from before is there, and a new compute reads all of it from the store", async () => {
  await cluster.startEndpoint("dev", "dev");
  await checkConsistency(cluster.url("dev"));
  await cluster.ok("endpoint", "stop", "dev");
});

test("a compute that starts afresh on an empty pageserver disk", async () => {
  await cluster.ok("endpoint", "stop", "main");
  await stored("main");
  await cluster.ok("pageserver", "stop");
  cluster.loseDisk();
  await cluster.ok("pageserver", "start");
  const { layers } = await timeline("main");
  const before = (await layers()).historic_layers;
  assert.ok(before.length > 2 && before.some(({ remote }) => remote), JSON.stringify(before));
  await cluster.ok("endpoint", "start", "main");
  await checkConsistency(cluster.url());
});

test("layers leave a disk that is too full, unless the store is a directory of the same one", async () => {
  const { layers, directory } = await timeline("main");
  const isShared = STORE === undefined;
  const resident = async () => {
    const { historic_layers: all } = await layers();
    return all.filter(({ remote }) => !remote).reduce((sum, one) => sum + one.layer_file_size, 0);
  };
  if (isShared) {
    await stored("main");
    // The same bytes under two names take space once. Those that came back from the store are copies.
    const links = readdirSync(directory).map((name) => statSync(join(directory, name)).nlink);
    assert.ok(links.includes(2), `${links}`);
    return;
  }
  const rows = "select sum(abalance) from pgbench_accounts";
  await cluster.query("main", rows);
  await eventually("few are left", async () => (await resident()) < 10 << 20);
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  await cluster.query("main", rows);
  await checkConsistency(cluster.url());
});

test("scrub: nothing is missing; what the deaths left behind goes", async () => {
  await stored("main");
  const looked = async (...args: string[]) => {
    const reports = await cluster.json("scrub", "--min-age", "0s", ...args);
    return Object.values(reports as Record<string, ScrubReportWire>);
  };
  for (const { missing, differing, damaged, unknown } of await looked("--fix")) {
    assert.deepEqual([missing, differing, damaged, unknown], [[], [], [], []]);
  }
  for (const { orphans } of await looked()) {
    assert.deepEqual(orphans, []);
  }
  assert.match(await cluster.ok("scrub", "--min-age", "0s"), /nothing is wrong/);
  await checkConsistency(cluster.url());
});
