// The storage broker's process.

import { parseArgs } from "node:util";
import { runDaemon } from "../base/daemon.ts";
import { createLogger } from "../base/log.ts";
import { parseHostPort } from "../postgres/wire-client.ts";
import { BrokerServer } from "./server.ts";

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
