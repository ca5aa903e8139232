// Work on a disk as steps: a generator says what is to be called next, whoever drives it calls.

import { turn } from "./clock.ts";
import type { BackgroundDisk, Disk } from "./disk.ts";

/*
 * So the same code runs off the event loop, where each call may take as long as the disk likes, and at
 * once, in a simulation that has a clock of its own. A call that fails is thrown into the generator at its
 * `yield`, as `await` would.
 */

/** One call; its answer is what the `yield` gives. */
export type DiskCall = (disk: Disk | BackgroundDisk) => unknown;

export type DiskSteps<T = void> = Generator<DiskCall, T, unknown>;

/** Others may have their turn. */
export const PAUSE: DiskCall = () => undefined;

/** Drives steps without blocking the event loop. */
export async function carryOutInBackground<T>(
  steps: DiskSteps<T>,
  { background }: Disk,
): Promise<T> {
  let step = steps.next();
  while (step.done !== true) {
    let answer: unknown;
    try {
      answer = await (step.value === PAUSE ? turn() : step.value(background));
    } catch (error) {
      step = steps.throw(error);
      continue;
    }
    step = steps.next(answer);
  }
  return step.value;
}

/** Drives steps without a moment between them. */
export function carryOutAtOnce<T>(steps: DiskSteps<T>, disk: Disk): T {
  let step = steps.next();
  while (step.done !== true) {
    let answer: unknown;
    try {
      answer = step.value(disk);
    } catch (error) {
      step = steps.throw(error);
      continue;
    }
    step = steps.next(answer);
  }
  return step.value;
}
