// The compute agent's process: `main.ts --workdir DIR`, everything else is in DIR/endpoint.json.

import { enableCompileCache } from "node:module";

// Before everything else is loaded: it saves most of the time that loading takes.
enableCompileCache();
const { runAgent } = await import("./agent.ts");
// Not by running dry: a forgotten timer or connection must not keep an agent that has given up.
process.exit(await runAgent(process.argv.slice(2)));
