// What goes wrong in a simulated run: a plan made from the seed, so that a part of it can be left out.

import type { SeededRandom } from "../src/base/random.ts";

/** Share of all faults; the sum is of no importance. */
const WEIGHTS = {
  "kill-safekeeper": 8,
  "power-cut": 8,
  "power-cut-everywhere": 2,
  "break-connection": 8,
  "cut-link": 8,
  "isolate-safekeeper": 3,
  "starve-safekeeper": 6,
  mangle: 4,
  "slow-network": 2,
  "slow-disk": 3,
  "full-disk": 2,
  "failing-sync": 3,
  "store-away": 3,
  "lose-disk": 4,
  rot: 2,
  "start-compute": 8,
  "kill-compute": 5,
  "pause-compute": 3,
  "raise-term": 2,
  "change-members": 5,
  "restart-operator": 2,
  "restart-pageserver": 2,
};

export type FaultKind = keyof typeof WEIGHTS;
const KINDS = Object.keys(WEIGHTS) as FaultKind[];

/** The meaning of `target`, `amount` and `choice` (whole numbers) depends on the kind. */
export interface Fault {
  readonly atMs: number;
  readonly kind: FaultKind;
  readonly target: number;
  readonly durationMs: number;
  readonly amount: number;
  readonly choice: number;
}

/** What makes changes of membership hard, and little else. */
const ABOUT_MEMBERS: readonly FaultKind[] = [
  "change-members",
  "lose-disk",
  "starve-safekeeper",
  "cut-link",
  "power-cut",
  "start-compute",
  "restart-operator",
];

/**
 * In the order of their times. `perSecond`: how many on average. Each plan leaves out about half of the
 * kinds, or most: what needs many faults of few kinds would hardly ever happen among all of them.
 */
export function planFaults(random: SeededRandom, lengthMs: number, perSecond: number): Fault[] {
  const chosen = random.bool(0.3) ? ABOUT_MEMBERS : KINDS.filter(() => random.bool());
  const kinds = (chosen.length > 0 ? chosen : KINDS).flatMap((kind) =>
    Array.from({ length: WEIGHTS[kind] }, () => kind),
  );
  const faults: Fault[] = [];
  let atMs = 0;
  for (;;) {
    atMs += (-Math.log(1 - random.next()) * 1000) / perSecond;
    if (atMs >= lengthMs) {
      return faults;
    }
    faults.push({
      atMs: Math.round(atMs),
      kind: random.pick(kinds),
      target: random.int(1000),
      durationMs: 20 + random.int(random.bool(0.3) ? 4000 : 600),
      amount: random.int(40),
      choice: random.int(1000),
    });
  }
}

export function describeFault(fault: Fault): string {
  return `${fault.kind} (target ${fault.target}, ${fault.durationMs} ms, amount ${fault.amount})`;
}
