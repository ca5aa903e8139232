import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import {
  createIn,
  homeIn,
  runStorage,
  standInAgent,
} from "../../../testing/homes/stand-in-home.ts";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import type { WarmAgents } from "../../local/agents/warm-agents.ts";
import type { Daemon } from "../../local/daemon.ts";
import { findEndpoint } from "../../local/endpoints.ts";
import { LocalProcesses } from "./provider.ts";

/** Bodies of what the agent of that port is sent. */
async function agentAt(t: TestContext, port: number): Promise<unknown[]> {
  const bodies: unknown[] = [];
  const server = createServer((request, response) => {
    let text = "";
    request.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    request.on("end", () => {
      bodies.push(JSON.parse(text));
      response.setHeader("content-type", "application/json").end("{}");
    });
  });
  t.after(() => server.close());
  await new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(0)));
  return bodies;
}

test("LocalProcesses.changeSettings: while a start is under way they wait for its end, and the running Postgres is told", async (t) => {
  const home = await homeIn(t);
  runStorage(t, home);
  const endpoint = await createIn(home, "ep");
  const spawned = Promise.withResolvers<void>();
  const comesUp = Promise.withResolvers<void>();
  let bodies: unknown[] = [];
  let startedWith: unknown;
  const take = async (daemon: Daemon) => {
    startedWith = findEndpoint(home, "ep").spec.settings;
    spawned.resolve();
    await comesUp.promise;
    bodies = await agentAt(t, endpoint.spec.internalHttpPort);
    return standInAgent(t, daemon);
  };
  const warmAgents = { take, startEnded: () => {} } as unknown as WarmAgents;
  const provider = new LocalProcesses(home, warmAgents, createLogger("test", "silent"));
  const started = provider.start("ep");
  await spawned.promise;
  assert.deepEqual(startedWith, {});
  const set = provider.changeSettings("ep", async (set) => set({ work_mem: "7MB" }));
  // Long enough for one that waits for nothing.
  await new Promise((resolve) => setTimeout(resolve, 200));
  comesUp.resolve();
  await Promise.all([started, set]);
  const list = [{ name: "work_mem", value: "7MB" }];
  assert.deepEqual(bodies, [{ spec: { cluster: { settings: list } } }]);
  const written = readFileSync(join(endpoint.directory, "endpoint.json"), "utf8");
  assert.deepEqual(JSON.parse(written).settings, { work_mem: "7MB" });
});

// Its control plane was killed meanwhile: nobody holds the endpoint's lock.
test("LocalProcesses.changeSettings: a start that nobody here has begun is waited for, and its Postgres told", async (t) => {
  const home = await homeIn(t);
  const { directory, spec } = await createIn(home, "ep");
  const pidFile = join(directory, "compute.pid");
  const { pid } = standInAgent(t, { workdir: directory, pidFile });
  writeFileSync(pidFile, `${pid}\ninit\n`);
  const none = {} as unknown as WarmAgents;
  const provider = new LocalProcesses(home, none, createLogger("test", "silent"));
  const set = provider.changeSettings("ep", async (change) => change({ work_mem: "7MB" }));
  // Long enough for one that waits for nothing.
  await sleep(200);
  const bodies = await agentAt(t, spec.internalHttpPort);
  writeFileSync(pidFile, `${pid}\nrunning\n`);
  await set;
  const list = [{ name: "work_mem", value: "7MB" }];
  assert.deepEqual(bodies, [{ spec: { cluster: { settings: list } } }]);
});
