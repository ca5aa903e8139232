import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { freeEndpointPorts } from "../../../testing/free-port.ts";
import {
  createIn,
  homeIn,
  runStorage,
  standInAgent,
} from "../../../testing/homes/stand-in-home.ts";
import type { EndpointSpec, PortName } from "../../compute/api.ts";
import { runtimeDirectory } from "../../postgres/installation.ts";
import type { Daemon, DaemonChild } from "../daemon.ts";
import { stopAndKeep } from "../endpoint-stop.ts";
import { type Endpoint, endpointState, findEndpoint } from "../endpoints.ts";
import type { StrataHome } from "../home.ts";
import { withHomeLocked, withLock } from "../lock.ts";
import { startWhileLocked, startWithLocks } from "./start-endpoint.ts";

const ENDED: DaemonChild = { pid: 0, ended: () => "it could not bind", release: () => {} };

/** As another home's Postgres has it. */
async function take(t: TestContext, port: number): Promise<void> {
  const server = createServer().listen(port, "127.0.0.1");
  t.after(() => server.close());
  await new Promise((resolve) => server.once("listening", resolve));
}

/** As endpoint.json has it. */
function onDisk({ directory }: Endpoint): EndpointSpec {
  return JSON.parse(readFileSync(join(directory, "endpoint.json"), "utf8"));
}

async function scene(t: TestContext, given: { pgPort?: number } = {}) {
  const home = await homeIn(t);
  runStorage(t, home);
  const endpoint = await createIn(home, "one", given);
  const other = await createIn(home, "other");
  const said: string[] = [];
  const options = (spawn: (daemon: Daemon) => DaemonChild | Promise<DaemonChild>) => ({
    timeoutMs: 60_000,
    allowMultiple: true,
    print: () => {},
    onPortMoved: (line: string) => said.push(line),
    spawn,
  });
  return { home, endpoint, other, said, options };
}

for (const name of ["pgPort", "internalHttpPort"] as const) {
  test(`startWithLocks: a ${name} that somebody else has by now is another one before the agent starts, and stays that`, async (t) => {
    const { home, endpoint, other, said, options } = await scene(t);
    const before = endpoint.spec[name];
    await take(t, before);
    let seen: EndpointSpec | undefined;
    const started = await startWithLocks(
      home,
      endpoint,
      options((daemon) => {
        seen = onDisk(endpoint);
        return standInAgent(t, daemon);
      }),
    );
    const now = started.spec[name];
    const unlike = [before, other.spec.pgPort, other.spec.internalHttpPort];
    assert.equal([...unlike, ...portsBut(endpoint, name)].includes(now), false);
    assert.deepEqual(portsBut(started, name), portsBut(endpoint, name));
    assert.equal(seen?.[name], now);
    assert.deepEqual(findEndpoint(home, "one").spec, started.spec);
    assert.equal(said.length, 1);
    const whose = name === "pgPort" ? "Postgres" : "the agent";
    const line = `^port ${before} is in use by pid ${process.pid} \\(.*\\): ${whose} of endpoint one has port ${now} from now on$`;
    assert.match(said[0]!, new RegExp(line));
  });
}

function portsBut({ spec }: Endpoint, name: PortName): number[] {
  return name === "pgPort" ? [spec.internalHttpPort] : [spec.pgPort];
}

test("startWithLocks: a port that its user chose is never another one, nor is one of an endpoint that does not tell", async (t) => {
  const [pgPort] = [await freeEndpointPorts()];
  const { home, endpoint, said, options } = await scene(t, { pgPort });
  const refuse = { code: "address-in-use", message: new RegExp(`:${pgPort} is already in use by`) };
  const unstarted = options(() => assert.fail("the port is taken"));
  await take(t, pgPort);
  // The other one is the home's own, but would not help.
  await take(t, endpoint.spec.internalHttpPort);
  await assert.rejects(startWithLocks(home, endpoint, unstarted), refuse);
  const { movablePorts: _none, ...old } = endpoint.spec;
  writeFileSync(join(endpoint.directory, "endpoint.json"), JSON.stringify(old));
  await assert.rejects(startWithLocks(home, endpoint, unstarted), refuse);
  assert.deepEqual(onDisk(endpoint), old);
  assert.deepEqual(said, []);
});

