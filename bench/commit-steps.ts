// Where the time of a commit goes at one client: the histograms of agent and safekeepers, and Postgres's own.

import { monotonicMs } from "../src/base/clock.ts";
import { Histogram } from "../src/base/histogram.ts";
import type { TestCluster } from "../testing/cluster.ts";
import { withClient } from "../testing/tpcb.ts";
import { bareFdatasyncMs } from "./bare-disk.ts";
import { runLoad } from "./load.ts";
import { median, progress, type Row, ratio } from "./report.ts";

const SECONDS = 2;

/** Sum in milliseconds and count, of one step. */
interface Total {
  readonly ms: number;
  readonly count: number;
}

type Totals = ReadonlyMap<string, Total>;

/** Steps of a commit in the order in which they happen; `safekeeper` ones are means over all of them. */
const STEPS = [
  "backend to agent and back",
  "agent: read, check, send",
  "agent to safekeepers and back",
  "safekeeper: write",
  "safekeeper: wait for more",
  "safekeeper: fdatasync",
  "safekeeper: answer",
  "agent: answer Postgres",
] as const;

type Steps = Record<(typeof STEPS)[number], number> & {
  /** As Postgres timed its flushes. */
  readonly flush: number;
  readonly bytes: number;
};

/** `sum` and `count` of every line of a histogram, by metric and step, in milliseconds. */
async function readHistograms(address: string): Promise<Map<string, Total>> {
  const response = await fetch(`http://${address}/metrics`);
  const totals = new Map<string, Total>();
  for (const line of (await response.text()).split("\n")) {
    const match = /^(\w+)_(sum|count)(?:\{(?:[^}]*step="(\w+)")?[^}]*\})? (\S+)$/.exec(line);
    if (match !== null) {
      const [, metric, what, step, value] = match;
      const name = step === undefined ? metric! : `${metric} ${step}`;
      const { ms, count } = totals.get(name) ?? { ms: 0, count: 0 };
      const number = Number(value);
      totals.set(
        name,
        what === "sum" ? { ms: ms + number * 1000, count } : { ms, count: count + number },
      );
    }
  }
  return totals;
}

/** Of agent and safekeepers, and what Postgres itself counts as `flush`. */
async function readTotals(strata: TestCluster): Promise<Totals> {
  const addresses = [
    `127.0.0.1:${strata.endpointSpec().internalHttpPort}`,
    ...strata.config().safekeepers.map(({ listenHttpAddr }) => listenHttpAddr),
  ];
  const totals = new Map<string, Total>();
  for (const each of await Promise.all(addresses.map(readHistograms))) {
    for (const [name, { ms, count }] of each) {
      const before = totals.get(name) ?? { ms: 0, count: 0 };
      totals.set(name, { ms: before.ms + ms, count: before.count + count });
    }
  }
  totals.set("flush", await readFlushes(strata.url()));
  return totals;
}

function readFlushes(url: string): Promise<Total> {
  return withClient(url, async (client) => {
    const version = Number(
      (await client.query("show server_version_num")).rows[0].server_version_num,
    );
    const { rows } = await client.query(
      version >= 180_000
        ? "select sum(fsyncs)::int as count, sum(fsync_time) as ms from pg_stat_io where object = 'wal'"
        : "select wal_sync::int as count, wal_sync_time as ms from pg_stat_wal",
    );
    return rows[0] as Total;
  });
}

/** Mean milliseconds of each step over one round of inserts at one client. */
async function measureSteps(strata: TestCluster): Promise<Steps> {
  const before = await readTotals(strata);
  const timed = `${strata.url()}?options=${encodeURIComponent("-c track_wal_io_timing=on")}`;
  await runLoad(timed, "insert", { clients: 1, scale: 1, seconds: SECONDS });
  const after = await readTotals(strata);
  const mean = (name: string) => {
    const { ms, count } = after.get(name)!;
    const old = before.get(name)!;
    return (ms - old.ms) / (count - old.count);
  };
  const agent = (step: string) => mean(`strata_compute_commit_step_seconds ${step}`);
  const safekeeper = (step: string) => mean(`safekeeper_append_step_seconds ${step}`);
  return {
    "backend to agent and back": mean("flush") - agent("total"),
    "agent: read, check, send": agent("ship"),
    "agent to safekeepers and back": agent("quorum") - safekeeper("total"),
    "safekeeper: write": safekeeper("write"),
    "safekeeper: wait for more": safekeeper("wait"),
    "safekeeper: fdatasync": safekeeper("flush"),
    "safekeeper: answer": safekeeper("answer"),
    "agent: answer Postgres": agent("notify"),
    flush: mean("flush"),
    // No seconds, so no milliseconds.
    bytes: mean("safekeeper_flush_wal_bytes") / 1000,
  };
}

/** What one observation costs, clock included: the best of some short runs, which others disturb. */
function observationNs(): number {
  const histogram = new Histogram([0.0001, 0.0002, 0.0005, 0.001]);
  const count = 2000;
  const runs = Array.from({ length: 20 }, () => {
    const started = monotonicMs();
    for (let i = 0; i < count; i++) {
      histogram.observe((monotonicMs() - started) / 1000);
    }
    return ((monotonicMs() - started) * 1e6) / count;
  });
  return Math.min(...runs);
}

/** Milliseconds; "stock" is a bare fdatasync, of as many writers at once as make a majority. */
export async function benchCommitSteps(
  systems: { readonly one: TestCluster; readonly three: TestCluster },
  rounds: number,
): Promise<Row[]> {
  const results = { one: [] as Steps[], three: [] as Steps[] };
  const bare = { one: [] as number[], three: [] as number[] };
  for (let i = 0; i < rounds; i++) {
    for (const [name, writers] of [
      ["one", 1],
      ["three", 2],
    ] as const) {
      results[name].push(await measureSteps(systems[name]));
      const bytes = Math.round(results[name].at(-1)!.bytes);
      bare[name].push(await bareFdatasyncMs(writers, bytes, 1));
    }
  }
  const rows: Row[] = [];
  for (const [name, label] of [
    ["one", "1 safekeeper"],
    ["three", "3 safekeepers"],
  ] as const) {
    const of = (pick: (steps: Steps) => number) => median(results[name].map(pick));
    const [flush, disk] = [of((steps) => steps.flush), median(bare[name])];
    const sum = STEPS.reduce((total, step) => total + of((steps) => steps[step]), 0);
    const row = (what: string, ours: string, theirs = "", share = "", aim = ""): Row => ({
      what: `commit, 1 client, ${label}: ${what}, ms`,
      ours,
      theirs,
      ratio: share,
      aim,
    });
    for (const step of STEPS) {
      const ms = of((steps) => steps[step]);
      const isDisk = step === "safekeeper: fdatasync";
      rows.push(row(step, ms.toFixed(3), isDisk ? disk.toFixed(3) : "", ratio(ms, flush)));
    }
    rows.push(row("sum of these", sum.toFixed(3), "", ratio(sum, flush)));
    rows.push(row("flush, as Postgres timed it", flush.toFixed(3), disk.toFixed(3)));
    rows.push(row("added to a bare fdatasync", (flush - disk).toFixed(3), "", "", "≤ 0.3"));
    progress(`commit c=1 ${label}: flush ${flush.toFixed(3)} ms, fdatasync ${disk.toFixed(3)} ms`);
  }
  rows.push({
    what: "commit: one observation of a histogram, ns (10 in the agent, 7 in a safekeeper)",
    ours: observationNs().toFixed(0),
    theirs: "",
    ratio: "",
    aim: "",
  });
  return rows;
}
