// A whole home: is made, started, stopped, and looked at.

import type { StopMode } from "../base/daemon.ts";
import { errorKind, errorMessage, StorageError } from "../base/errors.ts";
import { DEFAULT_MAJOR, findInstallation } from "../postgres/installation.ts";
import { removeUnfinished } from "./branches.ts";
import { DEFAULT_WARM_AGENTS, type InitSettings, type StrataConfig } from "./config.ts";
import { ensureCredentials } from "./credentials.ts";
import { type Daemon, daemonState, type Print, stopDaemon } from "./daemon.ts";
import { stopAndKeep } from "./endpoint-stop.ts";
import {
  allEndpoints,
  connectionUrl,
  damagedEndpoints,
  destroyEndpoint,
  endpointState,
  httpAddressOf,
  listEndpoints,
} from "./endpoints.ts";
import type { ForceInit, StrataHome } from "./home.ts";
import { daemonsOfHome, type RunningDaemon, stopLeftOver } from "./left-over.ts";
import { chooseAddresses, chooseControlPlaneAddress, chooseProxyAddresses } from "./port-choice.ts";
import { ensureServiceKeys } from "./service-keys.ts";
import { frontDaemons, pageserverDaemon, startServices, storageDaemons } from "./services.ts";
import { strataCommand } from "./strata-command.ts";
import { renewCertificates } from "./tls/renewal.ts";
import { ensureServiceCertificates } from "./tls/service-certificates.ts";

/** Creates the home. The directory must be empty or absent unless `force` says otherwise. */
export async function initHome(
  home: StrataHome,
  settings: InitSettings,
  safekeepers: number,
  force: ForceInit = "empty-dir-ok",
): Promise<StrataConfig> {
  // Found now rather than at the first tenant: a missing or wrong Postgres is an error of `init`.
  findInstallation(settings.pgVersion ?? DEFAULT_MAJOR, { pgBin: settings.pgBin });
  if (force === "remove-all-contents" || !home.isInitialized()) {
    refuseWhileRunning(home);
  }
  if (force === "remove-all-contents") {
    // Their runtime directories can lie outside of the home.
    allEndpoints(home).forEach(destroyEndpoint);
  }
  const config = home.create(settings, await chooseAddresses(settings, safekeepers), force);
  ensureCredentials(home);
  ensureServiceKeys(home);
  home.identify();
  await ensureServiceCertificates(home, config);
  return config;
}

/** Whatever the files say: they may be those of a home that was deleted while it ran. */
function refuseWhileRunning(home: StrataHome): void {
  const running = daemonsOfHome(home.path);
  if (running.length > 0) {
    const names = running.map(({ component, pid }) => `${component} (pid ${pid})`).join(", ");
    throw new StorageError(
      "conflict",
      "still-running",
      `'${home.path}' is in use by ${names}: run '${strataCommand()} stop' first`,
    );
  }
}

export async function startAll(
  home: StrataHome,
  options: {
    timeoutMs: number;
    print: Print;
    warmAgents?: number | undefined;
    deletedProjectRetentionSeconds?: number | undefined;
  },
): Promise<void> {
  await setWarmAgents(home, options.warmAgents);
  const { deletedProjectRetentionSeconds: retention } = options;
  if (retention !== undefined) {
    // The control plane looks there whenever a project is deleted.
    home.updateSettings((draft) => {
      draft.deletedProjectRetentionSeconds = retention;
    });
  }
  const config = await adoptFront(home);
  home.makePrivate(config);
  await adoptCredentials(home, config);
  ensureServiceKeys(home);
  home.identify();
  await renewCertificates(home, config);
  const daemons = [...storageDaemons(home, config), ...frontDaemons(home, config)];
  await startServices(daemons, options);
  options.print("Running strata status check");
  for (const daemon of daemons) {
    if (!(await daemon.probe())) {
      throw new StorageError("unavailable", "not-answering", `${daemon.name} does not answer`);
    }
  }
  // Somebody who was away may be back.
  await removeUnfinished(home);
  options.print("Strata started and passed status check");
}

/** Kept in the home; a control plane that runs is started again for it. */
async function setWarmAgents(home: StrataHome, wanted: number | undefined): Promise<void> {
  const before = home.config();
  if (wanted === undefined || wanted === (before.warmAgents ?? DEFAULT_WARM_AGENTS)) {
    return;
  }
  home.updateSettings((draft) => {
    draft.warmAgents = wanted;
  });
  const [controlPlane] = frontDaemons(home, before);
  if (controlPlane !== undefined && daemonState(controlPlane).state === "running") {
    await stopDaemon(controlPlane, "fast", () => {});
  }
}

/** A home of an earlier version has its state elsewhere, no control plane yet, or no proxy. */
async function adoptFront(home: StrataHome): Promise<StrataConfig> {
  home.takeOver();
  let config = home.config();
  if (config.controlPlane === undefined) {
    const listenAddr = await chooseControlPlaneAddress(config);
    config = home.updateSettings((draft) => {
      draft.controlPlane = { listenAddr };
    });
  }
  if (config.proxy === undefined) {
    const proxy = await chooseProxyAddresses(config);
    config = home.updateSettings((draft) => {
      draft.proxy = proxy;
    });
  }
  return config;
}

