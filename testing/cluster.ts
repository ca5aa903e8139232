// One whole Strata of real processes in a temporary directory, driven through the real CLI.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type pg from "pg";
import { sleep } from "../src/base/clock.ts";
import { programOf } from "../src/base/program-files.mjs";
import type { EndpointSpec } from "../src/compute/api.ts";
import { postgresSocketDirectory } from "../src/postgres/installation.ts";
import { freeEndpointPorts, freePort } from "./free-port.ts";
import { giveTemplate, keepTemplate } from "./homes/initdb-templates.ts";
import { withClient } from "./tpcb.ts";

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function freeNodes(count: number) {
  const nodes: { id: number; listenPgAddr: string; listenHttpAddr: string }[] = [];
  for (let id = 1; id <= count; id++) {
    nodes.push({
      id,
      listenPgAddr: `127.0.0.1:${await freePort()}`,
      listenHttpAddr: `127.0.0.1:${await freePort()}`,
    });
  }
  return nodes;
}

/** What `init --config` takes: everything on ports of its own. */
export async function freeConfig(safekeepers: number) {
  return {
    broker: { listenAddr: `127.0.0.1:${await freePort()}` },
    controlPlane: { listenAddr: `127.0.0.1:${await freePort()}` },
    proxy: {
      listenPgAddr: `127.0.0.1:${await freePort()}`,
      listenHttpAddr: `127.0.0.1:${await freePort()}`,
    },
    pageservers: await freeNodes(1),
    safekeepers: await freeNodes(safekeepers),
    endpointBasePort: await freeEndpointPorts(),
  };
}

/** Which process to find: as the CLI's working directories name them. */
export type Victim =
  | "pageserver"
  | "broker"
  | "control_plane"
  | "proxy"
  | `safekeeper-${number}`
  | `agent-${string}`
  | `postgres-${string}`;

export class TestCluster {
  readonly home: string;
  readonly safekeepers: number;

  private constructor(home: string, safekeepers: number) {
    this.home = home;
    this.safekeepers = safekeepers;
  }

