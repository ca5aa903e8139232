// Stops an endpoint whatever another command does with it: a start that is under way is ended, not waited for.

import { sleep } from "../base/clock.ts";
import type { StopMode } from "../base/daemon.ts";
import type { Print } from "./daemon.ts";
import { type DamagedEndpoint, type Endpoint, endpointState, stopEndpoint } from "./endpoints.ts";
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
    const lsn =
      endpointState(endpoint).state === "stopped"
        ? undefined
        : await stopEndpoint(endpoint, mode, print);
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
