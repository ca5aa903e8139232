// Commits at several client counts: Strata with one and with three safekeepers beside three kinds of stock.

import { TestCluster } from "../testing/cluster.ts";
import { initializeTpcb, withClient } from "../testing/tpcb.ts";
import { benchCommitSteps } from "./commit-steps.ts";
import { COMMIT_LOG, type LoadKind, type LoadResult, runLoad } from "./load.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import {
  COMMON_SETTINGS,
  findProgram,
  ReceivewalCluster,
  StockCluster,
  startWithSynchronousStandby,
} from "./stock.ts";

const CLIENTS = [1, 8, 16, 64];
const SCALE = 20;

const THREE = "3 safekeepers";
const ONE = "1 safekeeper";
const PLAIN = "fsync";
const STANDBY = "sync standby";
const RECEIVEWAL = "pg_receivewal";

export interface CommitOptions {
  readonly rounds: number;
  /** Of a TPC-B round; one of inserts lasts a second. */
  readonly seconds: number;
  readonly pgMajor: number;
  /** Where to look for pg_receivewal of that major, before $PATH. */
  readonly pgBin: string | undefined;
}

async function startStrata(safekeepers: number, pgMajor: number): Promise<TestCluster> {
  const strata = await TestCluster.create({ safekeepers, start: false });
  try {
    await strata.ok("start");
    await strata.ok("tenant", "create", "--set-default", "--pg-version", String(pgMajor));
    await strata.ok("endpoint", "create", "main");
    strata.setPostgres("main", COMMON_SETTINGS);
    await strata.ok("endpoint", "start", "main");
    await fill(strata.url());
  } catch (error) {
    await strata[Symbol.asyncDispose]();
    throw error;
  }
  return strata;
}

async function fill(url: string): Promise<void> {
  await initializeTpcb(url, SCALE);
  await withClient(url, (client) => client.query(COMMIT_LOG));
}

/** Interleaved rounds of one load at one client count, on all systems. */
async function measure(
  systems: ReadonlyMap<string, string>,
  kind: LoadKind,
  clients: number,
  rounds: number,
  seconds: number,
): Promise<Map<string, LoadResult>> {
  const results = new Map<string, LoadResult[]>([...systems.keys()].map((name) => [name, []]));
  for (let i = 0; i < rounds; i++) {
    for (const [name, url] of systems) {
      results.get(name)!.push(await runLoad(url, kind, { clients, scale: SCALE, seconds }));
    }
  }
  const medians = new Map<string, LoadResult>();
  for (const [name, each] of results) {
    const of = (pick: (result: LoadResult) => number) => median(each.map(pick));
    medians.set(name, {
      tps: of(({ tps }) => tps),
      meanMs: of(({ meanMs }) => meanMs),
      p99Ms: of(({ p99Ms }) => p99Ms),
    });
  }
  return medians;
}

/** Transactions a second, mean and 99th percentile of their times. */
function format({ tps, meanMs, p99Ms }: LoadResult): string {
  return `${tps.toFixed(0)} tps, ${meanMs.toFixed(2)} / ${p99Ms.toFixed(2)} ms`;
}

/** Three safekeepers against each kind of stock, one against plain stock. */
function rowsOf(kind: LoadKind, clients: number, results: ReadonlyMap<string, LoadResult>): Row[] {
  const row = (ours: string, theirs: string): Row[] => {
    const [our, their] = [results.get(ours), results.get(theirs)];
    if (our === undefined || their === undefined) {
      return [];
    }
    const isAim = theirs === STANDBY && [8, 16].includes(clients);
    return [
      {
        what: `${kind}, ${clients} clients: ${ours} / ${theirs}`,
        ours: format(our),
        theirs: format(their),
        ratio: ratio(our.tps, their.tps),
        aim: isAim ? "≥ 1" : "",
      },
    ];
  };
  return [
    ...row(THREE, PLAIN),
    ...row(THREE, STANDBY),
    ...row(THREE, RECEIVEWAL),
    ...row(ONE, PLAIN),
  ];
}

/** Also the steps of a commit at one client, where its time goes. */
export async function benchCommit(options: CommitOptions): Promise<Row[]> {
  const { rounds, seconds, pgMajor, pgBin } = options;
  progress(`commit: loading scale ${SCALE} on PostgreSQL ${pgMajor}`);
  await using base = await StockCluster.create({}, pgMajor);
  await base.start();
  await fill(base.url);
  await base.stop();
  await using plain = await base.copy();
  await plain.start();
  const pair = await startWithSynchronousStandby(base);
  await using primary = pair.primary;
  await using _standby = pair.standby;
  const program = findProgram("pg_receivewal", pgMajor, pgBin);
  await using received =
    program === undefined ? undefined : await ReceivewalCluster.start(base, program);
  if (received === undefined) {
    progress(`no pg_receivewal of PostgreSQL ${pgMajor} (see --pg-bin): its rows are left out`);
  }
  await using one = await startStrata(1, pgMajor);
  await using three = await startStrata(3, pgMajor);
  const systems = new Map([
    [THREE, three.url()],
    [ONE, one.url()],
    [PLAIN, plain.url],
    [STANDBY, primary.url],
    ...(received === undefined ? [] : [[RECEIVEWAL, received.primary.url] as const]),
  ]);

  const rows: Row[] = [];
  for (const kind of ["insert", "tpcb"] as const) {
    for (const clients of CLIENTS) {
      const results = await measure(systems, kind, clients, rounds, kind === "tpcb" ? seconds : 1);
      for (const [name, result] of results) {
        progress(`${kind} c=${clients} ${name}: ${format(result)}`);
      }
      rows.push(...rowsOf(kind, clients, results));
    }
  }
  rows.push(...(await benchCommitSteps({ one, three }, rounds)));
  return rows;
}
