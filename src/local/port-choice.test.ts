import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { type TestContext, test } from "node:test";
import { freePort } from "../../testing/free-port.ts";
import { errnoCode } from "../base/errors.ts";
import { outgoingPorts } from "../base/proc.ts";
import { chooseAddresses, choosePort, storagePorts } from "./port-choice.ts";

const NONE: ReadonlySet<number> = new Set();

/** By us, or by who was faster: others choose the same ports. */
async function occupy(t: TestContext, port: number): Promise<void> {
  const server = createServer();
  t.after(() => server.close());
  server.listen(port, "127.0.0.1");
  await once(server, "listening").catch((error) => assert.equal(errnoCode(error), "EADDRINUSE"));
}

test("choosePort: the first that is neither taken nor in use", async (t) => {
  const from = await freePort();
  await occupy(t, from);
  const chosen = await choosePort(from, new Set([from + 1]));
  assert.ok(chosen >= from + 2 && chosen < from + 100, `${chosen} for ${from}`);
});

test("choosePort: goes on below where all above are taken, and over the range of outgoing connections", async () => {
  const { first, last } = outgoingPorts();
  const below = await choosePort(65_535, new Set([65_535]));
  assert.ok(below >= 1024 && below < first, `${below}`);
  const over = await choosePort(first - 1, new Set([first - 1]));
  assert.ok(over > last || over < first, `${over}`);
  // An older home has its ports there, and keeps them together.
  const inside = await choosePort(first + 10, NONE);
  assert.ok(inside >= first + 10 && inside <= last, `${inside}`);
});

test("choosePort: says so where there is none", async () => {
  await assert.rejects(choosePort(2000, { has: () => true }), { code: "no-port" });
});

test("chooseAddresses: the usual ports or the next free, all distinct, outside of the outgoing ones", async (t) => {
  const chosen = await chooseAddresses({}, 3);
  const { broker, controlPlane, proxy, pageservers, safekeepers } = chosen;
  const addresses = [broker.listenAddr, controlPlane!.listenAddr];
  addresses.push(proxy!.listenPgAddr, proxy!.listenHttpAddr);
  for (const node of [...pageservers, ...safekeepers]) {
    addresses.push(node.listenPgAddr, node.listenHttpAddr);
  }
  assert.equal(new Set(addresses).size, 12);
  assert.deepEqual(
    safekeepers.map(({ id }) => id),
    [1, 2, 3],
  );
  const { first, last } = outgoingPorts();
  for (const address of addresses) {
    const port = Number(address.split(":")[1]);
    assert.ok(port < first || port > last, address);
  }
  // A second home, while the first one runs.
  for (const address of addresses) {
    await occupy(t, Number(address.split(":")[1]));
  }
  const second = await chooseAddresses({}, 3);
  const ports = [...storagePorts({ ...SOME_CONFIG, ...second }).keys()];
  assert.equal(ports.length, 12);
  assert.ok(ports.every((port) => !addresses.includes(`127.0.0.1:${port}`)));
});

test("chooseAddresses: what is given stays, and is not given to others", async () => {
  const broker = { listenAddr: "127.0.0.1:64000" };
  const chosen = await chooseAddresses({ broker }, 1);
  assert.deepEqual(chosen.broker, broker);
  assert.notEqual(chosen.pageservers[0]!.listenPgAddr, "127.0.0.1:64000");
});

const SOME_CONFIG = {
  formatVersion: 1,
  pgVersion: 17,
  endpointBasePort: 15_432,
  branchNameMappings: new Map(),
  memberships: new Map(),
  unfinishedTimelines: new Map(),
  unfinishedTenants: new Set<string>(),
  deletedTenants: new Map(),
  branchSwitches: new Map(),
} as const;
