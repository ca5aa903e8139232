// Power cuts under one safekeeper's storage: what it acknowledged is on its disk after each.

import { replaceClock } from "../src/base/clock.ts";
import { formatLsn, type Lsn } from "../src/base/lsn.ts";
import { SeededRandom } from "../src/base/random.ts";
import { lastLogTerm } from "../src/safekeeper/consensus/acceptor.ts";
import { Timeline } from "../src/safekeeper/timeline.ts";
import type { ProposerMessage } from "../src/safekeeper-protocol/messages.ts";
import { highestCommonPoint, type TermLsn } from "../src/safekeeper-protocol/term-history.ts";
import { WalBuilder } from "../testing/wal-builder.ts";
import { SimulatedDisk } from "./simulated-disk.ts";
import { SimulatedTime, simulatedClock } from "./simulated-time.ts";
import { createTimeline, newTimeline, silentContext } from "./simulated-timeline.ts";
import {
  FIRST_LSN,
  SEGMENT_SIZE,
  SYSTEM_ID,
  TIMELINE_DIRECTORY,
  walOnDisk,
} from "./simulated-wal.ts";

/*
 * One safekeeper gets votes, elections (which cut its WAL) and appends, as from proposers. In the middle
 * of one of the next disk operations, or between two, the power goes: unsynced sectors are dropped or
 * torn at 512 bytes or 4 kB, unsynced directory changes are lost from some point on. Then it starts
 * again (sometimes the power goes in that start too, sometimes only the process is killed), and:
 * - its term is not below any that it told;
 * - its WAL reaches the highest flush LSN that it told since the last cut of its log, and is byte for
 *   byte what was sent;
 * - it starts at all.
 */

export interface PowerCutResult {
  readonly powerCuts: number;
  readonly acknowledgedBytes: number;
  readonly tornSectors: number;
  readonly violation: string | undefined;
}

const RECORD_SIZES = [24, 40, 100, 500, 3000, 12_000];

/** One seed: a safekeeper's life with `cuts` power cuts. */
export function runPowerCuts(seed: number, cuts: number): PowerCutResult {
  const life = new SafekeeperLife(seed);
  let violation: string | undefined;
  try {
    while (life.powerCuts < cuts) {
      life.step();
    }
  } catch (error) {
    violation = error instanceof Error ? error.message : String(error);
  }
  const { powerCuts, acknowledgedBytes, disk } = life;
  return { powerCuts, acknowledgedBytes, tornSectors: disk.counts.tornSectors, violation };
}

class SafekeeperLife {
  readonly disk: SimulatedDisk;
  powerCuts = 0;
  acknowledgedBytes = 0;
  readonly #random: SeededRandom;
  #timeline: Timeline;
  #term = 0;
  /** The leader's log, and the terms in it. */
  #log = new WalBuilder({ startLsn: FIRST_LSN, systemId: SYSTEM_ID, segmentSize: SEGMENT_SIZE });
  #history: TermLsn[] = [];
  #elected = false;
  /** Ends the flush that is under way. */
  #flush: (() => void) | undefined;
  readonly #flushes: SeededRandom;
  #sequence = 0;
  readonly #told = { term: 0, flushLsn: FIRST_LSN as Lsn };
  /** Where a cut that is under way would leave the log. */
  #cutting: { log: WalBuilder; lsn: Lsn } | undefined;

  constructor(seed: number) {
    replaceClock(simulatedClock(new SimulatedTime()));
    this.#random = new SeededRandom(seed);
    this.disk = new SimulatedDisk(new SeededRandom(seed ^ 0x5bd1e995));
    this.#flushes = new SeededRandom(seed ^ 0x2545f491);
    const mconf = { generation: 0, members: [], newMembers: undefined };
    this.#timeline = createTimeline(silentContext(1, this.disk), newTimeline(mconf));
  }

  step(): void {
    if (this.disk.operationsLeft === Number.POSITIVE_INFINITY && this.#random.bool(0.2)) {
      this.disk.operationsLeft = this.#random.int(12);
    }
    try {
      this.#work();
    } catch (error) {
      if (!this.disk.crashed) {
        throw error;
      }
    }
    if (this.disk.crashed || this.#random.bool(0.02)) {
      this.#restart();
    }
  }

