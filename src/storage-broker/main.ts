// The storage broker's process.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon } = await import("../base/daemon.ts");
const { parseHostPort } = await import("../postgres/wire/wire-client.ts");
const { BrokerServer } = await import("./server.ts");

await runDaemon({
  name: "storage_broker",
  options: {
    listen: { type: "string", default: "127.0.0.1:15051" },
    "http-host": { type: "string", multiple: true, default: [] as string[] },
  },
  start: async ({ values, logger, callers, certificates }) => {
    const { host, port } = parseHostPort(values.listen);
    const allowedHosts = values["http-host"];
    const server = new BrokerServer({ logger, allowedHosts, callers, certificates });
    await server.listen(host, port);
    logger.info({ listen: values.listen }, "storage broker listens");
    return { stop: async (mode) => (mode === "fast" ? server.close() : undefined) };
  },
});
