// The settings of a home (config.json) and of `init --config`: their fields, and the check of their text.
//
// config.json, ours, by `formatVersion`:
// 1  settings, and all of the home's state (state/home-state.ts)
// 2  settings only; the state is in home.db. A Strata that knows only 1 refuses it by its number.

import { StorageError } from "../base/errors.ts";
import { DEFAULT_MAJOR } from "../postgres/installation.ts";
import type { StorageNode } from "../storage-controller/controller-state.ts";
import { address, type Fields, integer, Problem, record, string } from "./state/field-checks.ts";
import { FORMAT_1_FIELDS, type HomeState, parseFormat1 } from "./state/home-state.ts";

/** What `init --config FILE` may say; the rest of config.json is ours to keep. */
export interface InitSettings {
  /** The major of new root timelines that ask for none. */
  pgVersion?: number | undefined;
  /** Directory of `postgres` and `initdb` of that major; absent: the npm package. */
  pgBin?: string | undefined;
  broker?: { listenAddr: string } | undefined;
  controlPlane?: ControlPlaneSettings | undefined;
  proxy?: ProxyAddresses | undefined;
  pageservers?: StorageNode[] | undefined;
  safekeepers?: StorageNode[] | undefined;
  /** Ports of endpoints are given out from here on. */
  endpointBasePort?: number | undefined;
  /** Where pages and WAL are kept for good: a directory, relative to the home, or a URL. */
  remoteStorage?: string | undefined;
  /** Storage daemons take calls with a service token only, on every port; absent in older homes: they do not. */
  serviceTokens?: boolean | undefined;
  /** Services may listen on other addresses than loopback without TLS: the network is trusted. */
  plaintextNetwork?: boolean | undefined;
  serviceTls?: ServiceTlsSettings | undefined;
  /** Further options of every pageserver process, as its command line takes them. */
  pageserverOptions?: Record<string, string> | undefined;
  /** Further options of every safekeeper process, as its command line takes them. */
  safekeeperOptions?: Record<string, string> | undefined;
  /** Further options of the proxy, as its command line takes them. */
  proxyOptions?: Record<string, string> | undefined;
  /** How many started agents wait for an endpoint that is woken; absent: DEFAULT_WARM_AGENTS. */
  warmAgents?: number | undefined;
  /** How long a deleted project can be recovered; absent: DEFAULT_DELETED_PROJECT_RETENTION_SECONDS. 0: not at all. */
  deletedProjectRetentionSeconds?: number | undefined;
}

/** Of services on addresses that other machines can reach. Paths of PEM files, relative to the home or absolute. */
export interface ServiceTlsSettings {
  /** An own certificate for all of them, with its key and the authority by which they are known; absent: the home's. */
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  readonly ca?: string | undefined;
  /** What they are called beside the hosts that they listen on: for the home's certificates. */
  readonly names?: readonly string[] | undefined;
}

export interface ControlPlaneSettings {
  /** Of its HTTP API. */
  readonly listenAddr: string;
  /** Of a Postgres that keeps its state; without a password, as it is among the process's arguments. Absent: SQLite. */
  readonly databaseUrl?: string | undefined;
}

/** Of the proxy: Postgres's protocol; HTTP and WebSockets. */
export interface ProxyAddresses {
  readonly listenPgAddr: string;
  readonly listenHttpAddr: string;
  /** Host names of endpoints are below it; absent: localtest.me. */
  readonly domain?: string | undefined;
}

/** What config.json says. */
export interface HomeSettings {
  pgVersion: number;
  pgBin?: string | undefined;
  broker: { listenAddr: string };
  /** Absent in a home of an earlier version that was not started since. */
  controlPlane?: ControlPlaneSettings | undefined;
  /** As `controlPlane`. */
  proxy?: ProxyAddresses | undefined;
  pageservers: StorageNode[];
  safekeepers: StorageNode[];
  endpointBasePort: number;
  /** Absent: pages and WAL are only on the disks of pageserver and safekeepers. */
  remoteStorage?: string | undefined;
  serviceTokens?: boolean | undefined;
  plaintextNetwork?: boolean | undefined;
  serviceTls?: ServiceTlsSettings | undefined;
  pageserverOptions?: Record<string, string> | undefined;
  safekeeperOptions?: Record<string, string> | undefined;
  proxyOptions?: Record<string, string> | undefined;
  warmAgents?: number | undefined;
  deletedProjectRetentionSeconds?: number | undefined;
}

/** All that is known of a home: what it is set to, and what it has. */
export interface StrataConfig extends HomeSettings, HomeState {}

/** Neon's 55432 is in the range of outgoing connections; see port-choice.ts. */
const ENDPOINT_BASE_PORT = 15_432;

export const DEFAULT_WARM_AGENTS = 1;
/** Each takes some 42 MB of its own. */
export const MAX_WARM_AGENTS = 100;

