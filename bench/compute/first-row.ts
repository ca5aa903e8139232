// From "start" to the first row, and to the rate of a warm server: a stopped endpoint against a stopped stock cluster.

import { spawn } from "node:child_process";
import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, nowMs, sleep } from "../../src/base/clock.ts";
import { createLogger } from "../../src/base/log.ts";
import { programOf } from "../../src/base/program-files.mjs";
import { START_READS_NAME } from "../../src/compute/api.ts";
import { ComputeClient } from "../../src/compute/client.ts";
import { WarmAgents } from "../../src/local/agents/warm-agents.ts";
import { type Daemon, type DaemonChild, NODE_FLAGS, watched } from "../../src/local/daemon.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { initializeTpcb } from "../../testing/tpcb.ts";
import { canTimeLoads, readTables, timeLoad } from "../load.ts";
import { median, progress, type Row, ratio, spread } from "../report.ts";
import { COMMON_SETTINGS, firstRow, StockCluster } from "../stock.ts";

/** Room for all that the load works on. */
const MEMORY = { ...COMMON_SETTINGS, shared_buffers: "300MB" };
const LOAD_CLIENTS = 8;
const WINDOW_MS = 200;

export interface FirstRowScale {
  readonly starts: number;
  /** Starts of each kind that a load follows. */
  readonly loads: number;
  /** Of pgbench: 15 MB each. */
  readonly scale: number;
  /** How long a load is watched. */
  readonly seconds: number;
}

/** An endpoint that this process starts as its agents' parent, in one way or another. */
class Endpoint implements AsyncDisposable {
  readonly #strata: TestCluster;
  readonly #id: string;
  readonly #warmAgents: WarmAgents;
  #agent: DaemonChild | undefined;

