// Ports of endpoints: which a new one gets, and others for one whose ports somebody took while it did not run.

import { relative } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { holderInTheWay } from "../../base/network/ports.ts";
import type { PortHolder } from "../../base/proc.ts";
import { type EndpointSpec, PORT_NAMES, type PortName } from "../../compute/api.ts";
import { runtimeDirectory } from "../../postgres/installation.ts";
import type { StrataConfig } from "../config.ts";
import { choosePort, storagePorts } from "../port-choice.ts";
import { currentDirectory } from "../processes.ts";

const AGENT_HOST = "127.0.0.1";

export type EndpointPorts = Pick<EndpointSpec, PortName | "movablePorts">;

/** What is asked of an endpoint here. */
interface WithPorts {
  readonly id: string;
  readonly directory: string;
  readonly spec: EndpointSpec;
}

/** One that an endpoint has and cannot use. */
export interface TakenPort {
  readonly name: PortName;
  readonly port: number;
  /** Who has it. */
  readonly holder: string;
}

/**
 * Given ports, else the first two that neither endpoints nor storage have and that are free. Call while no other endpoint of the
 * home is made.
 */
export async function chooseEndpointPorts(
  config: StrataConfig,
  existing: readonly WithPorts[],
  wanted: { readonly [name in PortName]?: number | undefined },
): Promise<EndpointPorts> {
  const owners = storagePorts(config);
  for (const { id, spec } of existing) {
    owners.set(spec.pgPort, `endpoint ${id}`).set(spec.internalHttpPort, `endpoint ${id}`);
  }
  const claim = (port: number, what: string) => {
    const owner = owners.get(port);
    if (owner !== undefined) {
      throw new StorageError("conflict", "port-taken", `port ${port} belongs to ${owner}`);
    }
    owners.set(port, what);
    return port;
  };
  const { pgPort, internalHttpPort } = wanted;
  const given = [
    pgPort === undefined ? undefined : claim(pgPort, "Postgres of this endpoint"),
    internalHttpPort === undefined ? undefined : claim(internalHttpPort, "this endpoint's agent"),
  ];
  const next = async () => {
    const port = await choosePort(config.endpointBasePort, owners);
    return claim(port, "this endpoint");
  };
  return {
    pgPort: given[0] ?? (await next()),
    internalHttpPort: given[1] ?? (await next()),
    movablePorts: PORT_NAMES.filter((name) => wanted[name] === undefined),
  };
}

/**
 * Ports of a stopped endpoint that somebody else has, where it may have others in their place; none where one is among them that it
 * was given by its user: then it cannot start, wherever the other one is.
 */
export async function portsToMove(endpoint: WithPorts): Promise<readonly TakenPort[]> {
  const { spec } = endpoint;
  const hosts = { pgPort: spec.pgHost, internalHttpPort: AGENT_HOST };
  const taken: TakenPort[] = [];
  for (const name of PORT_NAMES) {
    const port = spec[name];
    // What a killed agent had is free in a moment, as a rule.
    const holder = await holderInTheWay(hosts[name], port);
    if (holder !== undefined && !isLeftPostgres(endpoint, holder)) {
      taken.push({ name, port, holder: holder.name });
    }
  }
  return taken.every(({ name }) => spec.movablePorts?.includes(name) === true) ? taken : [];
}

/** Others in place of those; call as chooseEndpointPorts. */
export async function choosePortsInstead(
  config: StrataConfig,
  { id, spec }: WithPorts,
  existing: readonly WithPorts[],
  taken: readonly TakenPort[],
): Promise<EndpointPorts> {
  const others = existing.filter((one) => one.id !== id);
  const keptOf = (name: PortName) =>
    taken.some((one) => one.name === name) ? undefined : spec[name];
  const kept = { pgPort: keptOf("pgPort"), internalHttpPort: keptOf("internalHttpPort") };
  const ports = await chooseEndpointPorts(config, others, kept);
  return { ...ports, movablePorts: spec.movablePorts };
}

/** That a killed agent of this very endpoint left, and the next one ends. */
function isLeftPostgres({ directory }: WithPorts, { pid }: PortHolder): boolean {
  const at = pid === undefined ? undefined : currentDirectory(pid);
  // All processes of a Postgres work in its data directory.
  return at !== undefined && !relative(runtimeDirectory(directory), at).startsWith("..");
}
