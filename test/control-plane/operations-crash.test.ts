import assert from "node:assert/strict";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { StorageError } from "../../src/base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { purgeDeletedProjects } from "../../src/control-plane/api-v2/deleted-projects.ts";
import { ControlPlane } from "../../src/control-plane/server.ts";
import { controllerOf } from "../../src/local/controller.ts";
import { StrataHome } from "../../src/local/home.ts";
import { withHomeLocked } from "../../src/local/lock.ts";
import { noteUnfinished } from "../../src/local/state/home-state.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { dumpMajor } from "../../testing/control-plane/dump-major.ts";
import { eventually } from "../../testing/eventually.ts";

const MAJOR = dumpMajor();

// The control plane ends at each point between two steps of each kind of operation, and the next one goes on: each point
// once, one life after the other, until an operation is through. Then everything is as if nothing had happened.

let world: ControlPlaneWorld;
let home: StrataHome;

before(async () => {
  world = await ControlPlaneWorld.create();
  home = new StrataHome(world.cluster.home).identify();
  process.kill(world.cluster.pid("control_plane"), "SIGTERM");
  for (let i = 0; i < 500 && existsSync(join(home.path, "control_plane/control_plane.pid")); i++) {
    await sleep(20);
  }
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

function open(stepHook: (point: string) => void): Promise<ControlPlane> {
  return ControlPlane.open({
    home,
    workdir: join(home.path, "control_plane"),
    front: { domain: "localtest.me", port: 4432, httpPort: 4444 },
    logger: createLogger("control_plane", "silent"),
    stepHook,
  });
}

interface Asked {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
}

/** Sends a request to a control plane of this process. */
async function ask(controlPlane: ControlPlane, { method, path, body = {} }: Asked) {
  const port = await controlPlane.listen("127.0.0.1", 0);
  const response = await fetch(`http://127.0.0.1:${port}/api/v2${path}`, {
    method,
    headers: { authorization: `Bearer ${world.key}`, "content-type": "application/json" },
    ...(method === "GET" ? {} : { body: JSON.stringify(body) }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: answers of many shapes
  return { status: response.status, body: (await response.json()) as any };
}

async function once(asked: Asked) {
  const controlPlane = await open(() => {});
  try {
    const { status, body } = await ask(controlPlane, asked);
    assert.ok(status < 300, JSON.stringify(body));
    return body;
  } finally {
    await controlPlane.close();
  }
}

/** On a busy machine an answer comes before its operations have ended. */
async function resume(stepHook: (point: string) => void = () => {}): Promise<void> {
  const controlPlane = await open(stepHook);
  try {
    await controlPlane.parts.operations.resume();
  } finally {
    // Else a test that has failed ends never.
    await controlPlane.close();
  }
}

/** Dies once at each point; the points in the order in which they were met. `prepare`: what each life is to be like. */
async function crashEverywhere(
  asked: Asked,
  prepare: (controlPlane: ControlPlane) => void = () => {},
): Promise<string[]> {
  const points: string[] = [];
  for (let life = 0; ; life++) {
    let crashed = false;
    const controlPlane = await open((point) => {
      if (!points.includes(point)) {
        points.push(point);
        crashed = true;
        throw new Error(`crash at ${point}`);
      }
    });
    prepare(controlPlane);
    try {
      if (life === 0) {
        assert.equal((await ask(controlPlane, asked)).status, 500);
      } else {
        await controlPlane.parts.operations.resume();
      }
    } finally {
      await controlPlane.close();
    }
    if (!crashed) {
      return points;
    }
  }
}

/** Rows, the home, the pageserver and the directories tell the same, and nothing is left over. */
async function checkConsistent(): Promise<void> {
  const controlPlane = await open(() => {});
  try {
    const { db, inventory } = controlPlane.parts;
    await inventory.refresh();
    const unfinished = await db
      .selectFrom("operations")
      .select("id")
      .where("finished_at", "is", null)
      .execute();
    assert.deepEqual(unfinished, []);
    const config = home.config();
    assert.deepEqual(config.unfinishedTimelines, new Map());
    assert.deepEqual(config.unfinishedTenants, new Set());
    assert.deepEqual(config.branchSwitches, new Map());
    const projects = await db.selectFrom("projects").selectAll().execute();
    assert.deepEqual(
      (await controllerOf(home).tenants()).map(({ id }) => id as string).toSorted(),
      projects.map((row) => row.tenant_id).toSorted(),
    );
    for (const project of projects) {
      assert.equal(project.creating, 0);
      const branches = await db
        .selectFrom("branches")
        .selectAll()
        .where("project_id", "=", project.id)
        .execute();
      const names = [...(config.branchNameMappings.get(project.tenant_id) ?? [])];
      assert.deepEqual(
        branches.map((row) => [row.name, row.timeline_id]).toSorted(),
        names.toSorted(),
      );
      const timelines = await controllerOf(home).timelines(parseTenantId(project.tenant_id));
      assert.deepEqual(
        timelines.map((info) => info.timeline_id).toSorted(),
        branches.map((row) => row.timeline_id).toSorted(),
      );
      assert.ok(branches.every((row) => row.creating === 0));
    }
    const endpoints = await db.selectFrom("endpoints").select(["id", "creating"]).execute();
    const directories = existsSync(home.endpointsDirectory())
      ? // Agents that wait have files there.
        readdirSync(home.endpointsDirectory()).filter((name) => !name.startsWith("."))
      : [];
    assert.deepEqual(endpoints.map(({ id }) => id).toSorted(), directories.toSorted());
    assert.ok(endpoints.every(({ creating }) => creating === 0));
  } finally {
    await controlPlane.close();
  }
}

function assertPoints(points: readonly string[], kind: string, steps: readonly string[]): void {
  const expected = steps.flatMap((step) => [`${kind} ${step} before`, `${kind} ${step} after`]);
  assert.deepEqual(
    points.filter((point) => point.startsWith(`${kind} `)),
    expected,
  );
}

let project: string;
let endpoint: string;
let main: string;

describe("operations after crashes", () => {
  test("crash: a project is made whole, with a role that can log in", async () => {
    const points = await crashEverywhere({
      ...{ method: "POST", path: "/projects", body: { project: { name: "crashed" } } },
    });
    assertPoints(points, "create_project", ["timeline", "retention", "rows"]);
    assertPoints(points, "create_endpoint", ["create", "rows", "start"]);
    await checkConsistent();
    project = (await once({ method: "GET", path: "/projects" })).projects[0].id;
    const { endpoints } = await once({ method: "GET", path: `/projects/${project}/endpoints` });
    endpoint = endpoints[0].id;
    main = endpoints[0].branch_id;
    const query = "database_name=neondb&role_name=neondb_owner";
    const { uri } = await once({
      ...{ method: "GET", path: `/projects/${project}/connection_uri?${query}` },
    });
    const { username: user, password } = new URL(uri);
    await world.sql(endpoint, { user, password, database: "neondb" }, "create table t (n int)");
  });

  const branchPath = () => `/projects/${project}/branches`;
  const namesOf = async () =>
    (await once({ method: "GET", path: branchPath() })).branches
      .map((branch: { name: string }) => branch.name)
      .toSorted();

  test("crash: a branch is made, also where a crash left half of it: under another timeline id", async () => {
    const points = await crashEverywhere({
      ...{ method: "POST", path: branchPath(), body: { branch: { name: "dev" } } },
    });
    assertPoints(points, "create_branch", ["timeline", "rows"]);
    await checkConsistent();
    assert.deepEqual(await namesOf(), ["dev", "main"]);

    const { endpointId, tenantId, timelineId } = await halfMade("half");
    await resume((point) => {
      if (point === "create_branch timeline after") {
        throw new Error(`crash at ${point}`);
      }
    });
    const directory = join(home.endpointsDirectory(), endpointId);
    if (existsSync(directory) && world.cluster.endpointSpec(endpointId).timelineId === timelineId) {
      // Whoever starts it waits for minutes for a timeline that there will never be.
      rmSync(directory, { recursive: true });
      assert.fail("an endpoint is left on a timeline that is no more");
    }
    await resume();
    await checkConsistent();
    const made = home.config().branchNameMappings.get(tenantId)!.get("half");
    assert.ok(made !== undefined && made !== timelineId);
    assert.equal(world.cluster.endpointSpec(endpointId).timelineId, made);
  });

  /** A branch with an endpoint that was made ahead, of which a crash has left half; `isNoted`: the storage was asked for its timeline. */
  async function halfMade(name: string, isNoted = true) {
    const controlPlane = await open(() => {
      throw new Error("crash at the first point");
    });
    try {
      const { db, computes } = controlPlane.parts;
      await ask(controlPlane, {
        ...{ method: "POST", path: branchPath() },
        body: { branch: { name }, endpoints: [{ type: "read_write" }] },
      });
      const branches = db.selectFrom("branches").selectAll().where("name", "=", name);
      const branch = await branches.executeTakeFirstOrThrow();
      const endpoints = db.selectFrom("endpoints").select("id").where("branch_id", "=", branch.id);
      const { id: endpointId } = await endpoints.executeTakeFirstOrThrow();
      const projects = db.selectFrom("projects").select("tenant_id").where("id", "=", project);
      const tenantId = parseTenantId((await projects.executeTakeFirstOrThrow()).tenant_id);
      const timelineId = parseTimelineId(branch.timeline_id);
      await computes.provider.create({ id: endpointId, tenantId, timelineId, settings: {} }, 17);
      if (isNoted) {
        home.update((draft) => noteUnfinished(draft, tenantId, timelineId));
      }
      return { endpointId, tenantId, timelineId };
    } finally {
      await controlPlane.close();
    }
  }

  test("crash: of a branch that cannot be made after all its endpoint goes too", async () => {
    for (const isNoted of [true, false]) {
      const { tenantId } = await halfMade("taken", isNoted);
      const rename = (from: string, to: string) =>
        home.update((draft) => {
          const names = draft.branchNameMappings.get(tenantId)!;
          names.set(to, names.get(from)!);
          names.delete(from);
        });
      rename("main", "taken");
      await resume();
      rename("taken", "main");
      await checkConsistent();
      const { operations } = await once({
        ...{ method: "GET", path: `/projects/${project}/operations` },
      });
      const last = operations.slice(0, 2).map(({ status }: { status: string }) => status);
      assert.deepEqual(last.toSorted(), ["failed", "skipped"]);
    }
  });

  test("crash: a branch with a schema and no rows is made whole", {
    skip: MAJOR === undefined ? "no pg_dump on this machine" : false,
  }, async () => {
    const project = { name: "of pg_dump's major", pg_version: MAJOR };
    const created = await once({ method: "POST", path: "/projects", body: { project } });
    await resume();
    const [{ id: from }] = created.endpoints;
    const { password } = created.connection_uris[0].connection_parameters;
    const login = { user: "neondb_owner", password, database: "neondb" };
    await world.sql(from, login, "create table rows as select 1 as n");
    const path = `/projects/${created.project.id}/branches`;
    const branch = { name: "empty", init_source: "schema-only" };
    const points = await crashEverywhere({
      ...{ method: "POST", path, body: { branch, endpoints: [{ type: "read_write" }] } },
    });
    assertPoints(points, "create_schema_branch", ["timeline", "rows", "schema", "endpoint"]);
    await checkConsistent();
    const { endpoints } = await once({
      method: "GET",
      path: `${path.replace("branches", "endpoints")}`,
    });
    const empty = endpoints.find(({ id }: { id: string }) => id !== from);
    assert.deepEqual(await world.sql(empty.id, login, "select count(*)::int as n from rows"), [
      { n: 0 },
    ]);
    await once({ method: "DELETE", path: `/projects/${created.project.id}?hard_delete=true` });
    await checkConsistent();
  });

  test("crash: roles, databases, start and suspension end as they were asked for", async () => {
    const roles = `${branchPath()}/${main}/roles`;
    const points = await crashEverywhere({
      ...{ method: "POST", path: roles, body: { role: { name: "joe" } } },
    });
    assertPoints(points, "apply_config", ["wake", "postgres", "rows", "proxies"]);
    const { password } = await once({ method: "GET", path: `${roles}/joe/reveal_password` });
    const joe = { user: "joe", password, database: "neondb" };
    await world.sql(endpoint, joe, "select 1");
    const one = `/projects/${project}/endpoints/${endpoint}`;
    assertPoints(
      await crashEverywhere({ method: "POST", path: `${one}/suspend` }),
      "suspend_endpoint",
      ["stop"],
    );
    await assert.rejects(world.sql(endpoint, joe, "select 1"), /ECONNREFUSED/);
    assertPoints(
      await crashEverywhere({ method: "POST", path: `${one}/start` }),
      "start_endpoint",
      ["start"],
    );
    await world.sql(endpoint, joe, "select 1");
    await checkConsistent();
  });

  test("crash: a restore happens once, and keeps the old state", async () => {
    const { branch } = await once({ method: "GET", path: `${branchPath()}/${main}` });
    const points = await crashEverywhere({
      ...{ method: "POST", path: `${branchPath()}/${(await devId()).id}/restore` },
      body: { source_branch_id: main, preserve_under_name: "dev_old" },
    });
    assertPoints(points, "restore_branch", ["switch", "rows"]);
    await checkConsistent();
    assert.deepEqual(await namesOf(), ["dev", "dev_old", "half", "main"]);
    const dev = await devId();
    assert.equal(dev.parent_id, branch.id);
    assert.ok(dev.last_reset_at);
  });

  async function devId(): Promise<{ id: string; parent_id: string; last_reset_at?: string }> {
    const { branches } = await once({ method: "GET", path: branchPath() });
    return branches.find((branch: { name: string }) => branch.name === "dev");
  }

  test("crash: what cannot be made is undone", async () => {
    const body = {
      endpoint: {
        ...{ branch_id: (await devId()).id, type: "read_write" },
        settings: { pg_settings: { shared_buffers: "nonsense" } },
      },
    };
    const points = await crashEverywhere({
      ...{ method: "POST", path: `/projects/${project}/endpoints`, body },
    });
    assert.deepEqual(points.slice(-2), [
      "create_endpoint undo before",
      "create_endpoint undo after",
    ]);
    await checkConsistent();
    const { operations } = await once({ method: "GET", path: `/projects/${project}/operations` });
    const failed = operations.filter(
      (one: { action: string; status: string }) =>
        one.action === "start_compute" && one.status === "failed",
    );
    assert.equal(failed.length, 1);
    const { endpoints } = await once({
      ...{ method: "GET", path: `${branchPath()}/${(await devId()).id}/endpoints` },
    });
    assert.deepEqual(endpoints, []);
    assert.match(failed[0].error, /shared_buffers/);
  });

  test("crash: endpoints, branches and projects are deleted whole", async () => {
    const points = await crashEverywhere({
      ...{ method: "DELETE", path: `/projects/${project}/endpoints/${endpoint}` },
    });
    assertPoints(points, "delete_endpoint", ["destroy", "rows"]);
    await checkConsistent();
    const deleted = await crashEverywhere({
      ...{ method: "DELETE", path: `${branchPath()}/${(await devId()).id}` },
    });
    assertPoints(deleted, "delete_branch", ["endpoints", "timeline", "rows"]);
    await checkConsistent();
    assert.deepEqual(await namesOf(), ["dev_old", "half", "main"]);
  });

  test("crash: a project that cannot be deleted is there as it was", async (t) => {
    const path = `/projects/${project}`;
    const body = { endpoint: { branch_id: main, type: "read_write" } };
    const made = await once({ method: "POST", path: `${path}/endpoints`, body });
    await resume();
    const { tenantId } = world.cluster.endpointSpec(made.endpoint.id);
    home.update((draft) => {
      draft.defaultTenantId = parseTenantId(tenantId);
    });
    const points = await crashEverywhere({ method: "DELETE", path }, ({ parts }) => {
      t.mock.method(parts.computes.provider, "stop", async () => {
        throw new StorageError("internal", "stuck", "its agent does not end");
      });
    });
    assert.deepEqual(
      points.map((point) => point.replace("delete_project_softly ", "")),
      ["mark before", "mark after", "endpoints before", "undo before", "undo after"],
    );
    await checkConsistent();
    assert.deepEqual(home.config().deletedTenants, new Map());
    assert.equal(home.config().defaultTenantId, tenantId);
    const { projects } = await once({ method: "GET", path: "/projects" });
    assert.deepEqual(
      projects.map(({ id }: { id: string }) => id),
      [project],
    );
    const { operations } = await once({ method: "GET", path: `${path}/operations` });
    assert.equal(operations[0].action, "timeline_mark_invisible");
    assert.equal(operations[0].status, "failed");
    assert.match(operations[0].error, /its agent does not end/);
    await once({ method: "POST", path: `${path}/endpoints/${made.endpoint.id}/start` });
  });

  test("crash: a project that is being brought back is removed by nobody meanwhile", async () => {
    await once({ method: "DELETE", path: `/projects/${project}` });
    const controlPlane = await open(() => {});
    const port = await controlPlane.listen("127.0.0.1", 0);
    const call = (method: string, path: string) =>
      fetch(`http://127.0.0.1:${port}/api/v2/projects/${project}${path}`, {
        method,
        headers: { authorization: `Bearer ${world.key}`, "content-type": "application/json" },
      });
    const unlocked = Promise.withResolvers<void>();
    const isLocked = Promise.withResolvers<void>();
    const holding = withHomeLocked(home, () => {
      isLocked.resolve();
      return unlocked.promise;
    });
    await isLocked.promise;
    const recovered = call("POST", "/recover");
    try {
      const { db } = controlPlane.parts;
      await eventually("it is being brought back", async () => {
        const row = await db
          .selectFrom("operations")
          .select("step")
          .where("kind", "=", "recover_project")
          .where("status", "=", "running")
          .executeTakeFirst();
        return row?.step === 1;
      });
      assert.equal((await call("DELETE", "?hard_delete=true")).status, 423);
      // Nor because its time is over by now.
      home.update((draft) => {
        for (const [id, deleted] of draft.deletedTenants) {
          draft.deletedTenants.set(id, { ...deleted, recoverableUntilMs: Date.now() - 1 });
        }
      });
      await purgeDeletedProjects(controlPlane.parts);
    } finally {
      unlocked.resolve();
      await holding;
      assert.equal((await recovered).status, 200);
      await controlPlane.close();
    }
    await checkConsistent();
    assert.deepEqual(home.config().deletedTenants, new Map());
    assert.equal((await once({ method: "GET", path: "/projects" })).projects.length, 1);
  });

  test("crash: a project that is deleted comes back whole, and goes for good whole", async () => {
    const path = `/projects/${project}`;
    const deleted = await crashEverywhere({ method: "DELETE", path });
    assertPoints(deleted, "delete_project_softly", ["mark", "endpoints"]);
    await checkConsistent();
    assert.deepEqual((await once({ method: "GET", path: "/projects" })).projects, []);
    const back = await crashEverywhere({ method: "POST", path: `${path}/recover` });
    assertPoints(back, "recover_project", ["expiry", "unmark"]);
    await checkConsistent();
    assert.deepEqual(await namesOf(), ["dev_old", "half", "main"]);
    assert.deepEqual(home.config().deletedTenants, new Map());
    const gone = await crashEverywhere({ method: "DELETE", path: `${path}?hard_delete=true` });
    assertPoints(gone, "delete_project", ["endpoints", "tenant", "rows"]);
    await checkConsistent();
    assert.deepEqual((await once({ method: "GET", path: "/projects" })).projects, []);
  });
});
