// Chooses ports for a new home and for new endpoints: free ones that stay free.

import { StorageError } from "../base/errors.ts";
import { canListen } from "../base/network/ports.ts";
import { outgoingPorts } from "../base/proc.ts";
import type { StorageNode } from "../storage-controller/controller-state.ts";
import type { InitSettings, ProxyAddresses, StrataConfig } from "./config.ts";

/*
 * Neon's ports where Linux leaves them alone. Its 50051 and 55432 lie in the range from which the kernel
 * takes the near ends of outgoing connections (32768 to 60999), where any of those can sit on them just
 * when a service starts: these two are chosen below it (docs/decisions/0013-ports.md).
 */
const BROKER_PORT = 15_051;
const PAGESERVER_PORTS = { pg: 64_000, http: 9898 };
const CONTROL_PLANE_PORT = 9096;
/** Neon's, and the one that its driver's settings name for HTTP in Neon Local. */
const PROXY_PORTS = { pg: 4432, http: 4444 };
const SAFEKEEPER_PORTS = { pg: 5454, http: 7676 };

const HOST = "127.0.0.1";
const FIRST_UNPRIVILEGED = 1024;
const LAST_PORT = 65_535;

/**
 * The first port from `from` on (and then below it) that can be listened on, is not in `taken` and not
 * in the range of outgoing connections, unless `from` itself is: a home whose ports lie there keeps
 * them together. StorageError `unavailable` where there is none.
 */
export async function choosePort(
  from: number,
  taken: Pick<ReadonlySet<number>, "has">,
): Promise<number> {
  const { first, last } = outgoingPorts();
  const isOutgoing = (port: number) => first <= port && port <= last;
  const mayBeOutgoing = isOutgoing(from);
  for (const [low, high] of [
    [from, LAST_PORT],
    [FIRST_UNPRIVILEGED, from - 1],
  ] as const) {
    for (let port = low; port <= high; port++) {
      const usable = !taken.has(port) && (mayBeOutgoing || !isOutgoing(port));
      if (usable && (await canListen(HOST, port))) {
        return port;
      }
    }
  }
  throw new StorageError("unavailable", "no-port", `no port is free from ${from} on, nor below`);
}

export type Addresses = Pick<
  StrataConfig,
  "broker" | "pageservers" | "safekeepers" | "controlPlane" | "proxy"
>;

/** Every address of a new home: those that `settings` name, else the usual ones or the next free. */
export async function chooseAddresses(
  settings: InitSettings,
  safekeeperCount: number,
): Promise<Addresses> {
  const given = [...(settings.pageservers ?? []), ...(settings.safekeepers ?? [])];
  const addresses = given.flatMap((node) => [node.listenPgAddr, node.listenHttpAddr]);
  for (const service of [settings.broker, settings.controlPlane]) {
    if (service !== undefined) {
      addresses.push(service.listenAddr);
    }
  }
  if (settings.proxy !== undefined) {
    addresses.push(settings.proxy.listenPgAddr, settings.proxy.listenHttpAddr);
  }
  const taken = new Set(addresses.map(portOf));
  const take = async (usual: number) => {
    const port = await choosePort(usual, taken);
    taken.add(port);
    return `${HOST}:${port}`;
  };
  const node = async (id: number, usual: { pg: number; http: number }): Promise<StorageNode> => ({
    id,
    listenPgAddr: await take(usual.pg + id - 1),
    listenHttpAddr: await take(usual.http + id - 1),
  });
  const safekeepers = settings.safekeepers ?? [];
  if (settings.safekeepers === undefined) {
    for (let id = 1; id <= safekeeperCount; id++) {
      safekeepers.push(await node(id, SAFEKEEPER_PORTS));
    }
  }
  return {
    broker: settings.broker ?? { listenAddr: await take(BROKER_PORT) },
    pageservers: settings.pageservers ?? [await node(1, PAGESERVER_PORTS)],
    safekeepers,
    controlPlane: settings.controlPlane ?? { listenAddr: await take(CONTROL_PLANE_PORT) },
    proxy: settings.proxy ?? {
      listenPgAddr: await take(PROXY_PORTS.pg),
      listenHttpAddr: await take(PROXY_PORTS.http),
    },
  };
}

/** For a home of an earlier version, which has none yet. */
export async function chooseControlPlaneAddress(config: StrataConfig): Promise<string> {
  return `${HOST}:${await choosePort(CONTROL_PLANE_PORT, storagePorts(config))}`;
}

/** As `chooseControlPlaneAddress`. */
export async function chooseProxyAddresses(config: StrataConfig): Promise<ProxyAddresses> {
  const taken = new Map(storagePorts(config));
  const pg = await choosePort(PROXY_PORTS.pg, taken);
  taken.set(pg, "the proxy");
  const http = await choosePort(PROXY_PORTS.http, taken);
  return { listenPgAddr: `${HOST}:${pg}`, listenHttpAddr: `${HOST}:${http}` };
}

/** Port to the service that has it, for messages. Running or not, they are not free. */
export function storagePorts(config: StrataConfig): Map<number, string> {
  const ports = new Map([[portOf(config.broker.listenAddr), "the storage broker"]]);
  if (config.controlPlane !== undefined) {
    ports.set(portOf(config.controlPlane.listenAddr), "the control plane");
  }
  if (config.proxy !== undefined) {
    ports.set(portOf(config.proxy.listenPgAddr), "the proxy");
    ports.set(portOf(config.proxy.listenHttpAddr), "the proxy");
  }
  for (const [kind, nodes] of [
    ["pageserver", config.pageservers],
    ["safekeeper", config.safekeepers],
  ] as const) {
    for (const node of nodes) {
      ports.set(portOf(node.listenPgAddr), `${kind} ${node.id}`);
      ports.set(portOf(node.listenHttpAddr), `${kind} ${node.id}`);
    }
  }
  return ports;
}

function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(":") + 1));
}
