// `strata up`: everything in one command, until Ctrl-C.

import type { Command } from "commander";
import { monotonicMs, setRepeatingTimer } from "../base/clock.ts";
import { errorMessage } from "../base/errors.ts";
import { serviceUrl } from "../base/network/service-tls.ts";
import { createTenant } from "../local/branches/create-branch.ts";
import { DEFAULT_BRANCH_NAME, majorOf, resolveBranch, resolveTenant } from "../local/branches.ts";
import { controllerOf } from "../local/controller.ts";
import { daemonState } from "../local/daemon.ts";
import { startWithLocks } from "../local/endpoints/start-endpoint.ts";
import {
  connectionUrl,
  createEndpoint,
  type Endpoint,
  endpointState,
  freeEndpointId,
  listEndpoints,
} from "../local/endpoints.ts";
import type { StrataHome } from "../local/home.ts";
import { initHome, startAll, stopAll } from "../local/lifecycle.ts";
import { storageDaemons } from "../local/services.ts";
import { strataCommand } from "../local/strata-command.ts";
import { DEFAULT_MAJOR } from "../postgres/installation.ts";
import {
  notice,
  noticeEndpointWait,
  openHome,
  parseCount,
  parseDuration,
  print,
  withHomeLocked,
} from "./cli.ts";
import { coloursFor } from "./colours.ts";
import { settingsOf } from "./commands-storage.ts";
import { connectionString } from "./control-plane/commands-roles.ts";
import { controlPlaneClient } from "./control-plane/session.ts";

const ENDPOINT_ID = "main";
/** As the API names those of new projects. */
const USER_ROLE = "neondb_owner";
const USER_DATABASE = "neondb";
/** The signal of one Ctrl-C can come twice: from the terminal and from the process above us. */
const SAME_SIGNAL_MS = 500;
const WATCH_INTERVAL_MS = 2000;

export function addUpCommand(program: Command): void {
  program
    .command("up")
    .description("init, start, and Postgres on branch main; runs until Ctrl-C, data stays")
    .option("--safekeepers <n>", "number of safekeepers, the first time (default: 1)", parseCount)
    .option(
      "--pg-version <major>",
      `PostgreSQL major, the first time (default: ${DEFAULT_MAJOR})`,
      parseCount,
    )
    .option("--detach", "return once everything runs ('strata stop' ends it)")
    .action((options: { safekeepers?: number; pgVersion?: number; detach?: boolean }) =>
      up(openHome(), options),
    );
}

async function up(
  home: StrataHome,
  options: { safekeepers?: number; pgVersion?: number; detach?: boolean },
): Promise<void> {
  const stop = new StopRequest();
  const ranBefore = anythingRuns(home);
  let endpoint: Endpoint;
  try {
    endpoint = await bringUp(home, options, stop);
  } catch (error) {
    // What this command started does not outlive its failure.
    if (home.isInitialized() && (stop.requested || !ranBefore)) {
      await shutDown(home, stop);
    }
    if (stop.requested) {
      return;
    }
    throw error;
  }
  if (!stop.requested) {
    tellHowToUse(home, endpoint, options.detach === true);
    // Behind the URL: the first time, a role and a database are made for it.
    await tellFront(home, endpoint);
  }
  if (options.detach === true && !stop.requested) {
    return;
  }
  const timer = setRepeatingTimer(() => reportEnded(endpoint), WATCH_INTERVAL_MS);
  await stop.wait();
  timer?.cancel();
  await shutDown(home, stop);
}

function anythingRuns(home: StrataHome): boolean {
  return (
    home.isInitialized() &&
    storageDaemons(home, home.config()).some((daemon) => daemonState(daemon).state === "running")
  );
}

async function bringUp(
  home: StrataHome,
  options: { safekeepers?: number; pgVersion?: number },
  stop: StopRequest,
): Promise<Endpoint> {
  const endpoint = await withHomeLocked(
    home,
    async () => {
      if (!home.isInitialized()) {
        await step(`Creating ${home.path}`, () =>
          initHome(home, settingsOf(options), options.safekeepers ?? 1),
        );
      }
      stop.check();
      await step("Starting storage", () =>
        startAll(home, { timeoutMs: parseDuration("60s"), print: () => {} }),
      );
      stop.check();
      if (home.config().defaultTenantId === undefined) {
        // The first time, this runs initdb.
        await step("Creating the first database", () =>
          createTenant(home, { setDefault: true }, () => {}),
        );
      }
      stop.check();
      return findOrCreateEndpoint(home);
    },
    { makesHome: true },
  );
  return step("Starting Postgres", () =>
    startWithLocks(home, endpoint, {
      timeoutMs: parseDuration("90s"),
      print: () => {},
      onPortMoved: notice,
      onWait: () => noticeEndpointWait(endpoint.id),
    }),
  );
}

