// Cost of page redo on the deltas of a pgbench-like history: ns a delta, and us for one page.
//
// `node src/redo/redo.bench.ts`; needs the Postgres binaries, because only real WAL is telling.

import type { Lsn } from "../base/lsn.ts";
import { RecordedHistory } from "../testing/recorded-history.ts";
import { PageRedo } from "./page-redo.ts";

interface Chain {
  readonly base: Uint8Array | undefined;
  readonly deltas: readonly Uint8Array[];
  readonly lsns: readonly Lsn[];
  readonly blkno: number;
  readonly fork: number;
}

function rebuild(redo: PageRedo, chain: Chain, length: number): void {
  if (chain.base === undefined) {
    redo.loadZero();
  } else {
    redo.load(chain.base);
  }
  for (let i = 0; i < length; i++) {
    redo.apply(chain.deltas[i]!, chain.lsns[i]!, chain.blkno, chain.fork);
  }
}

/** CPU time of this process: other load on the machine does not count. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Microseconds a page: the median of rounds over all given chains. */
function measure(redo: PageRedo, chains: readonly Chain[], length: number): number {
  const rounds: number[] = [];
  for (let round = 0; round < 15; round++) {
    const started = cpuMs();
    let pages = 0;
    while (pages * length < 20_000) {
      for (const chain of chains) {
        rebuild(redo, chain, Math.min(length, chain.deltas.length));
        redo.copyOut();
        pages++;
      }
    }
    rounds.push(((cpuMs() - started) * 1000) / pages);
  }
  return rounds.toSorted((a, b) => a - b)[7]!;
}

const history = await RecordedHistory.record({
  settings: { full_page_writes: "off" },
  workload: { seed: 5, scale: 1 },
});
try {
  const cluster = history.replay();
  const redo = new PageRedo();
  const all: Chain[] = [...cluster.chains()].map((c) => ({ ...c, fork: c.rel.fork }));
  const usable = all.filter((chain) => chain.deltas.length > 0);
  const total = usable.reduce((sum, chain) => sum + chain.deltas.length, 0);
  for (let round = 0; round < 5; round++) {
    const started = cpuMs();
    for (const chain of usable) {
      rebuild(redo, chain, chain.deltas.length);
    }
    const took = cpuMs() - started;
    const perDelta = ((took * 1e6) / total).toFixed(0);
    console.log(
      `all ${usable.length} pages, ${total} deltas: ${took.toFixed(0)} ms, ${perDelta} ns a delta`,
    );
  }
  for (const length of [1, 10, 50, 200, 400]) {
    const chains = usable.filter((chain) => chain.deltas.length >= length).slice(0, 200);
    if (chains.length > 0) {
      const us = measure(redo, chains, length);
      console.log(`one page from ${length} deltas (${chains.length} chains): ${us.toFixed(1)} us`);
    }
  }
  cluster.close();
} finally {
  await history.destroy();
}
