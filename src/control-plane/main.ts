// The control plane's process.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon, wholeNumber } = await import("../base/daemon.ts");
const { StorageError } = await import("../base/errors.ts");
const { StrataHome } = await import("../local/home.ts");
const { parseHostPort } = await import("../postgres/wire/wire-client.ts");
const { ControlPlane } = await import("./server.ts");

await runDaemon({
  name: "control_plane",
  hasOwnKeys: true,
  options: {
    home: { type: "string" },
    listen: { type: "string", default: "127.0.0.1:9096" },
    "database-url": { type: "string" },
    "http-host": { type: "string", multiple: true, default: [] as string[] },
    "warm-agents": { type: "string", default: "0" },
    "proxy-address": { type: "string", default: "localtest.me:4432" },
    "proxy-http-address": { type: "string", default: "localtest.me:4444" },
  },
  start: async ({ values, workdir, logger, certificates }) => {
    if (values.home === undefined) {
      throw new StorageError("invalid", "bad-option", "--home is required");
    }
    const { host, port } = parseHostPort(values.listen);
    const proxy = parseHostPort(values["proxy-address"]);
    const { port: httpPort } = parseHostPort(values["proxy-http-address"]);
    const controlPlane = await ControlPlane.open({
      home: new StrataHome(values.home).identify(),
      workdir,
      front: { domain: proxy.host, port: proxy.port, httpPort },
      logger,
      databaseUrl: values["database-url"],
      warmAgents: wholeNumber(values, "warm-agents"),
      allowedHosts: values["http-host"],
      certificates,
    });
    await controlPlane.listen(host, port);
    logger.info({ listen: values.listen }, "control plane listens");
    return { stop: async (mode) => (mode === "fast" ? controlPlane.close() : undefined) };
  },
});