test("startWithLocks: a port that is taken between look and bind is another one at the next try; a few times only", async (t) => {
  const { home, endpoint, said, options } = await scene(t);
  const tried: number[] = [];
  const late = async () => {
    tried.push(onDisk(endpoint).pgPort);
    await take(t, tried.at(-1)!);
    return ENDED;
  };
  await assert.rejects(startWithLocks(home, endpoint, options(late)), {
    code: "start-failed",
    message: /it could not bind/,
  });
  assert.equal(tried.length, 4);
  assert.equal(new Set(tried).size, 4);
  assert.equal(said.length, 3);
  let isFirst = true;
  const once = (daemon: Daemon) => {
    if (!isFirst) {
      return standInAgent(t, daemon);
    }
    isFirst = false;
    return late();
  };
  const started = await startWithLocks(home, endpoint, options(once));
  assert.equal(tried.includes(started.spec.pgPort), false);
});

test("startWithLocks: one that fails for another reason keeps its ports, and is not tried again", async (t) => {
  const { home, endpoint, said, options } = await scene(t);
  let starts = 0;
  const fail = () => {
    starts++;
    return ENDED;
  };
  await assert.rejects(startWithLocks(home, endpoint, options(fail)), { code: "start-failed" });
  assert.equal(starts, 1);
  assert.deepEqual(said, []);
  assert.deepEqual(onDisk(endpoint).pgPort, endpoint.spec.pgPort);
});

test("startWithLocks: a port that a killed agent's Postgres still has stays the endpoint's", async (t) => {
  const { home, endpoint, said, options } = await scene(t);
  const cwd = join(runtimeDirectory(endpoint.directory), "pgdata");
  mkdirSync(cwd, { recursive: true });
  const listen = `require("node:net").createServer().listen(${endpoint.spec.pgPort}, "127.0.0.1", () => console.log("here"))`;
  const left = spawn(process.execPath, ["-e", listen], { cwd });
  t.after(() => left.kill());
  await once(left.stdout, "data");
  const unstarted = options(() => assert.fail("the port is taken"));
  await assert.rejects(startWithLocks(home, endpoint, unstarted), { code: "address-in-use" });
  assert.deepEqual(said, []);
  assert.equal(onDisk(endpoint).pgPort, endpoint.spec.pgPort);
});

test("startWithLocks: other ports are chosen while nobody changes the home, nor makes or starts an endpoint", async (t) => {
  const { home, endpoint, options } = await scene(t);
  await take(t, endpoint.spec.pgPort);
  const start = options((daemon) => standInAgent(t, daemon));
  const held = async (hold: (body: () => Promise<void>) => Promise<void>) => {
    let starting: Promise<Endpoint> | undefined;
    await hold(async () => {
      starting = startWithLocks(home, endpoint, start);
      await new Promise((resolve) => setTimeout(resolve, 300));
      assert.deepEqual(onDisk(endpoint).pgPort, endpoint.spec.pgPort);
    });
    return starting!;
  };
  const started = await held((body) => withHomeLocked(home, body));
  assert.notEqual(started.spec.pgPort, endpoint.spec.pgPort);
  const next = await createIn(home, "next");
  await take(t, next.spec.pgPort);
  const makes = withLock(home.path, "new endpoint", async () => {
    const starting = startWithLocks(home, next, start);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(onDisk(next).pgPort, next.spec.pgPort);
    return { starting };
  });
  await (await makes).starting;
  assert.notEqual(onDisk(next).pgPort, next.spec.pgPort);
});

test("startWhileLocked: who has locked the home already waits for nobody", async (t) => {
  const { home, endpoint, options } = await scene(t);
  await take(t, endpoint.spec.pgPort);
  const start = options((daemon) => standInAgent(t, daemon));
  const started = await lockedAll(home, () => startWhileLocked(home, endpoint, start));
  assert.notEqual(started.spec.pgPort, endpoint.spec.pgPort);
  assert.equal(endpointState(started).state, "running");
});

function lockedAll<T>(home: StrataHome, body: () => Promise<T>): Promise<T> {
  return withHomeLocked(home, () => withLock(home.path, "endpoint one", body));
}

test("stopAndKeep: an endpoint that has other ports since it was looked at is asked there, and nobody at the old ones", async (t) => {
  const { home, endpoint, options } = await scene(t);
  let asked = 0;
  const strangers = createServer((socket) => {
    asked++;
    socket.destroy();
  });
  t.after(() => strangers.close());
  const { internalHttpPort } = endpoint.spec;
  await new Promise((resolve) => strangers.listen(internalHttpPort, "127.0.0.1", () => resolve(0)));
  const start = options((daemon) => standInAgent(t, daemon));
  const started = await startWithLocks(home, endpoint, start);
  assert.equal(endpointState(started).state, "running");
  await stopAndKeep(home, endpoint, "fast", () => {});
  assert.equal(endpointState(started).state, "stopped");
  assert.equal(asked, 0);
});
