// Agents that have started and wait for an endpoint, so that a wake does not wait for the start of Node.
//
// - One is given to one endpoint, and told once: who was given out is not in the pool any more.
// - Who waits ends with this process, whatever ends that: its channel closes (compute/warm-start.ts).
// - One that was started from other files than there are now is not used.
// - Whatever goes wrong with one, the endpoint is started without.

import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { setIdleTimer, sleep, type Timer } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { withFrugalMalloc } from "../../base/memory/malloc.ts";
import { isBundle, programOf } from "../../base/program-files.mjs";
import type { WarmAgentMessage, WarmAgentWork } from "../../compute/api.ts";
import { enterableDirectory } from "../../postgres/installation.ts";
import { type Daemon, type DaemonChild, NODE_FLAGS, watched } from "../daemon.ts";

/** A home that was just started has other things to do, and a wake its first rows to read, where nobody says that it has ended. */
const FILL_DELAY_MS = 1000;
/** After the end of a wake. */
const FILL_AFTER_START_MS = 150;
/** After one that ended before it was ready; doubled for each in a row. */
const FIRST_RETRY_MS = 2000;
const MAX_RETRY_MS = 60_000;
/** It only has to answer. */
const TAKE_TIMEOUT_MS = 2000;

export interface WarmAgentsOptions {
  /** How many wait at a time. */
  readonly size: number;
  /** Of all endpoints: where they wait. */
  readonly directory: string;
  readonly logger: Logger;
  /** Their program, as programOf() takes it; absent: the agent. */
  readonly entry?: string | undefined;
  /** Before missing ones are made; absent: FILL_DELAY_MS. */
  readonly fillDelayMs?: number | undefined;
}

/** One agent that nobody else is given. */
export interface ClaimedAgent {
  /** As WarmAgents.take; one that still loads is waited for. */
  take(daemon: Daemon): Promise<DaemonChild | undefined>;
  /** Its start has ended. One that was not taken waits for others, or ends where enough do. */
  release(): Promise<void>;
}

export class WarmAgents {
  readonly #options: WarmAgentsOptions;
  readonly #waiting = new Set<WarmAgent>();
  readonly #claimed = new Set<WarmAgent>();
  #timer: Timer | undefined;
  /** The timer counts from the end of a start. */
  #isSoon = false;
  #retryMs = FIRST_RETRY_MS;
  #closed = false;

  constructor(options: WarmAgentsOptions) {
    this.#options = options;
  }

