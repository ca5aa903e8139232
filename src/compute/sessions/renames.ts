// Renames of roles and databases; each may be done again.

import { StorageError } from "../../base/errors.ts";
import type { DeltaOperation } from "../api.ts";

export interface Renamed {
  /** In messages and codes. */
  readonly what: "role" | "database";
  /** Which of these there are. */
  readonly existing: (names: readonly string[]) => Promise<ReadonlyMap<string, unknown>>;
  readonly rename: (name: string, newName: string) => Promise<void>;
}

/** What has the new name only is as it should be. StorageError `conflict` where both are there, `not-found` where neither is. */
export async function renameEach(
  operations: readonly DeltaOperation[],
  { what, existing, rename }: Renamed,
): Promise<void> {
  for (const { name, new_name: newName } of operations) {
    const present = await existing([name, newName!]);
    if (present.has(name) && present.has(newName!)) {
      throw new StorageError("conflict", `${what}-exists`, `${what} '${newName}' is there already`);
    }
    if (present.has(name)) {
      await rename(name, newName!);
    } else if (!present.has(newName!)) {
      throw new StorageError("not-found", `no-${what}`, `there is no ${what} '${name}'`);
    }
  }
}