  constructor(strata: TestCluster, id: string) {
    this.#strata = strata;
    this.#id = id;
    this.#warmAgents = new WarmAgents({
      size: 1,
      logger: createLogger("bench", "warn"),
      directory: join(strata.home, "endpoints"),
      // As in a control plane, no other agent loads while one starts.
      fillDelayMs: 300,
    });
  }

  get url(): string {
    return this.#strata.url(this.#id);
  }

  get #directory(): string {
    return join(this.#strata.home, "endpoints", this.#id);
  }

  /** Forgets what starts have read. */
  becomeCold(): void {
    rmSync(join(this.#directory, START_READS_NAME), { force: true });
  }

  /** By a process of its own, or by one that has waited: milliseconds to the first row. */
  async start(how: "process" | "waits"): Promise<number> {
    if (how === "process") {
      const began = monotonicMs();
      const log = openSync(join(this.#directory, "compute.log"), "a");
      const agent = [...NODE_FLAGS, programOf("compute/main.ts"), "--workdir", this.#directory];
      this.#agent = watched(spawn(process.execPath, agent, { stdio: ["ignore", log, log] }));
      closeSync(log);
      await firstRow(this.url);
      return monotonicMs() - began;
    }
    await this.#filled();
    const began = monotonicMs();
    const taken = await this.#warmAgents.take(this.#daemon());
    if (taken === undefined) {
      throw new Error("the agent that waited did not take its work");
    }
    this.#agent = taken;
    await firstRow(this.url);
    const tookMs = monotonicMs() - began;
    // Nor while the next one does.
    await this.#filled();
    return tookMs;
  }

  async #filled(): Promise<void> {
    this.#warmAgents.fillSoon();
    while (this.#warmAgents.ready === 0) {
      await sleep(20);
    }
  }

  /** Resolves when its agent is gone. */
  async stop(): Promise<void> {
    const { internalHttpPort } = this.#strata.endpointSpec(this.#id);
    await new ComputeClient(`127.0.0.1:${internalHttpPort}`).terminate("fast");
    while (this.#agent?.ended() === undefined) {
      await sleep(5);
    }
  }

  #daemon(): Daemon {
    const workdir = this.#directory;
    return {
      name: this.#id,
      workdir,
      pidFile: join(workdir, "compute.pid"),
      logFile: join(workdir, "compute.log"),
      entry: "compute/main.ts",
      args: [],
      addresses: [],
      otherPorts: "",
      probe: () => Promise.resolve(true),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#warmAgents.close();
  }
}

/** Milliseconds until a running agent has a first row again after its Postgres was killed: all but its own start. */
async function restartInAgent(strata: TestCluster): Promise<number> {
  await strata.ok("endpoint", "start", "main");
  await firstRow(strata.url());
  await strata.kill9("postgres-main");
  const began = monotonicMs();
  await firstRow(strata.url());
  const tookMs = monotonicMs() - began;
  await strata.ok("endpoint", "stop", "main");
  return tookMs;
}

async function startCommand(strata: TestCluster): Promise<number> {
  const began = monotonicMs();
  await strata.ok("endpoint", "start", "main");
  await firstRow(strata.url());
  const tookMs = monotonicMs() - began;
  await strata.ok("endpoint", "stop", "main");
  return tookMs;
}

type Times = Record<string, number[]>;

/** Interleaved: stock, and each way of ours, one start of each a round. */
async function timeStarts(
  strata: TestCluster,
  endpoints: Readonly<Record<"main" | "prewarmed", Endpoint>>,
  stock: StockCluster,
  starts: number,
): Promise<{ ours: Times; theirs: number[] }> {
  const { main, prewarmed } = endpoints;
  const cold = (how: "process" | "waits") => {
    main.becomeCold();
    return main.start(how);
  };
  const ways: Readonly<Record<string, [Endpoint, () => Promise<number>]>> = {
    "cold, agent from exec": [main, () => cold("process")],
    "cold, agent that waits": [main, () => cold("waits")],
    "warm, agent from exec": [main, () => main.start("process")],
    "warm, agent that waits": [main, () => main.start("waits")],
    "prewarmed, agent from exec": [prewarmed, () => prewarmed.start("process")],
    "prewarmed, agent that waits": [prewarmed, () => prewarmed.start("waits")],
  };
  const ours: Times = {};
  const note = (way: string, ms: number) => {
    ours[way] = [...(ours[way] ?? []), ms];
  };
  const theirs: number[] = [];
  for (let i = 0; i < starts; i++) {
    theirs.push(await stock.start());
    await stock.stop();
    for (const [way, [endpoint, start]] of Object.entries(ways)) {
      note(way, await start());
      await endpoint.stop();
    }
    if (i % 3 === 0) {
      note("whole CLI command", await startCommand(strata));
      note("Postgres anew in a running agent", await restartInAgent(strata));
    }
  }
  return { ours, theirs };
}

const AIMS: Readonly<Record<string, string>> = {
  "warm, agent that waits": "≤ 2",
  "warm, agent from exec": "≤ 3.5",
};

async function startRows(
  strata: TestCluster,
  endpoints: Readonly<Record<"main" | "prewarmed", Endpoint>>,
  stock: StockCluster,
  starts: number,
): Promise<Row[]> {
  const { ours, theirs } = await timeStarts(strata, endpoints, stock, starts);
  return Object.entries(ours).map(([way, values]) => {
    progress(`first row: ${way}: ${spread(values)} ms, stock ${spread(theirs)}`);
    return {
      what: `start to first row, ms, p50 (p99) of ${values.length}: ${way}`,
      ours: spread(values),
      theirs: spread(theirs),
      ratio: ratio(median(values), median(theirs)),
      aim: AIMS[way] ?? "",
    };
  });
}

interface Server {
  readonly name: string;
  readonly url: string;
  readonly start: () => Promise<number>;
  readonly stop: () => Promise<void>;
}

/** Milliseconds from the start of a server until a `-S` load has nine tenths of `warmTps`; infinite where it has not. */
async function rampMs({ url, start, stop }: Server, warmTps: number, scale: FirstRowScale) {
  const startMs = await start();
  const began = nowMs();
  const load = { clients: LOAD_CLIENTS, scale: scale.scale, seconds: scale.seconds };
  const rates = await timeLoad(url, "select", load, WINDOW_MS, began);
  await stop();
  const at = rates.findIndex((tps) => tps >= 0.9 * warmTps);
  return at < 0 ? Number.POSITIVE_INFINITY : startMs + (at + 1) * WINDOW_MS;
}

async function rampRows(
  endpoints: Readonly<Record<"main" | "prewarmed", Endpoint>>,
  stock: StockCluster,
  scale: FirstRowScale,
): Promise<Row[]> {
  const { main, prewarmed } = endpoints;
  const server = (name: string, endpoint: Endpoint): Server => ({
    name,
    url: endpoint.url,
    start: () => endpoint.start("process"),
    stop: () => endpoint.stop(),
  });
  const theirs: Server = {
    name: "stock",
    url: stock.url,
    start: () => stock.start(),
    stop: () => stock.stop(),
  };
  const servers = [server("warm", main), server("prewarmed", prewarmed), theirs];
  const warm = new Map<string, number>();
  for (const { name, url, start, stop } of servers) {
    await start();
    await readTables(url, "buffer");
    const load = { clients: LOAD_CLIENTS, scale: scale.scale, seconds: scale.seconds };
    warm.set(name, median(await timeLoad(url, "select", load, WINDOW_MS, nowMs())));
    // The list of what is in memory is written at this stop.
    await stop();
  }
  const times = new Map<string, number[]>(servers.map(({ name }) => [name, []]));
  for (let i = 0; i < scale.loads; i++) {
    for (const one of servers) {
      times.get(one.name)!.push(await rampMs(one, warm.get(one.name)!, scale));
    }
  }
  const stockMs = median(times.get("stock")!);
  return ["warm", "prewarmed"].map((name) => {
    const ms = median(times.get(name)!);
    const tps = warm.get(name)!.toFixed(0);
    progress(`first row: ${name}: at 90 % of ${tps} tps after ${times.get(name)!.join(", ")} ms`);
    return {
      what: `start to 90 % of the warm rate of -S, ${LOAD_CLIENTS} clients, ${scale.scale * 15} MB, ms: ${name}`,
      ours: within(ms, scale),
      theirs: within(stockMs, scale),
      ratio: Number.isFinite(ms + stockMs) ? ratio(ms, stockMs) : "—",
      aim: "",
    };
  });
}

const within = (ms: number, { seconds }: FirstRowScale) =>
  Number.isFinite(ms) ? ms.toFixed(0) : `> ${seconds * 1000}`;

/** Interleaved starts of all kinds, then loads that begin at the first row. */
export async function benchFirstRow(scale: FirstRowScale): Promise<Row[]> {
  progress(`first row: loading scale ${scale.scale}`);
  await using stock = await StockCluster.create(MEMORY);
  await stock.start();
  await initializeTpcb(stock.url, scale.scale);
  await stock.stop();
  await using strata = await TestCluster.create();
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", MEMORY);
  await strata.ok("endpoint", "start", "main");
  await initializeTpcb(strata.url(), scale.scale);
  await strata.ok("timeline", "branch", "--branch-name", "prewarmed");
  const branch = ["--branch-name", "prewarmed", "--prewarm"];
  await strata.ok("endpoint", "create", "prewarmed", ...branch);
  strata.setPostgres("prewarmed", MEMORY);
  await strata.ok("endpoint", "stop", "main");
  await using main = new Endpoint(strata, "main");
  await using prewarmed = new Endpoint(strata, "prewarmed");
  const endpoints = { main, prewarmed };
  for (const endpoint of [main, prewarmed]) {
    // Not counted: it leaves the record of what a start reads, which every start but the first has.
    await endpoint.start("process");
    await readTables(endpoint.url, "buffer");
    await endpoint.stop();
  }
  const rows = await startRows(strata, endpoints, stock, scale.starts);
  if (canTimeLoads) {
    rows.push(...(await rampRows(endpoints, stock, scale)));
  } else {
    progress("no pgbench in $PATH: how soon a load has its warm rate is left out");
  }
  return rows;
}
