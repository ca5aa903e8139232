// Ports for services that a test starts.

import { canListen } from "../src/base/network/ports.ts";
import { randomInt } from "../src/base/random.ts";

const given = new Set<number>();

/**
 * A loopback port that nobody has, never the same twice. Below the range from which the kernel
 * takes the ports of outgoing connections, or one of those could sit on it when a service comes (back).
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + randomInt(22_000);
    if (!given.has(port) && (await canListen("127.0.0.1", port))) {
      given.add(port);
      return port;
    }
  }
}