/** Neon's seven days. */
export const DEFAULT_DELETED_PROJECT_RETENTION_SECONDS = 604_800;
/** Ten years. */
export const MAX_DELETED_PROJECT_RETENTION_SECONDS = 315_360_000;

const DOMAIN = /^[a-z0-9-]+(\.[a-z0-9-]+)*$/;
const HOST = /^[A-Za-z0-9.:*-]{1,253}$/;
const INIT_FIELDS = [
  "pgVersion",
  "pgBin",
  "broker",
  "controlPlane",
  "proxy",
  "pageservers",
  "safekeepers",
  "endpointBasePort",
  "remoteStorage",
  "serviceTokens",
  "plaintextNetwork",
  "serviceTls",
  "pageserverOptions",
  "safekeeperOptions",
  "proxyOptions",
  "warmAgents",
  "deletedProjectRetentionSeconds",
];
const FORMAT_VERSION = 2;

/**
 * Reads and checks the file of `init --config`; `file` is how messages call it. By hand, because
 * loading zod would take half of the time of every command. StorageError `invalid`.
 */
export function parseInitSettings(text: string, file: string): InitSettings {
  return checked(text, file, (value) => initSettings(record(value, "", INIT_FIELDS)));
}

/** Reads and checks config.json; `file` is how messages call it. `state`: of format 1 only. StorageError `invalid`. */
export function parseConfig(
  text: string,
  file: string,
): { readonly settings: HomeSettings; readonly state?: HomeState } {
  return checked(text, file, (value) => {
    const { formatVersion, ...fields } = record(value, "");
    if (formatVersion !== 1 && formatVersion !== FORMAT_VERSION) {
      throw new Problem(
        `formatVersion ${formatVersion} is not one that this Strata knows (1, ${FORMAT_VERSION}): a newer one has used this home`,
      );
    }
    const known = formatVersion === 1 ? [...INIT_FIELDS, ...FORMAT_1_FIELDS] : INIT_FIELDS;
    const settings = withDefaults(initSettings(record(fields, "", known)));
    const { broker, pageservers, safekeepers } = settings;
    if (broker === undefined || pageservers === undefined || safekeepers === undefined) {
      const missing = { broker, pageservers, safekeepers };
      const names = Object.entries(missing).filter(([, value]) => value === undefined);
      throw new Problem(`${names.map(([name]) => name).join(", ")} missing`);
    }
    return {
      settings: { ...settings, broker, pageservers, safekeepers },
      ...(formatVersion === 1 ? { state: parseFormat1(fields) } : {}),
    };
  });
}

export function withDefaults(settings: InitSettings) {
  return {
    ...settings,
    pgVersion: settings.pgVersion ?? DEFAULT_MAJOR,
    endpointBasePort: settings.endpointBasePort ?? ENDPOINT_BASE_PORT,
  };
}

/** The `--pg-bin` that belongs to `major`: every major but the home's own comes from npm. */
export function pgBinOf(config: HomeSettings, major: number): string | undefined {
  return major === config.pgVersion ? config.pgBin : undefined;
}

function checked<T>(text: string, file: string, check: (value: unknown) => T): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new StorageError("invalid", "bad-config", `${file} is not JSON`, { cause });
  }
  try {
    return check(value);
  } catch (error) {
    if (!(error instanceof Problem)) {
      throw error;
    }
    throw new StorageError("invalid", "bad-config", `${file}: ${error.message}`);
  }
}

function initSettings(from: Fields): InitSettings {
  const settings: InitSettings = {};
  if (from["pgVersion"] !== undefined) {
    settings.pgVersion = integer(from["pgVersion"], "pgVersion", 1, 1000);
  }
  if (from["pgBin"] !== undefined) {
    settings.pgBin = string(from["pgBin"], "pgBin", /./, "a path");
  }
  if (from["broker"] !== undefined) {
    const broker = record(from["broker"], "broker", ["listenAddr"]);
    settings.broker = { listenAddr: address(broker["listenAddr"], "broker.listenAddr") };
  }
  if (from["controlPlane"] !== undefined) {
    settings.controlPlane = controlPlaneSettings(from["controlPlane"]);
  }
  if (from["proxy"] !== undefined) {
    settings.proxy = proxyAddresses(from["proxy"]);
  }
  if (from["pageservers"] !== undefined) {
    settings.pageservers = nodes(from["pageservers"], "pageservers", 1);
  }
  if (from["safekeepers"] !== undefined) {
    settings.safekeepers = nodes(from["safekeepers"], "safekeepers", 32);
  }
  if (from["endpointBasePort"] !== undefined) {
    settings.endpointBasePort = integer(from["endpointBasePort"], "endpointBasePort", 1024, 65_000);
  }
  if (from["remoteStorage"] !== undefined) {
    settings.remoteStorage = string(
      from["remoteStorage"],
      "remoteStorage",
      /./,
      "a directory or s3://bucket/prefix",
    );
  }
  for (const name of ["serviceTokens", "plaintextNetwork"] as const) {
    const value = from[name];
    if (value !== undefined) {
      if (typeof value !== "boolean") {
        throw new Problem(`${name} expected true or false`);
      }
      settings[name] = value;
    }
  }
  if (from["serviceTls"] !== undefined) {
    settings.serviceTls = serviceTlsSettings(from["serviceTls"]);
  }
  if (from["pageserverOptions"] !== undefined) {
    settings.pageserverOptions = options(from["pageserverOptions"], "pageserverOptions");
  }
  if (from["safekeeperOptions"] !== undefined) {
    settings.safekeeperOptions = options(from["safekeeperOptions"], "safekeeperOptions");
  }
  if (from["proxyOptions"] !== undefined) {
    settings.proxyOptions = options(from["proxyOptions"], "proxyOptions");
  }
  if (from["warmAgents"] !== undefined) {
    settings.warmAgents = integer(from["warmAgents"], "warmAgents", 0, MAX_WARM_AGENTS);
  }
  const kept = "deletedProjectRetentionSeconds";
  if (from[kept] !== undefined) {
    settings[kept] = integer(from[kept], kept, 0, MAX_DELETED_PROJECT_RETENTION_SECONDS);
  }
  return settings;
}

