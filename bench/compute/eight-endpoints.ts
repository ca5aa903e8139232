// Many endpoints of one home: started at once, updated at once, and idle.

import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { ProcessTable } from "../../src/local/agents/endpoint-runs.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { initializeTpcb } from "../../testing/tpcb.ts";
import { readTables, runLoad } from "../load.ts";
import { median, progress, type Row, ratio } from "../report.ts";
import { COMMON_SETTINGS, firstRow, StockCluster } from "../stock.ts";
import { descendants, type Memory, memoryOf, processorUs } from "./processes.ts";

const STARTED = 8;
/** After a start V8 collects what that has left once nothing happens for ten seconds. */
const IDLE_MS = 20_000;

export interface ManyEndpointsScale {
  readonly rounds: number;
  /** Of one round of updates. */
  readonly seconds: number;
  /** Branches with an endpoint each. */
  readonly endpoints: number;
}

/** Milliseconds from one moment until each has answered. */
async function startTogether(starts: readonly (() => Promise<unknown>)[]): Promise<number[]> {
  const began = monotonicMs();
  return Promise.all(
    starts.map(async (start) => {
      await start();
      return monotonicMs() - began;
    }),
  );
}

async function startRow(
  strata: TestCluster,
  ids: readonly string[],
  base: StockCluster,
  rounds: number,
): Promise<Row> {
  const times = {
    ours: { mean: [] as number[], last: [] as number[] },
    theirs: { mean: [] as number[], last: [] as number[] },
  };
  const note = (side: keyof typeof times, ms: readonly number[]) => {
    times[side].mean.push(median(ms));
    times[side].last.push(Math.max(...ms));
  };
  await using stack = new AsyncDisposableStack();
  const clusters: StockCluster[] = [];
  for (const _ of ids) {
    clusters.push(stack.use(await base.copy()));
  }
  for (let i = 0; i < rounds; i++) {
    note(
      "ours",
      await startTogether(
        ids.map((id) => async () => {
          await strata.ok("endpoint", "start", id);
          await firstRow(strata.url(id));
        }),
      ),
    );
    await Promise.all(ids.map((id) => strata.ok("endpoint", "stop", id)));
    note("theirs", await startTogether(clusters.map((cluster) => () => cluster.start())));
    await Promise.all(clusters.map((cluster) => cluster.stop()));
  }
  const cell = ({ mean, last }: { mean: number[]; last: number[] }) =>
    `${median(mean).toFixed(0)}, ${median(last).toFixed(0)}`;
  progress(`${ids.length} starts at once: ${cell(times.ours)} ms, stock ${cell(times.theirs)}`);
  return {
    what: `${ids.length} endpoints started at once by command: first row of the median one, of the last one, ms`,
    ours: cell(times.ours),
    theirs: cell(times.theirs),
    ratio: ratio(median(times.ours.last), median(times.theirs.last)),
    aim: "",
  };
}

interface Updates {
  /** Of all in sum. */
  readonly tps: number;
  /** Of one update, by kind of process. */
  readonly costsMs: Readonly<Record<"agents" | "Postgres" | "pageserver" | "safekeepers", number>>;
}

/** One client on each of them. */
async function updateAll(
  strata: TestCluster,
  ids: readonly string[],
  seconds: number,
): Promise<Updates> {
  const agents = ids.map((id) => strata.pid(`agent-${id}`));
  const safekeepers = Array.from({ length: strata.safekeepers }, (_, i) =>
    strata.pid(`safekeeper-${i + 1}`),
  );
  const ms = () => {
    const table = new ProcessTable();
    const sum = (pids: readonly number[]) => pids.reduce((all, pid) => all + processorUs(pid), 0);
    const agentsMs = sum(agents) / 1000;
    return {
      agents: agentsMs,
      Postgres: agents.reduce((all, pid) => all + table.cpuMsOf(pid), 0) - agentsMs,
      pageserver: processorUs(strata.pid("pageserver")) / 1000,
      safekeepers: sum(safekeepers) / 1000,
    };
  };
  const before = ms();
  const load = { clients: 1, scale: 1, seconds };
  const results = await Promise.all(ids.map((id) => runLoad(strata.url(id), "update", load)));
  const after = ms();
  const tps = results.reduce((all, one) => all + one.tps, 0);
  const cost = (kind: keyof Updates["costsMs"]) => (after[kind] - before[kind]) / (tps * seconds);
  return {
    tps,
    costsMs: {
      agents: cost("agents"),
      Postgres: cost("Postgres"),
      pageserver: cost("pageserver"),
      safekeepers: cost("safekeepers"),
    },
  };
}

