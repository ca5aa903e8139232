// The configuration of a home (config.json) and of `init --config`: their fields, and the check of their text.

import { StorageError } from "../base/errors.ts";
import { DEFAULT_MAJOR } from "../postgres/installation.ts";
import type { MembershipRecord, StorageNode } from "../storage-controller/controller-state.ts";

/** What `init --config FILE` may say; the rest of config.json is ours to keep. */
export interface InitSettings {
  /** The major of new root timelines that ask for none. */
  pgVersion?: number | undefined;
  /** Directory of `postgres` and `initdb` of that major; absent: the npm package. */
  pgBin?: string | undefined;
  broker?: { listenAddr: string } | undefined;
  /** Its HTTP API. */
  controlPlane?: { listenAddr: string } | undefined;
  proxy?: ProxyAddresses | undefined;
  pageservers?: StorageNode[] | undefined;
  safekeepers?: StorageNode[] | undefined;
  /** Ports of endpoints are given out from here on. */
  endpointBasePort?: number | undefined;
  /** Where pages and WAL are kept for good: a directory, relative to the home, or a URL. */
  remoteStorage?: string | undefined;
  /** Storage daemons take calls with a service token only, on every port; absent in older homes: they do not. */
  serviceTokens?: boolean | undefined;
  /** Further options of every pageserver process, as its command line takes them. */
  pageserverOptions?: Record<string, string> | undefined;
  /** Further options of every safekeeper process, as its command line takes them. */
  safekeeperOptions?: Record<string, string> | undefined;
  /** Further options of the proxy, as its command line takes them. */
  proxyOptions?: Record<string, string> | undefined;
}

/** Of the proxy: Postgres's protocol; HTTP and WebSockets. */
export interface ProxyAddresses {
  readonly listenPgAddr: string;
  readonly listenHttpAddr: string;
  /** Host names of endpoints are below it; absent: localtest.me. */
  readonly domain?: string | undefined;
}

export interface StrataConfig {
  formatVersion: 1;
  pgVersion: number;
  pgBin?: string | undefined;
  broker: { listenAddr: string };
  /** Absent in a home of an earlier version that was not started since. */
  controlPlane?: { listenAddr: string } | undefined;
  /** As `controlPlane`. */
  proxy?: ProxyAddresses | undefined;
  pageservers: StorageNode[];
  safekeepers: StorageNode[];
  endpointBasePort: number;
  /** Absent: pages and WAL are only on the disks of pageserver and safekeepers. */
  remoteStorage?: string | undefined;
  serviceTokens?: boolean | undefined;
  pageserverOptions?: Record<string, string> | undefined;
  safekeeperOptions?: Record<string, string> | undefined;
  proxyOptions?: Record<string, string> | undefined;
  defaultTenantId?: string | undefined;
  /** Tenant id to branch name to timeline id. Maps, because a name can be `__proto__`. */
  branchNameMappings: Map<string, Map<string, string>>;
  /** Tenant id to timeline id; absent for timelines that are on all safekeepers since their creation. */
  memberships: Map<string, Map<string, MembershipRecord>>;
  /**
   * Tenant id to ids of timelines whose creation or removal began: a crash, or a safekeeper that was
   * away, can leave them without a name somewhere, so the next command cleans up.
   */
  unfinishedTimelines: Map<string, Set<string>>;
  /** Ids of tenants whose removal began: the next command that makes or removes something goes on with it. */
  unfinishedTenants: Set<string>;
  /** Tenant id to branch name: resets and restores that have begun and not ended (branches/branch-switch.ts). */
  branchSwitches: Map<string, Map<string, BranchSwitch>>;
}

/** A name comes to stand for another timeline. */
export interface BranchSwitch {
  /** What was asked for: who asks for the same again finishes it. */
  readonly asked: string;
  /** Ids of endpoints that ran and are to run again. */
  readonly restart: readonly string[];
  /** Once the name has changed over: primary endpoints that are on `from` belong to `to`. */
  readonly moved?: { readonly from: string; readonly to: string } | undefined;
}

/** Neon's 55432 is in the range of outgoing connections; see port-choice.ts. */
const ENDPOINT_BASE_PORT = 15_432;

