// An empty state of a control plane, for tests that need rows and no control plane.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Database, openDatabase } from "../../src/control-plane/state/database.ts";
import { sqliteDialect } from "../../src/control-plane/state/node-sqlite.ts";

export interface ScratchState {
  readonly db: Database;
  /** The state is in it; what else the test puts there goes with it. */
  readonly directory: string;
}

/** Both are gone after the test. */
export async function scratchState(t: TestContext): Promise<ScratchState> {
  const directory = mkdtempSync(join(tmpdir(), "strata-state-"));
  const db = await openDatabase(sqliteDialect(join(directory, "state.db")));
  t.after(async () => {
    await db.destroy();
    rmSync(directory, { recursive: true });
  });
  return { db, directory };
}
