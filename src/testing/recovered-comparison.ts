// Replay of a recorded history held against what stock Postgres recovers from it, whole or with a fault.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import type { MemoryCluster } from "./memory-cluster.ts";
import type { RecordedHistory } from "./recorded-history.ts";
import type { Fault } from "./redo-faults.ts";
import { compareRelationFiles, compareSlruPages } from "./stock-recovery.ts";

/** Every page, SLRU page, relation map and prepared transaction; the number of relation pages. */
export async function assertSameAsRecovered(
  cluster: MemoryCluster,
  directory: string,
  ignoreChecksum = false,
): Promise<number> {
  const result = await compareRelationFiles({ directory, source: cluster, ignoreChecksum });
  assert.deepEqual(result.mismatches.slice(0, 5), []);
  const slru = compareSlruPages(directory, (kind, pageno) => cluster.readSlruPage(kind, pageno));
  assert.deepEqual(slru.mismatches, []);
  assert.ok(slru.pages >= 3);
  for (const [key, bytes] of cluster.relationMaps) {
    const [, dbOid] = key.split("/");
    const folder = dbOid === "0" ? join(directory, "global") : join(directory, "base", dbOid!);
    assert.deepEqual(Buffer.from(bytes), readFileSync(join(folder, "pg_filenode.map")), key);
  }
  const names = readdirSync(join(directory, "pg_twophase"));
  assert.equal(names.length, cluster.twoPhase.size);
  for (const name of names) {
    const file = readFileSync(join(directory, "pg_twophase", name));
    const payload = cluster.twoPhase.get(Number.parseInt(name.slice(-8), 16));
    assert.deepEqual(Buffer.from(payload ?? []), file.subarray(0, file.length - 4), name);
  }
  return result.pages;
}

/** Resource manager, opcode in hex and reference of a record's delta; else its kind. */
export function deltaName(delta: Uint8Array): string {
  return delta[0] === 1
    ? `${delta[1]} ${(delta[2]! & 0xf0).toString(16)} ${delta[3]}`
    : `kind ${delta[0]}`;
}

/** How often the fault could be made, and whether it showed: in a page, or as an error of redo. */
export async function replayWithFault(
  history: RecordedHistory,
  recovered: string,
  fault: Fault,
): Promise<{ injected: number; caught: boolean }> {
  let injected = 0;
  let cluster: MemoryCluster | undefined;
  try {
    cluster = history.replay({
      prepare: (cluster) => {
        cluster.onDelta = (delta, rel) => {
          const changed = fault.inject(delta, rel);
          if (changed === "untouched") {
            return delta;
          }
          injected++;
          return changed;
        };
      },
    });
    const source = cluster;
    const result = await compareRelationFiles({ directory: recovered, source, maxMismatches: 1 });
    const slru = compareSlruPages(recovered, (kind, pageno) => source.readSlruPage(kind, pageno));
    return { injected, caught: result.mismatches.length + slru.mismatches.length > 0 };
  } catch (error) {
    // A fault that redo itself refuses is caught too, if it says so as it should.
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    assert.ok(cause instanceof StorageError && cause.kind === "corrupt", String(error));
    return { injected, caught: true };
  } finally {
    cluster?.close();
  }
}
