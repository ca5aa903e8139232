// `npm test`: the quick gate, then everything against real Postgres and real daemons.
//
// Arguments pick system tests by a part of their name and skip the rest: `npm test -- quick-start`.

import {
  BUNDLES_STEP,
  FUZZ_STEP,
  postgresTests,
  runSteps,
  STATIC_STEPS,
  systemTests,
  testStep,
  unitTests,
} from "./checks.ts";

/** A kill -9 test under load takes minutes on a small machine. */
const TIMEOUT_MS = 20 * 60_000;

const wanted = process.argv.slice(2);
if (wanted.length > 0) {
  const files = [...unitTests(), ...postgresTests(), ...systemTests()].filter((path) =>
    wanted.some((part) => path.includes(part)),
  );
  runSteps([
    BUNDLES_STEP,
    testStep(`tests named ${wanted.join(", ")}`, files, { timeoutMs: TIMEOUT_MS }),
  ]);
} else {
  // One run over all files, so that its closing lines count everything. Three at a time on two cores: the system
  // tests start up to ten processes each, and wait for disks more than they compute.
  const files = [...unitTests(), ...postgresTests(), ...systemTests()];
  runSteps([
    ...STATIC_STEPS,
    BUNDLES_STEP,
    FUZZ_STEP,
    testStep("tests", files, { concurrency: 3, timeoutMs: TIMEOUT_MS }),
  ]);
}