async function updateRows(
  strata: TestCluster,
  ids: readonly string[],
  stock: StockCluster,
  { rounds, seconds }: ManyEndpointsScale,
): Promise<Row[]> {
  const ours: Updates[] = [];
  const theirs: number[] = [];
  await stock.start();
  await readTables(stock.url, "buffer");
  await Promise.all(ids.map((id) => readTables(strata.url(id), "buffer")));
  // Not counted: code that has just started is not compiled yet.
  await updateAll(strata, ids, 1);
  for (let i = 0; i < rounds; i++) {
    ours.push(await updateAll(strata, ids, seconds));
    const load = { clients: ids.length, scale: 1, seconds };
    theirs.push((await runLoad(stock.url, "update", load)).tps);
  }
  await stock.stop();
  const kinds = ["agents", "Postgres", "pageserver", "safekeepers"] as const;
  const costs = kinds.map(
    (kind) =>
      [
        `processor time of ${kind} for an update, ms`,
        median(ours.map(({ costsMs }) => costsMs[kind])).toFixed(3),
        kind === "agents" ? "≤ 0.2" : "",
      ] as const,
  );
  const tps = median(ours.map((one) => one.tps));
  progress(`updates on ${ids.length}: ${tps.toFixed(0)} tps, stock ${median(theirs).toFixed(0)}`);
  return [
    {
      what: `updates on ${ids.length} branches at once, an endpoint and a client each, tps (stock: as many clients of one server)`,
      ours: tps.toFixed(0),
      theirs: median(theirs).toFixed(0),
      ratio: ratio(tps, median(theirs)),
      aim: "",
    },
    ...costs.map(([what, cell, aim]) => ({ what, ours: cell, theirs: "—", ratio: "—", aim })),
  ];
}

/** Of one endpoint, with the others beside it; and of stock's server. */
function memoryRows(strata: TestCluster, ids: readonly string[], stock: StockCluster): Row[] {
  const theirs = memoryOf([stock.pid, ...descendants(stock.pid)]);
  const each = ids.map((id) => {
    const agent = strata.pid(`agent-${id}`);
    return { agent: memoryOf([agent]), postgres: memoryOf(descendants(agent)) };
  });
  const cellOf = ({ rssMb, pssMb, privateMb }: Memory) =>
    [rssMb, pssMb, privateMb].map((value) => value.toFixed(1)).join(", ");
  const row = (what: string, pick: (one: (typeof each)[number]) => Memory[], aim: string): Row => {
    const mb = (kind: keyof Memory) =>
      median(each.map((one) => pick(one).reduce((sum, memory) => sum + memory[kind], 0)));
    const ours = { rssMb: mb("rssMb"), pssMb: mb("pssMb"), privateMb: mb("privateMb") };
    const hasLike = what === "Postgres";
    progress(`idle: ${what}: ${cellOf(ours)} MB${hasLike ? `, stock ${cellOf(theirs)}` : ""}`);
    return {
      what: `memory of an idle endpoint of ${ids.length}, MB, RSS, PSS, its own alone: ${what}`,
      ours: cellOf(ours),
      theirs: hasLike ? cellOf(theirs) : "—",
      ratio: hasLike ? ratio(ours.privateMb, theirs.privateMb) : "—",
      aim,
    };
  };
  return [
    row("agent", ({ agent }) => [agent], ""),
    row("Postgres", ({ postgres }) => [postgres], ""),
    row("both", ({ agent, postgres }) => [agent, postgres], "≤ 30 alone"),
  ];
}

export async function benchManyEndpoints(scale: ManyEndpointsScale): Promise<Row[]> {
  const { rounds, endpoints } = scale;
  await using stock = await StockCluster.create();
  await stock.start();
  await initializeTpcb(stock.url, 1);
  await stock.stop();
  await using strata = await TestCluster.create({ safekeepers: 3 });
  await strata.startEndpoint("main");
  await initializeTpcb(strata.url(), 1);
  await strata.ok("endpoint", "stop", "main");
  const ids = Array.from({ length: endpoints }, (_, i) => `branch_${i + 1}`);
  for (const id of ids) {
    await strata.ok("timeline", "branch", "--branch-name", id);
    await strata.ok("endpoint", "create", id, "--branch-name", id);
    strata.setPostgres(id, COMMON_SETTINGS);
  }
  const few = ids.slice(0, STARTED);
  const rows = [await startRow(strata, few, stock, rounds)];
  await Promise.all(few.map((id) => strata.ok("endpoint", "start", id)));
  await stock.start();
  await sleep(IDLE_MS);
  rows.push(...memoryRows(strata, few, stock));
  await stock.stop();
  await Promise.all(ids.slice(STARTED).map((id) => strata.ok("endpoint", "start", id)));
  for (const some of few.length < ids.length ? [few, ids] : [few]) {
    rows.push(...(await updateRows(strata, some, stock, scale)));
  }
  return rows;
}
