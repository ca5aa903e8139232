// Passes bytes between a client and its Postgres, both ways, each side at the speed of the slower one.

import type { Duplex } from "node:stream";
import { setIdleTimer } from "../../base/clock.ts";
import type { ComputeConnection } from "./compute-connection.ts";

/** For a client that does not read the last answer. */
const LINGER_MS = 30_000;

/** Resolves when the client's connection is gone. Nothing here is made for a message: no object, no promise. */
export function tunnel(client: Duplex, compute: ComputeConnection): Promise<void> {
  const { socket } = compute;
  compute.onData = (chunk) => client.write(Buffer.from(chunk));
  client.on("drain", () => socket.resume());
  client.on("data", (chunk: Buffer) => {
    if (!socket.write(chunk)) {
      client.pause();
    }
  });
  socket.on("drain", () => client.resume());
  // The other side's last bytes still go their way.
  client.on("end", () => socket.end());
  client.on("close", () => socket.destroySoon());
  const computeGone = () => {
    client.end();
    const timer = setIdleTimer(() => client.destroy(), LINGER_MS);
    client.once("close", () => timer.cancel());
  };
  socket.on("close", computeGone);
  if (socket.destroyed) {
    computeGone();
  }
  return client.destroyed
    ? Promise.resolve(socket.destroySoon())
    : new Promise((resolve) => client.once("close", () => resolve()));
}
