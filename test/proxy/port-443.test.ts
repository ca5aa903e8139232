// Neon's serverless driver as it comes, with nothing set: where the proxy has port 443.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { freeConfig } from "../../testing/cluster.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";

const ADDRESS = "127.0.0.1:443";

/** Stands for the DNS, where `*.localtest.me` is this machine: here nobody may be asked. */
const NAMES = `data:text/javascript,${encodeURIComponent(`
  import dns from "node:dns";
  const { lookup } = dns;
  dns.lookup = (name, ...rest) => lookup(name.endsWith(".localtest.me") ? "127.0.0.1" : name, ...rest);
`)}`;

const PROGRAM = `
  import { neon, Pool } from "@neondatabase/serverless";
  const url = process.env.DATABASE_URL;
  const [{ http }] = await neon(url)\`select 1 as http\`;
  const pool = new Pool({ connectionString: url });
  const { rows: [{ socket }] } = await pool.query("select $1::int as socket", [2]);
  await pool.end();
  console.log(JSON.stringify({ http, socket }));
`;

/** Why not; undefined where this process may bind it, and nobody has it. */
function problemOf443(): Promise<string | undefined> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", (error) => resolve(error.message));
    server.listen(443, "127.0.0.1", () => server.close(() => resolve(undefined)));
  });
}

test("neon() and Pool with a connection string and nothing else", async (t) => {
  const problem = await problemOf443();
  if (problem !== undefined) {
    t.skip(problem);
    return;
  }
  const config = await freeConfig(1);
  await using world = await ControlPlaneWorld.create({
    config: { ...config, proxy: { ...config.proxy, listenHttpAddr: ADDRESS } },
  });
  const created = await world.createProject("zero");
  const url = new URL(created.connection_uris[0].connection_uri);
  assert.match(url.hostname, /^ep-[a-z0-9-]+\.localtest\.me$/);
  // The port is of Postgres's own protocol.
  url.port = "";
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["--import", NAMES, "--input-type=module", "--eval", PROGRAM],
    {
      cwd: import.meta.dirname,
      env: {
        ...process.env,
        DATABASE_URL: url.href,
        NODE_EXTRA_CA_CERTS: join(world.cluster.home, "tls", "ca.crt"),
      },
    },
  );
  assert.deepEqual(JSON.parse(stdout), { http: 1, socket: 2 });
});
