// Processes whose steps file-steps.ts counts: one for each life of a pageserver, or one for many lives, one after the other.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { setIdleTimer } from "../../src/base/clock.ts";

const HOOK = join(import.meta.dirname, "file-steps.ts");
const LIVES = join(import.meta.dirname, "lives.ts");
const ANSWER_MS = 60_000;

/** What is armed, as file-steps.ts and store-requests.ts have it: a failure, and at which step. */
export type Failpoint = "none" | `${Failure} ${string}`;
/** Of steps on files, and of requests to a store. */
export type Failure = "kill" | "full" | "before" | "after" | "refused";

export interface HookedProcess {
  readonly script: string;
  readonly args: readonly string[];
  /** Steps are those on files below it. */
  readonly root: string;
  readonly trace: string;
  readonly log: string;
  /** Timers of so many milliseconds come after a fiftieth of that. */
  readonly hurries: readonly number[];
  /** Loads its code and waits for the first command. */
  readonly isHeld: boolean;
}

export function spawnHooked(what: HookedProcess): ChildProcess {
  const log = openSync(what.log, "w");
  const flags = ["--disable-warning=ExperimentalWarning", "--import", HOOK];
  const child = spawn(process.execPath, [...flags, what.script, ...what.args], {
    stdio: ["ignore", log, log, "ipc"],
    env: {
      ...process.env,
      STRATA_FAILPOINT_ROOT: what.root,
      STRATA_FAILPOINT_TRACE: what.trace,
      STRATA_FAILPOINT_HURRY: what.hurries.join(" "),
      STRATA_FAILPOINT_HELD: what.isHeld ? "1" : "",
    },
  });
  closeSync(log);
  return child;
}

interface LifeAnswer {
  readonly started?: true;
  readonly failed?: string;
  readonly stopped?: true;
}

/** One life at a time, in homes that have the same path. */
export class LivesProcess {
  readonly child: ChildProcess;
  readonly log: string;

  constructor(root: string, hurries: readonly number[]) {
    this.log = `${root}.lives.log`;
    const trace = join(root, "trace");
    this.child = spawnHooked({
      script: LIVES,
      args: [],
      root,
      trace,
      log: this.log,
      hurries,
      isHeld: false,
    });
  }

  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  /** Why it did not start; undefined where it did. */
  async begin(args: readonly string[]): Promise<string | undefined> {
    return (await this.#ask({ start: args })).failed;
  }

  /** Without a flush. */
  async end(): Promise<void> {
    await this.#ask({ stop: true });
  }

  #ask(message: object): Promise<LifeAnswer> {
    const { child } = this;
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void) => {
        timer.cancel();
        child.removeListener("message", onMessage);
        child.removeListener("exit", onExit);
        settle();
      };
      const onMessage = (answer: LifeAnswer & { count?: number }) => {
        if (answer.count === undefined) {
          finish(() => resolve(answer));
        }
      };
      const onExit = () => finish(() => resolve({ failed: "the process has ended" }));
      const timer = setIdleTimer(() => {
        const doing = JSON.stringify(message);
        finish(() => reject(new Error(`no answer within ${ANSWER_MS} ms: ${doing}`)));
      }, ANSWER_MS);
      assert.ok(!this.hasEnded);
      child.on("message", onMessage);
      child.once("exit", onExit);
      child.send(message);
    });
  }

  async close(): Promise<void> {
    if (!this.hasEnded) {
      const exited = new Promise((resolve) => this.child.once("exit", resolve));
      this.child.kill("SIGKILL");
      await exited;
    }
  }
}
