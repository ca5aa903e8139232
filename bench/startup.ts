// From "start" to the first row: a stopped endpoint against a stopped stock cluster.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { ComputeClient } from "../src/compute/client.ts";
import { TestCluster } from "../testing/cluster.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { COMMON_SETTINGS, firstRow, StockCluster } from "./stock.ts";

const AGENT = join(import.meta.dirname, "..", "src", "compute", "main.ts");

/** Milliseconds from exec of the agent to the first row, as `StockCluster.start` counts them. */
async function startAgent(strata: TestCluster): Promise<number> {
  const workdir = join(strata.home, "endpoints", "main");
  const began = performance.now();
  const agent = spawn(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", AGENT, "--workdir", workdir],
    { stdio: "ignore" },
  );
  const ended = once(agent, "exit");
  await firstRow(strata.url());
  const tookMs = performance.now() - began;
  const { internalHttpPort } = strata.endpointSpec();
  await new ComputeClient(`127.0.0.1:${internalHttpPort}`).terminate("fast");
  await ended;
  return tookMs;
}

/** Milliseconds until a running agent has a first row again after its Postgres was killed: all but its own start. */
async function restartInAgent(strata: TestCluster): Promise<number> {
  await strata.ok("endpoint", "start", "main");
  await firstRow(strata.url());
  await strata.kill9("postgres-main");
  const began = performance.now();
  await firstRow(strata.url());
  const tookMs = performance.now() - began;
  await strata.ok("endpoint", "stop", "main");
  return tookMs;
}

async function startCommand(strata: TestCluster): Promise<number> {
  const began = performance.now();
  await strata.ok("endpoint", "start", "main");
  await firstRow(strata.url());
  const tookMs = performance.now() - began;
  await strata.ok("endpoint", "stop", "main");
  return tookMs;
}

/** Interleaved: stock, the agent alone, and the whole command that a person types. */
export async function benchStartup(rounds: number): Promise<Row[]> {
  await using stock = await StockCluster.create();
  await using strata = await TestCluster.create();
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  const times = {
    stock: [] as number[],
    command: [] as number[],
    agent: [] as number[],
    again: [] as number[],
  };
  // Not counted: it leaves the record of what a start reads, which every start but the first has.
  await startAgent(strata);
  for (let i = 0; i < rounds; i++) {
    times.stock.push(await stock.start());
    await stock.stop();
    times.agent.push(await startAgent(strata));
    times.command.push(await startCommand(strata));
    times.again.push(await restartInAgent(strata));
  }
  const theirs = median(times.stock);
  const row = (what: string, values: number[], aim: string): Row => ({
    what: `start to first row, ms (${what})`,
    ours: median(values).toFixed(0),
    theirs: theirs.toFixed(0),
    ratio: ratio(median(values), theirs),
    aim,
  });
  progress(`start: agent ${median(times.agent).toFixed(0)}, stock ${theirs.toFixed(0)} ms`);
  return [
    row("agent and Postgres, from exec", times.agent, "≤ 2.5"),
    row("Postgres anew in a running agent", times.again, ""),
    row("whole CLI command", times.command, ""),
  ];
}
