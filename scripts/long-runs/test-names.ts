// `npm run test:names -- [--names N]`: N names (50 million) made and removed under the shim, whose tables keep their size.

import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { runSteps, testStep } from "../checks.ts";

/** Where much else runs. */
const NAME_TIMEOUT_MS = 1;
/** Memory, where there is such a file system: a disk is many times as slow, and not what is looked at. */
const MEMORY = "/dev/shm";

const { values } = parseArgs({ options: { names: { type: "string", default: "50000000" } } });
const names = Number(values.names);
if (!Number.isSafeInteger(names) || names < 1) {
  console.error("usage: npm run test:names -- [--names N]");
  process.exit(1);
}
runSteps([
  {
    ...testStep(`${names} names`, ["src/compute/shim/name-churn.test.ts"], {
      timeoutMs: 60_000 + names * NAME_TIMEOUT_MS,
    }),
    env: {
      STRATA_CHURN_NAMES: `${names}`,
      ...(existsSync(MEMORY) ? { TMPDIR: MEMORY } : {}),
    },
  },
]);
