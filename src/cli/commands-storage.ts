// init, start, stop, status, and the verbs of single storage daemons.

import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import type { StopMode } from "../base/daemon.ts";
import { StorageError } from "../base/errors.ts";
import { resolveBranch, resolveTenant } from "../local/branches.ts";
import {
  DEFAULT_WARM_AGENTS,
  type InitSettings,
  MAX_DELETED_PROJECT_RETENTION_SECONDS,
  MAX_WARM_AGENTS,
  parseInitSettings,
} from "../local/config.ts";
import { type Daemon, stopDaemon } from "../local/daemon.ts";
import type { ForceInit, StrataHome } from "../local/home.ts";
import { homeStatus, initHome, startAll, stopAll } from "../local/lifecycle.ts";
import {
  answersHttp,
  brokerDaemon,
  frontDaemons,
  pageserverDaemon,
  safekeeperDaemon,
  startService,
} from "../local/services.ts";
import { strataCommand } from "../local/strata-command.ts";
import { renewCertificates } from "../local/tls/renewal.ts";
import { DEFAULT_MAJOR } from "../postgres/installation.ts";
import { findNode } from "../storage-controller/storage-controller.ts";
import {
  group,
  jsonOption,
  notice,
  openHome,
  parseCount,
  parseDuration,
  print,
  printJson,
  startTimeoutOption,
  stopModeOption,
  tenantOption,
  withHomeLocked,
} from "./cli.ts";
import { formatTable } from "./output.ts";

interface InitOptions {
  config?: string;
  force?: ForceInit;
  numPageservers?: number;
  safekeepers?: number;
  pgVersion?: number;
  pgBin?: string;
  remoteStorage?: string;
  serviceTokens?: boolean;
}

interface StartOptions {
  readonly startTimeout: number;
  readonly warmAgents?: number;
  readonly deletedProjectRetention?: number;
}

export function addStorageCommands(program: Command): void {
  program
    .command("init")
    .description("create the configuration of a new Strata in .strata or $STRATA_HOME")
    .option("--safekeepers <n>", "number of safekeepers (default: 1)", parseCount)
    .option("--no-service-tokens", "storage daemons answer everybody who reaches their ports")
    .option("--num-pageservers <n>", "number of pageservers; only 1 for now", parseCount)
    .option(
      "--pg-version <major>",
      `PostgreSQL 14 to 18, of new roots that name none (default: ${DEFAULT_MAJOR})`,
      parseCount,
    )
    .option("--pg-bin <dir>", "bin directory of another unmodified PostgreSQL")
    .option(
      "--remote-storage <where>",
      "where pages and WAL are kept for good: a directory (default: object_store in the home) or s3://bucket/prefix?endpoint=...&region=...",
    )
    .option("--config <file>", "JSON with addresses and ports, as in .strata/config.json")
    .addOption(
      new Option("--force <how>", "what to do with an existing directory")
        .choices(["must-not-exist", "empty-dir-ok", "remove-all-contents"])
        .default("empty-dir-ok"),
    )
    .action(async (options: InitOptions) => {
      const home = openHome();
      await withHomeLocked(home, () => init(home, options), { makesHome: true });
    });
  program
    .command("start")
    .description("start the storage: broker, pageserver, safekeepers")
    .addOption(startTimeoutOption())
    .option(
      "--warm-agents <n>",
      `started agents that wait for an endpoint to wake; kept in the home (default: ${DEFAULT_WARM_AGENTS})`,
      parseWarmAgents,
    )
    .option(
      "--deleted-project-retention <duration>",
      "how long a project that is deleted from now on can be recovered; kept in the home (default: 7 days)",
      parseRetention,
    )
    .action(async (options: StartOptions) => {
      const home = openHome();
      await withHomeLocked(home, async () => {
        const { startTimeout: timeoutMs, warmAgents } = options;
        const deletedProjectRetentionSeconds = options.deletedProjectRetention;
        await startAll(home, { timeoutMs, print, warmAgents, deletedProjectRetentionSeconds });
      });
    });
  program
    .command("stop")
    .description("stop every endpoint, then the storage")
    .addOption(stopModeOption())
    .action(async (options: { mode: StopMode }) => {
      const home = openHome();
      await withHomeLocked(home, () => stopAll(home, options.mode, print));
    });
  program
    .command("status")
    .description("what runs, and where")
    .addOption(jsonOption())
    .action((options: { json?: boolean }) => showStatus(openHome(), options.json === true));
  addPageserverCommands(program);
  addSafekeeperCommands(program);
  addBrokerCommands(program);
  addProxyCommands(program);
}

function parseWarmAgents(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 0 || count > MAX_WARM_AGENTS) {
    throw new InvalidArgumentError(`a number from 0 to ${MAX_WARM_AGENTS} is wanted`);
  }
  return count;
}

