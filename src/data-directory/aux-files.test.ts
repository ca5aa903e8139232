// Tests of the files of logical decoding in a data directory.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { slotState } from "../../testing/compute/slot-state.ts";
import { placeAuxFiles, readSlotFiles } from "./aux-files.ts";

function withDirectory(body: (path: string) => void): void {
  const path = mkdtempSync(join(tmpdir(), "strata-aux-"));
  try {
    mkdirSync(join(path, "pg_replslot"));
    body(path);
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

const stateOf = (name: string, rest: { dbOid?: number; persistency?: number } = {}) =>
  slotState({ name, restartLsn: 500, confirmedFlush: 600, ...rest });

test("placeAuxFiles: only where they belong", () => {
  withDirectory((path) => {
    const written: string[] = [];
    const place = (name: string) =>
      placeAuxFiles(path, [{ path: name, bytes: stateOf("s") }], (one) => written.push(one));
    const good = [
      "pg_replslot/s/state",
      "pg_logical/snapshots/1-A000028.snap",
      "pg_logical/mappings/map-0-4eb-1_A000028-2ea-2f0",
    ];
    for (const name of good) {
      place(name);
    }
    assert.deepEqual(written, good);
    assert.ok(existsSync(join(path, "pg_replslot/s")));
    for (const name of ["pg_replslot/../../x/state", "/etc/passwd", "postgresql.conf", "a"]) {
      assert.throws(() => place(name), { kind: "corrupt" }, name);
    }
    assert.deepEqual(written, good);
  });
});

test("readSlotFiles: logical ones that are there for good", () => {
  withDirectory((path) => {
    const put = (name: string, bytes: Uint8Array) => {
      mkdirSync(join(path, "pg_replslot", name));
      writeFileSync(join(path, "pg_replslot", name, "state"), bytes);
    };
    put("kept", stateOf("kept"));
    put("physical", stateOf("physical", { dbOid: 0 }));
    put("being_made", stateOf("being_made", { persistency: 1 }));
    put("of_a_session", stateOf("of_a_session", { persistency: 2 }));
    put("dropped.tmp", stateOf("dropped"));
    mkdirSync(join(path, "pg_replslot", "empty"));
    assert.deepEqual(
      readSlotFiles(path).map((file) => file.path),
      ["pg_replslot/kept/state"],
    );
  });
});
