// The storage daemons of a home: how each is started, and whether it answers.

import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import { serviceUrl } from "../base/network/service-tls.ts";
import { HttpClient } from "../http/client.ts";
import type { StorageNode } from "../storage-controller/controller-state.ts";
import {
  type ControlPlaneSettings,
  DEFAULT_WARM_AGENTS,
  type ProxyAddresses,
  type StrataConfig,
} from "./config.ts";
import { hasCredentials, superuserSecretFile } from "./credentials.ts";
import { type Daemon, daemonState, type Print, startDaemon } from "./daemon.ts";
import type { StrataHome } from "./home.ts";
import { storageAuthArguments } from "./service-keys.ts";
import { certificatePaths, DEFAULT_DOMAIN } from "./tls/certificates.ts";
import { serviceTlsArguments, type TlsSettings } from "./tls/service-certificates.ts";

const PROBE_TIMEOUT_MS = 2000;
/** A home keeps its ports: those of safekeepers are in memberships. */
const OTHER_PORTS = "a new home gets free ports, or those of 'init --config FILE'";

export function brokerDaemon(
  home: StrataHome,
  config: TlsSettings & Pick<StrataConfig, "serviceTokens">,
): Daemon {
  const address = config.broker.listenAddr;
  return {
    name: "storage_broker",
    ...files(home.brokerDirectory(), "storage_broker"),
    entry: "storage-broker/main.ts",
    args: ["--listen", address, ...authArguments(home, config, "storage_broker")],
    addresses: [address],
    otherPorts: OTHER_PORTS,
    probe: () => answersHttp(address, "/status"),
  };
}

export function pageserverDaemon(
  home: StrataHome,
  config: StrataConfig,
  node: StorageNode,
): Daemon {
  return {
    name: "pageserver",
    ...files(home.pageserverDirectory(node.id), "pageserver"),
    entry: "pageserver/main.ts",
    args: [
      ...nodeArguments(config, node),
      ...authArguments(home, config, `pageserver_${node.id}`),
      ...postgresArguments(config),
      ...remoteStorageArguments(home, config),
      ...furtherOptions(config.pageserverOptions),
      ...(hasCredentials(home) ? ["--initdb-pwfile", superuserSecretFile(home)] : []),
    ],
    addresses: [node.listenPgAddr, node.listenHttpAddr],
    otherPorts: OTHER_PORTS,
    probe: () => answersHttp(node.listenHttpAddr),
  };
}

export function safekeeperDaemon(
  home: StrataHome,
  config: StrataConfig,
  node: StorageNode,
): Daemon {
  return {
    name: `safekeeper ${node.id}`,
    ...files(home.safekeeperDirectory(node.id), "safekeeper"),
    entry: "safekeeper/main.ts",
    args: [
      ...nodeArguments(config, node),
      ...authArguments(home, config, `safekeeper_${node.id}`),
      ...safekeeperArguments(home, config),
    ],
    addresses: [node.listenPgAddr, node.listenHttpAddr],
    otherPorts: OTHER_PORTS,
    probe: () => answersHttp(node.listenHttpAddr),
  };
}

export function controlPlaneDaemon(
  home: StrataHome,
  config: StrataConfig,
  { listenAddr: address, databaseUrl }: ControlPlaneSettings,
): Daemon {
  const { proxy, warmAgents = DEFAULT_WARM_AGENTS } = config;
  return {
    name: "control_plane",
    ...files(home.controlPlaneDirectory(), "control_plane"),
    entry: "control-plane/main.ts",
    args: [
      ...["--home", home.path, "--listen", address, "--warm-agents", `${warmAgents}`],
      ...(proxy === undefined
        ? []
        : [
            ...["--proxy-address", publicAddress(proxy, proxy.listenPgAddr)],
            ...["--proxy-http-address", publicAddress(proxy, proxy.listenHttpAddr)],
          ]),
      ...(databaseUrl === undefined ? [] : ["--database-url", databaseUrl]),
      ...serviceTlsArguments(home, config, "control_plane"),
    ],
    addresses: [address],
    otherPorts: "'controlPlane' in config.json names another",
    probe: () => answersHttp(address, "/status"),
  };
}

/** What clients add to an endpoint's name: domain, and port of what listens there. */
function publicAddress({ domain = DEFAULT_DOMAIN }: ProxyAddresses, listens: string): string {
  return `${domain}${listens.slice(listens.lastIndexOf(":"))}`;
}

