// The safekeeper's process.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon, wholeNumber } = await import("../base/daemon.ts");
const { openObjectStore } = await import("../object-store/open-object-store.ts");
const { startSafekeeper } = await import("./safekeeper.ts");
const { DEFAULT_BACKUP_SETTINGS: defaults } = await import("./wal-backup/timeline-backup.ts");

await runDaemon({
  name: "safekeeper",
  isOnCommitPath: true,
  options: {
    id: { type: "string", default: "1" },
    "listen-pg": { type: "string", default: "127.0.0.1:5454" },
    "listen-http": { type: "string", default: "127.0.0.1:7676" },
    "http-host": { type: "string", multiple: true, default: [] as string[] },
    broker: { type: "string" },
    "remote-storage": { type: "string" },
    "partial-backup-timeout-ms": { type: "string" },
    "eviction-min-resident-ms": { type: "string" },
  },
  start: async ({ values, workdir, logger, callers, certificates }) => {
    const safekeeper = await startSafekeeper({
      nodeId: wholeNumber(values, "id", { least: 1 }) ?? 1,
      workdir,
      listenPg: values["listen-pg"],
      listenHttp: values["listen-http"],
      allowedHosts: values["http-host"],
      broker: values.broker,
      store:
        values["remote-storage"] === undefined
          ? undefined
          : await openObjectStore(values["remote-storage"], {
              env: process.env,
              onAway: (error) => logger.warn({ error }, "object store is away"),
            }),
      backup: {
        partialTimeoutMs:
          wholeNumber(values, "partial-backup-timeout-ms") ?? defaults.partialTimeoutMs,
        evictAfterMs: wholeNumber(values, "eviction-min-resident-ms") ?? defaults.evictAfterMs,
      },
      logger,
      callers,
      certificates,
    });
    return { stop: async (mode) => (mode === "fast" ? safekeeper.stop() : undefined) };
  },
});