/** In whole seconds. */
function parseRetention(text: string): number {
  const seconds = Math.ceil(parseDuration(text) / 1000);
  if (seconds > MAX_DELETED_PROJECT_RETENTION_SECONDS) {
    throw new InvalidArgumentError("at most 3650 days");
  }
  return seconds;
}

async function init(home: StrataHome, options: InitOptions): Promise<void> {
  if ((options.numPageservers ?? 1) !== 1) {
    throw new StorageError("unsupported", "one-pageserver", "only one pageserver is supported");
  }
  const config = await initHome(home, settingsOf(options), options.safekeepers ?? 1, options.force);
  for (const node of config.pageservers) {
    const place = `at '${node.listenPgAddr}' in "${home.pageserverDirectory(node.id)}"`;
    print(`Initializing pageserver node ${node.id} ${place}`);
  }
}

/** What the options say of a new home. StorageError where they contradict each other. */
export function settingsOf(options: InitOptions): InitSettings {
  if (options.config !== undefined && !existsSync(options.config)) {
    throw new StorageError("not-found", "no-file", `--config: no file '${options.config}'`);
  }
  const given: InitSettings =
    options.config === undefined
      ? {}
      : parseInitSettings(readFileSync(options.config, "utf8"), options.config);
  if (given.safekeepers !== undefined && options.safekeepers !== undefined) {
    throw new StorageError(
      "invalid",
      "safekeepers-twice",
      "--safekeepers and the safekeepers in --config exclude each other",
    );
  }
  return {
    ...given,
    ...(options.pgVersion === undefined ? {} : { pgVersion: options.pgVersion }),
    ...(options.pgBin === undefined ? {} : { pgBin: resolve(options.pgBin) }),
    ...(options.remoteStorage === undefined
      ? {}
      : { remoteStorage: storageLocation(options.remoteStorage) }),
    serviceTokens: options.serviceTokens === false ? false : (given.serviceTokens ?? true),
  };
}

/** A directory is the caller's, not the home's. */
function storageLocation(given: string): string {
  return given.includes("://") ? given : resolve(given);
}

async function showStatus(home: StrataHome, json: boolean): Promise<void> {
  const { services: rows, problems } = await homeStatus(home);
  problems.forEach(notice);
  if (json) {
    printJson(rows);
    return;
  }
  print(
    formatTable(
      ["SERVICE", "ADDRESS", "HTTP", "PID", "STATUS"],
      rows.map((row) => [
        row.name,
        row.address || "---",
        row.http_address ?? "---",
        row.pid === null ? "---" : `${row.pid}`,
        row.status,
      ]),
    ),
  );
}

interface ServiceVerbs {
  readonly command: Command;
  /** Adds the argument or option that picks one of several. */
  readonly pick: (verb: Command) => Command;
  readonly daemon: (home: StrataHome, picked: Picked) => Daemon;
}

interface Picked {
  readonly id: number;
}

/** start, stop and restart of one daemon. */
function addServiceVerbs(verbs: ServiceVerbs): void {
  const act = (
    verb: Command,
    action: (daemon: Daemon, options: { startTimeout: number; mode: StopMode }) => Promise<void>,
  ) =>
    verb.action(async (...received: unknown[]) => {
      const command = received.at(-1) as Command;
      const options = command.opts<{ id?: number; startTimeout: number; mode: StopMode }>();
      const argument = command.args[0];
      const id = argument === undefined ? (options.id ?? 1) : parseCount(argument);
      const home = openHome();
      await withHomeLocked(home, async () => {
        const daemon = verbs.daemon(home, { id });
        if (verb.name() !== "stop") {
          await renewCertificates(home);
        }
        await action(daemon, options);
      });
    });
  const start = (daemon: Daemon, options: { startTimeout: number }) =>
    startService(daemon, { timeoutMs: options.startTimeout, print });
  const verb = (name: string, what: string) => verbs.command.command(name).description(what);
  act(verbs.pick(verb("start", "start it").addOption(startTimeoutOption())), (daemon, options) =>
    start(daemon, options),
  );
  act(verbs.pick(verb("stop", "stop it").addOption(stopModeOption())), (daemon, options) =>
    stopDaemon(daemon, options.mode, print),
  );
  act(
    verbs.pick(
      verb("restart", "stop and start it")
        .addOption(stopModeOption())
        .addOption(startTimeoutOption()),
    ),
    async (daemon, options) => {
      await stopDaemon(daemon, options.mode, print);
      await start(daemon, options);
    },
  );
}

