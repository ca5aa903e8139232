// Cost of page redo on the deltas of a pgbench-like history: ns a delta, and us for one page.
//
// `node bench/primitives/redo.bench.ts`; needs the Postgres binaries, because only real WAL is telling.

import type { Lsn } from "../../src/base/lsn.ts";
import { pageLsn } from "../../src/postgres/page.ts";
import { PageRedo } from "../../src/redo/page-redo.ts";
import { RecordedHistory } from "../../testing/redo/recorded-history.ts";

interface Chain {
  readonly base: Uint8Array;
  readonly deltas: Uint8Array[];
  readonly lsns: Lsn[];
  readonly blkno: number;
  readonly fork: number;
}

/** Longer chains are cut, as a pageserver would with an image. */
const CHAIN_LIMIT = 500;

/** Of every page of a relation: deltas that follow each other with no image between them. */
function collectChains(history: RecordedHistory): Chain[] {
  const chains: Chain[] = [];
  const open = new Map<string, Chain>();
  const cluster = history.replay({
    prepare: (cluster) => {
      cluster.onDelta = ({ delta, rel, blkno, lsn, page }) => {
        if (rel !== undefined) {
          const key = `${rel.dbOid}/${rel.relNumber}/${rel.fork}/${blkno}`;
          let chain = open.get(key);
          const view = new DataView(page.buffer, page.byteOffset);
          // An image has its own LSN; a clearing of map bits leaves the page's.
          const goesOn = rel.fork === 2 || pageLsn(view) === chain?.lsns.at(-1);
          if (chain === undefined || !goesOn || chain.deltas.length >= CHAIN_LIMIT) {
            chain = { base: page.slice(), deltas: [], lsns: [], blkno, fork: rel.fork };
            open.set(key, chain);
            chains.push(chain);
          }
          chain.deltas.push(delta);
          chain.lsns.push(lsn);
        }
        return delta;
      };
    },
  });
  cluster.close();
  return chains;
}

function rebuild(redo: PageRedo, chain: Chain, length: number): void {
  redo.load(chain.base);
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
  const redo = new PageRedo();
  const usable = collectChains(history);
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
} finally {
  await history.destroy();
}
