// Starts endpoints, whoever else has their ports by then.
//
// A stopped endpoint keeps its ports in its endpoint.json, but nobody listens there: another home of the machine, or any program, can
// take them. Then the endpoint gets others, of those that its home may choose, and is tried again (docs/decisions/0013-ports.md).

import { StorageError } from "../../base/errors.ts";
import { placementOf } from "../controller.ts";
import type { Print } from "../daemon.ts";
import {
  type Endpoint,
  type EndpointStartOptions,
  endpointState,
  findEndpoint,
  listEndpoints,
  setEndpointPorts,
  startEndpoint,
} from "../endpoints.ts";
import type { StrataHome } from "../home.ts";
import { withEndpointMaking, withLock } from "../lock.ts";
import { choosePortsInstead, portsToMove, type TakenPort } from "./endpoint-ports.ts";

/** Somebody else may choose the same port at the same time, and bind it first. */
const MAX_MOVES = 3;

export interface StartOnFreePortsOptions extends EndpointStartOptions {
  /** Is told of each port that is another one from now on, in a sentence. */
  readonly onPortMoved: Print;
}

/**
 * As startEndpoint, which it calls under the endpoint's lock; call with nothing locked. Where ports are taken that the home chose
 * the endpoint has others from then on. `onWait`: somebody else works on it.
 */
export function startWithLocks(
  home: StrataHome,
  asked: Endpoint,
  options: StartOnFreePortsOptions & { readonly onWait?: () => void },
): Promise<Endpoint> {
  const { onWait } = options;
  const locked = <T>(body: () => Promise<T>): Promise<T> =>
    withLock(home.path, `endpoint ${asked.id}`, body, onWait === undefined ? {} : { onWait });
  // In the order of all who take these: what makes endpoints goes before what is done with one.
  const alone = <T>(body: () => Promise<T>): Promise<T> =>
    withEndpointMaking(home, () => locked(body));
  return startOnFreePorts(home, asked, options, { locked, alone });
}

/** As startWithLocks; call with the home locked, and the endpoint. */
export function startWhileLocked(
  home: StrataHome,
  asked: Endpoint,
  options: StartOnFreePortsOptions,
): Promise<Endpoint> {
  const locked = <T>(body: () => Promise<T>): Promise<T> => body();
  return startOnFreePorts(home, asked, options, { locked, alone: locked });
}

interface Locks {
  /** While nobody else starts or changes the endpoint. */
  locked<T>(body: () => Promise<T>): Promise<T>;
  /** And nobody makes another one. */
  alone<T>(body: () => Promise<T>): Promise<T>;
}

async function startOnFreePorts(
  home: StrataHome,
  asked: Endpoint,
  options: StartOnFreePortsOptions,
  { locked, alone }: Locks,
): Promise<Endpoint> {
  for (let moves = 0; ; moves++) {
    try {
      return await locked(() => startEndpoint(home, asked, placementOf(home, asked), options));
    } catch (error) {
      // A first look without locks: most starts fail for other reasons, and tell them at once.
      const mayMove =
        moves < MAX_MOVES && isAboutAddress(error) && (await isInTheWay(home, asked.id));
      if (!mayMove || !(await alone(() => moveAway(home, asked.id, options.onPortMoved)))) {
        throw error;
      }
    }
  }
}

/** It was found taken, or the agent or its Postgres ended: that may be because somebody bound it first. */
function isAboutAddress(error: unknown): boolean {
  return (
    error instanceof StorageError &&
    (error.code === "address-in-use" || error.code === "start-failed")
  );
}

async function isInTheWay(home: StrataHome, id: string): Promise<boolean> {
  try {
    return (await portsToMove(findEndpoint(home, id))).length > 0;
  } catch {
    // It is gone, or damaged.
    return false;
  }
}

/** Whether there is anything to try again. */
async function moveAway(home: StrataHome, id: string, tell: Print): Promise<boolean> {
  const endpoint = findEndpoint(home, id);
  if (endpointState(endpoint).state === "running") {
    // Somebody else was faster; whoever starts it again joins that.
    return true;
  }
  const taken = await portsToMove(endpoint);
  if (taken.length === 0) {
    return false;
  }
  const ports = await choosePortsInstead(home.config(), endpoint, listEndpoints(home), taken);
  setEndpointPorts(endpoint, ports);
  for (const one of taken) {
    tell(movedLine(id, one, ports[one.name]));
  }
  return true;
}

function movedLine(id: string, { name, port, holder }: TakenPort, now: number): string {
  const whose = name === "pgPort" ? "Postgres" : "the agent";
  return `port ${port} is in use by ${holder}: ${whose} of endpoint ${id} has port ${now} from now on`;
}
