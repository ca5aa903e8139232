// Goes through the steps of an operation: at each one try is killed, or finds its disk full, and must then do what it owes.

import assert from "node:assert/strict";
import { join } from "node:path";
import { errorMessage } from "../../src/base/errors.ts";
import type { FailingPageserver, Failpoint } from "./failing-pageserver.ts";
import type { Operation, Try } from "./operations.ts";
import type { PageHome } from "./page-home.ts";

export type Failure = "kill" | "full";

export interface SweepResult {
  /** Of the operation and what it does in the background; undefined where not all were gone to. */
  readonly steps: number | undefined;
  readonly tries: number;
}

export interface Steps {
  readonly first?: number;
  readonly stride?: number;
  /** Not all, but so many. */
  readonly most?: number;
  /** A regular expression for the steps that count: `rename disk/.*index_part`. */
  readonly of?: string;
}

const NO_SPACE = /no space left/i;

/**
 * Each step first, first + stride, ..., as long as there is one, or so many of them. Throws where a try does not keep what it owes.
 */
export async function sweep(
  base: PageHome,
  operation: Operation,
  failure: Failure,
  { first = 1, stride = 1, most = Number.POSITIVE_INFINITY, of }: Steps = {},
): Promise<SweepResult> {
  let tries = 0;
  let steps: number | undefined;
  for (let at = first; steps === undefined && tries < most; at += stride) {
    const failpoint = `${failure} ${at}${of === undefined ? "" : ` ${of}`}` as const;
    const seen = { step: "no step", log: () => "" };
    try {
      steps = await tryAt(base, operation, failpoint, seen);
    } catch (cause) {
      const what = failure === "kill" ? "killed before" : "no space from";
      const message = `${operation.name}: ${what} ${seen.step}: ${errorMessage(cause)}`;
      throw new Error(`${message}\n${seen.log()}`, { cause });
    }
    tries += steps === undefined ? 1 : 0;
  }
  return { steps, tries };
}

/** The steps of a try that was over before its failpoint; undefined where that came. */
async function tryAt(
  base: PageHome,
  operation: Operation,
  failpoint: Failpoint,
  seen: { step: string; log: () => string },
): Promise<number | undefined> {
  const home = base.copy(join(base.directory, "..", "try"), operation.options);
  await operation.arrange?.(home);
  const failure = failpoint.startsWith("kill") ? "kill" : "full";
  let pageserver = await home.start(operation.fromStart === true ? failpoint : "none");
  const current: Try = {
    home,
    get pageserver() {
      return pageserver;
    },
  };
  seen.log = () => pageserver.logTail();
  try {
    if (operation.fromStart !== true) {
      await operation.prepare?.(current);
      await home.quiet(pageserver);
      await pageserver.arm(failpoint);
    }
    const outcome = await outcomeOf(operation, current);
    await home.quiet(pageserver);
    await pageserver.arm("none");
    const steps = pageserver.trace().length;
    const hit = pageserver.hit();
    const came = hit !== undefined;
    seen.step = `step ${hit ?? "after the last"}`;
    requireGoodEnd(operation, failure, pageserver, came, outcome);
    if (pageserver.hasEnded) {
      pageserver = await home.start();
    }
    if (outcome !== undefined || came) {
      await operation.run(current);
      if (operation.stops === true) {
        pageserver = await home.start();
      }
    }
    await home.quiet(pageserver);
    await operation.check?.(current);
    await home.check(pageserver);
    if (operation.checkStopped !== undefined) {
      await pageserver.stop();
      await operation.checkStopped(current);
    }
    return came ? undefined : steps;
  } finally {
    await pageserver.stop();
  }
}

/** Undefined where the operation was answered as done. */
async function outcomeOf(operation: Operation, current: Try): Promise<string | undefined> {
  if (current.pageserver.hasEnded) {
    return `not started: ${current.pageserver.logTail(1)}`;
  }
  try {
    await operation.run(current);
    return undefined;
  } catch (error) {
    return errorMessage(error);
  }
}

/** A process lives on a full disk, but for one that is only starting: that says why it does not. */
function requireGoodEnd(
  operation: Operation,
  failure: Failure,
  pageserver: FailingPageserver,
  came: boolean,
  outcome: string | undefined,
): void {
  const { end } = pageserver;
  if (failure === "kill" && came) {
    assert.equal(end, "SIGKILL");
  } else if (end !== undefined && !came) {
    assert.equal(operation.stops, true, `ended by ${end}`);
  } else if (came && operation.stops !== true) {
    const hasSaidWhy = NO_SPACE.test(outcome ?? "");
    assert.ok(end === undefined || (operation.fromStart === true && hasSaidWhy), `ended by ${end}`);
    assert.ok(outcome === undefined || hasSaidWhy, outcome);
  }
  if (!came) {
    assert.equal(outcome, undefined);
  }
}
