// Ports for services that a test starts, and that nobody else is given while those are down.

import { createServer } from "node:net";
import { canListen } from "../src/base/network/ports.ts";
import { randomInt } from "../src/base/random.ts";

/*
 * Above those that homes without a configuration begin to look from (src/local/port-choice.ts), which cannot know of a service that
 * is down, and below the range from which the kernel takes the ports of outgoing connections, or one of those could sit on a port when its
 * service comes back. Each process of tests has a part of it for its own as long as it lives, by a name that the kernel
 * forgets with it: the service of another one could sit there just as well.
 */
const FIRST = 16_000;
const PART = 400;
const PARTS = 40;
/** Endpoints take the next ports from a home's first one on. */
const ENDPOINTS = 40;
const SINGLES = PART / 2;

interface Left {
  readonly ports: number[];
  readonly blocks: number[];
}

let left: Left = { ports: [], blocks: [] };

/** A loopback port that nobody has, never the same twice. */
export function freePort(): Promise<number> {
  return next((part) => part.ports);
}

/** The first of forty such ports. */
export function freeEndpointPorts(): Promise<number> {
  return next((part) => part.blocks);
}

async function next(of: (part: Left) => number[]): Promise<number> {
  for (;;) {
    const port = of(left).pop();
    if (port === undefined) {
      left = await claimPart();
    } else if (await canListen("127.0.0.1", port)) {
      return port;
    }
  }
}

async function claimPart(): Promise<Left> {
  for (;;) {
    const first = FIRST + PART * randomInt(PARTS);
    if (await isOurs(first)) {
      return {
        ports: Array.from({ length: SINGLES }, (_, i) => first + i),
        blocks: Array.from(
          { length: (PART - SINGLES) / ENDPOINTS },
          (_, i) => first + SINGLES + i * ENDPOINTS,
        ),
      };
    }
  }
}

function isOurs(first: number): Promise<boolean> {
  const name = createServer().unref();
  return new Promise((resolve) => {
    name.once("error", () => resolve(false));
    name.listen(`\0strata-test-ports-${first}`, () => resolve(true));
  });
}
