// The safekeeper's process.

import { parseArgs } from "node:util";
import { runDaemon } from "../base/daemon.ts";
import { StorageError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { startSafekeeper } from "./safekeeper.ts";

const { values } = parseArgs({
  options: {
    workdir: { type: "string", default: "." },
    id: { type: "string", default: "1" },
    "listen-pg": { type: "string", default: "127.0.0.1:5454" },
    "listen-http": { type: "string", default: "127.0.0.1:7676" },
    broker: { type: "string" },
  },
});
const logger = createLogger("safekeeper");

await runDaemon({
  name: "safekeeper",
  workdir: values.workdir,
  logger,
  start: async () => {
    const nodeId = Number(values.id);
    if (!Number.isSafeInteger(nodeId) || nodeId < 1) {
      throw new StorageError("invalid", "bad-node-id", `--id must be a number, got '${values.id}'`);
    }
    const safekeeper = await startSafekeeper({
      nodeId,
      workdir: values.workdir,
      listenPg: values["listen-pg"],
      listenHttp: values["listen-http"],
      broker: values.broker,
      logger,
    });
    return () => safekeeper.stop();
  },
});
