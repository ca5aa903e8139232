// Whether somebody listens on a port that a compute is to have.

import { createConnection } from "node:net";
import { StorageError } from "../base/errors.ts";

/**
 * Before an election, because a Postgres that cannot listen would fence whoever runs now. Asks by
 * connecting: to listen for a moment costs 10 ms, as Node then loads its resolver.
 * StorageError `conflict` where somebody listens.
 */
export async function checkPortFree(host: string, port: number): Promise<void> {
  const socket = createConnection({ host, port });
  const taken = await new Promise<boolean>((resolve) => {
    socket.once("connect", () => resolve(true));
    // Refused, mostly. Whatever else it is will be told by who listens there.
    socket.once("error", () => resolve(false));
  });
  socket.destroy();
  if (taken) {
    throw new StorageError(
      "conflict",
      "cannot-listen",
      `listen on ${host}:${port}: EADDRINUSE: address already in use`,
    );
  }
}
