// Endpoints of a home: their directories, ports, and the agents that run in them.

import { existsSync, readdirSync, rmSync, statfsSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { StopMode } from "../base/daemon.ts";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import {
  CHECKED_POSTGRES_NAME,
  checkOwnSettings,
  type EndpointSpec,
  HOT_BLOCKS_NAME,
  isPrewarmed,
  POSTGRES_LOG_NAME,
  parseEndpointSpec,
  START_READS_NAME,
} from "../compute/api.ts";
import { ComputeClient } from "../compute/client.ts";
import { checkExtensionDirectory } from "../postgres/extension-directory.ts";
import {
  enterableDirectory,
  postgresSocketDirectory,
  removeWorkdir,
  SUPERUSER,
} from "../postgres/installation.ts";
import type { StorageNode } from "../storage-controller/controller-state.ts";
import type { TimelinePlacement } from "../storage-controller/storage-controller.ts";
import { requireNotDeleted } from "./branches/deleted-tenants.ts";
import { pgBinOf, type StrataConfig } from "./config.ts";
import { hasCredentials, secretToSet, superuserPassword } from "./credentials.ts";
import {
  type Daemon,
  type DaemonState,
  daemonState,
  joinRunning,
  type Print,
  type StartOptions,
  startDaemon,
  stopDaemon,
} from "./daemon.ts";
import { chooseEndpointPorts, type EndpointPorts } from "./endpoints/endpoint-ports.ts";
import type { StrataHome } from "./home.ts";
import type { LogSource } from "./logs/log-entries.ts";
import { adminTokenOf, agentAuthArguments, renewAgentToken } from "./service-keys.ts";
import { pageserverDaemon, safekeeperDaemon } from "./services.ts";
import { strataCommand } from "./strata-command.ts";
import { serviceTlsArguments } from "./tls/service-certificates.ts";

const HTTP_HOST = "127.0.0.1";
const PG_HOST = "127.0.0.1";
/** Above the 30 s that the agent gives Postgres for a shutdown checkpoint, which needs a majority. */
const TERMINATE_MS = { fast: 45_000, immediate: 5000 };

export interface Endpoint {
  readonly id: string;
  readonly directory: string;
  readonly spec: EndpointSpec;
}

/** One whose endpoint.json cannot be read. */
export interface DamagedEndpoint {
  readonly id: string;
  readonly directory: string;
  readonly problem: StorageError;
}

export interface NewEndpoint {
  readonly id: string;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** The timeline's major. */
  readonly pgVersion: number;
  /** Read-only at this LSN; absent: at the head. */
  readonly staticLsn?: Lsn | undefined;
  /** At the head: read-only, follows it; else a primary. */
  readonly replica?: boolean | undefined;
  readonly pgPort?: number | undefined;
  readonly internalHttpPort?: number | undefined;
  readonly allowMultiple?: boolean | undefined;
  readonly settings?: Record<string, string>;
  /** With extensions of one's own; absolute. */
  readonly extensionDir?: string | undefined;
}

export interface EndpointStartOptions extends StartOptions {
  readonly allowMultiple?: boolean | undefined;
}

/** With the password: for people and programs of this home's owner, over TCP. */
export function connectionUrl(home: StrataHome, endpoint: Endpoint, database = "postgres"): string {
  const { pgHost, pgPort } = endpoint.spec;
  const password = superuserPassword(home);
  const user = password === undefined ? SUPERUSER : `${SUPERUSER}:${encodeURIComponent(password)}`;
  return `postgresql://${user}@${pgHost}:${pgPort}/${encodeURIComponent(database)}`;
}

/** Where a program connects without a password: as libpq's host and port. */
export function socketAddress(endpoint: Endpoint): {
  readonly host: string;
  readonly port: number;
} {
  return { host: postgresSocketDirectory(endpoint.directory), port: endpoint.spec.pgPort };
}

/** Those whose endpoint.json can be read; the others are in damagedEndpoints(). */
export function listEndpoints(home: StrataHome): Endpoint[] {
  return allEndpoints(home).flatMap((one) => ("spec" in one ? [one] : []));
}

/** Of these nothing is known but where they are, and whether they run. */
export function damagedEndpoints(home: StrataHome): DamagedEndpoint[] {
  return allEndpoints(home).flatMap((one) => ("spec" in one ? [] : [one]));
}

/** Both at one moment. */
export function allEndpoints(home: StrataHome): (Endpoint | DamagedEndpoint)[] {
  const directory = home.endpointsDirectory();
  if (!existsSync(directory)) {
    return [];
  }
  const moved = movedTimelines(home);
  return readdirSync(directory, { withFileTypes: true })
    .filter((entry) => !entry.isFile())
    .map((entry) => entry.name)
    .toSorted()
    .flatMap((id) => loadEndpoint(home, id, moved) ?? []);
}

function loadEndpoint(
  home: StrataHome,
  id: string,
  moved = movedTimelines(home),
): Endpoint | DamagedEndpoint | undefined {
  const directory = join(home.endpointsDirectory(), id);
  try {
    const bytes = readFileIfExists(join(directory, "endpoint.json"));
    // A directory without the file is a creation that was cut short.
    return bytes === undefined
      ? undefined
      : { id, directory, spec: followBranch(parseEndpointSpec(bytes.toString("utf8")), moved) };
  } catch (error) {
    return { id, directory, problem: withContext(error, `in ${directory}`) };
  }
}

/**
 * Timelines that have been replaced, while endpoint.json files may not say so yet. None where the configuration cannot be
 * read: then nothing starts, and all can be stopped.
 */
function movedTimelines(home: StrataHome): ReadonlyMap<string, string> {
  try {
    const switches = [...home.config().branchSwitches.values()].flatMap((map) => [...map.values()]);
    return new Map(switches.flatMap(({ moved }) => (moved ? [[moved.from, moved.to]] : [])));
  } catch {
    return new Map();
  }
}

function followBranch(spec: EndpointSpec, moved: ReadonlyMap<string, string>): EndpointSpec {
  const to = typeof spec.mode === "string" ? moved.get(spec.timelineId) : undefined;
  return to === undefined ? spec : { ...spec, timelineId: to };
}

/** StorageError `invalid` where its endpoint.json is damaged. */
export function findEndpoint(home: StrataHome, id: string): Endpoint {
  const endpoint = findEvenDamaged(home, id);
  if ("problem" in endpoint) {
    throw endpoint.problem;
  }
  return endpoint;
}

/** For what must be possible with a damaged one too: to stop and to destroy it. */
export function findEvenDamaged(home: StrataHome, id: string): Endpoint | DamagedEndpoint {
  const endpoint = isEndpointId(id) ? loadEndpoint(home, id) : undefined;
  if (endpoint === undefined) {
    throw new StorageError("not-found", "no-endpoint", `postgres endpoint ${id} is not found`);
  }
  return endpoint;
}

function isEndpointId(id: string): boolean {
  return /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/.test(id);
}

/** Neon's default name of a branch's endpoint, as something that can name a directory. */
export function defaultEndpointId(branchName: string): string {
  return asEndpointId(`ep-${branchName}`);
}

/** A name for the first endpoint of a branch: the branch's own, where that can be and is free. */
export function freeEndpointId(home: StrataHome, branchName: string): string {
  const own = asEndpointId(branchName);
  const isFree = (id: string) => loadEndpoint(home, id) === undefined;
  const candidates = [own, defaultEndpointId(branchName)];
  for (let n = 2; ; n++) {
    const id = candidates.shift() ?? `${own.slice(0, 58)}-${n}`;
    if (isFree(id)) {
      return id;
    }
  }
}

function asEndpointId(text: string): string {
  const plain = text.replaceAll(/[^A-Za-z0-9_.-]/g, "-").replace(/^[.-]+/, "");
  return plain.slice(0, 63) || "endpoint";
}

export function endpointState(endpoint: Endpoint | DamagedEndpoint): DaemonState {
  return daemonState(agentDaemon(endpoint));
}

/** When its agent last wrote to its log, milliseconds since 1970; undefined where it never did. */
export function lastWordMs(endpoint: Endpoint | DamagedEndpoint): number | undefined {
  return statSync(agentDaemon(endpoint).logFile, { throwIfNoEntry: false })?.mtimeMs;
}

/** There is none before its first start. */
export function logFileOf(endpoint: Endpoint | DamagedEndpoint, source: LogSource): string {
  return source === "compute"
    ? agentDaemon(endpoint).logFile
    : join(endpoint.directory, POSTGRES_LOG_NAME);
}

function agentDaemon(endpoint: Endpoint | DamagedEndpoint): Daemon {
  const { directory } = endpoint;
  const pidFile = join(directory, "compute.pid");
  return {
    name: `endpoint ${endpoint.id}`,
    workdir: directory,
    pidFile,
    logFile: join(directory, "compute.log"),
    entry: "compute/main.ts",
    isFrugal: true,
    args: agentAuthArguments(directory),
    addresses: "spec" in endpoint ? addressesOf(endpoint.spec) : [],
    otherPorts: "'endpoint create --pg-port N --internal-http-port N' names others",
    // Its own word in its pid file: asking over HTTP costs both sides as much as a start of Postgres.
    probe: async () =>
      readFileIfExists(pidFile)?.toString().trim().split("\n").at(-1) === "running",
  };
}

function addressesOf(spec: EndpointSpec): string[] {
  return [`${spec.pgHost}:${spec.pgPort}`, `${HTTP_HOST}:${spec.internalHttpPort}`];
}

/** `host:port` of its agent. */
export function httpAddressOf({ spec }: Endpoint): string {
  return `${HTTP_HOST}:${spec.internalHttpPort}`;
}

export function clientOf(endpoint: Endpoint): ComputeClient {
  return new ComputeClient(httpAddressOf(endpoint), () => adminTokenOf(endpoint.directory));
}

/** Writes the endpoint's directory; call with the home locked. Nothing is started. */
export async function createEndpoint(
  home: StrataHome,
  wanted: NewEndpoint,
  placement: TimelinePlacement,
): Promise<Endpoint> {
  const config = home.config();
  requireNotDeleted(config, wanted.tenantId);
  const { id } = wanted;
  if (!isEndpointId(id)) {
    throw new StorageError(
      "invalid",
      "bad-endpoint-id",
      `endpoint id '${id}': letters, digits and _ . - only, at most 63, not starting with . -`,
    );
  }
  const existing = listEndpoints(home);
  if (loadEndpoint(home, id) !== undefined) {
    throw new StorageError("conflict", "endpoint-exists", `endpoint ${id} already exists`);
  }
  const mode = modeOf(wanted);
  if (mode === "primary" && wanted.allowMultiple !== true) {
    refuseSecondPrimary(existing, wanted, "exists");
  }
  const pgBin = pgBinOf(config, wanted.pgVersion);
  const spec: EndpointSpec = {
    endpointId: id,
    tenantId: wanted.tenantId,
    timelineId: wanted.timelineId,
    mode,
    pgVersion: wanted.pgVersion,
    pgHost: PG_HOST,
    ...(await chooseEndpointPorts(config, existing, wanted)),
    ...storageAddresses(placement, mode),
    settings: wanted.settings ?? {},
    ...(pgBin === undefined ? {} : { pgBin }),
    ...(wanted.extensionDir === undefined
      ? {}
      : { extensionDir: checkExtensionDirectory(wanted.extensionDir) }),
  };
  const directory = join(home.endpointsDirectory(), id);
  enterableDirectory(home.endpointsDirectory());
  checkSettings(spec.settings, home.endpointsDirectory());
  enterableDirectory(directory);
  writeSpec(directory, spec);
  const ofTenant = existing.filter((one) => one.spec.tenantId === spec.tenantId);
  inheritRecord(START_READS_NAME, ofTenant, spec, directory);
  if (isPrewarmed(spec.settings)) {
    inheritRecord(HOT_BLOCKS_NAME, ofTenant, spec, directory);
  }
  inheritRecord(CHECKED_POSTGRES_NAME, existing, spec, directory);
  return { id, directory, spec };
}

function modeOf({ staticLsn, replica }: NewEndpoint): EndpointSpec["mode"] {
  if (staticLsn !== undefined) {
    return { static: formatLsn(staticLsn) };
  }
  return replica === true ? "replica" : "primary";
}

/**
 * Its first start finds in its data directory what starts of its branch have read, or had in memory, or else of the branch of the
 * tenant that started last: its parent, as a rule; another one's costs time only (compute/pages). So does what another start has
 * found out about a Postgres that is not this one's, or not any more.
 */
function inheritRecord(
  name: string,
  existing: readonly Endpoint[],
  spec: EndpointSpec,
  directory: string,
): void {
  const records = existing
    .filter((one) => one.spec.pgVersion === spec.pgVersion)
    .flatMap((one) => {
      const path = join(one.directory, name);
      const status = statSync(path, { throwIfNoEntry: false });
      const isSameBranch = one.spec.timelineId === spec.timelineId;
      return status === undefined ? [] : [{ path, isSameBranch, writtenMs: status.mtimeMs }];
    })
    .sort((a, b) => Number(b.isSameBranch) - Number(a.isSameBranch) || b.writtenMs - a.writtenMs);
  const record = records[0] && readFileIfExists(records[0].path);
  if (record === undefined) {
    return;
  }
  try {
    writeFileSync(join(directory, name), record, { mode: 0o600 });
  } catch {
    // On a full disk: the endpoint is there already, and can be without.
    rmSync(join(directory, name), { force: true });
  }
}

function storageAddresses(
  placement: TimelinePlacement,
  mode: EndpointSpec["mode"],
): Pick<EndpointSpec, "pageserver" | "safekeepers"> {
  const { pageserver, safekeepers } = placement;
  const addresses = (node: StorageNode) => ({
    pgAddr: node.listenPgAddr,
    httpAddr: node.listenHttpAddr,
  });
  return {
    pageserver: addresses(pageserver),
    // What is at an LSN needs no WAL.
    safekeepers:
      typeof mode === "string"
        ? safekeepers.map((node) => ({ id: node.id, ...addresses(node) }))
        : [],
  };
}

/** The timeline may have moved since the endpoint was created. */
export function refreshPlacement(
  { directory, spec }: Endpoint,
  placement: TimelinePlacement,
): void {
  const { pageserver, safekeepers } = storageAddresses(placement, spec.mode);
  const refreshed = placement.isRecorded
    ? { ...spec, pageserver, safekeepers }
    : { ...spec, pageserver };
  const text = formatSpec(refreshed);
  if (text !== readFileIfExists(join(directory, "endpoint.json"))?.toString("utf8")) {
    writeSpec(directory, refreshed);
  }
}

/** Its file says from here on which timeline it is on. */
export function settleEndpoint({ directory, spec }: Endpoint): void {
  writeSpec(directory, spec);
}

/** StorageError `invalid` for settings of ours that no agent would start with. */
function checkSettings(settings: Readonly<Record<string, string>>, directory: string): void {
  const { blocks, bsize } = statfsSync(directory);
  checkOwnSettings(settings, blocks * bsize);
}

/**
 * Of Postgres, from its next start on; call under the endpoint's lock: a start that is under way writes its file too. StorageError
 * `invalid`.
 */
export function setEndpointSettings(
  { directory, spec }: Endpoint,
  settings: Readonly<Record<string, string>>,
): void {
  checkSettings(settings, directory);
  writeSpec(directory, { ...spec, settings });
}

/** As setEndpointSettings; undefined: none from the next start on. */
export function setExtensionDirectory(
  { directory, spec }: Endpoint,
  extensionDir: string | undefined,
): void {
  const { extensionDir: _before, ...rest } = spec;
  const change =
    extensionDir === undefined ? {} : { extensionDir: checkExtensionDirectory(extensionDir) };
  writeSpec(directory, { ...rest, ...change });
}

/** Of a stopped endpoint, under its lock: which kind it is from its next start on. */
export function setEndpointMode({ directory, spec }: Endpoint, mode: "primary" | "replica"): void {
  writeSpec(directory, { ...spec, mode });
}

/** Of a stopped endpoint, under its lock and while no other one is made. */
export function setEndpointPorts({ directory, spec }: Endpoint, ports: EndpointPorts): void {
  writeSpec(directory, { ...spec, ...ports });
}

function formatSpec(spec: EndpointSpec): string {
  return `${JSON.stringify(spec, undefined, 2)}\n`;
}

function writeSpec(directory: string, spec: EndpointSpec): void {
  writeFileDurably(join(directory, "endpoint.json"), formatSpec(spec));
}

function refuseSecondPrimary(
  endpoints: readonly Endpoint[],
  wanted: { id: string; tenantId: string; timelineId: string },
  verb: "exists" | "is running",
): void {
  const other = endpoints.find(
    ({ id, spec }) =>
      id !== wanted.id &&
      spec.mode === "primary" &&
      spec.tenantId === wanted.tenantId &&
      spec.timelineId === wanted.timelineId,
  );
  if (other !== undefined) {
    throw new StorageError(
      "conflict",
      "second-primary",
      `a primary endpoint of this branch ${verb} already: ${other.id}; --allow-multiple overrides`,
    );
  }
}

/**
 * Starts the agent and waits until Postgres accepts connections. Call with the endpoint locked; `asked` may have been read before
 * that. Resolves to what was started.
 */
export async function startEndpoint(
  home: StrataHome,
  asked: Endpoint,
  placement: TimelinePlacement,
  options: EndpointStartOptions,
): Promise<Endpoint> {
  let endpoint = asItIsNow(home, asked);
  if (endpointState(endpoint).state === "running") {
    if ((await joinRunning(agentDaemon(endpoint), options)) !== undefined) {
      return endpoint;
    }
    endpoint = asItIsNow(home, asked);
  }
  const config = home.config();
  checkStorageRuns(home, config, endpoint, placement);
  if (!hasCredentials(home)) {
    throw new StorageError(
      "unavailable",
      "no-password",
      `this home is of an earlier version and has no password yet: '${strataCommand()} start' makes one`,
    );
  }
  if (endpoint.spec.mode === "primary" && options.allowMultiple !== true) {
    const running = listEndpoints(home).filter((one) => endpointState(one).state === "running");
    refuseSecondPrimary(running, { ...endpoint.spec, id: endpoint.id }, "is running");
  }
  refreshPlacement(refreshSecret(home, endpoint), placement);
  renewAgentToken(home, endpoint.directory, endpoint.spec.tenantId);
  const daemon = agentDaemon(endpoint);
  // What a killed agent left of its Postgres may have the port still: the new one ends that, and looks then.
  const addresses = daemonState(daemon).state === "crashed" ? [] : daemon.addresses;
  const args = [...daemon.args, ...serviceTlsArguments(home, config)];
  await startDaemon({ ...daemon, addresses, args }, options);
  return endpoint;
}

/**
 * Whether one runs, whoever started it: resolves when its Postgres accepts connections, or it has ended. StorageError `unavailable`
 * where it does neither in time.
 */
export async function joinEndpoint(
  endpoint: Endpoint | DamagedEndpoint,
  timeoutMs: number,
): Promise<boolean> {
  const options = { timeoutMs, print: () => {} };
  return (await joinRunning(agentDaemon(endpoint), options)) !== undefined;
}

/**
 * Before we had its lock somebody may have changed or destroyed it, its branch been reset, or another endpoint promoted. StorageError
 * `conflict` where it is not what was asked for any more.
 */
function asItIsNow(home: StrataHome, asked: Endpoint): Endpoint {
  const endpoint = findEndpoint(home, asked.id);
  const { mode, timelineId } = endpoint.spec;
  if (timelineId !== asked.spec.timelineId) {
    const message = `the branch of endpoint ${asked.id} has just been reset or restored: start it again`;
    throw new StorageError("conflict", "branch-moved", message);
  }
  if (typeof mode === "string" && mode !== asked.spec.mode) {
    const message = `endpoint ${asked.id} has just become a ${mode}: start it again`;
    throw new StorageError("conflict", "endpoint-moved", message);
  }
  // Under its lock: who deletes its tenant stops it after that is noted, under the same lock.
  requireNotDeleted(home.config(), endpoint.spec.tenantId);
  return endpoint;
}

/** Tells an endpoint of a tenant that is older than the home's password to set it. */
function refreshSecret(home: StrataHome, endpoint: Endpoint): Endpoint {
  const { superuserSecret: before, ...rest } = endpoint.spec;
  const secret = secretToSet(home, rest.tenantId);
  if (secret === before) {
    return endpoint;
  }
  const spec = secret === undefined ? rest : { ...rest, superuserSecret: secret };
  writeSpec(endpoint.directory, spec);
  return { ...endpoint, spec };
}

/** Without this, a start would only end after its whole timeout. */
function checkStorageRuns(
  home: StrataHome,
  config: StrataConfig,
  endpoint: Endpoint,
  placement: TimelinePlacement,
): void {
  const needed = [pageserverDaemon(home, config, placement.pageserver)];
  const safekeepers = placement.safekeepers.map((node) => safekeeperDaemon(home, config, node));
  const up = safekeepers.filter((daemon) => daemonState(daemon).state === "running");
  if (endpoint.spec.mode === "primary" && up.length * 2 <= safekeepers.length) {
    needed.push(...safekeepers);
  }
  const down = needed.filter((daemon) => daemonState(daemon).state !== "running");
  if (down.length > 0) {
    const names = down.map((daemon) => daemon.name).join(", ");
    throw new StorageError(
      "unavailable",
      "storage-not-running",
      `start endpoint ${endpoint.id}: not running: ${names}; run '${strataCommand()} start' first`,
    );
  }
}

/**
 * Stops the agent and its Postgres; the LSN up to which everything is on a quorum, where it told. A
 * damaged one is asked by signals only, as nobody knows where its agent listens.
 */
export async function stopEndpoint(
  endpoint: Endpoint | DamagedEndpoint,
  mode: StopMode,
  print: Print,
): Promise<string | undefined> {
  let lsn: string | undefined;
  const daemon = agentDaemon(endpoint);
  await stopDaemon(daemon, mode, print, {
    ask: async (signal) => {
      if ("problem" in endpoint) {
        signal();
        return;
      }
      try {
        lsn = (await clientOf(endpoint).terminate(mode, TERMINATE_MS[mode])).lsn ?? undefined;
      } catch {
        // It does not answer: the signals that follow reach it anyhow.
        signal();
      }
    },
  });
  return lsn;
}

/** Removes all files of a stopped endpoint. Its data lives in the storage. */
export function destroyEndpoint(endpoint: Endpoint | DamagedEndpoint): void {
  if (endpointState(endpoint).state === "running") {
    throw new StorageError("conflict", "endpoint-running", `endpoint ${endpoint.id} is running`);
  }
  removeWorkdir(endpoint.directory);
}
