// How long history is kept, as people set it and see it: tenant config, gc, and points that are gone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { GcResult, TenantConfigInfo } from "../../src/pageserver/api.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { TestCluster } from "../../testing/cluster.ts";

let cluster: TestCluster;
/** Before and after the branch `dev` begins. */
const lsns: string[] = [];

before(async () => {
  cluster = await TestCluster.create({});
  await cluster.startEndpoint();
  await cluster.query("main", "create table t (n int)");
  for (let n = 0; n < 4; n++) {
    await cluster.query("main", `insert into t select ${n} from generate_series(1, 1000)`);
    if (n === 1) {
      await cluster.ok("branch", "create", "dev");
    }
    const [row] = await cluster.query("main", "select pg_current_wal_flush_lsn()::text as lsn");
    lsns.push(`${row!["lsn"]}`);
  }
});

after(() => cluster?.[Symbol.asyncDispose]());

async function checkpoint(): Promise<void> {
  const { listenHttpAddr } = cluster.config().pageservers[0]!;
  for (const row of (await cluster.json("branch", "list")) as { timeline_id: string }[]) {
    const tenants = (await cluster.json("tenant", "list")) as { id: string }[];
    const path = `/v1/tenant/${tenants[0]!.id}/timeline/${row.timeline_id}/checkpoint`;
    const answer = await fetch(`http://${listenHttpAddr}${path}`, {
      method: "PUT",
      headers: { "content-type": "application/json" },
    });
    assert.equal(answer.status, 200, await answer.text());
  }
}

test("tenant config: defaults, set, taken back; what is unknown or no duration is refused by name", async () => {
  const config = async () => (await cluster.json("tenant", "config")) as TenantConfigInfo;
  assert.deepEqual((await config()).effective_config, {
    pitr_interval: "7days",
    gc_horizon: 67_108_864,
    gc_period: "1h",
    compaction_period: "20s",
  });
  const shown = await cluster.ok(
    "tenant",
    "config",
    "--pitr-interval",
    "1h 30m",
    "-c",
    "gc_period=2h",
  );
  assert.match(shown, /^tenant [0-9a-f]{32} successfully configured\n/);
  assert.match(shown, / pitr_interval +1h 30m +set\n/);
  assert.match(shown, / gc_horizon +67108864 +default\n/);
  await cluster.ok("tenant", "config", "--gc-period", "default");
  assert.deepEqual((await config()).tenant_specific_overrides, { pitr_interval: "1h 30m" });
  assert.match(await cluster.fails("tenant", "config", "-c", "pitr=1d"), /"pitr"/);
  assert.match(
    await cluster.fails("tenant", "config", "--pitr-interval", "7"),
    /pitr_interval: expected a duration such as 7 days/,
  );
  await cluster.kill9("pageserver");
  await cluster.ok("start");
  assert.deepEqual((await config()).tenant_specific_overrides, { pitr_interval: "1h 30m" });
});

