// A pageserver's process whose file operations are counted, and that ends, or finds its disk full, at one of them.

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { freePort } from "../free-port.ts";
import { type Failpoint, type LivesProcess, spawnHooked } from "./hooked-process.ts";

const MAIN = join(import.meta.dirname, "../../src/pageserver/main.ts");
const START_MS = 60_000;
/** How long a full disk lasts after the first step that found it full. */
const FULL_MS = 100;

export interface StepCounts {
  /** Steps since it was armed. */
  readonly count: number;
}

export interface PageserverHome {
  /** Holds `disk`, and the process's trace; its log is beside it. */
  readonly directory: string;
  /** As `--remote-storage`. */
  readonly store: string;
  /** Where it lives; absent: in a process of its own. */
  readonly lives?: LivesProcess | undefined;
  readonly broker: string;
  /** Beside those that every test of failpoints has. */
  readonly args?: readonly string[];
  /** Of a process of its own: timers of so many milliseconds come after a fiftieth of that. */
  readonly hurries?: readonly number[];
  /** Told before it takes a step. */
  readonly onBegin?: (process: ChildProcess) => void;
}

interface Address {
  readonly pg: string;
  readonly http: string;
}

export interface PreparedPageserver {
  readonly child: ChildProcess;
  readonly address: Address;
}

async function freeAddress(): Promise<Address> {
  return { pg: `127.0.0.1:${await freePort()}`, http: `127.0.0.1:${await freePort()}` };
}

function argsOf(home: PageserverHome, address: Address): string[] {
  return [
    ...["--workdir", join(home.directory, "disk"), "--remote-storage", home.store],
    ...["--listen-pg", address.pg, "--listen-http", address.http],
    ...["--broker", home.broker, ...(home.args ?? [])],
  ];
}

export class FailingPageserver {
  readonly pgAddr: string;
  readonly http: PageserverHttpClient;
  readonly #home: PageserverHome;
  readonly #child: ChildProcess;
  /** Absent: the process has this one life. */
  readonly #lives: LivesProcess | undefined;
  readonly #onExit = (code: number | null, signal: string | null) => {
    this.#ended ??= signal ?? `exit code ${code}`;
  };
  #ended: string | undefined;
  #armed: Failpoint = "none";

  private constructor(home: PageserverHome, child: ChildProcess, address: Address) {
    this.#home = home;
    this.#child = child;
    this.#lives = home.lives;
    this.pgAddr = address.pg;
    this.http = new PageserverHttpClient(address.http, { timeoutMs: 60_000 });
    child.once("exit", this.#onExit);
  }

  /** A process that has loaded its code and does nothing yet; its home need not be there. */
  static async prepare(home: PageserverHome): Promise<PreparedPageserver> {
    const { directory, hurries = [] } = home;
    const address = await freeAddress();
    const child = spawnHooked({
      script: MAIN,
      args: argsOf(home, address),
      root: directory,
      trace: join(directory, "trace"),
      log: `${directory}.log`,
      hurries,
      isHeld: true,
    });
    return { child, address };
  }

  /** Resolves when it answers, or has ended: by the failpoint, which counts from its first step on. */
  static async start(
    home: PageserverHome,
    failpoint: Failpoint = "none",
    prepared?: PreparedPageserver,
  ): Promise<FailingPageserver> {
    const { directory, lives } = home;
    mkdirSync(join(directory, "disk"), { recursive: true });
    rmSync(join(directory, "trace"), { force: true });
    if (lives !== undefined) {
      const address = await freeAddress();
      const pageserver = new FailingPageserver(home, lives.child, address);
      await pageserver.arm(failpoint);
      if ((await lives.begin(argsOf(home, address))) !== undefined) {
        pageserver.#end("exit code 1");
      }
      return pageserver;
    }
    const { child, address } = prepared ?? (await FailingPageserver.prepare(home));
    home.onBegin?.(child);
    const pageserver = new FailingPageserver(home, child, address);
    await pageserver.arm(failpoint);
    await pageserver.#whenStarted();
    return pageserver;
  }

  #end(how: string): void {
    this.#ended ??= how;
    this.#child.removeListener("exit", this.#onExit);
  }

  async #whenStarted(): Promise<void> {
    const deadline = monotonicMs() + START_MS;
    while (!this.hasEnded) {
      try {
        await this.http.status();
        return;
      } catch {
        await sleep(20);
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
      if (this.hasEnded || !child.connected) {
        resolve({ count: 0 });
        return;
      }
      const finish = (counts: StepCounts) => {
        child.removeListener("exit", ended);
        child.removeListener("message", answered);
        resolve(counts);
      };
      const ended = () => finish({ count: 0 });
      const answered = (message: Partial<StepCounts>) => {
        if (message.count !== undefined) {
          finish({ count: message.count });
        }
      };
      child.once("exit", ended);
      child.on("message", answered);
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
    return readFileSync(this.#lives?.log ?? `${this.#home.directory}.log`, "utf8");
  }

  logTail(lines = 15): string {
    return this.log().trim().split("\n").slice(-lines).join("\n");
  }

  /** SIGKILL or SIGTERM; a life among others ends without a flush. */
  async stop(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    if (this.hasEnded) {
      return;
    }
    if (this.#lives !== undefined) {
      assert.equal(signal, "SIGKILL");
      await this.#lives.end();
      this.#end("stopped");
      return;
    }
    const exited = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill(signal);
    await exited;
  }
}
