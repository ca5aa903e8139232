// The proxy's process.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon, wholeNumber } = await import("../base/daemon.ts");
const { startProxy } = await import("./start-proxy.ts");
const { DEFAULT_POOL_SETTINGS } = await import("./pooling/server-pool.ts");

await runDaemon({
  name: "proxy",
  isPublic: true,
  options: {
    "listen-pg": { type: "string", default: "127.0.0.1:4432" },
    "listen-http": { type: "string", default: "127.0.0.1:4444" },
    "http-host": { type: "string", multiple: true, default: [] as string[] },
    "control-plane": { type: "string", default: "127.0.0.1:9096" },
    "control-plane-token-file": { type: "string" },
    domain: { type: "string", multiple: true, default: [] as string[] },
    "tls-cert": { type: "string", multiple: true, default: [] as string[] },
    "tls-key": { type: "string", multiple: true, default: [] as string[] },
    "require-tls": { type: "boolean", default: false },
    "max-connections": { type: "string" },
    "max-connections-per-endpoint": { type: "string" },
    "max-half-open": { type: "string" },
    "login-timeout-ms": { type: "string" },
    "wake-timeout-ms": { type: "string" },
    "failed-logins-per-minute": { type: "string" },
    "pool-size": { type: "string" },
    "pool-wait-timeout-ms": { type: "string" },
    "pool-idle-ms": { type: "string" },
  },
  start: async ({ values, workdir, logger }) => {
    const positive = { least: 1 };
    const given = {
      maxConnections: wholeNumber(values, "max-connections", positive),
      maxConnectionsPerEndpoint: wholeNumber(values, "max-connections-per-endpoint", positive),
      maxHalfOpen: wholeNumber(values, "max-half-open", positive),
      loginTimeoutMs: wholeNumber(values, "login-timeout-ms", positive),
      wakeTimeoutMs: wholeNumber(values, "wake-timeout-ms", positive),
      failedLoginsPerMinute: wholeNumber(values, "failed-logins-per-minute", positive),
    };
    const pool = {
      size: wholeNumber(values, "pool-size", positive),
      waitTimeoutMs: wholeNumber(values, "pool-wait-timeout-ms", positive),
      idleMs: wholeNumber(values, "pool-idle-ms", positive),
    };
    const proxy = await startProxy({
      workdir,
      listenPg: values["listen-pg"],
      listenHttp: values["listen-http"],
      allowedHosts: values["http-host"],
      controlPlane: values["control-plane"],
      controlPlaneTokenFile: values["control-plane-token-file"],
      certificates: values["tls-cert"],
      keys: values["tls-key"],
      settings: {
        requireTls: values["require-tls"],
        ...(values.domain.length > 0 ? { domains: values.domain } : {}),
        ...onlyGiven(given),
        pool: { ...DEFAULT_POOL_SETTINGS, ...onlyGiven(pool) },
      },
      logger,
    });
    return { stop: async (mode) => (mode === "fast" ? proxy.stop() : undefined) };
  },
});

function onlyGiven(numbers: Readonly<Record<string, number | undefined>>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(numbers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, value]],
    ),
  );
}
