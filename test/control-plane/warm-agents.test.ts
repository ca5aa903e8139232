import assert from "node:assert/strict";
import { readFileSync, realpathSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimer, sleep } from "../../src/base/clock.ts";
import { commandWords } from "../../src/base/proc.ts";
import { daemonsOfHome } from "../../src/local/left-over.ts";
import { runtimeDirectory } from "../../src/postgres/installation.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { eventually } from "../../testing/eventually.ts";

// Agents that wait for an endpoint: a wake takes one over, none is left over, whatever is killed.

let world: ControlPlaneWorld;
let endpoint: string;
let suspendPath: string;
let login: { user: string; password: string; database: string };

before(async () => {
  world = await ControlPlaneWorld.create();
  const created = await world.createProject("warm");
  endpoint = created.endpoints[0].id;
  suspendPath = `/projects/${created.project.id}/endpoints/${endpoint}/suspend`;
  const { role: user, password, database } = created.connection_uris[0].connection_parameters;
  login = { user, password, database };
  await world.sql(endpoint, login, "create table t (n int)");
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

const endpoints = () => join(realpathSync(world.cluster.home), "endpoints");
const waiting = (): readonly { readonly pid: number }[] =>
  daemonsOfHome(realpathSync(world.cluster.home)).filter(({ workdir }) => workdir === endpoints());
const agentPid = () => world.cluster.pid(`agent-${endpoint}`);

const until = <T>(what: string, holds: () => T | Promise<T>) =>
  eventually(what, holds, { logs: () => world.cluster.logTails() });

/** How it was started, in the words of Neon's proxy. */
async function wake(): Promise<string> {
  const path = `/proxy/api/v1/wake_compute?session_id=s&endpointish=${endpoint}`;
  const { status, body } = await world.request("GET", path);
  assert.equal(status, 200, JSON.stringify(body));
  return body.aux.cold_start_info;
}

/** Wakes until a warm agent has taken it over: that one waits does not say yet that it is ready. */
async function wakeWarm(): Promise<number> {
  for (let i = 0; i < 20; i++) {
    await until("one that waits", () => waiting().length === 1);
    await sleep(1000);
    const pid = waiting()[0]!.pid;
    await world.api("POST", suspendPath);
    if ((await wake()) === "pool_hit") {
      assert.equal(agentPid(), pid);
      return pid;
    }
  }
  return assert.fail(`no wake met a warm agent\n${world.cluster.logTails()}`);
}

test("a wake takes over the agent that waits; another one comes in its place", async () => {
  const pid = await wakeWarm();
  await world.sql(endpoint, login, "insert into t values (1)");
  assert.deepEqual(await world.sql(endpoint, login, "select n from t"), [{ n: 1 }]);
  assert.equal(await wake(), "warm");
  await until("another", () => waiting().length === 1 && waiting()[0]!.pid !== pid);
  // It writes to the endpoint's log, and is stopped as any other.
  const log = readFileSync(join(endpoints(), endpoint, "compute.log"), "utf8");
  assert.ok(log.includes(`"pid":${pid}`), log.slice(-2000));
  const status = await world.cluster.json("status");
  assert.ok(!JSON.stringify(status).includes("left over"), JSON.stringify(status));
  await world.cluster.ok("endpoint", "stop", endpoint);
  await until("its end", () => commandWords(pid) === undefined);
});

test("an endpoint's first start takes the files that an agent has made which waited; others are made", async () => {
  const path = join(runtimeDirectory(endpoints()), ".spare");
  const spares = () => {
    const status = statSync(path, { throwIfNoEntry: false });
    return status && `${status.ino} ${status.birthtimeMs}`;
  };
  const project = suspendPath.split("/")[2]!;
  const before = await until("spare files", spares);
  // On a busy machine it may be started without an agent that waited.
  for (let i = 0; i < 10 && spares() === before; i++) {
    const { branch } = await world.createBranch(project, `first-start-${i}`);
    await world.api("DELETE", `/projects/${project}/branches/${branch.id}`);
    await world.settled(project);
  }
  assert.notEqual(spares(), before);
  await until("others", () => spares() !== undefined && spares() !== before);
});

test("kill -9 of the control plane ends who waits, and not who works", async () => {
  const pid = await wakeWarm();
  await until("another", () => waiting().length === 1);
  const other = waiting()[0]!.pid;
  await world.cluster.kill9("control_plane");
  await until("the end of who waits", () => commandWords(other) === undefined);
  await world.sql(endpoint, login, "insert into t values (2)");
  assert.equal(agentPid(), pid);
  await world.cluster.ok("start");
  assert.equal(await wake(), "warm");
  assert.equal(agentPid(), pid);
});

test("kill -9 of an agent that was warm: its Postgres, which still has the port, goes with it, and nothing is lost", async () => {
  const pid = await wakeWarm();
  await world.sql(endpoint, login, "insert into t values (3)");
  const postmaster = world.cluster.pid(`postgres-${endpoint}`);
  process.kill(postmaster, "SIGSTOP");
  process.kill(pid, "SIGKILL");
  await until("its end", () => commandWords(pid) === undefined);
  setTimer(() => process.kill(postmaster, "SIGCONT"), 1500);
  assert.notEqual(await wake(), "warm");
  assert.deepEqual(await world.sql(endpoint, login, "select max(n) as n from t"), [{ n: 3 }]);
});

test("--warm-agents is kept in the home; none is left after a stop", async () => {
  await world.cluster.ok("start", "--warm-agents", "2");
  await until("two", () => waiting().length === 2);
  await world.cluster.ok("stop");
  assert.deepEqual(daemonsOfHome(realpathSync(world.cluster.home)), []);
  await world.cluster.ok("start");
  await until("two again", () => waiting().length === 2);
  await world.cluster.ok("start", "--warm-agents", "0");
  assert.deepEqual(waiting(), []);
  await world.cluster.fails("start", "--warm-agents", "many");
  await world.cluster.ok("stop", "--mode", "immediate");
  assert.deepEqual(daemonsOfHome(realpathSync(world.cluster.home)), []);
});
