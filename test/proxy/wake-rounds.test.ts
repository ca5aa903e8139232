// Sleeping and waking under clients that come back: nobody is lost, nothing acknowledged is, whatever is killed.

import assert from "node:assert/strict";
import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import pg from "pg";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { readFileIfExists } from "../../src/base/disk.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { daemonsOfHome } from "../../src/local/left-over.ts";
import { parseHostPort } from "../../src/postgres/wire/wire-client.ts";
import type { Victim } from "../../testing/cluster.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { BROKEN, CREATE_LOG, LoggedClient } from "../../testing/proxy/logged-client.ts";

/** `npm run test:wake -- --rounds N --seed S`. */
const ROUNDS = Number(process.env["STRATA_WAKE_ROUNDS"] ?? 4);
const SEED = Number(process.env["STRATA_WAKE_SEED"] ?? 1);
/** That are woken at once. */
const SLEEPERS = Number(process.env["STRATA_WAKE_SLEEPERS"] ?? 3);
/** A machine with other work is slow; nobody may be told so. */
const PATIENCE_MS = 600_000;
const CLIENTS = 6;

const random = new SeededRandom(SEED);
let world: ControlPlaneWorld;
let project: string;
let endpoint: string;
let proxy: { host: string; port: number };
let login: { user: string; password: string; database: string };
let clients: LoggedClient[];

const config = (name: string): pg.ClientConfig => ({
  ...{ ...proxy, ...login, options: `endpoint=${name}` },
  connectionTimeoutMillis: PATIENCE_MS,
});
const endpointPath = (id: string) => `/projects/${project}/endpoints/${id}`;
const suspend = (id = endpoint) => world.api("POST", `${endpointPath(id)}/suspend`);
const setTimeoutOf = (seconds: number) =>
  world.api("PATCH", endpointPath(endpoint), { endpoint: { suspend_timeout_seconds: seconds } });

before(async () => {
  world = await ControlPlaneWorld.create({
    proxyOptions: { "wake-timeout-ms": `${PATIENCE_MS}`, "login-timeout-ms": "120000" },
  });
  const created = await world.createProject("rounds");
  project = created.project.id;
  endpoint = created.endpoints[0].id;
  const { role: user, password, database } = created.connection_uris[0].connection_parameters;
  login = { user, password, database };
  const home = JSON.parse(readFileSync(join(world.cluster.home, "config.json"), "utf8"));
  proxy = parseHostPort(home.proxy.listenPgAddr);
  await ask(endpoint, CREATE_LOG);
  await setTimeoutOf(-1);
  clients = Array.from({ length: CLIENTS }, (_, id) => {
    const name = id % 2 === 0 ? endpoint : `${endpoint}-pooler`;
    return new LoggedClient({ id, keepsConnection: id >= 4, config: config(name) });
  });
});

after(async () => {
  await Promise.all((clients ?? []).map((client) => client.end()));
  await world?.[Symbol.asyncDispose]();
});

