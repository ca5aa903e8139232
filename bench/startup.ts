// From "start" to the first row: a stopped endpoint against a stopped stock cluster.

import { ComputeClient } from "../src/compute/client.ts";
import { TestCluster } from "../test/cluster.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { COMMON_SETTINGS, firstRow, StockCluster } from "./stock.ts";

/** Interleaved; ours is split into what the agent needs and what the command around it adds. */
export async function benchStartup(rounds: number): Promise<Row[]> {
  await using stock = await StockCluster.create();
  await using strata = await TestCluster.create();
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  await strata.startEndpoint("main");
  await strata.ok("endpoint", "stop", "main");
  const times = { stock: [] as number[], command: [] as number[], agent: [] as number[] };
  for (let i = 0; i < rounds; i++) {
    times.stock.push(await stock.start());
    await stock.stop();
    const began = performance.now();
    await strata.ok("endpoint", "start", "main");
    await firstRow(strata.url());
    times.command.push(performance.now() - began);
    const spec = strata.endpointSpec();
    const metrics = await new ComputeClient(`127.0.0.1:${spec.internalHttpPort}`).startMetrics();
    times.agent.push(metrics.total_startup_ms);
    await strata.ok("endpoint", "stop", "main");
  }
  const [ours, command, theirs] = [median(times.agent), median(times.command), median(times.stock)];
  progress(
    `start: agent ${ours.toFixed(0)}, command ${command.toFixed(0)}, stock ${theirs.toFixed(0)} ms`,
  );
  return [
    {
      what: "start to first row, ms (agent told → row)",
      ours: ours.toFixed(0),
      theirs: theirs.toFixed(0),
      ratio: ratio(ours, theirs),
      aim: "≤ 2.5",
    },
    {
      what: "start to first row, ms (whole CLI command)",
      ours: command.toFixed(0),
      theirs: theirs.toFixed(0),
      ratio: ratio(command, theirs),
      aim: "",
    },
  ];
}
