// Virtual time: events in the order of their times, and nothing happens in between.

import type { TestContext } from "node:test";
import { type Clock, REAL_CLOCK, replaceClock } from "../src/base/clock.ts";

/** Events of a simulation between two turns of the real event loop. */
const EVENTS_A_TURN = 256;

interface Event {
  readonly atMs: number;
  readonly sequence: number;
  readonly run: () => void;
}

export class SimulatedTime {
  nowMs = 0;
  /** A binary heap, the earliest first; of equal times the one that was put in first. */
  readonly #heap: Event[] = [];
  #sequence = 0;
  /** Events that have run. */
  events = 0;

  at(atMs: number, run: () => void): void {
    const heap = this.#heap;
    const event = { atMs: Math.max(atMs, this.nowMs), sequence: this.#sequence++, run };
    let child = heap.push(event) - 1;
    while (child > 0) {
      const parent = (child - 1) >> 1;
      if (!isBefore(event, heap[parent]!)) {
        break;
      }
      heap[child] = heap[parent]!;
      child = parent;
    }
    heap[child] = event;
  }

  after(delayMs: number, run: () => void): void {
    this.at(this.nowMs + delayMs, run);
  }

  /** Runs everything due up to `untilMs`, or until `stop` says so after an event. */
  run(untilMs: number, stop: () => boolean = () => false): void {
    for (let next = this.#heap[0]; next !== undefined; next = this.#heap[0]) {
      if (next.atMs > untilMs) {
        break;
      }
      this.#removeFirst();
      this.nowMs = next.atMs;
      this.events += 1;
      next.run();
      if (stop()) {
        return;
      }
    }
    this.nowMs = Math.max(this.nowMs, untilMs);
  }

  /** The next event, whenever it is; false where there is none. */
  runNext(): boolean {
    const next = this.#heap[0];
    if (next === undefined) {
      return false;
    }
    this.#removeFirst();
    this.nowMs = next.atMs;
    this.events += 1;
    next.run();
    return true;
  }

  #removeFirst(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) {
      return;
    }
    let parent = 0;
    for (;;) {
      let child = parent * 2 + 1;
      if (child >= heap.length) {
        break;
      }
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) {
        child += 1;
      }
      if (!isBefore(heap[child]!, last)) {
        break;
      }
      heap[parent] = heap[child]!;
      parent = child;
    }
    heap[parent] = last;
  }
}

/** Clocks, timers and turns by virtual time; `epochMs` is what its beginning is called. */
export function simulatedClock(time: SimulatedTime, epochMs = 0): Clock {
  return {
    nowMs: () => epochMs + time.nowMs,
    monotonicMs: () => time.nowMs,
    setTimer: (callback, delayMs) => {
      // Of several that are due only the last one that was asked for counts.
      let life = 0;
      const start = () => {
        const mine = ++life;
        time.after(delayMs, () => (mine === life ? callback() : undefined));
      };
      start();
      return { cancel: () => void life++, restart: start };
    },
    atNextTurn: (callback) => time.after(0, callback),
  };
}

/**
 * Does `work` in virtual time of its own: of two runs that ask for the same, both take the same turns. Nothing
 * in it may wait for the real world.
 */
export async function inSimulatedTime<T>(work: () => Promise<T>): Promise<T> {
  const time = new SimulatedTime();
  replaceClock(simulatedClock(time));
  try {
    let done = false;
    const promise = work().finally(() => {
      done = true;
    });
    promise.catch(() => undefined);
    for (;;) {
      // All that an event has settled goes on before the next one.
      await settled(time.events);
      if (done) {
        return await promise;
      }
      if (!time.runNext()) {
        throw new Error("nothing is left to happen, and the work is not done");
      }
    }
  } finally {
    replaceClock(REAL_CLOCK);
  }
}

/**
 * Until the test's end time goes by turns of the event loop, a millisecond with each: it stands still while the machine does, so that
 * what sockets and files bring is never late because nobody had the processor. For what waits for both.
 */
export function inSteadyTime(context: TestContext): void {
  const time = new SimulatedTime();
  const { nowMs, atNextTurn } = REAL_CLOCK;
  replaceClock({ ...simulatedClock(time, nowMs()), atNextTurn });
  const ticking = setInterval(() => time.run(time.nowMs + 1), 1);
  context.after(() => {
    clearInterval(ticking);
    replaceClock(REAL_CLOCK);
  });
}

/** A tick comes when no promise has anything left to do, and costs a quarter of a turn; timers of tests need some of these. */
function settled(events: number): Promise<void> {
  return new Promise((resolve) =>
    events % EVENTS_A_TURN === 0 ? setImmediate(resolve) : process.nextTick(resolve),
  );
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence);
}