function serviceTlsSettings(value: unknown): ServiceTlsSettings {
  const from = record(value, "serviceTls", ["cert", "key", "ca", "names"]);
  const path = (name: string) => string(from[name], `serviceTls.${name}`, /./, "a path");
  const { names } = from;
  if (names !== undefined) {
    if (!Array.isArray(names) || names.length > 100) {
      throw new Problem("serviceTls.names expected up to 100 host names and addresses");
    }
    const what = "a host name or an address";
    for (const [i, name] of names.entries()) {
      string(name, `serviceTls.names.${i}`, HOST, what);
    }
  }
  const given = ["cert", "key", "ca"].filter((name) => from[name] !== undefined);
  if (given.length !== 0 && (given.length !== 3 || names !== undefined)) {
    throw new Problem("serviceTls expected cert, key and ca together, or names");
  }
  return {
    ...(given.length === 0 ? {} : { cert: path("cert"), key: path("key"), ca: path("ca") }),
    ...(names === undefined ? {} : { names: names as string[] }),
  };
}

function controlPlaneSettings(value: unknown): ControlPlaneSettings {
  const from = record(value, "controlPlane", ["listenAddr", "databaseUrl"]);
  const listenAddr = address(from["listenAddr"], "controlPlane.listenAddr");
  if (from["databaseUrl"] === undefined) {
    return { listenAddr };
  }
  const at = "controlPlane.databaseUrl";
  const databaseUrl = string(
    from["databaseUrl"],
    at,
    /^postgres(ql)?:\/\/\S+$/,
    "postgresql://...",
  );
  if (/^\w+:\/\/[^/@?]*:[^/@?]*@|[?&]password=/.test(databaseUrl)) {
    throw new Problem(
      `${at} has a password, which every process of the machine could see: put it into $PGPASSWORD or ~/.pgpass`,
    );
  }
  return { listenAddr, databaseUrl };
}

function proxyAddresses(value: unknown): ProxyAddresses {
  const from = record(value, "proxy", ["listenPgAddr", "listenHttpAddr", "domain"]);
  return {
    listenPgAddr: address(from["listenPgAddr"], "proxy.listenPgAddr"),
    listenHttpAddr: address(from["listenHttpAddr"], "proxy.listenHttpAddr"),
    ...(from["domain"] === undefined
      ? {}
      : { domain: string(from["domain"], "proxy.domain", DOMAIN, "a domain name in lower case") }),
  };
}

function nodes(value: unknown, path: string, most: number): StorageNode[] {
  if (!Array.isArray(value) || value.length < 1 || value.length > most) {
    throw new Problem(`${path} expected ${most === 1 ? "exactly one" : `1 to ${most}`}`);
  }
  return value.map((entry: unknown, i) => {
    const at = `${path}.${i}`;
    const node = record(entry, at, ["id", "listenPgAddr", "listenHttpAddr"]);
    return {
      id: integer(node["id"], `${at}.id`, 1, 9999),
      listenPgAddr: address(node["listenPgAddr"], `${at}.listenPgAddr`),
      listenHttpAddr: address(node["listenHttpAddr"], `${at}.listenHttpAddr`),
    };
  });
}

/** Names of command-line options, without dashes, to their values. */
function options(value: unknown, path: string): Record<string, string> {
  const entries = Object.entries(record(value, path));
  return Object.fromEntries(
    entries.map(([name, text]) => {
      string(name, `${path} names`, /^[a-z][a-z-]*$/, "option names without dashes in front");
      return [name, string(text, `${path}.${name}`, /^/, "a string")];
    }),
  );
}

/** The text of config.json. */
export function formatSettings(settings: HomeSettings): string {
  return `${JSON.stringify({ formatVersion: FORMAT_VERSION, ...settings }, undefined, 2)}\n`;
}
