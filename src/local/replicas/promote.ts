// Makes a replica its branch's primary endpoint, and the primary a replica.

import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Print } from "../daemon.ts";
import { stopAndKeep } from "../endpoint-stop.ts";
import { startWhileLocked } from "../endpoints/start-endpoint.ts";
import {
  clientOf,
  type Endpoint,
  endpointState,
  findEndpoint,
  listEndpoints,
  setEndpointMode,
} from "../endpoints.ts";
import type { StrataHome } from "../home.ts";
import { withLock } from "../lock.ts";

/** A primary that has not told how it is by then is not asked to write a shutdown checkpoint. */
const ANSWER_MS = 3000;

/**
 * Call with the home locked, so that of two promotions the one comes after the other. Resolves when the endpoint takes writes.
 * What was acknowledged is on a quorum, and the new primary's election begins where that ends; it also fences a primary that was
 * not stopped, wherever it runs.
 *
 * 1. A primary of the branch is stopped and from then on a replica, in its endpoint.json.
 * 2. The replica is stopped and from then on the primary.
 * 3. It starts, with the address that it had unless somebody else has that now.
 *
 * After a crash between any two the branch has at most one primary endpoint, and the same call goes on from there. An endpoint that
 * is the primary already is only started. StorageError `invalid` for one at an LSN, `unavailable` where it does not start: it is
 * the primary then, and the same call tries again.
 */
export async function promoteEndpoint(
  home: StrataHome,
  id: string,
  options: { readonly timeoutMs: number; readonly print: Print },
): Promise<void> {
  const { timeoutMs, print } = options;
  const endpoint = findEndpoint(home, id);
  if (typeof endpoint.spec.mode !== "string") {
    const message = `endpoint ${id} is at an LSN for ever: only a replica can be promoted; a branch at that LSN takes writes ('branch create NAME --at LSN')`;
    throw new StorageError("invalid", "not-a-replica", message);
  }
  for (const primary of otherPrimaries(home, endpoint)) {
    await stopAndKeep(home, primary, await stopMode(primary, print), silent, () =>
      setEndpointMode(findEndpoint(home, primary.id), "replica"),
    );
    print(`endpoint ${primary.id} is a replica now, and stopped`);
  }
  if (endpoint.spec.mode === "replica") {
    await stopAndKeep(home, endpoint, "fast", silent, () =>
      setEndpointMode(findEndpoint(home, id), "primary"),
    );
  }
  await withLock(home.path, `endpoint ${id}`, async () => {
    const promoted = findEndpoint(home, id);
    await startWhileLocked(home, promoted, { timeoutMs, print: silent, onPortMoved: print });
  });
}

const silent = () => {};

function otherPrimaries(home: StrataHome, { id, spec }: Endpoint): Endpoint[] {
  return listEndpoints(home).filter(
    (other) =>
      other.id !== id &&
      other.spec.mode === "primary" &&
      other.spec.tenantId === spec.tenantId &&
      other.spec.timelineId === spec.timelineId,
  );
}

/** One that answers gets the time for its shutdown checkpoint; one that hangs would take all of its patience. */
async function stopMode(primary: Endpoint, print: Print): Promise<"fast" | "immediate"> {
  if (endpointState(primary).state !== "running") {
    return "fast";
  }
  try {
    await clientOf(primary).status(ANSWER_MS);
    return "fast";
  } catch (error) {
    print(`endpoint ${primary.id} does not answer, and is ended: ${errorMessage(error)}`);
    return "immediate";
  }
}
