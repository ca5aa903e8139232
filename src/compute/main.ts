// The compute agent's process: `main.ts --workdir DIR`, everything else is in DIR/endpoint.json.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runAgent } = await import("./agent.ts");
process.exitCode = await runAgent(process.argv.slice(2));
