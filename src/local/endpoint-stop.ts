// Stops an endpoint whatever another command does with it: a start that is under way is ended, not waited for.

import { sleep } from "../base/clock.ts";
import type { StopMode } from "../base/daemon.ts";
import { errorKind, StorageError } from "../base/errors.ts";
import type { Print } from "./daemon.ts";
import {
  type DamagedEndpoint,
  destroyEndpoint,
  type Endpoint,
  endpointState,
  findEvenDamaged,
  stopEndpoint,
} from "./endpoints.ts";
import type { StrataHome } from "./home.ts";
import { daemonsIn, stopLeftOver } from "./left-over.ts";
import { withLock } from "./lock.ts";

const POLL_MS = 100;

/**
 * Stops the endpoint and runs `body` before anybody can start it again: under its lock, which may be
 * taken while the home is locked, never the other way round. `lsn`: that a running one told.
 */
export async function stopAndKeep(
  home: StrataHome,
  endpoint: Endpoint | DamagedEndpoint,
  mode: StopMode,
  print: Print,
  body: (lsn: string | undefined) => void = () => {},
): Promise<void> {
  let isOurs = false;
  const stopping = withLock(home.path, `endpoint ${endpoint.id}`, async () => {
    isOurs = true;
    const now = asItIsNow(home, endpoint);
    const lsn =
      endpointState(now).state === "stopped" ? undefined : await stopEndpoint(now, mode, print);
    for (const daemon of daemonsIn(endpoint.directory)) {
      await stopLeftOver(daemon, mode, print);
    }
    body(lsn);
  });
  const settled = stopping.then(
    () => true,
    () => true,
  );
  const ended = new Set<number>();
  while (!isOurs && (await Promise.race([settled, sleep(POLL_MS)])) !== true && !isOurs) {
    // The holder of the lock waits for this process, or will start it in a moment.
    for (const daemon of daemonsIn(endpoint.directory)) {
      if (!ended.has(daemon.pid)) {
        ended.add(daemon.pid);
        await stopLeftOver(daemon, mode, print);
      }
    }
  }
  await stopping;
}

/** A start that ended meanwhile may have put others in place of its ports: whoever has the old ones is not to be asked to stop. */
function asItIsNow(
  home: StrataHome,
  endpoint: Endpoint | DamagedEndpoint,
): Endpoint | DamagedEndpoint {
  try {
    return findEvenDamaged(home, endpoint.id);
  } catch (error) {
    if (errorKind(error) === "not-found") {
      return endpoint;
    }
    throw error;
  }
}

/** Before what they are on is deleted: with `force` they are stopped and destroyed, else they are a reason to refuse (`conflict`). */
export async function clearEndpoints(
  home: StrataHome,
  whose: { readonly name: string; readonly code: string; readonly endpoints: readonly Endpoint[] },
  force: boolean,
  print: Print,
): Promise<void> {
  const { name, code, endpoints } = whose;
  if (endpoints.length > 0 && !force) {
    const ids = endpoints.map((endpoint) => endpoint.id).join(", ");
    const message = `${name} has endpoints: ${ids}; --force stops and destroys them`;
    throw new StorageError("conflict", code, message);
  }
  const silent = () => {};
  for (const endpoint of endpoints) {
    await stopAndKeep(home, endpoint, "immediate", silent, () => destroyEndpoint(endpoint));
    print(`Destroyed endpoint ${endpoint.id}`);
  }
}