  #work(): void {
    const choice = this.#random.int(100);
    if (!this.#elected || choice < 8) {
      this.#elect();
    } else if (choice < 70) {
      this.#append();
    } else if (choice < 95) {
      this.#settle();
    } else {
      this.#endFlush();
      this.#timeline.close();
      this.#timeline = Timeline.load(silentContext(1, this.disk), TIMELINE_DIRECTORY);
      this.#elected = false;
    }
  }

  /** Waits for the flush, or begins one that ends at some later step. */
  #settle(): void {
    if (this.#flushes.bool(0.4)) {
      this.#endFlush();
    } else if (this.#flushes.bool()) {
      const settling = this.#timeline.beginSettle();
      const timeline = this.#timeline;
      if (settling !== undefined) {
        const end = this.disk.beginSync(settling.fd);
        this.#flush = () => {
          end();
          timeline.endSettle(settling);
        };
      }
    } else {
      this.#timeline.settle();
    }
    this.#tell();
  }

  #endFlush(): void {
    const flush = this.#flush;
    this.#flush = undefined;
    flush?.();
  }

  /** A proposer wins the next term; its log goes on from some record end of ours. */
  #elect(): void {
    this.#elected = false;
    this.#term += 1;
    const term = this.#term;
    const vote = this.#timeline.receive({ type: "vote-request", generation: 0, term });
    if (typeof vote !== "object" || vote.type !== "vote-response" || !vote.voteGiven) {
      throw new Error(`no vote for term ${term}`);
    }
    this.#tell();
    const { commitLsn } = this.#timeline.state;
    const ends = [FIRST_LSN, ...this.#log.recordEnds].filter(
      (lsn) => lsn >= commitLsn && lsn <= vote.flushLsn,
    );
    const startLsn = this.#random.bool(0.6) ? vote.flushLsn : this.#random.pick(ends);
    const history = [
      ...this.#history.filter((entry) => entry.lsn <= startLsn),
      { term, lsn: startLsn },
    ];
    const common = highestCommonPoint(history, vote.termHistory, vote.flushLsn);
    const startStreamingAt = common?.lsn ?? FIRST_LSN;
    const log = this.#log.fork(startLsn);
    this.#cutting = { log, lsn: startStreamingAt };
    this.#send({ type: "elected", generation: 0, term, startStreamingAt, termHistory: history });
    this.#cutTo(history);
    this.#elected = true;
  }

  #cutTo(history: TermLsn[]): void {
    const { log, lsn } = this.#cutting!;
    this.#log = log;
    this.#history = history;
    this.#told.flushLsn = Math.min(this.#told.flushLsn, lsn) as Lsn;
    this.#cutting = undefined;
  }

  #append(): void {
    const beginLsn = this.#timeline.state.writeLsn;
    if (this.#log.endLsn <= beginLsn + 2000) {
      this.#sequence += 1;
      this.#log.appendFilled(this.#random.pick(RECORD_SIZES), this.#sequence);
    }
    const rest = this.#log.endLsn - beginLsn;
    const endLsn = (beginLsn + Math.min(rest, 1 + this.#random.int(6000))) as Lsn;
    this.#send({
      type: "append-request",
      generation: 0,
      term: this.#term,
      beginLsn,
      endLsn,
      commitLsn: this.#random.bool(0.3) ? this.#told.flushLsn : FIRST_LSN,
      truncateLsn: FIRST_LSN,
      walData: this.#log.read(beginLsn, endLsn),
    });
  }

  #send(message: ProposerMessage): void {
    this.#timeline.receive(message);
  }

  /** An answer leaves: what it says must hold from now on. */
  #tell(): void {
    const { persistent, flushLsn } = this.#timeline.state;
    this.acknowledgedBytes += Math.max(0, flushLsn - this.#told.flushLsn);
    this.#told.term = Math.max(this.#told.term, persistent.term);
    this.#told.flushLsn = Math.max(this.#told.flushLsn, flushLsn) as Lsn;
  }

  #restart(): void {
    this.#flush = undefined;
    for (;;) {
      if (this.#random.bool(0.8)) {
        this.disk.powerCut();
        this.powerCuts += 1;
      } else {
        this.disk.processEnded();
      }
      if (this.#random.bool(0.2)) {
        this.disk.operationsLeft = this.#random.int(8);
      }
      try {
        this.#timeline = Timeline.load(silentContext(1, this.disk), TIMELINE_DIRECTORY);
        break;
      } catch (error) {
        if (!this.disk.crashed) {
          throw error;
        }
      }
    }
    this.disk.operationsLeft = Number.POSITIVE_INFINITY;
    this.#check();
    this.#elected = false;
  }

  #check(): void {
    const { state } = this.#timeline;
    const { term } = state.persistent;
    if (term < this.#told.term) {
      throw new Error(`it is in term ${term}, it had told ${this.#told.term}`);
    }
    if (this.#cutting !== undefined) {
      // The end came in the middle of a cut: the log ends at it, or anywhere behind.
      const isNew =
        lastLogTerm(state) === term && state.persistent.termHistory.at(-1)?.term === term;
      this.#told.flushLsn = Math.min(this.#told.flushLsn, this.#cutting.lsn) as Lsn;
      if (isNew) {
        this.#log = this.#cutting.log;
      }
      this.#cutting = undefined;
    }
    this.#history = [...state.persistent.termHistory].filter(({ lsn }) => lsn <= state.flushLsn);
    if (state.flushLsn < this.#told.flushLsn) {
      throw new Error(
        `WAL ends at ${formatLsn(state.flushLsn)}, ` +
          `${formatLsn(this.#told.flushLsn)} was acknowledged`,
      );
    }
    const found = walOnDisk(this.disk, FIRST_LSN, state.flushLsn);
    const sent = this.#log.read(FIRST_LSN, state.flushLsn);
    if (found === undefined || Buffer.compare(found, sent) !== 0) {
      throw new Error(`WAL up to ${formatLsn(state.flushLsn)} is not what was sent`);
    }
    this.#log = this.#log.fork(state.flushLsn);
  }
}