test("HTTP: a tenant's config as a whole, an LSN lease, a compaction", async () => {
  const [{ id: tenantId }] = (await cluster.json("tenant", "list")) as [{ id: string }];
  const [branch] = (await cluster.json("branch", "list")) as { timeline_id: string }[];
  const client = new PageserverHttpClient(cluster.config().pageservers[0]!.listenHttpAddr);
  const put = async (method: string, path: string, body: unknown) => {
    const address = `http://${cluster.config().pageservers[0]!.listenHttpAddr}${path}`;
    const headers = { "content-type": "application/json" };
    const answer = await fetch(address, { method, headers, body: JSON.stringify(body) });
    return { status: answer.status, text: await answer.text() };
  };
  const before = (await client.getTenantConfig(tenantId)).tenant_specific_overrides;
  const config = { tenant_id: tenantId, gc_period: "2h", compaction_period: "1m" };
  assert.equal((await put("PUT", "/v1/tenant/config", config)).status, 200);
  assert.deepEqual((await client.getTenantConfig(tenantId)).tenant_specific_overrides, {
    gc_period: "2h",
    compaction_period: "1m",
  });
  for (const [method, wrong, why] of [
    ["PUT", { ...config, checkpoint_distance: 1 }, /checkpoint_distance/],
    ["PUT", { ...config, gc_period: null }, /gc_period/],
    ["PATCH", { ...config, gc_horizon: -1 }, /gc_horizon/],
    ["PATCH", { gc_period: "1h" }, /tenant_id/],
  ] as const) {
    const { status, text } = await put(method, "/v1/tenant/config", wrong);
    assert.equal(status, 400, text);
    assert.match(text, why);
  }
  const nobody = await put("PATCH", "/v1/tenant/config", { tenant_id: "0".repeat(32) });
  assert.equal(nobody.status, 404);
  assert.equal(
    (await put("PUT", "/v1/tenant/config", { tenant_id: tenantId, ...before })).status,
    200,
  );
  const timeline = `/v1/tenant/${tenantId}/timeline/${branch!.timeline_id}`;
  const lease = await put("POST", `${timeline}/lsn_lease`, { lsn: lsns[1] });
  assert.equal(lease.status, 200, lease.text);
  const { valid_until } = JSON.parse(lease.text) as { valid_until: string };
  const leftMs = Date.parse(valid_until) - Date.now();
  assert.ok(leftMs > 500_000 && leftMs < 700_000, valid_until);
  assert.equal((await put("POST", `${timeline}/lsn_lease`, { lsn: "0/10" })).status, 400);
  await client.compact(tenantId, branch!.timeline_id);
});

test("gc: a dry run by branch, what holds history, the collection, and points that are gone", async () => {
  await cluster.ok("tenant", "config", "--pitr-interval", "0s", "--gc-horizon", "0");
  await checkpoint();
  const dry = await cluster.ok("gc", "--dry-run", "--branch-name", "main");
  assert.match(dry, /^branch 'main': cutoff 0\/[0-9A-F]+, of 20\d\d-\S+Z\n/);
  assert.match(dry, /\n {2}held: 0\/[0-9A-F]+ by branch 'dev'\n/);
  assert.match(dry, /\n {2}would be removed: \d+ layer/);
  assert.match(dry, /\n {4}(removed|rewritten) [0-9A-F]{36}-\S+ \d+\n/);
  // It holds where its compute reads.
  await cluster.ok("endpoint", "create", "past", "--at", lsns[2]!);
  await cluster.startEndpoint("past");
  const [main] = (await cluster.json("gc", "--force", "--branch-name", "main")) as GcResult[];
  assert.ok(main!.removed.layers + main!.rewritten.layers > 0, JSON.stringify(main));
  assert.ok(main!.held.some(({ kind, lsn }) => kind === "lease" && lsn === lsns[2]));
  const count = async (id: string) =>
    Number((await cluster.query(id, "select count(*) from t"))[0]!["count"]);
  assert.equal(await count("past"), 3000);
  await cluster.startEndpoint("dev", "dev");
  assert.equal(await count("dev"), 2000);
  await cluster.query("dev", "insert into t select 9 from generate_series(1, 1000)");
  await checkpoint();
  await cluster.ok("gc", "--force");
  // Where they begin is below their cutoffs now.
  for (const [id, rows] of [
    ["main", 4000],
    ["dev", 3000],
  ] as const) {
    await cluster.ok("endpoint", "stop", id);
    await cluster.ok("endpoint", "start", id);
    assert.equal(await count(id), rows);
  }
  const gone = /is below 0\/[0-9A-F]+, the oldest LSN kept, of 20\d\d-\S+Z$/;
  assert.match(await cluster.fails("branch", "create", "x", "--at", lsns[0]!), gone);
  assert.match(await cluster.fails("endpoint", "create", "x", "--at", lsns[0]!), gone);
});
