import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";

const ROUNDS = 3;

test("kill -9 of the control plane while it makes projects: after its start each is whole, or was never asked for", async () => {
  const seed = Number(process.env["SEED"] ?? 7);
  const random = new SeededRandom(seed);
  await using world = await ControlPlaneWorld.create();
  for (let round = 0; round < ROUNDS; round++) {
    const asked = world
      .request("POST", "/api/v2/projects", { body: { project: { name: `round ${round}` } } })
      .catch(() => undefined);
    await sleep(random.int(2500));
    await world.cluster.kill9("control_plane");
    await asked;
    if (round === ROUNDS - 1) {
      // Then the storage starts beside it, later than it.
      await world.cluster.ok("stop");
    }
    await world.cluster.ok("start");
  }
  const projects = await settled(world);
  const names = projects.map(({ name }) => name);
  assert.deepEqual([...new Set(names)], names, `seed ${seed}`);
  const tenants = (await world.cluster.json("tenant", "list")) as unknown[];
  assert.equal(tenants.length, projects.length, `seed ${seed}`);
  for (const { id } of projects) {
    const query = "database_name=neondb&role_name=neondb_owner";
    const { uri } = await world.api("GET", `/projects/${id}/connection_uri?${query}`);
    const { endpoints } = await world.api("GET", `/projects/${id}/endpoints`);
    assert.equal(endpoints.length, 1, `seed ${seed}`);
    const { username: user, password } = new URL(uri);
    const login = { user, password, database: "neondb" };
    await world.api("POST", `/projects/${id}/endpoints/${endpoints[0].id}/start`);
    await world.sql(endpoints[0].id, login, "create table t (n int)");
  }
});

/** The projects, once no operation goes on. */
async function settled(world: ControlPlaneWorld): Promise<{ id: string; name: string }[]> {
  for (let i = 0; i < 300; i++) {
    const { projects } = await world.api("GET", "/projects?limit=100");
    const statuses: string[] = [];
    for (const { id } of projects) {
      const { operations } = await world.api("GET", `/projects/${id}/operations`);
      statuses.push(...operations.map(({ status }: { status: string }) => status));
    }
    if (statuses.every((status) => status === "finished")) {
      return projects;
    }
    assert.ok(!statuses.includes("failed"), world.cluster.logTails());
    await sleep(200);
  }
  assert.fail(`operations go on for ever\n${world.cluster.logTails()}`);
}
