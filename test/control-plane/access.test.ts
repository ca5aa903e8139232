import assert from "node:assert/strict";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createApiClient, EndpointType } from "@neondatabase/api-client";
import { createLogger } from "../../src/base/log.ts";
import { ControlPlane, controlPlaneRoutes } from "../../src/control-plane/server.ts";
import { StrataHome } from "../../src/local/home.ts";
import { withHomeLocked } from "../../src/local/lock.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { eventually } from "../../testing/eventually.ts";

// Who may do what with which key; what the API refuses, and how it says so.

let world: ControlPlaneWorld;
/** Two projects. */
let mine: { id: string; branch: string; password: string };
let other: { id: string; branch: string };

before(async () => {
  world = await ControlPlaneWorld.create();
  const first = await world.api("POST", "/projects", { project: { name: "mine" } });
  const { password } = first.connection_uris[0].connection_parameters;
  mine = { id: first.project.id, branch: first.branch.id, password };
  const second = await world.api("POST", "/projects", { project: { name: "other" } });
  other = { id: second.project.id, branch: second.branch.id };
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

async function keyOf(body: object): Promise<string> {
  return (await world.api("POST", "/api_keys", { key_name: "test", ...body })).key;
}

/** As a route would be called: its parameters are those of `mine`. */
function pathOf(template: string): string {
  return template
    .replace("{project_id}", mine.id)
    .replace("{branch_id}", mine.branch)
    .replaceAll(/\{\w+\}/g, "1");
}

test("no route answers without a key, or with a wrong one, but those that are public", async () => {
  const routes = controlPlaneRoutes({} as never, {} as never);
  const wrong = world.key.replace(/.$/, (last) => (last === "A" ? "B" : "A"));
  for (const { method, path, scope } of routes) {
    for (const key of [undefined, wrong]) {
      // Wrong keys are slowed down after some: that is another test.
      if (key === wrong && !path.endsWith("/projects")) {
        continue;
      }
      const { status, body } = await noted(method, pathOf(path), key);
      assert.equal(status, scope === "public" ? 200 : 401, `${method} ${path}`);
      if (scope !== "public" && path.startsWith("/api/v2")) {
        assert.equal(typeof body.message, "string");
        assert.equal(body.code, "UNAUTHORIZED");
      }
    }
  }
});

/** Not more wrong ones than are answered. */
async function noted(method: string, path: string, key: string | undefined) {
  for (;;) {
    const answer = await world.request(method, path, {
      key,
      body: method === "GET" ? undefined : {},
    });
    if (answer.status !== 503 && answer.status !== 429) {
      return answer;
    }
    await sleep(500);
  }
}

test("wrong keys are slowed down, the right one goes through again soon after", async () => {
  const key = `strata_${"0".repeat(12)}_${"x".repeat(43)}`;
  let refused = 0;
  for (let i = 0; i < 60 && refused === 0; i++) {
    const { status } = await world.request("GET", "/api/v2/projects", { key });
    refused += status === 429 ? 1 : 0;
  }
  assert.equal(refused, 1);
  await noted("GET", "/api/v2/projects", world.key);
});

test("a key of one project sees and changes that one only", async () => {
  const key = await keyOf({ project_id: mine.id });
  const request = (method: string, path: string, body?: unknown) =>
    world.request(method, `/api/v2${path}`, { key, body });
  const { body } = await request("GET", "/projects");
  assert.deepEqual(
    body.projects.map(({ id }: { id: string }) => id),
    [mine.id],
  );
  assert.equal((await request("GET", `/projects/${mine.id}/branches`)).status, 200);
  const changed = { branch: { protected: true } };
  const path = (of: { id: string; branch: string }) => `/projects/${of.id}/branches/${of.branch}`;
  assert.equal((await request("PATCH", path(mine), changed)).status, 200);
  for (const [method, target, sent] of [
    ["GET", `/projects/${other.id}`, undefined],
    ["PATCH", path(other), changed],
    ["DELETE", `/projects/${other.id}`, undefined],
    ["POST", "/projects", { project: {} }],
    ["GET", "/api_keys", undefined],
    ["POST", "/api_keys", { key_name: "more" }],
  ] as const) {
    assert.equal((await request(method, target, sent)).status, 403, `${method} ${target}`);
  }
  // Another project's branch under one's own project is not there.
  const mixed = `/projects/${mine.id}/branches/${other.branch}`;
  assert.equal((await request("GET", mixed)).status, 404);
});

test("the proxy's key is for what the proxy asks, and for nothing of the API", async () => {
  const file = join(world.cluster.home, "control_plane", "proxy.key");
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const key = readFileSync(file, "utf8").trim();
  assert.notEqual(key, world.key);
  const [endpoint] = (await world.api("GET", `/projects/${mine.id}/endpoints`)).endpoints;
  const asked = `/proxy/api/v1/get_endpoint_access_control?endpointish=${endpoint.id}&role=neondb_owner`;
  assert.equal((await world.request("GET", asked, { key })).status, 200);
  for (const { method, path, scope } of controlPlaneRoutes({} as never, {} as never)) {
    if (scope !== "public" && !path.startsWith("/proxy/")) {
      const { status, body } = await noted(method, pathOf(path), key);
      assert.equal(status, 403, `${method} ${path}`);
      // What commands ask for is none of Neon's API.
      assert.equal(body.code, path.startsWith("/home/") ? "proxy-key" : "PROXY_KEY");
    }
  }
});

test("a key for reading changes nothing and learns no password; a revoked one is none", async () => {
  const key = await keyOf({ scope: "read_only" });
  const request = (method: string, path: string, body?: unknown) =>
    world.request(method, `/api/v2${path}`, { key, body });
  const roles = `/projects/${mine.id}/branches/${mine.branch}/roles`;
  assert.equal((await request("GET", roles)).status, 200);
  for (const [method, path] of [
    ["GET", `${roles}/neondb_owner/reveal_password`],
    ["GET", `/projects/${mine.id}/connection_uri?database_name=neondb&role_name=neondb_owner`],
    ["POST", `${roles}/neondb_owner/reset_password`],
    ["DELETE", `/projects/${mine.id}`],
    ["GET", "/api_keys"],
  ] as const) {
    assert.equal((await request(method, path)).status, 403, `${method} ${path}`);
  }
  const proxy = await world.request("GET", "/proxy/api/v1/wake_compute?endpointish=x", { key });
  assert.equal(proxy.status, 403);
  const keys = await world.api("GET", "/api_keys");
  const { id } = keys.find((one: { scope: string }) => one.scope === "read_only");
  assert.equal((await world.api("DELETE", `/api_keys/${id}`)).revoked, true);
  assert.equal((await request("GET", roles)).status, 401);
});

test("a web page of another site gets nothing, not even blindly", async () => {
  for (const headers of [
    { origin: "http://evil.example" },
    { "sec-fetch-site": "cross-site" },
    { host: "evil.example" },
  ] as Record<string, string>[]) {
    const options = { headers, body: { project: {} } };
    // fetch sets Host and Sec-Fetch itself, so this goes through node:http.
    const status = await rawStatus("POST", "/api/v2/projects", options);
    assert.equal(status, 403, JSON.stringify(headers));
  }
  const blind = { headers: { "content-type": "text/plain" }, key: undefined };
  assert.ok((await rawStatus("POST", "/api/v2/projects", blind)) >= 400);
  assert.equal((await world.api("GET", "/projects")).projects.length, 2);
});

async function rawStatus(
  method: string,
  path: string,
  options: { headers: Record<string, string>; key?: string | undefined; body?: unknown },
): Promise<number> {
  const http = await import("node:http");
  const key = "key" in options ? options.key : world.key;
  return new Promise((resolve, reject) => {
    const request = http.request(
      `http://${world.address}${path}`,
      {
        method,
        headers: {
          "content-type": "application/json",
          ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
          ...options.headers,
        },
      },
      (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      },
    );
    request.on("error", reject);
    request.end(JSON.stringify(options.body ?? {}));
  });
}

test("no secret is in a log, nor in a file that others may read", async () => {
  const directory = join(world.cluster.home, "control_plane");
  for (const name of ["state.db", "secret.key", "api.key", "state.db-wal"]) {
    assert.equal(statSync(join(directory, name)).mode & 0o077, 0, name);
  }
  const secrets = [world.key, mine.password, /^strata_[0-9a-f]{12}_(.{43})$/.exec(world.key)![1]!];
  const role = await world.api(
    "POST",
    `/projects/${mine.id}/branches/${mine.branch}/roles/neondb_owner/reset_password`,
  );
  secrets.push(role.role.password);
  const logs = [
    readFileSync(join(directory, "control_plane.log"), "utf8"),
    readFileSync(join(directory, "state.db-wal"), "latin1"),
    readFileSync(join(directory, "state.db"), "latin1"),
  ];
  for (const secret of secrets) {
    assert.ok(
      logs.every((log) => !log.includes(secret)),
      "a secret in clear",
    );
  }
});

test("a second operation on a busy project gets 423; what is not there 404, what is wrong 400, what is not done 501", async () => {
  const path = `/api/v2/projects/${other.id}/branches`;
  const post = (name: string) =>
    world.request("POST", path, {
      body: { branch: { name }, endpoints: [{ type: "read_write" }] },
    });
  const home = new StrataHome(world.cluster.home).identify();
  let first: ReturnType<typeof post> | undefined;
  // It cannot be done as long.
  await withHomeLocked(home, async () => {
    first = post("one");
    await eventually("its operation to be noted", async () => {
      const { operations } = await world.api("GET", `/projects/${other.id}/operations`);
      return operations.some(({ status }: { status: string }) => status === "running");
    });
    assert.equal((await post("two")).status, 423);
  });
  assert.equal((await first!).status, 201);
  for (const [method, target, body, status] of [
    ["GET", "/projects/no-such-project-1", undefined, 404],
    ["GET", `/projects/${mine.id}/branches/br-no-such-branch`, undefined, 404],
    ["POST", "/projects", {}, 400],
    ["POST", "/projects", { project: { pg_version: 9 } }, 501],
    ["POST", "/projects", { project: { branch: { role_name: "cloud_admin" } } }, 400],
    [
      "PATCH",
      `/projects/${mine.id}`,
      { project: { settings: { allowed_ips: { ips: ["10.0.0.0/8", "10.0.0.1/99"] } } } },
      400,
    ],
    ["POST", `/projects/${mine.id}/branches`, { branch: { name: "main" } }, 409],
    ["POST", `/projects/${mine.id}/branches`, { branch: { parent_lsn: "0/1" } }, 400],
    ["POST", `/projects/${mine.id}/branches`, { branch: { init_source: "else" } }, 501],
    ["DELETE", `/projects/${mine.id}/branches/${mine.branch}`, undefined, 400],
    ["GET", `/projects/${mine.id}/snapshots`, undefined, 501],
  ] as const) {
    const answer = await world.request(method, `/api/v2${target}`, { body });
    assert.equal(answer.status, status, `${method} ${target} ${JSON.stringify(answer.body)}`);
    assert.equal(typeof answer.body.message, "string");
  }
});

test("JWKS of a project: added, listed by branch to the proxy, deleted; what would be nobody's is refused", async () => {
  const path = `/projects/${mine.id}/jwks`;
  const wanted = { jwks_url: "https://keys.example/jwks.json", provider_name: "Keys" };
  const { jwks: all, operations } = await world.api("POST", path, wanted);
  assert.deepEqual(all.role_names, ["authenticator", "authenticated", "anonymous"]);
  assert.deepEqual(operations, []);
  const { jwks: one } = await world.api("POST", path, {
    ...wanted,
    ...{ branch_id: mine.branch, jwt_audience: "shop", role_names: ["web"] },
  });
  assert.equal(one.jwt_audience, "shop");
  for (const [body, status] of [
    [wanted, 409],
    [{ ...wanted, jwks_url: "http://keys.example/" }, 400],
    [{ ...wanted, jwks_url: "https://me:secret@keys.example/" }, 400],
    [{ ...wanted, jwks_url: "nowhere" }, 400],
    [{ ...wanted, branch_id: other.branch }, 404],
    [{ ...wanted, jwks_url: "https://a.example/", role_names: ["cloud_admin"] }, 400],
    [{ ...wanted, jwks_url: "https://a.example/", role_names: ["neon_superuser"] }, 400],
  ] as const) {
    const answer = await world.request("POST", `/api/v2${path}`, { body });
    assert.equal(answer.status, status, JSON.stringify([body, answer.body]));
  }
  const ids = async () => (await world.api("GET", path)).jwks.map(({ id }: { id: string }) => id);
  assert.deepEqual((await ids()).toSorted(), [all.id, one.id].toSorted());
  const [endpoint] = (await world.api("GET", `/projects/${mine.id}/endpoints`)).endpoints;
  const told = await world.request("GET", `/proxy/api/v1/endpoints/${endpoint.id}/jwks`);
  assert.equal(told.body.jwks.length, 2);
  const foreign = await world.request("DELETE", `/api/v2/projects/${other.id}/jwks/${all.id}`);
  assert.equal(foreign.status, 404);
  await world.api("DELETE", `${path}/${all.id}`);
  assert.deepEqual(await ids(), [one.id]);
});

test("an address that others can reach is refused", async () => {
  const home = new StrataHome(join(world.cluster.home, "another"));
  mkdirSync(home.controlPlaneDirectory(), { recursive: true });
  const controlPlane = await ControlPlane.open({
    ...{
      home,
      workdir: home.controlPlaneDirectory(),
      front: { domain: "x", port: 1, httpPort: 2 },
    },
    logger: createLogger("control_plane", "silent"),
  });
  await assert.rejects(controlPlane.listen("0.0.0.0", 0), { code: "not-loopback" });
  await controlPlane.close();
});

test("a branch whose time is over is deleted, with its endpoint", async () => {
  const expires_at = new Date(Date.now() + 8000).toISOString();
  const created = await world.api("POST", `/projects/${other.id}/branches`, {
    branch: { name: "brief", expires_at },
  });
  const path = `/api/v2/projects/${other.id}/branches/${created.branch.id}`;
  for (let i = 0; i < 300; i++) {
    if ((await world.request("GET", path)).status === 404) {
      return;
    }
    await sleep(100);
  }
  assert.fail("it is still there");
});

test("Neon's SDK: projects, a branch with an endpoint, a connection URI, operations", async () => {
  const api = createApiClient({ apiKey: world.key, baseURL: `http://${world.address}/api/v2` });
  const { data: listed } = await api.listProjects({ limit: 1 });
  assert.equal(listed.projects.length, 1);
  const { data: next } = await api.listProjects({ limit: 1, cursor: listed.pagination!.cursor });
  assert.notEqual(next.projects[0]!.id, listed.projects[0]!.id);
  const { data: made } = await api.createProjectBranch(mine.id, {
    branch: { name: "sdk" },
    endpoints: [{ type: EndpointType.ReadWrite }],
  });
  const query = { projectId: mine.id, branch_id: made.branch.id };
  const { data } = await api.getConnectionUri({
    ...{ ...query, database_name: "neondb", role_name: "neondb_owner", pooled: true },
  });
  const uri = new URL(data.uri);
  assert.match(uri.hostname, /-pooler\.localtest\.me$/);
  const login = { user: uri.username, password: uri.password, database: "neondb" };
  assert.equal(made.endpoints[0]!.pending_state, "active");
  // Through the proxy nobody would have to wait for it.
  await world.settled(mine.id);
  const [row] = await world.sql<{ one: number }>(made.endpoints[0]!.id, login, "select 1 as one");
  assert.equal(row!.one, 1);
  for (const { id } of made.operations) {
    const { data: found } = await api.getProjectOperation(mine.id, id);
    assert.equal(found.operation.status, "finished");
  }
});
