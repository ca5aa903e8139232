// Who closes a door finds it closed when the answer comes, and who opens one finds it open, through a running proxy.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { StrataHome } from "../../src/local/home.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { withClient } from "../../testing/tpcb.ts";

let world: ControlPlaneWorld;
let project: string;
let branch: string;
let endpoint: string;
let password: string;

before(async () => {
  world = await ControlPlaneWorld.create();
  const created = await world.createProject("doors");
  project = created.project.id;
  branch = created.branch.id;
  endpoint = created.endpoints[0].id;
  password = created.connection_uris[0].connection_parameters.password;
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

function connect(word = password): Promise<unknown> {
  const { proxy } = new StrataHome(world.cluster.home).config();
  const options = encodeURIComponent(`endpoint=${endpoint}`);
  const url = `postgresql://neondb_owner:${word}@${proxy!.listenPgAddr}/neondb?options=${options}&sslmode=no-verify`;
  return withClient(url, async (client) => client.query("select 1"));
}

test("access: a list of addresses holds when it is answered, closed and open", async () => {
  const allow = (ips: readonly string[]) =>
    world.api("PATCH", `/projects/${project}`, { project: { settings: { allowed_ips: { ips } } } });
  for (let round = 0; round < 3; round++) {
    await connect();
    await allow(["10.9.9.9"]);
    await assert.rejects(connect(), /address 127.0.0.1 may not connect/);
    await allow([]);
  }
  await connect();
});

test("access: of a password the new one is taken at the first try when it is answered, the old one is not", async () => {
  const reset = `/projects/${project}/branches/${branch}/roles/neondb_owner/reset_password`;
  for (let round = 0; round < 3; round++) {
    await connect();
    const old = password;
    password = (await world.api("POST", reset)).role.password;
    await connect();
    await assert.rejects(connect(old), /password authentication failed/);
  }
});

test("access: whose tokens are good is waited for where a proxy has just been told otherwise", async () => {
  const key = readFileSync(join(world.cluster.home, "control_plane", "proxy.key"), "utf8").trim();
  const path = `/projects/${project}/jwks`;
  const ask = async () => {
    const asked = `/proxy/api/v1/endpoints/${endpoint}/jwks`;
    const { status, body } = await world.request("GET", asked, { key });
    assert.equal(status, 200);
    return body.jwks.length;
  };
  const timed = async (change: () => Promise<unknown>) => {
    // Before it is told: what holds for a second from then on may hold for less when its answer is here.
    const beganMs = performance.now();
    const count = await ask();
    await change();
    assert.ok(performance.now() - beganMs > 900, "a proxy that was told before does not know");
    assert.notEqual(await ask(), count);
  };
  let id = "";
  await timed(async () => {
    const body = { jwks_url: "https://example.com/jwks", provider_name: "x" };
    id = (await world.api("POST", path, body)).jwks.id;
  });
  await timed(() => world.api("DELETE", `${path}/${id}`));
});
