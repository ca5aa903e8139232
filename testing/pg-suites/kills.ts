// Regress on an endpoint whose processes are killed, one kind after another: each time it comes back, and what it has in the end is right.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import type { Victim } from "../cluster.ts";
import { eventually } from "../eventually.ts";
import { withClient } from "../tpcb.ts";
import type { Outputs } from "./compare.ts";
import { checkEndState } from "./end-state.ts";
import { checkRecoveredPages } from "./recovered-pages.ts";
import type { SuiteDirectory } from "./run.ts";
import { type ServerOptions, type StrataServer, startStrata } from "./servers.ts";
import type { Suite } from "./suites.ts";

/** A majority is left without the one that is killed. */
const SAFEKEEPERS = 3;
/** Between the end of one kill, when the endpoint has answered, and the next. */
const PAUSE_MS = 3000;
/** A start on a machine that does much else takes seconds. */
const BACK_MAX_MS = 120_000;
/** test_setup and others before them make what the rest reads. */
const OUTPUTS_BEFORE = 3;

/** One after the other, again and again; all of one at the same time. */
const KILLS: readonly (readonly Victim[])[] = [
  ["postgres-main"],
  ["pageserver"],
  ["agent-main"],
  ["safekeeper-1"],
  ["postgres-main", "pageserver"],
  ["safekeeper-2"],
  ["agent-main", "pageserver", "safekeeper-3"],
];

/** psql of a test waits until the server answers: the schedule does not run off while nobody is there. */
export const LAUNCHER = `#!/bin/sh
tries=0
until "$1" -X -q -d postgres -c '' </dev/null >/dev/null 2>&1 || [ $tries -ge 1200 ]; do
  tries=$((tries + 1))
  sleep 0.1
done
exec "$@"
`;

/** Prints as it goes on; false where something is wrong. Outputs are not compared: connections break. */
export async function runUnderKills(
  suite: Suite,
  directory: SuiteDirectory,
  options: ServerOptions,
): Promise<boolean> {
  const server = await startStrata({ ...options, safekeepers: SAFEKEEPERS });
  const wrong: string[] = [];
  try {
    // Before an event trigger that a broken test leaves behind refuses it.
    const extended = { ...suite, args: [...suite.args, "--load-extension=amcheck"] };
    const launcher = join(directory.path, "psql-when-there");
    writeFileSync(launcher, LAUNCHER, { mode: 0o755 });
    const killer = new Killer(server);
    const killing = killer.run(directory);
    const { tests, seconds, outputs } = await directory
      .run(extended, server, "strata", [`--launcher=${launcher}`])
      .finally(() => killer.stop());
    wrong.push(...(await killing));
    console.log(
      `${suite.name} under kill -9: ${tests} tests, ${countBroken(outputs)} lost their connection, ${seconds.toFixed(0)} s`,
    );
    killer.print();
    wrong.push(...(await checkEndState(server.cluster, suite.endState!)));
    directory.makeLocation();
    wrong.push(...(await checkRecoveredPages(server.cluster, server.recovery)));
  } finally {
    await server.stop();
  }
  for (const line of wrong) {
    console.log(`WRONG: ${line}`);
  }
  return wrong.length === 0;
}

function countBroken(outputs: Outputs): number {
  const lost = /server closed the connection unexpectedly|connection to server was lost/;
  return [...outputs.values()].filter((bytes) => lost.test(bytes.toString("latin1"))).length;
}

/** Kills and brings back what an operator would have to; Postgres comes back by itself. */
class Killer {
  readonly #server: StrataServer;
  #stopped = false;
  /** Of each kind of kill: how long until the endpoint answered, each time. */
  readonly #backMs = new Map<string, number[]>();

  constructor(server: StrataServer) {
    this.#server = server;
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Until stopped, once the suite has written some outputs; what is wrong, a line each. */
  async run(directory: SuiteDirectory): Promise<string[]> {
    while (!this.#stopped && directory.outputsSoFar() < OUTPUTS_BEFORE) {
      await sleep(100);
    }
    for (let round = 0; !this.#stopped; round++) {
      const victims = KILLS[round % KILLS.length]!;
      const name = victims.join(" and ");
      const began = monotonicMs();
      try {
        await this.#kill(victims);
        await this.#answers();
      } catch (error) {
        // The suite goes on without a server, and ends.
        return [`after kill -9 of ${name}: ${(error as Error).message}`];
      }
      const backMs = this.#backMs.get(name) ?? [];
      this.#backMs.set(name, [...backMs, monotonicMs() - began]);
      await sleep(PAUSE_MS);
    }
    return this.#backMs.size === 0 ? ["nothing was killed"] : [];
  }

  async #kill(victims: readonly Victim[]): Promise<void> {
    const { cluster } = this.#server;
    await Promise.all(victims.map((victim) => cluster.kill9(victim)));
    for (const victim of victims) {
      if (victim === "pageserver") {
        await cluster.ok("pageserver", "start");
      } else if (victim.startsWith("safekeeper-")) {
        await cluster.ok("safekeeper", "start", victim.slice("safekeeper-".length));
      }
    }
    if (victims.includes("agent-main")) {
      await cluster.ok("endpoint", "start", "main");
    }
  }

  /** A read and a write: all kinds of processes have to be there for them. */
  async #answers(): Promise<void> {
    const url = this.#server.cluster.socketUrl("main");
    await eventually(
      "a transaction",
      () =>
        withClient(url, async (client) => {
          await client.query("SELECT count(*), txid_current() FROM pg_class");
          return true;
        }),
      { timeoutMs: BACK_MAX_MS, logs: () => this.#server.cluster.logTails() },
    );
  }

  print(): void {
    for (const [name, backMs] of this.#backMs) {
      const worst = (Math.max(...backMs) / 1000).toFixed(1);
      console.log(`kill -9 of ${name}: ${backMs.length} times, answered within ${worst} s`);
    }
  }
}
