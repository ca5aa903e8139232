// A connection to an endpoint that sleeps, through the proxy: to the first row, and where the time goes.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { monotonicMs, nowMs, sleep } from "../../src/base/clock.ts";
import { commandWords } from "../../src/base/proc.ts";
import type { StartMetrics } from "../../src/compute/api.ts";
import { daemonsOfHome } from "../../src/local/left-over.ts";
import { parseHostPort } from "../../src/postgres/wire/wire-client.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { median, progress, type Row, spread } from "../report.ts";
import { StockCluster } from "../stock.ts";

const LOAD_MS = 1500;
const ALL = "to the first row, all";

/** Milliseconds. */
type Sample = Readonly<Record<string, number>>;

interface Way {
  readonly world: ControlPlaneWorld;
  readonly endpoint: string;
  readonly directory: string;
  readonly suspend: () => Promise<unknown>;
  readonly client: () => pg.Client;
}

async function openWay(): Promise<Way> {
  const world = await ControlPlaneWorld.create();
  const created = await world.createProject("wake");
  const endpoint: string = created.endpoints[0].id;
  const { role: user, password, database } = created.connection_uris[0].connection_parameters;
  const config = JSON.parse(readFileSync(join(world.cluster.home, "config.json"), "utf8"));
  const proxy = parseHostPort(config.proxy.listenPgAddr);
  const path = `/projects/${created.project.id}/endpoints/${endpoint}/suspend`;
  const options = `endpoint=${endpoint}`;
  return {
    world,
    endpoint,
    directory: join(world.cluster.home, "endpoints", endpoint),
    suspend: () => world.api("POST", path),
    client: () => new pg.Client({ ...proxy, user, password, database, options }),
  };
}

/** Connects, and asks once. */
async function firstRow({ client: make }: Way): Promise<{ loginMs: number; rowMs: number }> {
  const client = make();
  const began = monotonicMs();
  await client.connect();
  const loginMs = monotonicMs() - began;
  await client.query("select n from t");
  const rowMs = monotonicMs() - began;
  await client.end();
  return { loginMs, rowMs };
}

/** What the agent said last of its start, and when. */
function lastStart({ directory }: Way): StartMetrics & { readonly runningAtMs: number } {
  const log = readFileSync(join(directory, "compute.log"), "utf8");
  const line = log.split("\n").findLast((text) => text.includes('"compute is running"'));
  const said = JSON.parse(line!) as StartMetrics & { readonly time: string };
  return { ...said, runningAtMs: new Date(said.time).getTime() };
}

/** One waits; how far it has got does not show. */
async function warmAgentWaits({ world }: Way): Promise<void> {
  const endpoints = join(world.cluster.home, "endpoints");
  while (!daemonsOfHome(world.cluster.home).some(({ workdir }) => workdir === endpoints)) {
    await sleep(50);
  }
  await sleep(LOAD_MS);
}

async function wakeOnce(way: Way): Promise<{ isWarm: boolean; sample: Sample }> {
  await way.suspend();
  const beganAtMs = nowMs();
  const { loginMs, rowMs } = await firstRow(way);
  const start = lastStart(way);
  const startedMs = start.runningAtMs - start.total_startup_ms - beganAtMs;
  const pid = Number.parseInt(readFileSync(join(way.directory, "compute.pid"), "utf8"), 10);
  const isWarm = commandWords(pid)?.includes("--warm") === true;
  const sample = {
    "proxy and control plane, until the agent has its work": startedMs,
    "agent: its process": start.process_ms,
    "agent: election": start.sync_safekeepers_ms,
    "agent: state of the pageserver": start.basebackup_ms,
    "agent: data directory (beside the election)": start.data_directory_ms,
    "agent: Postgres": start.start_postgres_ms,
    "agent: all": start.total_startup_ms,
    "proxy: told of it, and logged in": loginMs - startedMs - start.total_startup_ms,
    "first row": rowMs - loginMs,
    [ALL]: rowMs,
  };
  return { isWarm, sample };
}

/**
 * Interleaved: a wake by a warm agent, one before the next is there, a connection to the endpoint that is awake
 * then, and a start of stock Postgres.
 */
export async function benchWake(rounds: number): Promise<Row[]> {
  await using stock = await StockCluster.create();
  const way = await openWay();
  await using world = way.world;
  void world;
  const client = way.client();
  await client.connect();
  await client.query("create table t as select 1 as n");
  await client.end();
  const wakes: { isWarm: boolean; sample: Sample }[] = [];
  const awake: number[] = [];
  const theirs: number[] = [];
  // Two are not counted: they leave the record of what a start reads.
  for (let i = -2; i < rounds; i++) {
    await warmAgentWaits(way);
    const both = [await wakeOnce(way), await wakeOnce(way)];
    const again = (await firstRow(way)).rowMs;
    const stockMs = await stock.start();
    await stock.stop();
    if (i >= 0) {
      wakes.push(...both);
      awake.push(again);
      theirs.push(stockMs);
    }
  }
  const stockStart = median(theirs);
  const row = (what: string, values: readonly number[], aim = ""): Row => ({
    what: `wake, ms p50 (p99): ${what}`,
    ours: spread(values),
    theirs: stockStart.toFixed(0),
    ratio: (median(values) / stockStart).toFixed(2),
    aim,
  });
  const rowsOf = (how: string, samples: readonly Sample[]) =>
    Object.keys(samples[0] ?? {}).map((part) =>
      row(
        `${how}: ${part}`,
        samples.map((one) => one[part]!),
        part === ALL ? "200 ms" : "",
      ),
    );
  const [warm, cold] = [true, false].map((isWarm) =>
    wakes.filter((one) => one.isWarm === isWarm).map(({ sample }) => sample),
  ) as [Sample[], Sample[]];
  progress(`wake: ${warm.length} by a warm agent, ${cold.length} without`);
  return [
    ...rowsOf("warm agent", warm),
    ...rowsOf("without", cold),
    row("a connection and its first row, awake", awake),
  ];
}
