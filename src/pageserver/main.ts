// The pageserver's process.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon, wholeNumber } = await import("../base/daemon.ts");
const { openObjectStore } = await import("../object-store/open-object-store.ts");
const { DEFAULT_EVICTION: eviction } = await import("./layer-eviction.ts");
const { DEFAULT_UPKEEP: upkeep } = await import("./retention/tenant-config.ts");
const { DEFAULT_SCRUB_LOOP: scrub } = await import("./scrub-loop.ts");
const { Pageserver } = await import("./pageserver.ts");

await runDaemon({
  name: "pageserver",
  options: {
    id: { type: "string", default: "1" },
    "listen-pg": { type: "string", default: "127.0.0.1:64000" },
    "listen-http": { type: "string", default: "127.0.0.1:9898" },
    "http-host": { type: "string", multiple: true, default: [] as string[] },
    broker: { type: "string", default: "127.0.0.1:15051" },
    "pg-version": { type: "string" },
    "pg-bin": { type: "string" },
    "initdb-pwfile": { type: "string" },
    "remote-storage": { type: "string" },
    "checkpoint-distance": { type: "string" },
    "max-open-layer-bytes": { type: "string" },
    "wait-lsn-timeout-ms": { type: "string" },
    "eviction-period-ms": { type: "string" },
    "max-disk-usage-percent": { type: "string" },
    "min-available-bytes": { type: "string" },
    "max-resident-bytes": { type: "string" },
    "scrub-period-ms": { type: "string" },
    "scrub-min-age-ms": { type: "string" },
    "compaction-period-ms": { type: "string" },
  },
  start: async ({ values, workdir, logger, callers, certificates }) => {
    const checkpointDistanceBytes = wholeNumber(values, "checkpoint-distance");
    const maxOpenLayerBytes = wholeNumber(values, "max-open-layer-bytes");
    const waitLsnTimeoutMs = wholeNumber(values, "wait-lsn-timeout-ms");
    const pageserver = await Pageserver.start({
      id: wholeNumber(values, "id") ?? 1,
      workdir,
      listenPg: values["listen-pg"],
      listenHttp: values["listen-http"],
      allowedHosts: values["http-host"],
      broker: values.broker,
      pgVersion: wholeNumber(values, "pg-version"),
      pgBin: values["pg-bin"],
      initdbPasswordFile: values["initdb-pwfile"],
      store:
        values["remote-storage"] === undefined
          ? undefined
          : await openObjectStore(values["remote-storage"], {
              env: process.env,
              onAway: (error) => logger.warn({ error }, "object store is away"),
            }),
      logger,
      callers,
      certificates,
      prepareTemplate: true,
      eviction: {
        periodMs: wholeNumber(values, "eviction-period-ms") ?? eviction.periodMs,
        maxUsagePercent: wholeNumber(values, "max-disk-usage-percent") ?? eviction.maxUsagePercent,
        minAvailableBytes: wholeNumber(values, "min-available-bytes") ?? eviction.minAvailableBytes,
        maxResidentBytes: wholeNumber(values, "max-resident-bytes") ?? eviction.maxResidentBytes,
      },
      scrub: {
        periodMs: wholeNumber(values, "scrub-period-ms") ?? scrub.periodMs,
        minAgeMs: wholeNumber(values, "scrub-min-age-ms") ?? scrub.minAgeMs,
      },
      upkeep: {
        compactionPeriodMs:
          wholeNumber(values, "compaction-period-ms") ?? upkeep.compactionPeriodMs,
      },
      storage: {
        ...(checkpointDistanceBytes === undefined ? {} : { checkpointDistanceBytes }),
        ...(maxOpenLayerBytes === undefined ? {} : { maxOpenLayerBytes }),
      },
      ...(waitLsnTimeoutMs === undefined ? {} : { waitLsnTimeoutMs }),
    });
    const { pgPort, httpPort } = pageserver;
    logger.info({ pgPort, httpPort, workdir }, "pageserver is listening");
    return {
      stop: async (mode) => (mode === "fast" ? pageserver.close({ flush: true }) : undefined),
    };
  },
});
