// `npm run check`: the whole quick gate, the same here and in CI; minutes, no Postgres started.

import { FUZZ_STEP, runSteps, STATIC_STEPS, testStep, unitTests } from "./checks.ts";

const steps = [...STATIC_STEPS, FUZZ_STEP];
runSteps([...steps, testStep("unit tests", unitTests(), { timeoutMs: 120_000 })]);
