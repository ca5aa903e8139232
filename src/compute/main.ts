// The compute agent's process: `main.ts --workdir DIR`, everything else is in DIR/endpoint.json; `main.ts --warm` waits
// for its directory.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon } = await import("../base/daemon.ts");
const { startAgent } = await import("./agent.ts");

const isWarm = process.argv[2] === "--warm";
const work = isWarm ? await (await import("./warm-start.ts")).waitForWork() : {};
await runDaemon({
  name: "compute",
  options: {},
  isOnCommitPath: true,
  start: (context) => startAgent({ ...context, ...work }),
});
