// The compute agent's process: `main.ts --workdir DIR`, everything else is in DIR/endpoint.json.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runDaemon } = await import("../base/daemon.ts");
const { startAgent } = await import("./agent.ts");

await runDaemon({ name: "compute", options: {}, start: startAgent });
