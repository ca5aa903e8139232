// A pageserver's process whose file operations are counted, and that ends, or finds its disk full, at one of them.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { freePort } from "../free-port.ts";

const HOOK = join(import.meta.dirname, "file-steps.ts");
const MAIN = join(import.meta.dirname, "../../src/pageserver/main.ts");
const START_MS = 60_000;
/** How long a full disk lasts after the first step that found it full. */
const FULL_MS = 100;

/** What is armed, as file-steps.ts has it. */
export type Failpoint = "none" | "count" | `${"kill" | "full"} ${string}`;

export interface StepCounts {
  /** Steps since it was armed. */
  readonly count: number;
}

export interface PageserverHome {
  /** Holds `disk`, `store`, and the process's log and trace. */
  readonly directory: string;
  readonly broker: string;
  /** Beside those that every test of failpoints has. */
  readonly args?: readonly string[];
  /** Timers of ten seconds (deletions are put together so long) come after a fifth of one. */
  readonly hurries?: boolean;
}

export class FailingPageserver {
  readonly pgAddr: string;
  readonly http: PageserverHttpClient;
  readonly #home: PageserverHome;
  readonly #child: ChildProcess;
  #ended: string | undefined;
  #armed: Failpoint = "none";

  private constructor(home: PageserverHome, child: ChildProcess, pg: number, http: number) {
    this.#home = home;
    this.#child = child;
    this.pgAddr = `127.0.0.1:${pg}`;
    this.http = new PageserverHttpClient(`127.0.0.1:${http}`, { timeoutMs: 60_000 });
    child.once("exit", (code, signal) => {
      this.#ended = signal ?? `exit code ${code}`;
    });
  }

  /** Resolves when it answers, or has ended: by the failpoint, which counts from its first step on. */
  static async start(
    home: PageserverHome,
    failpoint: Failpoint = "none",
  ): Promise<FailingPageserver> {
    const { directory, hurries = false } = home;
    const disk = join(directory, "disk");
    mkdirSync(disk, { recursive: true });
    const [pg, http] = [await freePort(), await freePort()];
    const args = ["--workdir", disk, "--remote-storage", join(directory, "store")];
    args.push("--listen-pg", `127.0.0.1:${pg}`, "--listen-http", `127.0.0.1:${http}`);
    args.push("--broker", home.broker, ...(home.args ?? []));
    const trace = join(directory, "trace");
    rmSync(trace, { force: true });
    const log = openSync(join(directory, "log"), "a");
    const flags = ["--disable-warning=ExperimentalWarning", "--import", HOOK];
    const child = spawn(process.execPath, [...flags, MAIN, ...args], {
      stdio: ["ignore", log, log, "ipc"],
      env: {
        ...process.env,
        STRATA_FAILPOINT: failpoint,
        STRATA_FAILPOINT_ROOT: directory,
        STRATA_FAILPOINT_TRACE: trace,
        STRATA_FAILPOINT_HURRY: hurries ? "1" : "",
      },
    });
    closeSync(log);
    const pageserver = new FailingPageserver(home, child, pg, http);
    pageserver.#note(failpoint);
    await pageserver.#whenStarted();
    return pageserver;
  }

  async #whenStarted(): Promise<void> {
    const deadline = monotonicMs() + START_MS;
    while (!this.hasEnded) {
      try {
        await this.http.status();
        return;
      } catch {
        await sleep(10);
      }
      assert.ok(monotonicMs() < deadline, `the pageserver does not start:\n${this.logTail()}`);
    }
  }

  get hasEnded(): boolean {
    return this.#ended !== undefined;
  }

  /** `SIGKILL`, `exit code 1`. */
  get end(): string | undefined {
    return this.#ended;
  }

  /** Counts from the next step on. Nothing where the process has ended. A full disk is one for a moment. */
  async arm(failpoint: Failpoint): Promise<void> {
    await this.#ask(failpoint);
    this.#note(failpoint);
  }

  #note(failpoint: Failpoint): void {
    this.#armed = failpoint;
    if (failpoint.startsWith("full")) {
      void this.#giveSpaceBack(failpoint);
    }
  }

  async #giveSpaceBack(failpoint: Failpoint): Promise<void> {
    while (this.#armed === failpoint && !this.hasEnded && this.hit() === undefined) {
      await sleep(5);
    }
    await sleep(FULL_MS);
    if (this.#armed === failpoint) {
      await this.arm("none");
    }
  }

  status(): Promise<StepCounts> {
    return this.#ask("status");
  }

  #ask(command: Failpoint | "status"): Promise<StepCounts> {
    const child = this.#child;
    return new Promise((resolve) => {
      const ended = () => resolve({ count: 0 });
      if (this.hasEnded || !child.connected) {
        ended();
        return;
      }
      child.once("exit", ended);
      child.once("message", (counts: StepCounts) => {
        child.removeListener("exit", ended);
        resolve(counts);
      });
      child.send(command, () => undefined);
    });
  }

  /** The first step that was not taken: number, system call and path. */
  hit(): string | undefined {
    return this.trace()
      .find((line) => line.endsWith(" !"))
      ?.slice(0, -2);
  }

  /** What was come to while something was armed. */
  trace(): string[] {
    try {
      const text = readFileSync(join(this.#home.directory, "trace"), "utf8");
      return text.split("\n").slice(0, -1);
    } catch {
      return [];
    }
  }

  log(): string {
    return readFileSync(join(this.#home.directory, "log"), "utf8");
  }

  logTail(lines = 15): string {
    return this.log().trim().split("\n").slice(-lines).join("\n");
  }

  async stop(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    if (!this.hasEnded) {
      const exited = new Promise((resolve) => this.#child.once("exit", resolve));
      this.#child.kill(signal);
      await exited;
    }
  }
}
