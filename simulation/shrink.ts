// Narrows a failing run down: leaves out faults as long as it still fails in the same way.

import type { Fault } from "./faults.ts";
import type { RunOptions, RunResult } from "./simulation.ts";

/** Tries at most. */
const MAX_RUNS = 300;

/** Fewer faults that break the same invariant; `run` is the simulation's, or a variant's. */
export function shrink(
  seed: number,
  failed: RunResult,
  run: (seed: number, options: RunOptions) => RunResult,
): RunResult {
  const kind = kindOf(failed.violation?.message);
  let runs = 0;
  let best = failed;
  const attempt = (faults: readonly Fault[]): boolean => {
    runs += 1;
    const result = run(seed, { faults });
    const fails = result.violation !== undefined && kindOf(result.violation?.message) === kind;
    if (fails) {
      best = result;
    }
    return fails;
  };
  attempt(failed.faults.filter((fault) => fault.atMs <= failed.endMs));
  for (let size = Math.ceil(best.faults.length / 2); size >= 1 && runs < MAX_RUNS; ) {
    let removed = false;
    for (let at = 0; at < best.faults.length && runs < MAX_RUNS; ) {
      const rest = [...best.faults.slice(0, at), ...best.faults.slice(at + size)];
      if (attempt(rest)) {
        removed = true;
      } else {
        at += size;
      }
    }
    if (size === 1 && !removed) {
      break;
    }
    size = size === 1 ? 1 : Math.ceil(size / 2);
  }
  return best;
}

/** The message without its numbers. */
export function kindOf(violation: string | undefined): string {
  return (violation ?? "").replaceAll(/[0-9A-F]+\/[0-9A-F]+|\d+/g, "#");
}
