// From a write on the primary until a replica shows it: our replica beside a streaming standby of stock, idle and under TPC-B.

import type pg from "pg";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { connect, initializeTpcb, withClient } from "../../testing/tpcb.ts";
import { runLoad } from "../load.ts";
import { median, progress, type Row, ratio, spread } from "../report.ts";
import { COMMON_SETTINGS, StockCluster, startWithStandby } from "../stock.ts";

const CLIENTS = 8;

export interface ReplicaLagScale {
  readonly rounds: number;
  /** Of one round, with and without load. */
  readonly seconds: number;
  /** Of pgbench. */
  readonly scale: number;
}

interface Pair {
  readonly primary: string;
  readonly replica: string;
}

/** Milliseconds each. */
interface Lags {
  /** From the moment that the write is sent. */
  readonly sinceSent: number[];
  /** From the answer to its commit. */
  readonly sinceCommit: number[];
}

/** When the replica shows `n`. Each look has a snapshot of its own: one that stays would hold up replay, for which it waits. */
async function shownAt(replica: pg.Client, n: number): Promise<number> {
  for (;;) {
    const { rows } = await replica.query({ name: "n", text: "select n from lag_probe" });
    if (rows[0].n >= n) {
      return monotonicMs();
    }
    await sleep(1);
  }
}

/** One write after the other; numbers grow over all calls. */
class Probe {
  readonly #pair: Pair;
  #n = 0;

  constructor(pair: Pair) {
    this.#pair = pair;
  }

  async during(isOver: () => boolean, lags: Lags): Promise<void> {
    const [primary, replica] = await Promise.all([
      connect(this.#pair.primary),
      connect(this.#pair.replica),
    ]);
    try {
      while (!isOver()) {
        await this.#write(primary, replica, lags);
      }
    } finally {
      await Promise.all([primary.end(), replica.end()]);
    }
  }

  async #write(primary: pg.Client, replica: pg.Client, lags: Lags): Promise<void> {
    const n = ++this.#n;
    const shown = shownAt(replica, n);
    // It is awaited below; a failure of the write comes first.
    shown.catch(() => undefined);
    const sent = monotonicMs();
    await primary.query("update lag_probe set n = $1", [n]);
    const committed = monotonicMs();
    const at = await shown;
    lags.sinceSent.push(at - sent);
    // The answer to the commit can be the later one.
    lags.sinceCommit.push(Math.max(0, at - committed));
  }
}

async function prepare(primary: string, scale: number): Promise<void> {
  await initializeTpcb(primary, scale);
  await withClient(primary, async (client) => {
    await client.query("create table lag_probe(n int)");
    await client.query("insert into lag_probe values (0)");
  });
}

async function measure(
  probe: Probe,
  pair: Pair,
  isLoaded: boolean,
  { seconds, scale }: ReplicaLagScale,
  lags: Lags,
): Promise<void> {
  let isOver = false;
  const until = monotonicMs() + seconds * 1000;
  const load = isLoaded
    ? runLoad(pair.primary, "tpcb", { clients: CLIENTS, scale, seconds }).finally(() => {
        isOver = true;
      })
    : undefined;
  await Promise.all([
    load,
    probe.during(() => isOver || (!isLoaded && monotonicMs() > until), lags),
  ]);
}

export async function benchReplicaLag(scale: ReplicaLagScale): Promise<Row[]> {
  await using base = await StockCluster.create();
  await base.start();
  await prepare(base.url, scale.scale);
  await base.stop();
  const standbys = await startWithStandby(base);
  await using primary = standbys.primary;
  await using standby = standbys.standby;
  await using strata = await TestCluster.create({ safekeepers: 3 });
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  await strata.ok("endpoint", "start", "main");
  await prepare(strata.url(), scale.scale);
  await strata.ok("endpoint", "create", "replica", "--branch-name", "main", "--replica");
  await strata.ok("endpoint", "start", "replica");
  const pairs = {
    ours: { primary: strata.url("main"), replica: strata.url("replica") },
    theirs: { primary: primary.url, replica: standby.url },
  };
  for (const { replica } of Object.values(pairs)) {
    await eventually("the replica's table", () =>
      withClient(replica, async (client) => {
        const { rows } = await client.query("select to_regclass('lag_probe') as it");
        return rows[0].it !== null;
      }),
    );
  }
  const probes = { ours: new Probe(pairs.ours), theirs: new Probe(pairs.theirs) };
  const rows: Row[] = [];
  for (const isLoaded of [false, true]) {
    const none = (): Lags => ({ sinceSent: [], sinceCommit: [] });
    const lags = { ours: none(), theirs: none() };
    for (let i = 0; i < scale.rounds; i++) {
      for (const side of ["ours", "theirs"] as const) {
        await measure(probes[side], pairs[side], isLoaded, scale, lags[side]);
      }
    }
    const when = isLoaded ? `TPC-B, ${CLIENTS} clients` : "idle";
    for (const [since, name] of [
      ["sinceSent", "from the write"],
      ["sinceCommit", "from the answer to its commit"],
    ] as const) {
      const [ours, theirs] = [lags.ours[since], lags.theirs[since]];
      progress(`replica, ${when}, ${name}: ${spread(ours, 2)} ms, stock ${spread(theirs, 2)}`);
      rows.push({
        what: `replica shows a write, ${when}, ${name}, ms, p50 (p99) of ${ours.length}`,
        ours: spread(ours, 2),
        theirs: spread(theirs, 2),
        ratio: ratio(median(ours), median(theirs)),
        aim: "",
      });
    }
  }
  return rows;
}
