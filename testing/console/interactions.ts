// How long a page in a browser takes from what somebody does to the frame that shows it, and what keeps it from answering meanwhile.

import type { Page } from "playwright-core";

/**
 * Runs in the page, before all of its own. `slowest`: milliseconds from an event to the end of the frame after it, or that
 * a task kept the page busy, whichever is longer. Chromium tells of tasks from 50 ms on.
 */
const RECORDER = `{
  const seen = { slowest: 0 };
  const note = (ms) => { seen.slowest = Math.max(seen.slowest, ms); };
  for (const type of ["keydown", "input", "pointerdown", "pointerup", "pointermove", "click", "wheel"]) {
    addEventListener(type, ({ timeStamp }) => requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => note(performance.now() - timeStamp);
      port2.postMessage(0);
    }), { capture: true, passive: true });
  }
  new PerformanceObserver((list) => list.getEntries().forEach(({ duration }) => note(duration)))
    .observe({ type: "longtask" });
  globalThis.interactions = {
    begin: () => { seen.slowest = 0; },
    /** Once two frames have come and timers that were due have run. */
    end: () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() =>
      setTimeout(() => resolve(seen.slowest), 30)))),
  };
}`;

export interface Measured {
  readonly what: string;
  /** Milliseconds, ascending. */
  readonly times: readonly number[];
}

/** Before the page is opened. */
export async function recordInteractions(page: Page): Promise<void> {
  await page.addInitScript({ content: RECORDER });
}

const ROUNDS = 5;
const MAX_ROUNDS = 15;

/**
 * Does it five times; where each took longer than `limitMs`, until one has not, because a machine that does other things too
 * is slow at times. `times[i]`: the slowest answer to anything of one round.
 */
export async function measure(
  page: Page,
  what: string,
  limitMs: number,
  act: (round: number) => Promise<unknown>,
): Promise<Measured> {
  const times: number[] = [];
  for (let round = 0; round < MAX_ROUNDS; round++) {
    if (round >= ROUNDS && Math.min(...times) < limitMs) {
      break;
    }
    await page.evaluate("interactions.begin()");
    await act(round);
    times.push(await page.evaluate<number>("interactions.end()"));
  }
  return { what, times: times.toSorted((a, b) => a - b) };
}

/** `open the menu: best 21, median 25, worst 40 ms of 5`. */
export function measuredText({ what, times }: Measured): string {
  const [best, median, worst] = [times[0], times[times.length >> 1], times.at(-1)].map((ms) =>
    Math.round(ms ?? 0),
  );
  return `${what}: best ${best}, median ${median}, worst ${worst} ms of ${times.length}`;
}
