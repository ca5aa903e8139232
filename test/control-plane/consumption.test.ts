import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { parseLsn } from "../../src/base/lsn.ts";
import { controllerOf } from "../../src/local/controller.ts";
import { StrataHome } from "../../src/local/home.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { committedIsTakenIn } from "../../testing/replication/stored-wal.ts";
import { withClient } from "../../testing/tpcb.ts";

// What a project used is told truly: time, processor time and WAL, also over a kill -9 of the control plane.

let world: ControlPlaneWorld;

before(async () => {
  world = await ControlPlaneWorld.create();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

interface Frame {
  readonly timeframe_start: string;
  readonly active_time_seconds: number;
  readonly compute_time_seconds: number;
  readonly written_data_bytes: number;
  readonly data_transfer_bytes: number;
  readonly synthetic_storage_size_bytes?: number;
}

const iso = (ms: number) => new Date(ms).toISOString();
const range = (granularity: string) =>
  `from=${iso(Date.now() - 7_200_000)}&to=${iso(Date.now() + 40 * 86_400_000)}&granularity=${granularity}`;

/** Of all that is told. */
async function framesOf(granularity: string, path = "projects"): Promise<Frame[]> {
  const answer = await world.api("GET", `/consumption_history/${path}?${range(granularity)}`);
  const periods = path === "projects" ? answer.projects[0].periods : answer.periods;
  return periods.flatMap((period: { consumption: Frame[] }) => period.consumption);
}

function total(frames: readonly Frame[], field: keyof Frame): number {
  return frames.reduce((sum, frame) => sum + Number(frame[field] ?? 0), 0);
}

test("consumption: time, processor time and WAL of a project, over a kill -9 of the control plane", async () => {
  const askedMs = Date.now();
  const { project, endpoints, connection_uris: uris } = await world.createProject("shop");
  const madeMs = Date.now();
  const { password } = uris[0].connection_parameters;
  const endpoint = endpoints[0].id;
  const sql = (text: string) =>
    world.sql(endpoint, { user: "neondb_owner", password, database: "neondb" }, text);
  await sql("create table t as select i, repeat('x', 100) as x from generate_series(1, 10000) i");
  await sql("select count(*) from generate_series(1, 8000000)");
  const written = async () => total(await framesOf("hourly"), "written_data_bytes");
  while ((await written()) === 0) {
    await sleep(500);
  }
  await world.cluster.kill9("control_plane");
  await sql("insert into t select i, repeat('y', 100) from generate_series(1, 10000) i");
  await world.cluster.ok("start");
  const { tenantId, timelineId } = world.cluster.endpointSpec(endpoint);
  const suspendedMs = Date.now();
  await world.api("POST", `/projects/${project.id}/endpoints/${endpoint}/suspend`);
  const stoppedMs = Date.now();
  const ids = [parseTenantId(tenantId), parseTimelineId(timelineId)] as const;
  const home = new StrataHome(world.cluster.home).identify();
  // The last record is the checkpoint of its shutdown, which the pageserver need not have yet.
  await committedIsTakenIn(world.cluster, ...ids);
  const info = await controllerOf(home).timeline(...ids);
  const wal = parseLsn(info.last_record_lsn)! - parseLsn(info.start_lsn)!;
  assert.ok(wal > 2_000_000);
  for (let i = 0; i < 120 && (await written()) < wal; i++) {
    await sleep(500);
  }
  // Some looks more: nothing is added.
  await sleep(16_000);
  const hourly = await framesOf("hourly");
  assert.equal(total(hourly, "written_data_bytes"), wal);
  const active = total(hourly, "active_time_seconds");
  // Each frame's are whole seconds.
  assert.ok(active >= (suspendedMs - madeMs) / 1000 - hourly.length - 1, `${active} s`);
  assert.ok(active <= (stoppedMs - askedMs) / 1000, `${active} s`);
  const cpu = total(hourly, "compute_time_seconds");
  assert.ok(cpu >= 1 && cpu <= 64 * active, `${cpu} s`);
  assert.ok(hourly.at(-1)!.synthetic_storage_size_bytes! > wal);
  for (const granularity of ["daily", "monthly"]) {
    assert.equal(total(await framesOf(granularity), "written_data_bytes"), wal, granularity);
  }
  const { project: now } = await world.api("GET", `/projects/${project.id}`);
  assert.equal(now.written_data_bytes, wal);
  assert.ok(now.active_time_seconds >= active && now.compute_time_seconds >= cpu);
  const [item] = (await world.api("GET", "/projects")).projects;
  assert.equal(item.active_time, now.active_time_seconds);
  const account = await framesOf("hourly", "account");
  assert.deepEqual(account, hourly);

  // What is gone for good stays told of the account.
  await world.api("DELETE", `/projects/${project.id}?hard_delete=true`);
  assert.equal(total(await framesOf("hourly", "account"), "written_data_bytes"), wal);
  const { projects } = await world.api("GET", `/consumption_history/projects?${range("hourly")}`);
  assert.deepEqual(projects, []);
});

test("consumption: bytes that clients were sent through the proxy, over a kill -9 of the control plane", async () => {
  const { project, endpoints, connection_uris: uris } = await world.createProject("transfer");
  const { proxy } = new StrataHome(world.cluster.home).config();
  const { password } = uris[0].connection_parameters;
  const word = encodeURIComponent(password);
  const byteCount = 3_000_000;
  const through = async (suffix: string) => {
    const options = encodeURIComponent(`endpoint=${endpoints[0].id}${suffix}`);
    const url = `postgresql://neondb_owner:${word}@${proxy!.listenPgAddr}/neondb?options=${options}&sslmode=no-verify`;
    await withClient(url, async (client) => {
      const { rows } = await client.query(`select repeat('x', ${byteCount}) as x`);
      assert.equal(rows[0].x.length, byteCount);
    });
  };
  const sent = async () =>
    (await world.api("GET", `/projects/${project.id}`)).project.data_transfer_bytes;
  await through("");
  await world.cluster.kill9("control_plane");
  // Its last report finds nobody, and comes again.
  await sleep(16_000);
  await world.cluster.ok("start");
  await through("-pooler");
  const uri = new URL(uris[0].connection_uri);
  const response = await fetch(`http://${proxy!.listenHttpAddr}/sql`, {
    method: "POST",
    headers: { "neon-connection-string": uri.href, "content-type": "application/json" },
    body: JSON.stringify({ query: `select repeat('y', ${byteCount}) as y`, params: [] }),
  });
  assert.equal(response.status, 200, await response.text());
  // With a last report.
  await world.cluster.ok("proxy", "restart");
  for (let i = 0; i < 200 && (await sent()) < 3 * byteCount; i++) {
    await sleep(100);
  }
  const all = await sent();
  assert.ok(all >= 3 * byteCount && all < 3.1 * byteCount, `${all} bytes`);
  const { projects } = await world.api("GET", `/consumption_history/projects?${range("monthly")}`);
  const { periods } = projects.find((one: { project_id: string }) => one.project_id === project.id);
  const frames = periods.flatMap((period: { consumption: Frame[] }) => period.consumption);
  assert.equal(total(frames, "data_transfer_bytes"), all);
});

test("consumption: what is not kept, or makes no sense, is refused as Neon does; keys see their own project", async () => {
  const { project } = await world.createProject("mine");
  await world.createProject("other");
  const status = async (query: string, key = world.key) =>
    (await world.request("GET", `/api/v2/consumption_history/projects?${query}`, { key })).status;
  const [now, days] = [Date.now(), 86_400_000];
  const of = (granularity: string, from: number, to = now) =>
    `from=${iso(from)}&to=${iso(to)}&granularity=${granularity}`;
  assert.equal(await status(of("hourly", now - 6 * days)), 200);
  assert.equal(await status(of("hourly", now - 8 * days)), 406);
  assert.equal(await status(of("daily", now - 62 * days)), 406);
  assert.equal(await status(of("monthly", now - 400 * days)), 406);
  assert.equal(await status(of("hourly", now, now - 1 * days)), 400);
  assert.equal(await status(`from=yesterday&to=${iso(now)}&granularity=daily`), 400);
  assert.equal(await status(`from=2026-11-29&to=${iso(now)}&granularity=daily`), 400);
  assert.equal(await status(of("weekly", now - days)), 400);
  assert.equal(await status(`${of("daily", now)}&metrics=cpu_seconds`), 400);
  assert.equal(await status(`${of("daily", now)}&limit=101`), 400);
  assert.equal(await status(`${of("daily", now)}&org_id=org-a`), 404);
  const first = await world.api("GET", `/consumption_history/projects?${of("daily", now)}&limit=1`);
  const next = `${of("daily", now)}&limit=1&cursor=${first.pagination.cursor}`;
  const second = await world.api("GET", `/consumption_history/projects?${next}`);
  assert.deepEqual(second.projects[0].project_id, project.id);
  const both = `${of("daily", now)}&project_ids=${project.id},no-such-1`;
  const picked = await world.api("GET", `/consumption_history/projects?${both}`);
  assert.equal(picked.projects.length, 1);
  const { key } = await world.api("POST", "/api_keys", { key_name: "one", project_id: project.id });
  const own = await world.request(
    "GET",
    `/api/v2/consumption_history/projects?${of("daily", now)}`,
    {
      key,
    },
  );
  assert.deepEqual(
    own.body.projects.map((one: { project_id: string }) => one.project_id),
    [project.id],
  );
  const account = `/api/v2/consumption_history/account?${of("daily", now)}`;
  assert.equal((await world.request("GET", account, { key })).status, 403);
});
