// Goes through the steps of an operation: at each one try is killed, or finds its disk full, and must then do what it owes.

import assert from "node:assert/strict";
import { join } from "node:path";
import { errorMessage } from "../../src/base/errors.ts";
import type { FailingPageserver, PreparedPageserver } from "./failing-pageserver.ts";
import { type Failpoint, type Failure, LivesProcess } from "./hooked-process.ts";
import type { Operation, Try } from "./operations.ts";
import { type HomeOptions, type PageHome, settled } from "./page-home.ts";

/** What each failure is called where a try does not keep what it owes. */
const FAILURES: Readonly<Record<Failure, string>> = {
  kill: "killed before",
  full: "no space from",
  before: "killed before",
  after: "killed after",
  refused: "refused from",
};

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

/** Where nothing is missed if it was too short. */
const SHORT_QUIET_MS = 100;
/** The process ends by it. */
const ends = (failure: Failure) => failure !== "full" && failure !== "refused";
/** What a client is told. */
const NOT_TAKEN = /the object store has not taken/;
const REASON = /no space left|the object store has not taken|500 InternalError|507 Insuff/i;

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
  const directory = join(base.directory, "..", "try");
  const options = { ...operation.options, asksBriefly: failure === "refused" };
  const processes = new Processes(base, directory, operation, failure, options);
  try {
    for (let at = first; steps === undefined && tries < most; at += stride) {
      const failpoint = `${failure} ${at}${of === undefined ? "" : ` ${of}`}` as const;
      const seen = { step: "no step", log: () => "" };
      const home = base.copy(directory, options);
      try {
        const isLast = tries + 1 === most;
        steps = await tryAt(home, operation, failpoint, { processes, seen, isLast });
      } catch (cause) {
        const what = `${operation.name}: ${FAILURES[failure]} ${seen.step}`;
        throw new Error(`${what}: ${errorMessage(cause)}\n${seen.log()}`, { cause });
      } finally {
        await home.stopOthers();
      }
      tries += steps === undefined ? 1 : 0;
    }
  } finally {
    await processes.close();
  }
  return { steps, tries };
}

/** One is prepared for the next try while this one is checked; lives that a failure does not end share one. */
class Processes {
  readonly #lives: LivesProcess | undefined;
  readonly #prepare: (() => Promise<PreparedPageserver>) | undefined;
  #prepared: Promise<PreparedPageserver> | undefined;

  constructor(
    base: PageHome,
    directory: string,
    { stops = false }: Operation,
    failure: Failure,
    options: HomeOptions,
  ) {
    this.#lives = stops ? undefined : new LivesProcess(directory, base.hurriesOf(options));
    this.#prepare = stops || ends(failure) ? () => base.prepare(directory, options) : undefined;
    this.prepareNext();
  }

  prepareNext(): void {
    this.#prepared ??= this.#prepare?.();
  }

  async start(home: PageHome, failpoint: Failpoint): Promise<FailingPageserver> {
    const prepared = await this.#prepared;
    this.#prepared = undefined;
    return home.start(failpoint, prepared === undefined ? { lives: this.#lives } : { prepared });
  }

  next(home: PageHome): Promise<FailingPageserver> {
    return home.start("none", { lives: this.#lives });
  }

  async close(): Promise<void> {
    await this.#lives?.close();
    (await this.#prepared)?.child.kill("SIGKILL");
  }
}

interface TryOptions {
  readonly processes: Processes;
  /** For whoever is told that it went wrong. */
  readonly seen: { step: string; log: () => string };
  /** None comes after it. */
  readonly isLast: boolean;
}

/** The steps of a try that was over before its failpoint; undefined where that came. */
async function tryAt(
  home: PageHome,
  operation: Operation,
  failpoint: Failpoint,
  { processes, seen, isLast }: TryOptions,
): Promise<number | undefined> {
  await operation.arrange?.(home);
  const failure = failpoint.split(" ")[0] as Failure;
  let pageserver = await processes.start(home, operation.fromStart === true ? failpoint : "none");
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
      await home.quiet(pageserver, SHORT_QUIET_MS);
      await home.arm(pageserver, failpoint);
    }
    const outcome = await outcomeOf(operation, current);
    await home.quiet(pageserver);
    await home.arm(pageserver, "none");
    const trace = home.trace(pageserver);
    const hit = trace.find((line) => line.endsWith(" !"))?.slice(0, -2);
    const came = hit !== undefined;
    seen.step = `step ${hit ?? "after the last"}`;
    requireGoodEnd(operation, failure, pageserver, came, outcome);
    if (came && !isLast) {
      processes.prepareNext();
    }
    if (pageserver.hasEnded) {
      pageserver = await processes.next(home);
    }
    if (outcome !== undefined || came) {
      await askAgain(operation, current);
      if (operation.stops === true) {
        pageserver = await processes.next(home);
      }
    }
    await home.quiet(pageserver, SHORT_QUIET_MS);
    await operation.check?.(current);
    await home.check(pageserver);
    if (operation.checkStopped !== undefined) {
      await pageserver.stop();
      await operation.checkStopped(current);
    }
    return came ? undefined : trace.length;
  } finally {
    await pageserver.stop();
  }
}

/** Undefined where the operation was answered as done. */
async function outcomeOf(operation: Operation, current: Try): Promise<string | undefined> {
  if (current.pageserver.hasEnded) {
    // What it was about elsewhere can end, and be told, after it.
    const said = current.pageserver.logTail().split("\n");
    return `not started: ${said.findLast((line) => line.startsWith("fatal: ")) ?? said.at(-1)}`;
  }
  try {
    await operation.run(current);
    return undefined;
  } catch (error) {
    return errorMessage(error);
  }
}

/** As often as the store is said not to have it yet. */
async function askAgain(operation: Operation, current: Try): Promise<void> {
  await settled("asked again", async () => {
    try {
      await operation.run(current);
      return undefined;
    } catch (error) {
      if (!NOT_TAKEN.test(errorMessage(error))) {
        throw error;
      }
      return errorMessage(error);
    }
  });
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
  if (ends(failure) && came) {
    assert.equal(end, "SIGKILL");
  } else if (end !== undefined && !came) {
    assert.equal(operation.stops, true, `ended by ${end}`);
  } else if (came && operation.stops !== true) {
    const hasSaidWhy = REASON.test(outcome ?? "");
    assert.ok(end === undefined || (operation.fromStart === true && hasSaidWhy), `ended by ${end}`);
    assert.ok(outcome === undefined || hasSaidWhy, outcome);
  }
  if (!came && !(failure === "refused" && NOT_TAKEN.test(outcome ?? ""))) {
    assert.equal(outcome, undefined);
  }
}
