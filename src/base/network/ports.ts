// Whether a TCP address can be listened on, learnt by binding it: a listener is not all that can be in the way.

import { createConnection, createServer, isIP } from "node:net";
import { monotonicMs, sleep } from "../clock.ts";
import { errnoCode, StorageError } from "../errors.ts";
import { type PortHolder, portHolder } from "../proc.ts";

/**
 * Binds the address and lets it go. Connecting to it would not do: it shows only a listener, while the
 * near end of somebody's outgoing connection is in the way just as well.
 *
 * An IP address is bound as the near end of a connection to port 0, which is refused at once: 2 ms in
 * a young process, and 7 ms where a server is made to listen, as Node then loads its resolver.
 */
export async function canListen(host: string, port: number): Promise<boolean> {
  const code = isIP(host) === 0 ? await listenBriefly(host, port) : await bindNearEnd(host, port);
  return code !== "EADDRINUSE";
}

/** A process that was killed is gone for its parent before the system has closed all that it had. */
const ENDING_MS = 1000;

/** Who keeps the address from being bound; undefined where nobody does. Waits for who is ending. */
export async function holderInTheWay(host: string, port: number): Promise<PortHolder | undefined> {
  const began = monotonicMs();
  while (!(await canListen(host, port))) {
    const holder = portHolder(port);
    if (holder?.isEnding === true && monotonicMs() - began < ENDING_MS) {
      await sleep(10);
      continue;
    }
    const name = "a process that is not seen from here";
    return holder ?? { pid: undefined, name, isEnding: false };
  }
  return undefined;
}

/** StorageError `conflict` where it cannot be bound; names who has it, and then `advice`. Waits for who is ending. */
export async function requireFree(
  host: string,
  port: number,
  doing: string,
  advice?: string,
): Promise<void> {
  const holder = await holderInTheWay(host, port);
  if (holder !== undefined) {
    const taken = `${doing}: ${host}:${port} is already in use by ${holder.name}`;
    const message = advice === undefined ? taken : `${taken}; ${advice}`;
    throw new StorageError("conflict", "address-in-use", message);
  }
}

function bindNearEnd(host: string, port: number): Promise<string | undefined> {
  // A wildcard can be bound, but not connected to.
  const far = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  const socket = createConnection({ host: far, port: 0, localAddress: host, localPort: port });
  return new Promise((resolve) => {
    const settle = (code: string | undefined) => {
      socket.destroy();
      resolve(code);
    };
    socket.once("connect", () => settle(undefined));
    socket.once("error", (error) => settle(errnoCode(error)));
  });
}

function listenBriefly(host: string, port: number): Promise<string | undefined> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", (error) => resolve(errnoCode(error)));
    server.listen(port, host, () => server.close(() => resolve(undefined)));
  });
}
