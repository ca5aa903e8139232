// The safekeeper's process.

import { enableCompileCache } from "node:module";
import { parseArgs } from "node:util";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon } = await import("../base/daemon.ts");
const { StorageError } = await import("../base/errors.ts");
const { createLogger } = await import("../base/log.ts");
const { openObjectStore } = await import("../object-store/open-object-store.ts");
const { startSafekeeper } = await import("./safekeeper.ts");
const { DEFAULT_BACKUP_SETTINGS: defaults } = await import("./wal-backup/wal-backup.ts");

const { values } = parseArgs({
  options: {
    workdir: { type: "string", default: "." },
    id: { type: "string", default: "1" },
    "listen-pg": { type: "string", default: "127.0.0.1:5454" },
    "listen-http": { type: "string", default: "127.0.0.1:7676" },
    broker: { type: "string" },
    "remote-storage": { type: "string" },
    "partial-backup-timeout-ms": { type: "string" },
    "eviction-min-resident-ms": { type: "string" },
  },
});
/** An option in milliseconds. StorageError `invalid`. */
function durationMs(name: keyof typeof values & `${string}-ms`, fallback: number): number {
  const duration = Number(values[name] ?? fallback);
  if (!Number.isSafeInteger(duration) || duration < 0) {
    const message = `--${name} must be a number of milliseconds, got '${values[name]}'`;
    throw new StorageError("invalid", "bad-duration", message);
  }
  return duration;
}

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
      store:
        values["remote-storage"] === undefined
          ? undefined
          : openObjectStore(values["remote-storage"]),
      backup: {
        partialTimeoutMs: durationMs("partial-backup-timeout-ms", defaults.partialTimeoutMs),
        evictAfterMs: durationMs("eviction-min-resident-ms", defaults.evictAfterMs),
      },
      logger,
    });
    return () => safekeeper.stop();
  },
});