function addPageserverCommands(program: Command): void {
  const command = group(program, "pageserver", "the pageserver by itself");
  const daemon = (home: StrataHome, { id }: Picked) => {
    const config = home.config();
    return pageserverDaemon(home, config, findNode(config.pageservers, id, "pageserver"));
  };
  const pick = (verb: Command) => verb.option("--id <n>", "which one", parseCount, 1);
  addServiceVerbs({ command, pick, daemon });
  pick(command.command("status")).action(async (options: { id: number }) => {
    const home = openHome();
    const node = findNode(home.config().pageservers, options.id, "pageserver");
    if (!(await answersHttp(node.listenHttpAddr))) {
      throw new StorageError(
        "unavailable",
        "not-answering",
        `Page server is not available at ${node.listenHttpAddr}`,
      );
    }
    print("Page server is up and running");
  });
}

function addSafekeeperCommands(program: Command): void {
  const command = group(program, "safekeeper", "single safekeepers");
  addServiceVerbs({
    command,
    pick: (verb) => verb.argument("[id]", "which one (default: 1)"),
    daemon: (home, { id }) => {
      const config = home.config();
      return safekeeperDaemon(home, config, findNode(config.safekeepers, id, "safekeeper"));
    },
  });
  command
    .command("status")
    .argument("[id]", "which one (default: all)")
    .description("whether they answer, and how far each is with each timeline")
    .addOption(jsonOption())
    .action(async (argument: string | undefined, options: { json?: boolean }) => {
      const config = openHome().config();
      const id = argument === undefined ? undefined : parseCount(argument);
      const nodes =
        id === undefined ? config.safekeepers : [findNode(config.safekeepers, id, "safekeeper")];
      const { BAD_STATES, safekeeperPositions } = await import(
        "../storage-controller/safekeeper-positions.ts"
      );
      const { formatPositions } = await import("./safekeeper-list.ts");
      const found = await safekeeperPositions(config);
      const rows = found.rows.filter((row) => nodes.some((node) => node.id === row.safekeeper_id));
      const states = nodes.map((node) => ({ id: node.id, up: found.answering.has(node.id) }));
      if (options.json === true) {
        printJson({ safekeepers: states, timelines: rows });
      } else {
        for (const { id, up } of states) {
          print(`safekeeper ${id} ${up ? "is up and running" : "is not available"}`);
        }
        formatPositions(rows).forEach(print);
      }
      if (states.some(({ up }) => !up) || rows.some((row) => BAD_STATES.has(row.state))) {
        process.exitCode = 1;
      }
    });
  command
    .command("list")
    .description("how far each safekeeper is with each timeline; exit code 1 where one lacks one")
    .option("--branch-name <name>", "only this branch")
    .addOption(tenantOption())
    .addOption(jsonOption())
    .action(async (options: { branchName?: string; tenantId?: string; json?: boolean }) => {
      const config = openHome().config();
      const { BAD_STATES, safekeeperPositions } = await import(
        "../storage-controller/safekeeper-positions.ts"
      );
      const { formatPositions } = await import("./safekeeper-list.ts");
      const { rows } = await safekeeperPositions(config);
      const tenantId =
        options.tenantId === undefined && options.branchName === undefined
          ? undefined
          : resolveTenant(config, options.tenantId);
      const timelineId =
        tenantId === undefined || options.branchName === undefined
          ? undefined
          : resolveBranch(config, tenantId, options.branchName);
      const wanted = rows.filter(
        (row) =>
          (tenantId === undefined || row.tenant_id === tenantId) &&
          (timelineId === undefined || row.timeline_id === timelineId),
      );
      if (options.json === true) {
        printJson(wanted);
      } else {
        formatPositions(wanted).forEach(print);
      }
      if (wanted.some((row) => BAD_STATES.has(row.state))) {
        process.exitCode = 1;
      }
    });
}

function addProxyCommands(program: Command): void {
  const command = group(program, "proxy", "the proxy by itself");
  const daemon = (home: StrataHome) => {
    const found = frontDaemons(home, home.config()).find(({ name }) => name === "proxy");
    if (found === undefined) {
      throw new StorageError(
        "not-found",
        "no-proxy",
        `this home has no proxy yet: '${strataCommand()} start' gives it one`,
      );
    }
    return found;
  };
  addServiceVerbs({ command, pick: (verb) => verb, daemon });
}

function addBrokerCommands(program: Command): void {
  const command = group(program, "storage-broker", "the storage broker by itself");
  command.alias("storage_broker");
  const daemon = (home: StrataHome) => brokerDaemon(home, home.config());
  addServiceVerbs({ command, pick: (verb) => verb, daemon });
  command.command("status").action(async () => {
    const home = openHome();
    const up = await daemon(home).probe();
    print(`storage_broker ${up ? "is up and running" : "is not available"}`);
    if (!up) {
      notice(`its log is ${daemon(home).logFile}`);
      process.exitCode = 1;
    }
  });
}
