// Whole clusters on an S3 store that fails in every way it can, and on stores that cannot be used at all.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { SeededRandom } from "../../src/base/random.ts";
import { freeConfig, TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { type Fault, S3Server } from "../../testing/s3/s3-server.ts";
import { checkConsistency, checkTpcb, initializeTpcb, TpcbLoad } from "../../testing/tpcb.ts";

const FAULTS: readonly Fault[] = [
  { type: "refuse", status: 500, code: "InternalError" },
  { type: "refuse", status: 503, code: "SlowDown" },
  { type: "reset-before" },
  { type: "lost-reply" },
  { type: "refuse-after", status: 500, code: "InternalError" },
  { type: "half-body" },
  { type: "damage", method: "PUT" },
];

const server = new S3Server();

before(async () => {
  await server.start();
  Object.assign(process.env, server.env);
});
after(() => server.stop());

test("many requests fail, each in another way: commits go on, and a lost disk comes back", async () => {
  await using cluster = await TestCluster.create({
    pageserverOptions: {
      "checkpoint-distance": `${1 << 20}`,
      "compaction-period-ms": "300",
      "eviction-period-ms": "500",
      "max-resident-bytes": `${4 << 20}`,
    },
    config: { ...(await freeConfig(1)), remoteStorage: server.location("faults") },
  });
  await cluster.startEndpoint("main");
  await initializeTpcb(cluster.url());
  const random = new SeededRandom(7);
  const timer = setInterval(() => {
    if (server.pendingFaults === 0 && random.bool(0.5)) {
      server.inject(FAULTS[random.int(FAULTS.length)]!);
    }
  }, 20);
  const load = new TpcbLoad(cluster.url(), { clients: 4 });
  try {
    await load.progress(300);
    await cluster.ok("branch", "create", "dev", "--parent", "main");
    await load.progress(300);
    await cluster.kill9("pageserver");
    cluster.loseDisk();
    await cluster.ok("pageserver", "start", "--start-timeout", "60s");
    await load.progress(300);
  } finally {
    clearInterval(timer);
    server.clearFaults();
    await load.stop();
  }
  await checkTpcb(cluster.url(), load.acknowledged);
  await cluster.startEndpoint("dev", "dev");
  await checkConsistency(cluster.url("dev"));
  assert.match(await cluster.ok("scrub"), /^tenant/);
});

test("the store is away: pages and commits go on; branches are made when it is back", async () => {
  await using cluster = await TestCluster.create({
    pageserverOptions: { "checkpoint-distance": `${1 << 20}` },
    config: { ...(await freeConfig(1)), remoteStorage: server.location("away") },
  });
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select g as i from generate_series(1, 10000) g");
  const away: Fault[] = [{ type: "refuse", status: 503, code: "SlowDown", times: 1e9 }];
  server.inject(...away);
  try {
    await cluster.query("main", "insert into t select g from generate_series(10001, 60000) g");
    const refused = await cluster.fails("branch", "create", "dev", "--parent", "main");
    assert.match(refused, /the object store has not taken timeline [0-9a-f]{32} within 30 s/);
    const rows = await cluster.query("main", "select count(*)::int as n from t");
    assert.equal(rows[0]!["n"], 60_000);
  } finally {
    server.clearFaults();
  }
  await eventually("a branch can be made again", async () => {
    const { code } = await cluster.cli("branch", "create", "dev2", "--parent", "main");
    return code === 0;
  });
});

/** What the start of a pageserver says of a store, on one line. */
async function refusedStart(
  remoteStorage: string,
  env: Record<string, string> = {},
  timeout: readonly string[] = [],
) {
  const before = { ...process.env };
  Object.assign(process.env, env);
  const config = await freeConfig(1);
  await using cluster = await TestCluster.create({
    start: false,
    config: { ...config, remoteStorage },
  });
  try {
    const { code, stderr } = await cluster.cli("start", ...timeout);
    assert.equal(code, 1, stderr);
    return stderr.trim().split("\n").at(-1)!;
  } finally {
    for (const name of Object.keys(env)) {
      process.env[name] = before[name];
    }
  }
}

test("a store that cannot be used: the start says why", async () => {
  const { endpoint } = server;
  assert.match(
    await refusedStart(`s3://no-such-bucket/x?endpoint=${endpoint}&region=us-east-1`),
    /there is no bucket no-such-bucket/,
  );
  assert.match(
    await refusedStart(server.location("x"), { AWS_SECRET_ACCESS_KEY: "wrong" }),
    /SignatureDoesNotMatch/,
  );
  server.options = { ignoresConditions: true };
  assert.match(await refusedStart(server.location("ignores")), /If-None-Match/);
  server.options = { clockOffsetMs: 3_600_000 };
  assert.match(await refusedStart(server.location("skew")), /clock/);
  server.options = {};
  assert.match(
    await refusedStart("s3://bucket/x?endpoint=http://127.0.0.1:9&region=us-east-1", {}, [
      "--start-timeout",
      "30s",
    ]),
    /object store (?:is away|fails; tried again): .*127\.0\.0\.1:9/,
  );
});
