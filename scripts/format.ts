// `npm run format`: formats everything and applies the safe lint fixes.

import { BIOME, runSteps } from "./checks.ts";

runSteps([{ name: "format", command: BIOME, args: ["check", "--write", "."] }]);