async function findOrCreateEndpoint(home: StrataHome): Promise<Endpoint> {
  const endpoints = listEndpoints(home);
  const config = home.config();
  const own = endpoints.find((endpoint) => endpoint.id === ENDPOINT_ID);
  // Where another one was promoted, its own is a replica.
  const isReader = own !== undefined && own.spec.mode !== "primary";
  if (own !== undefined && !isReader && !config.deletedTenants.has(own.spec.tenantId)) {
    return own;
  }
  const tenantId = resolveTenant(config, undefined);
  const timelineId = resolveBranch(config, tenantId, DEFAULT_BRANCH_NAME);
  const primary = endpoints.find(
    ({ spec }) =>
      spec.tenantId === tenantId && spec.timelineId === timelineId && spec.mode === "primary",
  );
  if (primary !== undefined) {
    return primary;
  }
  // The name may be that of a deleted project, which takes it along when it comes back.
  const id = own === undefined ? ENDPOINT_ID : freeEndpointId(home, DEFAULT_BRANCH_NAME);
  const pgVersion = await majorOf(home, tenantId, timelineId);
  const placement = controllerOf(home).placementOf(tenantId, timelineId);
  return createEndpoint(home, { id, tenantId, timelineId, pgVersion }, placement);
}

/** Lines about the ways in that need nothing of this machine; makes a user's role and database the first time. */
async function frontOf(home: StrataHome, endpoint: Endpoint): Promise<string[]> {
  const client = controlPlaneClient(home);
  const [project] = await client.projects({ tenantId: endpoint.spec.tenantId });
  const branches = project === undefined ? [] : await client.branches(project.id);
  const branch = branches.find((one) => one.default);
  if (project === undefined || branch === undefined) {
    return [];
  }
  if ((await client.databases(project.id, branch.id)).length === 0) {
    await step(`Creating role ${USER_ROLE} and database ${USER_DATABASE}`, async () => {
      const path = `/projects/${project.id}/branches/${branch.id}`;
      const roles = await client.roles(project.id, branch.id);
      if (!roles.some(({ name }) => name === USER_ROLE)) {
        await client.call("POST", `${path}/roles`, { role: { name: USER_ROLE } });
      }
      const database = { name: USER_DATABASE, owner_name: USER_ROLE };
      await client.call("POST", `${path}/databases`, { database });
    });
  }
  const uri = await connectionString(client, { projectId: project.id });
  const { controlPlane } = home.config();
  return [
    `  Through the proxy   ${uri}`,
    `  API                 ${serviceUrl(controlPlane!.listenAddr)}/api/v2, key in ${home.controlPlaneKeyFile()}`,
  ];
}

async function step<T>(what: string, work: () => Promise<T>): Promise<T> {
  const start = monotonicMs();
  const live = process.stderr.isTTY;
  const colours = coloursFor(process.stderr);
  if (live) {
    process.stderr.write(`${colours.dim("•")} ${what} ...`);
  }
  let result: T;
  try {
    result = await work();
  } catch (error) {
    if (live) {
      process.stderr.write(`\r${colours.red("✗")} ${what}    \n`);
    }
    throw error;
  }
  const took = colours.dim(`(${((monotonicMs() - start) / 1000).toFixed(1)} s)`);
  process.stderr.write(`${live ? "\r" : ""}${colours.green("✓")} ${what} ${took}\n`);
  return result;
}

/** That the proxy is not there takes nothing away from Postgres. */
async function tellFront(home: StrataHome, endpoint: Endpoint): Promise<void> {
  try {
    print(`  Console             ${await controlPlaneClient(home).loginLink()}`);
    print("");
    const front = await frontOf(home, endpoint);
    front.forEach(print);
    print("");
  } catch (error) {
    notice(`the way through the proxy is not there: ${errorMessage(error)}`);
  }
}

function tellHowToUse(home: StrataHome, endpoint: Endpoint, detached: boolean): void {
  const url = connectionUrl(home, endpoint);
  const strata = strataCommand();
  print("");
  print(`  Postgres is ready:  ${coloursFor(process.stdout).bold(url)}`);
  print("");
  print(`  Connect             ${strata} psql        (or: psql ${url})`);
  print(`  Branch              ${strata} branch create dev --start`);
  print(`  See all             ${strata} status, ${strata} branch list`);
  print(
    detached
      ? `  Stop                ${strata} stop`
      : "  Stop                Ctrl-C (the data stays)",
  );
  print("");
}

let reported = false;

function reportEnded(endpoint: Endpoint): void {
  if (!reported && endpointState(endpoint).state !== "running") {
    reported = true;
    notice(
      `endpoint ${endpoint.id} has stopped; '${strataCommand()} endpoint start ${endpoint.id}' starts it again`,
    );
  }
}

async function shutDown(home: StrataHome, stop: StopRequest): Promise<void> {
  notice("Stopping ...");
  const mode = () => (stop.insisted ? "immediate" : "fast");
  try {
    await withHomeLocked(home, () => stopAll(home, mode(), () => {}));
    notice("Stopped; the data stays");
  } catch (error) {
    notice(`command failed: ${errorMessage(error)}`);
    process.exitCode = 1;
  }
}

/** Ctrl-C or a termination signal; a second one asks for haste. */
class StopRequest {
  requested = false;
  insisted = false;
  #lastMs = -Infinity;
  readonly #asked = Promise.withResolvers<void>();

  constructor() {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      process.on(signal, () => this.#receive());
    }
  }

  #receive(): void {
    const now = monotonicMs();
    if (now - this.#lastMs < SAME_SIGNAL_MS) {
      return;
    }
    this.#lastMs = now;
    this.insisted = this.requested;
    this.requested = true;
    this.#asked.resolve();
  }

  check(): void {
    if (this.requested) {
      throw new Error("interrupted");
    }
  }

  wait(): Promise<void> {
    return this.#asked.promise;
  }
}