  /** Makes as many as are missing, in a moment. */
  fillSoon(delayMs = this.#options.fillDelayMs ?? FILL_DELAY_MS): void {
    if (this.#closed || this.#options.size === 0) {
      return;
    }
    this.#timer ??= setIdleTimer(() => {
      this.#timer = undefined;
      this.#isSoon = false;
      this.#fill();
    }, delayMs);
  }

  /** The start of who was given one has ended: who comes next finds another one sooner. Nothing while they do not come up. */
  startEnded(): void {
    if (this.#timer !== undefined && !this.#isSoon && this.#retryMs === FIRST_RETRY_MS) {
      this.#timer.cancel();
      this.#timer = undefined;
      this.#isSoon = true;
      this.fillSoon(Math.min(FILL_AFTER_START_MS, this.#options.fillDelayMs ?? FILL_DELAY_MS));
    }
  }

  /** How many are ready. */
  get ready(): number {
    return [...this.#waiting].filter((one) => one.isReady).length;
  }

  /** The agent of `daemon`; undefined where none is ready that can be used. */
  async take(daemon: Daemon): Promise<DaemonChild | undefined> {
    for (const agent of [...this.#waiting].filter((one) => one.isReady)) {
      // Others may have come while we waited for an answer.
      if (!this.#waiting.delete(agent)) {
        continue;
      }
      const child = await this.#give(agent, daemon);
      if (child !== undefined) {
        return child;
      }
    }
    return undefined;
  }

  /**
   * For who will need one in a moment, and has other things to do first: one that is ready, else one that loads from now on, also
   * beyond the pool's size. Undefined where none can be started.
   */
  claim(): ClaimedAgent | undefined {
    const agent = [...this.#waiting].find((one) => one.isReady) ?? this.#start();
    if (agent === undefined) {
      return undefined;
    }
    this.#waiting.delete(agent);
    this.#claimed.add(agent);
    return {
      take: async (daemon) => {
        const isReady = await agent.readied;
        return this.#claimed.delete(agent) && isReady ? this.#give(agent, daemon) : undefined;
      },
      release: async () => {
        if (!this.#claimed.delete(agent)) {
          this.startEnded();
          return;
        }
        const isWanted = !this.#closed && this.#waiting.size < this.#options.size;
        if (isWanted && agent.child.ended() === undefined) {
          this.#waiting.add(agent);
        } else {
          await agent.end();
        }
      },
    };
  }

  /** It is in no set any more. */
  async #give(agent: WarmAgent, daemon: Daemon): Promise<DaemonChild | undefined> {
    this.fillSoon();
    if (!agent.isCurrent) {
      this.#options.logger.info({ pid: agent.pid }, "a warm agent of another version ends");
    } else if (await agent.take(daemon)) {
      return agent.child;
    } else {
      this.#options.logger.warn({ pid: agent.pid }, "a warm agent could not be used");
    }
    await agent.end();
    return undefined;
  }

  /** Resolves when all that wait have ended. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    const left = [...this.#waiting, ...this.#claimed];
    this.#claimed.clear();
    await Promise.all(left.map((agent) => agent.end()));
  }

  #fill(): void {
    while (!this.#closed && this.#waiting.size < this.#options.size) {
      const agent = this.#start();
      if (agent === undefined) {
        this.#retry();
        return;
      }
      this.#waiting.add(agent);
    }
  }

  #start(): WarmAgent | undefined {
    const { directory, logger, entry = "compute/main.ts" } = this.#options;
    try {
      enterableDirectory(directory);
      const agent = new WarmAgent(directory, entry);
      void agent.readied.then((isReady) => {
        if (isReady) {
          this.#retryMs = FIRST_RETRY_MS;
        }
      });
      void agent.exited.then(() => this.#ended(agent));
      return agent;
    } catch (error) {
      logger.warn({ reason: errorMessage(error) }, "no warm agent can be started");
      return undefined;
    }
  }

  /** One that was given out is not ours any more. */
  #ended(agent: WarmAgent): void {
    if (!this.#waiting.delete(agent) || this.#closed) {
      return;
    }
    this.#options.logger.warn({ pid: agent.pid, how: agent.child.ended() }, "a warm agent ended");
    if (agent.isReady) {
      this.fillSoon();
    } else {
      this.#retry();
    }
  }

  #retry(): void {
    this.fillSoon(this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS);
  }
}

class WarmAgent {
  readonly child: DaemonChild;
  readonly exited: Promise<void>;
  /** False: it ended before. */
  readonly readied: Promise<boolean>;
  isReady = false;
  readonly #process: ChildProcess;
  readonly #taken = Promise.withResolvers<boolean>();
  readonly #isCurrent: () => boolean;

  constructor(directory: string, entry: string) {
    const program = programOf(entry);
    if (isBundle(program)) {
      this.#isCurrent = () => programOf(entry) === program;
    } else {
      // Before it reads them.
      const files = new ProgramFiles(dirname(dirname(program)));
      this.#isCurrent = () => files.areUnchanged;
    }
    this.#process = spawn(process.execPath, [...NODE_FLAGS, program, "--warm"], {
      detached: true,
      cwd: directory,
      env: withFrugalMalloc(process.env),
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    this.child = watched(this.#process);
    this.exited = new Promise((resolve) => {
      this.#process.once("exit", () => resolve());
      this.#process.once("error", () => resolve());
    });
    this.readied = new Promise((resolve) => {
      this.#process.on("message", (message: WarmAgentMessage) => {
        if (message === "ready") {
          this.isReady = true;
          resolve(true);
        } else {
          this.#taken.resolve(true);
        }
      });
      void this.exited.then(() => resolve(false));
    });
    void this.exited.then(() => this.#taken.resolve(false));
  }

  get pid(): number {
    return this.child.pid;
  }

  /** Its program is the one that is there now. */
  get isCurrent(): boolean {
    return this.#isCurrent();
  }

  /** Whether it is the agent of that directory from now on; if not, it may be yet. */
  async take({ workdir, logFile, args }: Daemon): Promise<boolean> {
    const work: WarmAgentWork = { workdir, logFile, args };
    this.#process.send(work, (error) => {
      if (error !== null) {
        this.#taken.resolve(false);
      }
    });
    // A command would not end before its timers.
    const patience = new AbortController();
    const tired = sleep(TAKE_TIMEOUT_MS, patience.signal).then(
      () => false,
      () => false,
    );
    const isTaken = await Promise.race([this.#taken.promise, tired]);
    patience.abort();
    return isTaken;
  }

  /** Not in order: it has nothing that could be lost. */
  async end(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.exited;
  }
}

/** The sources of our program as they are now. */
class ProgramFiles {
  readonly #paths: readonly string[];
  readonly #stamps: string;

  constructor(root: string) {
    this.#paths = readdirSync(root, { recursive: true, encoding: "utf8" })
      .filter((path) => /\.[jt]s$/.test(path) && !/\.(?:test|fuzz|bench)\./.test(path))
      .map((path) => join(root, path));
    this.#stamps = this.#read();
  }

  /** Costs a millisecond. */
  get areUnchanged(): boolean {
    return this.#read() === this.#stamps;
  }

  #read(): string {
    const stamps = this.#paths.map((path) => {
      const status = statSync(path, { throwIfNoEntry: false });
      return status === undefined ? "" : `${status.ino} ${status.size} ${status.mtimeMs}`;
    });
    return stamps.join();
  }
}
