// endpoint and psql.

import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";

import { delimiter, join, resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";

import type { StopMode } from "../base/daemon.ts";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { LOCAL_CACHE, PREWARM } from "../compute/api.ts";
import { resolvePoint } from "../local/branches/point-in-time.ts";
import {
  branchNames,
  DEFAULT_BRANCH_NAME,
  majorOf,
  resolveBranch,
  resolveTenant,
} from "../local/branches.ts";
import { controllerOf } from "../local/controller.ts";
import { stopAndKeep } from "../local/endpoint-stop.ts";
import { startWithLocks } from "../local/endpoints/start-endpoint.ts";
import {
  connectionUrl,
  createEndpoint,
  damagedEndpoints,
  defaultEndpointId,
  destroyEndpoint,
  type Endpoint,
  endpointState,
  findEndpoint,
  findEvenDamaged,
  httpAddressOf,
  listEndpoints,
  setEndpointSettings,
  setExtensionDirectory,
  socketAddress,
} from "../local/endpoints.ts";
import type { StrataHome } from "../local/home.ts";
import { strataCommand } from "../local/strata-command.ts";
import { SUPERUSER } from "../postgres/installation.ts";
import {
  group,
  jsonOption,
  notice,
  noticeEndpointWait,
  openHome,
  parsePort,
  parseSetting,
  print,
  printJson,
  startTimeoutOption,
  stopModeOption,
  tenantOption,
  withEndpointLocked,
  withHomeLocked,
} from "./cli.ts";
import { addEndpointLogsCommand } from "./endpoints/commands-logs.ts";
import { addEndpointPromoteCommand } from "./endpoints/commands-promote.ts";
import { formatTable } from "./output.ts";

interface EndpointCreateOptions {
  tenantId?: string;
  branchName: string;
  at?: string;
  lsn?: string;
  replica?: boolean;
  hotStandby?: boolean;
  pgPort?: number;
  internalHttpPort?: number;
  allowMultiple?: boolean;
  localCache?: string;
  prewarm?: boolean;
  extensionDir?: string;
  config?: Record<string, string>;
}

function localCacheOption(): Option {
  return new Option(
    "--local-cache <size>",
    "limit of what its disk holds of unchanged data, such as 64MB; 0: none (the default)",
  );
}

function prewarmOption(): Option {
  return new Option(
    "--prewarm",
    "after a start, read again in the background what was in memory at the last stop",
  );
}

function extensionDirOption(): Option {
  return new Option(
    "--extension-dir <dir>",
    "extensions of your own: share/extension/*.control and *.sql, lib/*.so",
  );
}

function hotStandbyOption(): Option {
  const option = new Option("--hot-standby <boolean>", "--replica of neon_local");
  return option.argParser(parseBoolean).hideHelp();
}

function parseBoolean(text: string): boolean {
  if (text !== "true" && text !== "false") {
    throw new InvalidArgumentError("expected true or false");
  }
  return text === "true";
}

/** Settings of ours, as far as options name them. */
function chosenSettings(options: {
  localCache?: string;
  prewarm?: boolean;
}): Record<string, string> {
  return {
    ...(options.localCache === undefined ? {} : { [LOCAL_CACHE]: options.localCache }),
    ...(options.prewarm === undefined ? {} : { [PREWARM]: options.prewarm ? "on" : "off" }),
  };
}

interface EndpointStartOptions {
  startTimeout: number;
  allowMultiple?: boolean;
  localCache?: string;
  prewarm?: boolean;
  /** False: none any more. */
  extensionDir?: string | false;
}

export function addEndpointCommands(program: Command): void {
  const endpoint = group(program, "endpoint", "Postgres on a branch");
  endpoint
    .command("list")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action((options: { tenantId?: string; json?: boolean }) =>
      showEndpoints(openHome(), options.tenantId, options.json === true),
    );
  endpoint
    .command("create")
    .argument("[id]", "default: ep-<branch>")
    .addOption(tenantOption())
    .option("--branch-name <name>", "branch it is on", DEFAULT_BRANCH_NAME)
    .option("--at <lsn|time>", "read-only, as of then")
    .option("--replica", "read-only, follows the branch's head")
    .addOption(hotStandbyOption())
    .addOption(new Option("--lsn <lsn>", "--at of neon_local").hideHelp().conflicts("at"))
    .option("--pg-port <port>", "of Postgres (default: the next free one)", parsePort)
    .option("--internal-http-port <port>", "of its agent (default: the next free one)", parsePort)
    .option("--allow-multiple", "even if the branch has a primary endpoint already")
    .addOption(localCacheOption())
    .addOption(prewarmOption())
    .addOption(extensionDirOption())
    .option("-c, --config <key=value>", "a Postgres setting; can be repeated", parseSetting)
    .action((id: string | undefined, options: EndpointCreateOptions) =>
      create(openHome(), id, options),
    );
  endpoint
    .command("start")
    .argument("<id>")
    .addOption(startTimeoutOption("90s"))
    .option("--allow-multiple", "even if another primary runs on the branch")
    .addOption(localCacheOption())
    .addOption(prewarmOption())
    .option("--no-prewarm", "from now on not any more")
    .addOption(extensionDirOption())
    .option("--no-extension-dir", "from now on not any more")
    .action(async (id: string, options: EndpointStartOptions) => {
      const home = openHome();
      const found = await changeEndpoint(home, id, options);
      await startAndTell(home, found, options.startTimeout, options.allowMultiple === true);
    });
  endpoint
    .command("stop")
    .argument("<id>")
    .addOption(stopModeOption())
    .option("--destroy", "also remove its directory; the data is in the storage")
    .action(async (id: string, options: { mode: StopMode; destroy?: boolean }) => {
      const home = openHome();
      const found = findEvenDamaged(home, id);
      await stopAndKeep(
        home,
        found,
        options.mode,
        () => {},
        (lsn) => {
          print(lsn ?? "null");
          if (options.destroy === true) {
            print(`Destroying postgres data directory '${join(found.directory, "pgdata")}'`);
            destroyEndpoint(found);
          }
        },
      );
    });
  addEndpointPromoteCommand(endpoint);
  addEndpointLogsCommand(endpoint);
}

/** Into the endpoint's specification; how the endpoint is then. */
async function changeEndpoint(
  home: StrataHome,
  id: string,
  options: EndpointStartOptions,
): Promise<Endpoint> {
  const changes = chosenSettings(options);
  const { extensionDir } = options;
  if (Object.keys(changes).length === 0 && extensionDir === undefined) {
    return findEndpoint(home, id);
  }
  await withEndpointLocked(home, id, async () => {
    const endpoint = findEndpoint(home, id);
    if (extensionDir !== undefined) {
      setExtensionDirectory(endpoint, extensionDir === false ? undefined : resolve(extensionDir));
    }
    if (Object.keys(changes).length > 0) {
      const changed = findEndpoint(home, id);
      setEndpointSettings(changed, { ...changed.spec.settings, ...changes });
    }
  });
  const endpoint = findEndpoint(home, id);
  if (endpointState(endpoint).state === "running") {
    notice(`endpoint ${id} runs: what was changed counts from its next start on`);
  }
  return endpoint;
}

async function create(
  home: StrataHome,
  id: string | undefined,
  options: EndpointCreateOptions,
): Promise<void> {
  await withHomeLocked(home, async () => {
    const config = home.config();
    const tenantId = resolveTenant(config, options.tenantId);
    const timelineId = resolveBranch(config, tenantId, options.branchName);
    const at = options.at ?? options.lsn;
    const replica = options.replica === true || options.hotStandby === true;
    if (replica && at !== undefined) {
      const message = "a replica follows the head: --replica goes without --at and --lsn";
      throw new StorageError("invalid", "replica-at-lsn", message);
    }
    const branch = { tenantId, timelineId, name: options.branchName };
    const staticLsn = at === undefined ? undefined : await resolvePoint(home, branch, at, notice);
    const wanted = {
      id: id ?? defaultEndpointId(options.branchName),
      tenantId,
      timelineId,
      pgVersion: await majorOf(home, tenantId, timelineId),
      staticLsn,
      replica,
      pgPort: options.pgPort,
      internalHttpPort: options.internalHttpPort,
      allowMultiple: options.allowMultiple,
      settings: { ...options.config, ...chosenSettings(options) },
      extensionDir: options.extensionDir === undefined ? undefined : resolve(options.extensionDir),
    };
    if (staticLsn !== undefined) {
      // Refused now where it is not kept any more; once it runs, its agent holds it.
      await controllerOf(home).leaseLsn(tenantId, timelineId, staticLsn);
    }
    await createEndpoint(home, wanted, controllerOf(home).placementOf(tenantId, timelineId));
  });
}

async function startAndTell(
  home: StrataHome,
  endpoint: Endpoint,
  timeoutMs: number,
  allowMultiple: boolean,
): Promise<void> {
  const wasRunning = endpointState(endpoint).state === "running";
  if (!wasRunning) {
    print(`Starting existing endpoint ${endpoint.id}...`);
  }
  let started: Endpoint;
  try {
    started = await startWithLocks(home, endpoint, {
      timeoutMs,
      allowMultiple,
      print: wasRunning ? print : () => {},
      onPortMoved: notice,
      onWait: () => noticeEndpointWait(endpoint.id),
    });
  } catch (error) {
    // Where its branch is archived, the pageserver says so, and that tells more than the agent's log.
    const { tenantId, timelineId } = endpoint.spec;
    const ids = [parseTenantId(tenantId), parseTimelineId(timelineId)] as const;
    const asked: unknown = await controllerOf(home)
      .timeline(...ids)
      .catch((why: unknown) => why);
    throw asked instanceof StorageError && asked.code === "timeline-archived" ? asked : error;
  }
  if (!wasRunning) {
    print(`Starting postgres node at '${connectionUrl(home, started)}'`);
  }
}

function showEndpoints(home: StrataHome, givenTenant: string | undefined, json: boolean): void {
  const config = home.config();
  const tenantId = resolveTenant(config, givenTenant);
  const names = branchNames(config, tenantId);
  for (const { id, problem } of damagedEndpoints(home)) {
    notice(`endpoint ${id}: ${problem.message}`);
  }
  const rows = listEndpoints(home)
    .filter(({ spec }) => spec.tenantId === tenantId)
    .map((endpoint) => ({
      id: endpoint.id,
      address: `${endpoint.spec.pgHost}:${endpoint.spec.pgPort}`,
      timeline_id: endpoint.spec.timelineId,
      branch_name: names.get(endpoint.spec.timelineId) ?? null,
      kind: kindOf(endpoint),
      lsn: typeof endpoint.spec.mode === "string" ? null : endpoint.spec.mode.static,
      status: endpointState(endpoint).state,
      pg_version: endpoint.spec.pgVersion,
      connection_uri: connectionUrl(home, endpoint),
      internal_http_address: httpAddressOf(endpoint),
    }));
  if (json) {
    printJson(rows);
    return;
  }
  print(
    formatTable(
      ["ENDPOINT", "ADDRESS", "TIMELINE", "BRANCH NAME", "KIND", "LSN", "STATUS", "PG"],
      rows.map((row) => [
        row.id,
        row.address,
        row.timeline_id,
        row.branch_name ?? "?",
        row.kind,
        row.lsn ?? "---",
        row.status,
        `${row.pg_version}`,
      ]),
    ),
  );
}

function kindOf({ spec }: Endpoint): "primary" | "replica" | "static" {
  return typeof spec.mode === "string" ? spec.mode : "static";
}

export function addPsqlCommand(program: Command): void {
  program
    .command("psql")
    .description("run psql on an endpoint; words after -- go to psql (without psql: -c SQL only)")
    .argument("[endpoint]", "default: main, or the only one that runs")
    .argument("[arguments...]", "for psql")
    .option("-d, --database <name>", "database", "postgres")
    .passThroughOptions()
    .action((id: string | undefined, args: string[], options: { database: string }) => {
      const { endpointId, psqlArgs } = splitPsqlWords(id, args, process.argv);
      const home = openHome();
      return runPsql(home, pickEndpoint(home, endpointId), options.database, psqlArgs);
    });
}

/**
 * What `psql [ENDPOINT] [-- args]` means, from the raw words: `psql -- -c 'select 1'` names no
 * endpoint, although the parser takes the first word after the dashes for one.
 */
export function splitPsqlWords(
  first: string | undefined,
  rest: readonly string[],
  argv: readonly string[],
): { endpointId: string | undefined; psqlArgs: readonly string[] } {
  const dashes = argv.indexOf("--");
  if (dashes === -1) {
    return { endpointId: first, psqlArgs: rest };
  }
  const before = argv.slice(argv.indexOf("psql") + 1, dashes);
  const named = first !== undefined && before.includes(first);
  return { endpointId: named ? first : undefined, psqlArgs: argv.slice(dashes + 1) };
}

function pickEndpoint(home: StrataHome, id: string | undefined): Endpoint {
  home.config();
  if (id !== undefined) {
    const endpoint = findEndpoint(home, id);
    if (endpointState(endpoint).state !== "running") {
      throw new StorageError(
        "unavailable",
        "endpoint-not-running",
        `endpoint ${id} is not running: '${strataCommand()} endpoint start ${id}'`,
      );
    }
    return endpoint;
  }
  const running = listEndpoints(home).filter((one) => endpointState(one).state === "running");
  const chosen =
    running.find((endpoint) => endpoint.id === "main") ??
    (running.length === 1 ? running[0] : undefined);
  if (chosen === undefined) {
    throw new StorageError(
      "unavailable",
      "which-endpoint",
      running.length === 0
        ? `no endpoint is running: '${strataCommand()} up', or '${strataCommand()} endpoint start ID'`
        : `name an endpoint: ${running.map((endpoint) => endpoint.id).join(", ")}`,
    );
  }
  return chosen;
}

function findOnPath(program: string): string | undefined {
  for (const directory of (process.env["PATH"] ?? "").split(delimiter)) {
    const path = join(directory, program);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** Over the unix socket: arguments and environment of a process are no place for a password. */
async function runPsql(
  home: StrataHome,
  endpoint: Endpoint,
  database: string,
  args: readonly string[],
): Promise<void> {
  const psql = findOnPath("psql");
  const { host, port } = socketAddress(endpoint);
  if (psql === undefined) {
    const { runStatements, statementsOf } = await import("./sql-client.ts");
    const statements = statementsOf(args);
    if (statements !== undefined) {
      const connection = { host, port, user: SUPERUSER, database };
      process.exitCode = await runStatements(connection, statements, { out: print, error: notice });
      return;
    }
    const url = connectionUrl(home, endpoint, database);
    print(`psql was not found. Connect any client to ${url}`);
    notice(
      `'${strataCommand()} psql -- -c SQL' works without it; 'apt install postgresql-client' brings it on Debian and Ubuntu`,
    );
    process.exitCode = 1;
    return;
  }
  const options = ["-h", host, "-p", `${port}`, "-U", SUPERUSER, "-d", database];
  // Ctrl-C in psql cancels a query; it is not for us.
  process.on("SIGINT", () => {});
  const child = spawn(psql, [...options, ...args], { stdio: "inherit" });
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => resolve(code ?? 1));
  });
}
