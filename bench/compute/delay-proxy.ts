// Holds back what clients send to a pageserver, as a network in between does; answers are passed on at once.
//
// A process of its own: `delay-proxy.ts LISTEN_PORT TARGET_PORT DELAY_MS`. It tells its parent when it listens.

import { connect, createServer, type Socket } from "node:net";
import { setTimer } from "../../src/base/clock.ts";

const [listenPort, targetPort, delayMs] = process.argv.slice(2).map(Number) as [
  number,
  number,
  number,
];

/** In the order in which it came. */
function passLater(from: Socket, to: Socket): void {
  from.on("data", (chunk: Buffer) => {
    setTimer(() => to.write(chunk), delayMs);
  });
}

const server = createServer((client) => {
  const upstream = connect({ port: targetPort, host: "127.0.0.1", noDelay: true });
  client.setNoDelay(true);
  passLater(client, upstream);
  upstream.pipe(client);
  for (const [one, other] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    one.on("error", () => other.destroy());
    one.on("close", () => other.destroy());
  }
});
server.listen(listenPort, "127.0.0.1", () => process.send!("listening"));
process.once("disconnect", () => process.exit());