  /** Writes a configuration with free ports and runs `init`; with `start`, also the services and a tenant. */
  static async create(
    options: {
      safekeepers?: number;
      start?: boolean;
      pageserverOptions?: Record<string, string>;
      safekeeperOptions?: Record<string, string>;
      proxyOptions?: Record<string, string>;
      warmAgents?: number;
      /** In place of free ports on the loopback address. */
      config?: object;
      /** Of the home, below a temporary directory. */
      name?: string;
      /** It runs initdb with a password of its own, also where another home of this run has done so. */
      ownInitdb?: boolean;
    } = {},
  ): Promise<TestCluster> {
    const { safekeepers = 1, pageserverOptions = {}, safekeeperOptions = {} } = options;
    const home = mkdtempSync(join(tmpdir(), "strata-test-"));
    // The unprivileged user that Postgres runs as must be able to enter.
    chmodSync(home, 0o755);
    const cluster = new TestCluster(join(home, options.name ?? "strata"), safekeepers);
    writeFileSync(
      join(home, "init.json"),
      JSON.stringify({
        // Most tests ask daemons directly, and stock programs stream from safekeepers.
        serviceTokens: process.env["STRATA_TEST_SERVICE_TOKENS"] === "1",
        // Most tests wake nothing.
        warmAgents: options.warmAgents ?? 0,
        ...(options.config ?? (await freeConfig(safekeepers))),
        pageserverOptions,
        safekeeperOptions,
        proxyOptions: options.proxyOptions ?? {},
      }),
    );
    try {
      await cluster.ok("init", "--config", join(home, "init.json"));
      const given = options.ownInitdb === true || giveTemplate(cluster.home);
      if (options.start ?? true) {
        await cluster.ok("start");
        await cluster.ok("tenant", "create", "--set-default");
        if (!given) {
          keepTemplate(cluster.home);
        }
      }
    } catch (error) {
      // Some of it may run; nobody else knows of it.
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
    return cluster;
  }

  /** Runs the CLI to its end, whatever its exit code. */
  cli(...args: string[]): Promise<CliResult> {
    return this.cliBehind([], ...args);
  }

  /** As `cli`, behind a command that runs the rest of its own command line, such as `nice`. */
  cliBehind(prefix: readonly string[], ...args: string[]): Promise<CliResult> {
    const command = [...prefix, process.execPath, programOf("cli/main.ts"), ...args];
    return new Promise((resolve) => {
      execFile(
        command[0]!,
        command.slice(1),
        { env: { ...process.env, STRATA_HOME: this.home }, timeout: 120_000, maxBuffer: 1 << 26 },
        (error, stdout, stderr) => {
          const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
          resolve({ code, stdout, stderr });
        },
      );
    });
  }

  /** Runs the CLI and expects success; returns its standard output. */
  async ok(...args: string[]): Promise<string> {
    const result = await this.cli(...args);
    assert.equal(
      result.code,
      0,
      `strata ${args.join(" ")} failed with ${result.code}:\n${this.logTails()}\n${result.stdout}\n${result.stderr}`,
    );
    return result.stdout;
  }

  /** Runs the CLI and expects exit code 1 with one clear line; returns that line. */
  async fails(...args: string[]): Promise<string> {
    const result = await this.cli(...args);
    assert.equal(
      result.code,
      1,
      `strata ${args.join(" ")}: expected exit 1, got ${result.code}\n${result.stdout}`,
    );
    const lines = result.stderr.trim().split("\n");
    assert.equal(lines.length, 1, `expected one line, got:\n${result.stderr}`);
    return lines[0]!;
  }

  async json(...args: string[]): Promise<unknown> {
    return JSON.parse(await this.ok(...args, "--json"));
  }

  /** Creates (on `branch`) and starts an endpoint. */
  async startEndpoint(id = "main", branch = "main"): Promise<void> {
    if (!existsSync(join(this.home, "endpoints", id))) {
      await this.ok("endpoint", "create", id, "--branch-name", branch);
    }
    await this.ok("endpoint", "start", id);
  }

  endpointSpec(id = "main"): EndpointSpec {
    return JSON.parse(readFileSync(join(this.home, "endpoints", id, "endpoint.json"), "utf8"));
  }

  /** Sets GUCs of a stopped endpoint, as an operator would in its endpoint.json. */
  setPostgres(id: string, settings: Record<string, string>): void {
    const spec = this.endpointSpec(id);
    const changed = { ...spec, settings: { ...spec.settings, ...settings } };
    writeFileSync(join(this.home, "endpoints", id, "endpoint.json"), JSON.stringify(changed));
  }

  /** Of the superuser, over TCP. */
  password(): string {
    return readFileSync(join(this.home, "superuser.password"), "utf8").trim();
  }

  url(id = "main", database = "postgres"): string {
    const spec = this.endpointSpec(id);
    return `postgresql://cloud_admin:${this.password()}@${spec.pgHost}:${spec.pgPort}/${database}`;
  }

  /** Over the unix socket, without a password. */
  socketUrl(id = "main", database = "postgres"): string {
    const directory = postgresSocketDirectory(join(this.home, "endpoints", id));
    const { pgPort } = this.endpointSpec(id);
    return `postgresql://cloud_admin@${encodeURIComponent(directory)}:${pgPort}/${database}`;
  }

  /** Runs statements one by one on a fresh connection; the last one's rows. */
  query(id: string, ...statements: string[]): Promise<Record<string, unknown>[]> {
    return withClient(this.url(id), async (client: pg.Client) => {
      let rows: Record<string, unknown>[] = [];
      for (const statement of statements) {
        rows = (await client.query(statement)).rows;
      }
      return rows;
    });
  }

  pid(victim: Victim): number {
    const [kind, id] = split(victim);
    const file = {
      pageserver: ["pageserver_1", "pageserver.pid"],
      broker: ["storage_broker", "storage_broker.pid"],
      control_plane: ["control_plane", "control_plane.pid"],
      proxy: ["proxy", "proxy.pid"],
      safekeeper: ["safekeepers", `sk${id}`, "safekeeper.pid"],
      agent: ["endpoints", id, "compute.pid"],
      postgres: [],
    }[kind]!;
    if (kind === "postgres") {
      return childPostmaster(this.pid(`agent-${id}`));
    }
    return Number.parseInt(readFileSync(join(this.home, ...file), "utf8"), 10);
  }

  /** SIGKILL, and waits until the process is gone. */
  async kill9(victim: Victim): Promise<void> {
    const pid = this.pid(victim);
    process.kill(pid, "SIGKILL");
    for (let i = 0; i < 500 && isAlive(pid); i++) {
      await sleep(10);
    }
    assert.ok(!isAlive(pid), `${victim} ${pid} survived SIGKILL`);
  }

  /** The pageserver, which does not run, gets a new machine: its directory is empty. */
  loseDisk(): void {
    const directory = join(this.home, "pageserver_1");
    for (const name of readdirSync(directory)) {
      rmSync(join(directory, name), { recursive: true });
    }
  }

  config(): {
    pageservers: { listenHttpAddr: string; listenPgAddr: string }[];
    safekeepers: { listenHttpAddr: string; listenPgAddr: string }[];
    proxy: { listenHttpAddr: string; listenPgAddr: string };
  } {
    return JSON.parse(readFileSync(join(this.home, "config.json"), "utf8"));
  }

  /** A whole log, by its path below the home. */
  log(path: string): string {
    return readFileSync(join(this.home, path), "utf8");
  }

  /** The last lines of every log, for the message of a failed assertion. */
  logTails(lines = 12): string {
    const tails: string[] = [];
    const walk = (directory: string, depth: number) => {
      for (const entry of readdirSync(directory, { withFileTypes: true })) {
        const path = join(directory, entry.name);
        if (entry.isDirectory() && depth < 3 && entry.name !== "pgdata") {
          walk(path, depth + 1);
        } else if (entry.name.endsWith(".log")) {
          tails.push(`--- ${path}`, ...readFileSync(path, "utf8").trim().split("\n").slice(-lines));
        }
      }
    };
    try {
      walk(this.home, 0);
    } catch (error) {
      tails.push(String(error));
    }
    return tails.join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (existsSync(this.home)) {
      const stopped = await this.cli("stop", "--mode", "immediate");
      if (stopped.code !== 0) {
        console.error(`strata stop failed: ${stopped.stderr}`);
      }
    }
    if (process.env["STRATA_KEEP"] === undefined) {
      rmSync(join(this.home, ".."), { recursive: true, force: true, maxRetries: 5 });
    }
  }
}

function split(victim: Victim): [string, string] {
  const dash = victim.indexOf("-");
  return dash < 0 ? [victim, ""] : [victim.slice(0, dash), victim.slice(dash + 1)];
}

function isAlive(pid: number): boolean {
  try {
    // A zombie still answers signal 0; its state says that it is dead.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** The postgres process whose parent is the agent. */
function childPostmaster(agent: number): number {
  for (const name of readdirSync("/proc")) {
    if (/^\d+$/.test(name)) {
      try {
        const status = readFileSync(`/proc/${name}/status`, "utf8");
        if (status.includes(`PPid:\t${agent}\n`) && /^Name:\s+postgres$/m.test(status)) {
          return Number(name);
        }
      } catch {
        // Gone meanwhile.
      }
    }
  }
  throw new Error(`agent ${agent} has no postgres`);
}
