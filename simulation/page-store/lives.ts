// Runs of a pageserver's storage: lives of a process that end anywhere, on a disk that forgets.

import { SeededRandom } from "../../src/base/random.ts";
import { SimulatedCrash } from "../simulated-disk.ts";
import { inSimulatedTime } from "../simulated-time.ts";
import { PageStore } from "./page-store.ts";

const LIVES = 5;
const STEPS = 40;
const MAX_OPERATIONS = 300;

/** Rejects where storage owes something that is not there; the same seed is the same run. */
export async function runPages(seed: number): Promise<void> {
  await inSimulatedTime(() => livesAndDeaths(seed)).catch((cause: unknown) => {
    throw new Error(`seed ${seed}`, { cause });
  });
}

async function livesAndDeaths(seed: number): Promise<void> {
  const random = new SeededRandom(seed);
  await using store = new PageStore(random);
  for (let life = 0; life < LIVES; life++) {
    store.disk.operationsLeft = random.int(MAX_OPERATIONS);
    try {
      await store.live(STEPS);
    } catch (error) {
      if (!(error instanceof SimulatedCrash)) {
        throw error;
      }
    }
    await store.crash(random.bool(0.2) ? undefined : store.disk.pickTear());
  }
  await store.live(0);
}