const ADDRESS = /^[^\s:]+:\d{1,5}$/;
const DOMAIN = /^[a-z0-9-]+(\.[a-z0-9-]+)*$/;
const HEX_32 = /^[0-9a-f]{32}$/;
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
  "pageserverOptions",
  "safekeeperOptions",
  "proxyOptions",
];
const OWN_FIELDS = [
  "formatVersion",
  "defaultTenantId",
  "branchNameMappings",
  "memberships",
  "unfinishedTimelines",
  "unfinishedTenants",
  "branchSwitches",
];

type Fields = Record<string, unknown>;

/** What is wrong, as `path problem`. */
class Problem extends Error {}

/**
 * Reads and checks the file of `init --config`; `file` is how messages call it. By hand, because
 * loading zod would take half of the time of every command. StorageError `invalid`.
 */
export function parseInitSettings(text: string, file: string): InitSettings {
  return checked(text, file, (value) => initSettings(record(value, "", INIT_FIELDS)));
}

/** Reads and checks config.json; `file` is how messages call it. StorageError `invalid`. */
export function parseConfig(text: string, file: string): StrataConfig {
  return checked(text, file, (value) => {
    const from = record(value, "", [...INIT_FIELDS, ...OWN_FIELDS]);
    if (from["formatVersion"] !== 1) {
      throw new Problem("formatVersion expected 1");
    }
    const settings = withDefaults(initSettings(from));
    const { broker, pageservers, safekeepers } = settings;
    if (broker === undefined || pageservers === undefined || safekeepers === undefined) {
      const missing = { broker, pageservers, safekeepers };
      const names = Object.entries(missing).filter(([, value]) => value === undefined);
      throw new Problem(`${names.map(([name]) => name).join(", ")} missing`);
    }
    const tenant = from["defaultTenantId"];
    return {
      ...settings,
      formatVersion: 1,
      broker,
      pageservers,
      safekeepers,
      ...(tenant === undefined ? {} : { defaultTenantId: hex(tenant, "defaultTenantId") }),
      branchNameMappings: byTenant(from, "branchNameMappings", names),
      memberships: byTenant(from, "memberships", memberships),
      unfinishedTimelines: byTenant(from, "unfinishedTimelines", idSet),
      unfinishedTenants: idSet(from["unfinishedTenants"] ?? [], "unfinishedTenants"),
      branchSwitches: byTenant(from, "branchSwitches", branchSwitches),
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
export function pgBinOf(config: StrataConfig, major: number): string | undefined {
  return major === config.pgVersion ? config.pgBin : undefined;
}

export function recordMembership(
  config: StrataConfig,
  tenantId: string,
  timelineId: string,
  record: MembershipRecord | undefined,
): void {
  if (record === undefined) {
    config.memberships.get(tenantId)?.delete(timelineId);
  } else {
    inner(config.memberships, tenantId, () => new Map()).set(timelineId, record);
  }
}

export function nameBranch(
  config: StrataConfig,
  tenantId: string,
  name: string,
  timelineId: string,
): void {
  inner(config.branchNameMappings, tenantId, () => new Map()).set(name, timelineId);
}

export function noteUnfinished(config: StrataConfig, tenantId: string, timelineId: string): void {
  inner(config.unfinishedTimelines, tenantId, () => new Set()).add(timelineId);
}

/** Undefined: it has ended. */
export function recordSwitch(
  config: StrataConfig,
  tenantId: string,
  name: string,
  record: BranchSwitch | undefined,
): void {
  if (record === undefined) {
    config.branchSwitches.get(tenantId)?.delete(name);
  } else {
    inner(config.branchSwitches, tenantId, () => new Map()).set(name, record);
  }
}

function inner<T>(map: Map<string, T>, key: string, make: () => T): T {
  let found = map.get(key);
  if (found === undefined) {
    found = make();
    map.set(key, found);
  }
  return found;
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
    const controlPlane = record(from["controlPlane"], "controlPlane", ["listenAddr"]);
    settings.controlPlane = {
      listenAddr: address(controlPlane["listenAddr"], "controlPlane.listenAddr"),
    };
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
  const serviceTokens = from["serviceTokens"];
  if (serviceTokens !== undefined) {
    if (typeof serviceTokens !== "boolean") {
      throw new Problem("serviceTokens expected true or false");
    }
    settings.serviceTokens = serviceTokens;
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
  return settings;
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

/** Of one timeline id to what is on record. */
function memberships(value: unknown, path: string): Map<string, MembershipRecord> {
  const ids = (given: unknown, at: string): number[] => {
    if (!Array.isArray(given) || given.length > 32) {
      throw new Problem(`${at} expected at most 32 ids`);
    }
    return given.map((id: unknown, i) => integer(id, `${at}.${i}`, 1, 9999));
  };
  const result = new Map<string, MembershipRecord>();
  for (const [timeline, entry] of Object.entries(record(value, path))) {
    const at = `${path}.${timeline}`;
    const from = record(entry, at, ["generation", "members", "newMembers", "excluding"]);
    const optional = (field: string) =>
      from[field] === undefined ? undefined : ids(from[field], `${at}.${field}`);
    result.set(hex(timeline, at), {
      generation: integer(from["generation"], `${at}.generation`, 1, 2 ** 32 - 1),
      members: ids(from["members"], `${at}.members`),
      newMembers: optional("newMembers"),
      excluding: optional("excluding"),
    });
  }
  return result;
}

/** By branch name. */
function branchSwitches(value: unknown, path: string): Map<string, BranchSwitch> {
  const result = new Map<string, BranchSwitch>();
  for (const [name, entry] of Object.entries(record(value, path))) {
    const at = `${path}.${name}`;
    const from = record(entry, at, ["asked", "restart", "moved"]);
    const moved =
      from["moved"] === undefined
        ? undefined
        : record(from["moved"], `${at}.moved`, ["from", "to"]);
    const restart = from["restart"];
    if (!Array.isArray(restart)) {
      throw new Problem(`${at}.restart expected a list`);
    }
    result.set(name, {
      asked: string(from["asked"], `${at}.asked`, /^/, "a string"),
      restart: restart.map((id: unknown) => string(id, `${at}.restart`, /./, "endpoint ids")),
      moved: moved && {
        from: hex(moved["from"], `${at}.moved.from`),
        to: hex(moved["to"], `${at}.moved.to`),
      },
    });
  }
  return result;
}

/** Branch name to timeline id. */
function names(value: unknown, path: string): Map<string, string> {
  const entries = Object.entries(record(value, path));
  return new Map(entries.map(([name, id]) => [name, hex(id, `${path}.${name}`)]));
}

/** A list; older homes have an object of branch names to ids. */
function idSet(value: unknown, path: string): Set<string> {
  const list: unknown[] = Array.isArray(value) ? value : Object.values(record(value, path));
  return new Set(list.map((id, i) => hex(id, `${path}.${i}`)));
}

/** Tenant id to what `parse` makes of it; tenants of whom nothing is left are left out. */
function byTenant<T extends { readonly size: number }>(
  from: Fields,
  path: string,
  parse: (value: unknown, path: string) => T,
): Map<string, T> {
  const result = new Map<string, T>();
  for (const [tenant, value] of Object.entries(record(from[path] ?? {}, path))) {
    const parsed = parse(value, `${path}.${tenant}`);
    if (parsed.size > 0) {
      result.set(hex(tenant, path), parsed);
    }
  }
  return result;
}

/** The text of config.json. `Object.fromEntries` defines fields, so that every name is one. */
export function formatConfig(config: StrataConfig): string {
  const fields = (value: unknown): unknown =>
    value instanceof Map ? Object.fromEntries(value) : value instanceof Set ? [...value] : value;
  return `${JSON.stringify(config, (_, value: unknown) => fields(value), 2)}\n`;
}

/** An object; with `known`, one that has no other fields. */
function record(value: unknown, path: string, known?: readonly string[]): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Problem(`${path} expected an object`.trim());
  }
  const unknown = known && Object.keys(value).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new Problem(`${path} unrecognized field '${unknown}'`.trim());
  }
  return value as Fields;
}

function string(value: unknown, path: string, pattern: RegExp, expected: string): string {
  if (typeof value !== "string" || !pattern.test(value)) {
    throw new Problem(`${path} expected ${expected}`);
  }
  return value;
}

function address(value: unknown, path: string): string {
  const text = string(value, path, ADDRESS, "host:port");
  integer(Number(text.slice(text.lastIndexOf(":") + 1)), `${path}: its port`, 1, 65_535);
  return text;
}

function hex(value: unknown, path: string): string {
  return string(value, path, HEX_32, "32 hex digits");
}

function integer(value: unknown, path: string, least: number, most: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most) {
    throw new Problem(`${path} expected a whole number from ${least} to ${most}`);
  }
  return value;
}