/** A pageserver that runs in a home of an earlier version does not give new roots the password. */
async function adoptCredentials(home: StrataHome, config: StrataConfig): Promise<void> {
  if (ensureCredentials(home)) {
    for (const node of config.pageservers) {
      const daemon = pageserverDaemon(home, config, node);
      if (daemonState(daemon).state === "running") {
        await stopDaemon(daemon, "fast", () => {});
      }
    }
  }
}

/**
 * Stops the front, every endpoint, then the storage, then whatever else of this home still runs: its files may be
 * damaged or gone. Goes on after a failure, so that one stuck daemon does not keep the others up.
 */
export async function stopAll(home: StrataHome, mode: StopMode, say: Print): Promise<void> {
  const failures: unknown[] = [];
  const attempt = async (work: () => Promise<unknown>) => {
    try {
      await work();
    } catch (error) {
      failures.push(error);
    }
  };
  await attempt(async () => {
    // Else they would start endpoints again that have just been stopped.
    for (const daemon of frontDaemons(home, home.config()).toReversed()) {
      await attempt(() => stopDaemon(daemon, mode, say));
    }
  });
  const endpoints = allEndpoints(home);
  await Promise.all(endpoints.map((one) => attempt(() => stopAndKeep(home, one, mode, say))));
  await attempt(async () => {
    // The pageserver before the safekeepers that feed it, the broker last.
    const [broker, ...others] = storageDaemons(home, home.config());
    for (const daemon of [...others, broker!]) {
      await attempt(() => stopDaemon(daemon, mode, say));
    }
  });
  const leftOver = daemonsOfHome(home.path);
  for (const daemon of leftOver) {
    await attempt(() => stopLeftOver(daemon, mode, say));
  }
  // A home that is not there has been stopped where there was something to stop.
  const problems = failures.filter(
    (error) => !(leftOver.length > 0 && errorKind(error) === "not-found"),
  );
  if (problems.length === 1) {
    throw problems[0];
  }
  if (problems.length > 1) {
    const messages = problems.map(errorMessage).join("; ");
    throw new StorageError("unavailable", "stop-failed", messages, { cause: problems[0] });
  }
}

export interface ServiceStatus {
  readonly name: string;
  /** Empty where nobody knows. */
  readonly address: string;
  /** `host:port` of its HTTP API; null where it has none or nobody knows. */
  readonly http_address: string | null;
  readonly status: string;
  readonly pid: number | null;
}

export interface HomeStatus {
  readonly services: readonly ServiceStatus[];
  /** What a person should look at. */
  readonly problems: readonly string[];
}

/** StorageError `not-found` where there neither is a home nor anything of one that still runs. */
export async function homeStatus(home: StrataHome): Promise<HomeStatus> {
  const running = daemonsOfHome(home.path);
  const services: ServiceStatus[] = [];
  const problems: string[] = [];
  try {
    const config = home.config();
    for (const daemon of [...storageDaemons(home, config), ...frontDaemons(home, config)]) {
      services.push(await serviceStatus(daemon));
    }
  } catch (error) {
    if (running.length === 0) {
      throw error;
    }
    problems.push(errorMessage(error));
  }
  for (const endpoint of listEndpoints(home)) {
    services.push({
      name: `endpoint ${endpoint.id}`,
      address: connectionUrl(home, endpoint),
      http_address: httpAddressOf(endpoint),
      ...withPid(endpointState(endpoint)),
    });
  }
  for (const endpoint of damagedEndpoints(home)) {
    const { pid } = withPid(endpointState(endpoint));
    const name = `endpoint ${endpoint.id}`;
    services.push({ name, address: "", http_address: null, status: "damaged", pid });
    problems.push(`endpoint ${endpoint.id}: ${errorMessage(endpoint.problem)}`);
  }
  const known = new Set(services.map(({ pid }) => pid));
  // Those that wait are the control plane's, and end with it.
  const waiting = services.some(({ name, pid }) => name === "control_plane" && pid !== null)
    ? home.endpointsDirectory()
    : undefined;
  const unknown = running.filter(({ pid, workdir }) => !known.has(pid) && workdir !== waiting);
  services.push(...unknown.map(leftOverStatus));
  if (unknown.length > 0) {
    problems.push(`some run without their files; '${strataCommand()} stop' ends them`);
  }
  return { services, problems };
}

async function serviceStatus(daemon: Daemon): Promise<ServiceStatus> {
  const state = withPid(daemonState(daemon));
  const silent = state.pid !== null && !(await daemon.probe());
  return {
    name: daemon.name,
    address: daemon.addresses[0]!,
    http_address: daemon.addresses[1] ?? null,
    ...state,
    ...(silent ? { status: "not answering" } : {}),
  };
}

function withPid(state: ReturnType<typeof daemonState>): { status: string; pid: number | null } {
  return { status: state.state, pid: state.state === "running" ? state.pid : null };
}

function leftOverStatus({ component, pid, workdir }: RunningDaemon): ServiceStatus {
  const name = `${component} in ${workdir}`;
  return { name, address: "", http_address: null, status: "left over", pid };
}
