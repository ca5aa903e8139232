// Creating a branch, and the first query on it, at two database sizes.

import { generateTimelineId } from "../src/base/ids.ts";
import { TestCluster } from "../testing/cluster.ts";
import { median, progress, type Row } from "./report.ts";

/** Milliseconds of POST .../timeline at the pageserver, which is all that a branch is. */
async function createBranch(
  cluster: TestCluster,
  tenant: string,
  ancestor: string,
): Promise<number> {
  const http = cluster.config().pageservers[0]!.listenHttpAddr;
  const body = JSON.stringify({
    new_timeline_id: generateTimelineId(),
    ancestor_timeline_id: ancestor,
  });
  const began = performance.now();
  const response = await fetch(`http://${http}/v1/tenant/${tenant}/timeline`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  if (!response.ok) {
    throw new Error(`branch: ${response.status} ${await response.text()}`);
  }
  await response.arrayBuffer();
  return performance.now() - began;
}

export async function benchBranch(megabytes: number, rounds: number): Promise<Row[]> {
  await using strata = await TestCluster.create();
  await strata.startEndpoint("main");
  const rowsNeeded = Math.ceil((megabytes * 1024 * 1024) / 1050);
  await strata.query(
    "main",
    "create table filler(i int, p text)",
    "alter table filler alter column p set storage plain",
    `insert into filler select i, repeat(md5(i::text), 31) from generate_series(1, ${rowsNeeded}) i`,
  );
  const spec = strata.endpointSpec();
  const creates: number[] = [];
  for (let i = 0; i < 20; i++) {
    creates.push(await createBranch(strata, spec.tenantId, spec.timelineId));
  }
  const commands: number[] = [];
  const firsts: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const name = `bench_${i}`;
    let began = performance.now();
    await strata.ok("timeline", "branch", "--branch-name", name);
    commands.push(performance.now() - began);
    await strata.ok("endpoint", "create", name, "--branch-name", name);
    began = performance.now();
    await strata.ok("endpoint", "start", name);
    await strata.query(name, "select * from filler where ctid = '(7,1)'");
    firsts.push(performance.now() - began);
    await strata.ok("endpoint", "stop", name);
  }
  progress(
    `branch at ${megabytes} MB: ${median(creates).toFixed(1)} ms, command ${median(commands).toFixed(0)} ms`,
  );
  const size = megabytes >= 1024 ? `${megabytes / 1024} GB` : `${megabytes} MB`;
  const row = (what: string, values: number[], aim: string, digits = 0): Row => ({
    what: `${what} at ${size}, ms`,
    ours: median(values).toFixed(digits),
    theirs: "—",
    ratio: "—",
    aim,
  });
  return [
    row("branch creation (pageserver)", creates, "< 20", 1),
    row("branch creation (CLI command)", commands, ""),
    row("start an endpoint on the branch + first query (CLI)", firsts, ""),
  ];
}