export function proxyDaemon(
  home: StrataHome,
  config: StrataConfig,
  proxy: ProxyAddresses,
  controlPlane: string,
): Daemon {
  const { cert, key } = certificatePaths(home);
  return {
    name: "proxy",
    ...files(home.proxyDirectory(), "proxy"),
    entry: "proxy/main.ts",
    args: [
      ...["--listen-pg", proxy.listenPgAddr],
      ...["--listen-http", proxy.listenHttpAddr],
      ...["--control-plane", controlPlane],
      ...["--control-plane-token-file", home.proxyKeyFile()],
      ...["--domain", proxy.domain ?? DEFAULT_DOMAIN],
      ...["--tls-cert", cert, "--tls-key", key],
      ...serviceTlsArguments(home, config),
      ...furtherOptions(config.proxyOptions),
    ],
    addresses: [proxy.listenPgAddr, proxy.listenHttpAddr],
    otherPorts: "'proxy' in config.json names others",
    probe: () => answersHttp(proxy.listenHttpAddr, "/status"),
  };
}

/** What stands before the storage, in the order in which it starts. */
export function frontDaemons(home: StrataHome, config: StrataConfig): Daemon[] {
  const { controlPlane, proxy } = config;
  if (controlPlane === undefined) {
    return [];
  }
  const { listenAddr } = controlPlane;
  return [
    controlPlaneDaemon(home, config, controlPlane),
    ...(proxy === undefined ? [] : [proxyDaemon(home, config, proxy, listenAddr)]),
  ];
}

/** Every storage daemon, in the order in which they start. */
export function storageDaemons(home: StrataHome, config: StrataConfig): Daemon[] {
  return [
    brokerDaemon(home, config),
    ...config.pageservers.map((node) => pageserverDaemon(home, config, node)),
    ...config.safekeepers.map((node) => safekeeperDaemon(home, config, node)),
  ];
}

function files(workdir: string, name: string) {
  return {
    workdir,
    pidFile: join(workdir, `${name}.pid`),
    logFile: join(workdir, `${name}.log`),
  };
}

function authArguments(
  home: StrataHome,
  config: TlsSettings & Pick<StrataConfig, "serviceTokens">,
  service: string,
): string[] {
  return [
    ...storageAuthArguments(home, config.serviceTokens === true),
    ...serviceTlsArguments(home, config, service),
  ];
}

function nodeArguments(config: StrataConfig, node: StorageNode): string[] {
  return [
    ...["--id", String(node.id)],
    ...["--listen-pg", node.listenPgAddr],
    ...["--listen-http", node.listenHttpAddr],
    ...["--broker", config.broker.listenAddr],
  ];
}

function remoteStorageArguments(home: StrataHome, config: StrataConfig): string[] {
  const remoteStorage = home.remoteStorage(config);
  return remoteStorage === undefined ? [] : ["--remote-storage", remoteStorage];
}

function furtherOptions(options: Record<string, string> = {}): string[] {
  return Object.entries(options).map(([name, value]) => `--${name}=${value}`);
}

function safekeeperArguments(home: StrataHome, config: StrataConfig): string[] {
  return [...remoteStorageArguments(home, config), ...furtherOptions(config.safekeeperOptions)];
}

function postgresArguments(config: StrataConfig): string[] {
  return [
    ...["--pg-version", String(config.pgVersion)],
    ...(config.pgBin === undefined ? [] : ["--pg-bin", config.pgBin]),
  ];
}

/** Whether the daemon at `host:port` answers; `path` as a pageserver or safekeeper has it. */
export async function answersHttp(address: string, path = "/v1/status"): Promise<boolean> {
  const client = new HttpClient({ component: "daemon", address, timeoutMs: PROBE_TIMEOUT_MS });
  return client.call("GET", path).then(
    () => true,
    () => false,
  );
}

/** One line before a start, as Neon prints it. */
function announce(daemon: Daemon, print: Print): void {
  const address = daemon.addresses[0];
  if (daemon.name === "storage_broker") {
    print(`Starting storage broker at ${serviceUrl(address!)}`);
  } else if (daemon.name === "control_plane") {
    print(`Starting control plane at '${serviceUrl(address!)}' in "${daemon.workdir}"`);
  } else if (daemon.name === "proxy") {
    print(`Starting proxy at '${address}' in "${daemon.workdir}"`);
  } else if (daemon.name === "pageserver") {
    print(`Starting pageserver node at '${address}' in "${daemon.workdir}"`);
  } else {
    print(`Starting safekeeper at '${address}' in '${daemon.workdir}'`);
  }
}

export async function startService(
  daemon: Daemon,
  options: { timeoutMs: number; print: Print },
): Promise<void> {
  if (daemonState(daemon).state !== "running") {
    announce(daemon, options.print);
  }
  await startDaemon(daemon, options);
}

/** All at once: the others look for the broker until it is there. Reports every failure. */
export async function startServices(
  daemons: readonly Daemon[],
  options: { timeoutMs: number; print: Print },
): Promise<void> {
  const results = await Promise.allSettled(daemons.map((daemon) => startService(daemon, options)));
  const failures = results.flatMap((result) =>
    result.status === "rejected" ? [result.reason as unknown] : [],
  );
  if (failures.length > 0) {
    const messages = failures.map((error) => (error instanceof Error ? error.message : `${error}`));
    throw new StorageError("unavailable", "start-failed", messages.join("; "), {
      cause: failures[0],
    });
  }
}