/** Without another try: who comes is served, whatever goes on. */
async function ask(name: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client(config(name));
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** One that does not run is left alone. */
async function kill(victim: Victim): Promise<void> {
  try {
    await world.cluster.kill9(victim);
  } catch (error) {
    assert.ok(!/survived/.test(String(error)), String(error));
  }
}

/** Agents that work, by endpoint: never two of one. */
function agents(): Map<string, number> {
  const found = new Map<string, number>();
  for (const { component, workdir } of daemonsOfHome(realpathSync(world.cluster.home))) {
    if (component === "compute" && !workdir.endsWith("/endpoints")) {
      found.set(workdir, (found.get(workdir) ?? 0) + 1);
    }
  }
  return found;
}

/** All that was acknowledged before the question is there. A suspension may break the question off: it is put again, as a driver does. */
async function checkLog(): Promise<void> {
  const known = clients.map(({ id, acknowledged }) => ({ id, acknowledged }));
  const question = "select client, count(*)::int as count, max(n) as max from log group by client";
  const rows = await eventually("the log is read", () =>
    ask(`${endpoint}-pooler`, question).catch((error: Error & { code?: string }) => {
      assert.match(`${error.code} ${error.message}`, BROKEN);
      return undefined;
    }),
  );
  for (const { id, acknowledged } of known) {
    const row = rows.find(({ client }) => client === id);
    const { count = 0, max = 0 } = (row ?? {}) as { count?: number; max?: number };
    assert.ok(count >= acknowledged && max === count, `client ${id}: ${count} of ${acknowledged}`);
  }
}

async function round(number: number): Promise<void> {
  const victims: readonly (Victim | undefined)[] = [
    ...(["proxy", "control_plane"] as const),
    ...([`agent-${endpoint}`, `postgres-${endpoint}`] as const),
    undefined,
  ];
  await sleep(random.int(300));
  // A kill comes before it, in it, or in the wake after it.
  const suspending = random.int(4) === 0 ? undefined : suspend().catch(() => undefined);
  await sleep(random.int(2) === 0 ? random.int(150) : random.int(1000));
  const victim = random.pick(victims);
  if (victim !== undefined) {
    await kill(victim);
  }
  if (victim === "proxy" || victim === "control_plane") {
    await world.cluster.ok("start", "--start-timeout", "600s");
  }
  await suspending;
  await Promise.all(clients.map((client) => client.served()));
  await checkLog();
  for (const [workdir, count] of agents()) {
    assert.equal(count, 1, `${count} agents in ${workdir}, round ${number}`);
  }
}

test(`${ROUNDS} rounds of suspensions, wakes and kills under clients that come back (seed ${SEED})`, async () => {
  for (const client of clients) {
    client.start(() => random.int(400));
  }
  for (let number = 0; number < ROUNDS; number++) {
    try {
      await round(number);
    } catch (error) {
      throw new Error(`round ${number}, seed ${SEED}\n${world.cluster.logTails()}`, {
        cause: error,
      });
    }
    if (number % 10 === 9) {
      console.log(`round ${number + 1}: ${clients.map((one) => one.acknowledged).join(" ")}`);
    }
  }
  await Promise.all(clients.map((client) => client.stop()));
  await Promise.all(clients.map((client) => client.end()));
});

test("who comes in the very moment in which an idle endpoint falls asleep is served", async () => {
  const pidFile = join(world.cluster.home, "endpoints", endpoint, "compute.pid");
  // The file goes with the process, which may be between two looks.
  const fallsAsleep = () =>
    /termination/.test(readFileIfExists(pidFile)?.toString() ?? "termination");
  for (let i = 0; i < Math.ceil(ROUNDS / 20); i++) {
    await ask(endpoint, "select 1");
    await setTimeoutOf(1);
    const deadline = monotonicMs() + PATIENCE_MS;
    while (!fallsAsleep()) {
      assert.ok(monotonicMs() < deadline, "it does not fall asleep");
      await sleep(1);
    }
    const served = Array.from({ length: 6 }, async (_, n) => {
      await sleep(n * random.int(60));
      return ask(n % 2 === 0 ? endpoint : `${endpoint}-pooler`, "select 1 as one");
    });
    for (const rows of await Promise.all(served)) {
      assert.deepEqual(rows, [{ one: 1 }]);
    }
    await setTimeoutOf(-1);
  }
});

test(`${SLEEPERS} endpoints that sleep, woken at once by ${SLEEPERS} clients, each once`, async () => {
  const ids: string[] = [];
  for (let i = 0; i < SLEEPERS; i++) {
    const made = await world.createBranch(project, `sleeper-${i}`);
    ids.push(made.endpoints[0].id);
    await suspend(made.endpoints[0].id);
  }
  assert.equal(
    [...agents().keys()].filter((path) => ids.some((id) => path.endsWith(id))).length,
    0,
  );
  const starts = async () => {
    const { operations } = await world.api("GET", `/projects/${project}/operations?limit=1000`);
    return ids.map(
      (id) =>
        operations.filter(
          (one: { action: string; endpoint_id?: string }) =>
            one.action === "start_compute" && one.endpoint_id === id,
        ).length,
    );
  };
  const before = await starts();
  const began = monotonicMs();
  const answers = await Promise.all(ids.map((id) => ask(id, "select 1 as one")));
  console.log(`${SLEEPERS} woken in ${(monotonicMs() - began).toFixed(0)} ms`);
  assert.deepEqual(
    answers,
    ids.map(() => [{ one: 1 }]),
  );
  assert.deepEqual(
    await starts(),
    before.map((count) => count + 1),
  );
});
