import assert from "node:assert/strict";
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { identifyBy, signToken } from "../../src/base/auth/service-token.ts";
import { sleep } from "../../src/base/clock.ts";
import { generateTenantId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { connectWire, parseHostPort } from "../../src/postgres/wire/wire-client.ts";
import { BrokerClient } from "../../src/storage-broker/client.ts";
import { freeConfig, TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";

let cluster: TestCluster;
let config: Awaited<ReturnType<typeof freeConfig>>;
const tenant = { mine: "", other: generateTenantId() as string };
let timeline: string;
const tokens: Record<string, string> = {};

before(async () => {
  config = await freeConfig(1);
  cluster = await TestCluster.create({ config: { ...config, serviceTokens: true } });
  await cluster.startEndpoint();
  const { tenantId, timelineId } = cluster.endpointSpec();
  tenant.mine = tenantId;
  timeline = timelineId;
  const key = readFileSync(join(cluster.home, "auth", "signing-key.pem"), "utf8");
  const [name] = globSync("*.pem", { cwd: join(cluster.home, "auth", "keys") });
  const kid = name!.slice(0, -4);
  const exp = Math.floor(Date.now() / 1000) + 600;
  const sign = (claims: object, keyName = kid) =>
    signToken(key, keyName, { exp, ...claims } as never);
  tokens["admin"] = sign({ scope: "admin" });
  tokens["expired"] = sign({ scope: "admin", exp: exp - 601 });
  tokens["unknown key"] = sign({ scope: "admin" }, "0123456789abcdef");
  tokens["forged"] = `${tokens["admin"]!.slice(0, -6)}AAAAAA`;
  tokens["mine"] = sign({ scope: "tenant", tenant_id: tenant.mine });
  tokens["other"] = sign({ scope: "tenant", tenant_id: tenant.other });
  tokens["safekeeperdata"] = sign({ scope: "safekeeperdata" });
  tokens["pageserverapi"] = sign({ scope: "pageserverapi" });
});

after(() => cluster?.[Symbol.asyncDispose]());

test("service tokens: a new home asks for them, unless somebody says otherwise", async () => {
  const settings = { ...(await freeConfig(1)), serviceTokens: undefined };
  await using fresh = await TestCluster.create({ start: false, config: settings });
  const asks = (home: string) =>
    (JSON.parse(readFileSync(join(home, "config.json"), "utf8")) as { serviceTokens: boolean })
      .serviceTokens;
  assert.equal(asks(fresh.home), true);
  await fresh.ok("init", "--force", "remove-all-contents", "--no-service-tokens");
  assert.equal(asks(fresh.home), false);
});

/** Makes this process one that shows `token`. */
function showing(token: string | undefined): void {
  const file = join(cluster.home, "..", "shown.jwt");
  writeFileSync(file, token ?? "");
  identifyBy(token === undefined ? undefined : file);
}

const daemons = () => ({
  pageserver: config.pageservers[0]!.listenHttpAddr,
  safekeeper: config.safekeepers[0]!.listenHttpAddr,
  storage_broker: config.broker.listenAddr,
  compute: `127.0.0.1:${cluster.endpointSpec().internalHttpPort}`,
});

/** What anybody may ask: probes, metrics, the description. */
const PUBLIC: Readonly<Record<string, readonly string[]>> = {
  pageserver: ["GET /v1/status"],
  safekeeper: ["GET /v1/status"],
  storage_broker: ["GET /status"],
  compute: ["GET /status", "GET /metrics.json"],
};

async function routesOf(address: string): Promise<string[]> {
  const document = (await (await fetch(`http://${address}/api/openapi.json`)).json()) as {
    paths: Record<string, Record<string, unknown>>;
  };
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
}

async function statusOf(address: string, route: string, token?: string, tenantId = tenant.mine) {
  const [method, path] = route.split(" ") as [string, string];
  const target = path
    .replace("{tenant}", tenantId)
    .replace("{timeline}", timeline)
    .replaceAll(/\{\w+\}/g, "1");
  const answer = await fetch(`http://${address}${target}`, {
    method,
    headers: {
      "content-type": "application/json",
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    // No route takes this: what gets past the token changes nothing.
    ...(method === "GET" ? {} : { body: "[" }),
  });
  await answer.arrayBuffer();
  return answer.status;
}

test("service tokens: the whole path works with them", async () => {
  await cluster.query("main", "create table t as select 1 as n");
  await cluster.ok("branch", "create", "dev", "--start");
  assert.deepEqual(await cluster.query("dev", "select n from t"), [{ n: 1 }]);
  await cluster.ok("branch", "delete", "dev", "--force");
  await cluster.ok("safekeeper", "status");
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("stop");
  await cluster.ok("start");
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await cluster.query("main", "select n from t"), [{ n: 1 }]);
});

test("service tokens: every route without, with a wrong, an expired, a foreign one", async () => {
  for (const [name, address] of Object.entries(daemons())) {
    const open = new Set([...PUBLIC[name]!, "GET /metrics", "GET /api/openapi.json"]);
    const routes = await routesOf(address);
    assert.deepEqual(
      [...open].filter((route) => !routes.includes(route)),
      [],
    );
    for (const route of routes) {
      if (open.has(route)) {
        assert.equal(await statusOf(address, route), 200, `${name} ${route}`);
        continue;
      }
      for (const wrong of [
        undefined,
        "x",
        tokens["expired"],
        tokens["forged"],
        tokens["unknown key"],
      ]) {
        assert.equal(await statusOf(address, route, wrong), 401, `${name} ${route}`);
      }
      assert.equal(await statusOf(address, route, tokens["other"]), 403, `${name} ${route}`);
      const admin = await statusOf(address, route, tokens["admin"]);
      assert.ok(admin !== 401 && admin !== 403, `${name} ${route}: ${admin}`);
    }
  }
});

test("service tokens: a compute's opens its tenant only, a daemon's its own kind", async () => {
  const { pageserver, safekeeper, compute } = daemons();
  const timelinePath = "GET /v1/tenant/{tenant}/timeline/{timeline}";
  assert.equal(await statusOf(pageserver, timelinePath, tokens["mine"]), 200);
  assert.equal(await statusOf(safekeeper, timelinePath, tokens["mine"]), 200);
  assert.equal(await statusOf(pageserver, timelinePath, tokens["mine"], tenant.other), 403);
  assert.equal(await statusOf(pageserver, "GET /v1/tenant", tokens["mine"]), 403);
  assert.equal(await statusOf(compute, "GET /dbs_and_roles", tokens["mine"]), 403);
  assert.equal(await statusOf(compute, "GET /dbs_and_roles", tokens["admin"]), 200);
  assert.equal(await statusOf(pageserver, timelinePath, tokens["pageserverapi"]), 200);
  assert.equal(await statusOf(pageserver, timelinePath, tokens["safekeeperdata"]), 403);
  assert.equal(await statusOf(safekeeper, timelinePath, tokens["pageserverapi"]), 403);
});

test("service tokens: Postgres's protocol of pageserver and safekeeper asks for one", async () => {
  const pages = parseHostPort(config.pageservers[0]!.listenPgAddr);
  const wal = parseHostPort(config.safekeepers[0]!.listenPgAddr);
  const ask = async (address: typeof pages, sql: string, tenantId: string) => {
    const options = `-c tenant_id=${tenantId} timeline_id=${timeline}`;
    const connection = await connectWire({ ...address, parameters: { options } });
    try {
      return await connection.query(sql);
    } finally {
      connection.close();
    }
  };
  const state = (tenantId: string) => ask(pages, `compute_state ${tenantId} ${timeline}`, tenantId);
  const status = (tenantId: string) => ask(wal, "TIMELINE_STATUS", tenantId);
  try {
    for (const token of [undefined, "x", tokens["expired"], tokens["forged"]]) {
      showing(token);
      await assert.rejects(state(tenant.mine), /token|authentication/);
      await assert.rejects(status(tenant.mine), /token|authentication/);
    }
    showing(tokens["other"]);
    await assert.rejects(state(tenant.mine), /does not open/);
    await assert.rejects(status(tenant.mine), /does not open/);
    showing(tokens["mine"]);
    assert.equal((await state(tenant.mine)).rows.length, 1);
    assert.equal((await status(tenant.mine)).rows.length, 1);
  } finally {
    showing(undefined);
  }
});

test("service tokens: the broker tells and takes nothing without one", async () => {
  const hears = async (token: string | undefined, patienceMs = 3000) => {
    showing(token);
    const client = new BrokerClient(
      `http://${config.broker.listenAddr}`,
      createLogger("test", "silent"),
    );
    let heard = 0;
    client.subscribe({ onInfo: () => heard++ });
    for (let waitedMs = 0; waitedMs < patienceMs && heard === 0; waitedMs += 100) {
      await sleep(100);
    }
    client.close();
    return heard > 0;
  };
  try {
    assert.equal(await hears(tokens["safekeeperdata"], 60_000), true);
    assert.equal(await hears(undefined), false);
    assert.equal(await hears(tokens["mine"]), false);
  } finally {
    showing(undefined);
  }
});

test("service tokens: a key takes another's place while everything runs", async () => {
  const { pageserver } = daemons();
  const route = "GET /v1/tenant/{tenant}/timeline/{timeline}";
  const old = (await cluster.ok("auth", "token")).trim();
  assert.equal(await statusOf(pageserver, route, old), 200);
  assert.equal(await statusOf(pageserver, "GET /v1/tenant", old), 403);
  await cluster.ok("auth", "rotate");
  const next = (await cluster.ok("auth", "token", "--scope", "admin")).trim();
  await eventually("the pageserver to know the new key", async () => {
    return (await statusOf(pageserver, "GET /v1/tenant", next)) === 200;
  });
  assert.equal(await statusOf(pageserver, route, old), 200);
  await cluster.ok("timeline", "list");
  await cluster.query("main", "insert into t values (2)");
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  await cluster.ok("auth", "forget-old-keys");
  await cluster.ok("stop");
  await cluster.ok("start");
  await cluster.ok("endpoint", "start", "main");
  assert.equal(await statusOf(pageserver, route, old), 401);
  assert.equal((await cluster.query("main", "select n from t")).length, 2);
  assert.match(await cluster.fails("auth", "token", "--scope", "root"), /expected admin/);
});

test("service tokens: none is in a log, an argument or anybody's reach", async () => {
  const own = ["admin.jwt", "storage.jwt"].map((name) =>
    readFileSync(join(cluster.home, "auth", name), "utf8").trim(),
  );
  own.push(readFileSync(join(cluster.home, "endpoints", "main", "service-token"), "utf8").trim());
  const logs = globSync("**/*.log", { cwd: cluster.home });
  assert.ok(logs.length > 3);
  for (const log of logs) {
    const text = readFileSync(join(cluster.home, log), "utf8");
    for (const token of [...own, ...Object.values(tokens)]) {
      assert.ok(!text.includes(token.split(".")[2]!), log);
    }
  }
  for (const pid of ["pageserver", "safekeeper-1", "broker", "agent-main"] as const) {
    const words = readFileSync(`/proc/${cluster.pid(pid)}/cmdline`, "utf8");
    assert.ok(words.includes("--auth-keys") && !words.includes("eyJ"));
  }
});
