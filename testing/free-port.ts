// Ports for services that a test starts.

import { createServer } from "node:net";
import { randomInt } from "../src/base/random.ts";

const given = new Set<number>();

/**
 * A loopback port that nobody listens on, never the same twice. Below the range from which the kernel
 * takes the ports of outgoing connections, or one of those could sit on it when a service comes (back).
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + randomInt(22_000);
    if (!given.has(port) && (await canListen(port))) {
      given.add(port);
      return port;
    }
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
