// The storage broker's process.

import { enableCompileCache } from "node:module";
import { parseArgs } from "node:util";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon } = await import("../base/daemon.ts");
const { createLogger } = await import("../base/log.ts");
const { parseHostPort } = await import("../postgres/wire/wire-client.ts");
const { BrokerServer } = await import("./server.ts");

const { values } = parseArgs({
  options: {
    workdir: { type: "string", default: "." },
    listen: { type: "string", default: "127.0.0.1:50051" },
  },
});
const logger = createLogger("storage_broker");

await runDaemon({
  name: "storage_broker",
  workdir: values.workdir,
  logger,
  start: async () => {
    const { host, port } = parseHostPort(values.listen);
    const server = new BrokerServer();
    await server.listen(host, port);
    logger.info({ listen: values.listen }, "storage broker listens");
    return () => server.close();
  },
});
