// The pageserver's process.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon, wholeNumber } = await import("../base/daemon.ts");
const { Pageserver } = await import("./pageserver.ts");

await runDaemon({
  name: "pageserver",
  options: {
    id: { type: "string", default: "1" },
    "listen-pg": { type: "string", default: "127.0.0.1:64000" },
    "listen-http": { type: "string", default: "127.0.0.1:9898" },
    "http-host": { type: "string", multiple: true, default: [] as string[] },
    broker: { type: "string", default: "http://127.0.0.1:15051" },
    "pg-version": { type: "string" },
    "pg-bin": { type: "string" },
    "initdb-pwfile": { type: "string" },
    "checkpoint-distance": { type: "string" },
    "wait-lsn-timeout-ms": { type: "string" },
  },
  start: async ({ values, workdir, logger }) => {
    const checkpointDistanceBytes = wholeNumber(values, "checkpoint-distance");
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
      logger,
      prepareTemplate: true,
      ...(checkpointDistanceBytes === undefined ? {} : { storage: { checkpointDistanceBytes } }),
      ...(waitLsnTimeoutMs === undefined ? {} : { waitLsnTimeoutMs }),
    });
    const { pgPort, httpPort } = pageserver;
    logger.info({ pgPort, httpPort, workdir }, "pageserver is listening");
    return {
      stop: async (mode) => (mode === "fast" ? pageserver.close({ flush: true }) : undefined),
    };
  },
});
