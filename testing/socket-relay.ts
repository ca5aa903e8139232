// Relays a Unix socket to a TCP port: the way to a server in another network namespace.

import { createConnection, createServer } from "node:net";

const [socketPath, host, port] = process.argv.slice(2);

createServer((client) => {
  const server = createConnection({ host: host!, port: Number(port) });
  for (const [from, to] of [
    [client, server],
    [server, client],
  ] as const) {
    from.pipe(to);
    from.on("error", () => to.destroy());
    from.on("close", () => to.destroy());
  }
}).listen(socketPath);
