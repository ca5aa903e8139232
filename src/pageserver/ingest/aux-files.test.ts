// Tests of what ingest keeps of the files of logical decoding, and what a compute gets of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { slotState } from "../../../testing/compute/slot-state.ts";
import { CHECKPOINT, IngestHarness } from "../../../testing/ingest-harness.ts";
import { formatLsn, type Lsn, toLsn } from "../../base/lsn.ts";
import { KEYSPACE_AUX_FILE } from "../layers/key.ts";
import { readAuxFiles } from "./aux-files.ts";
import type { WalIngest } from "./walingest.ts";

const BEGIN = toLsn(100);

function pathsAt(h: IngestHarness, lsn = h.storage.lastRecordLsn, startLsn = BEGIN): string[] {
  return readAuxFiles(h.storage, startLsn, lsn)
    .map(({ path }) => path)
    .sort();
}

/** A slot's state goes to storage as a compute sends it. */
function putSlot(h: IngestHarness, name: string, restart: number, confirmed: number): Lsn {
  const bytes = slotState({ name, restartLsn: restart, confirmedFlush: confirmed });
  return h.record((ingest) => ingest.auxFile(`pg_replslot/${name}/state`, 0, bytes));
}

const snapshot = (lsn: number) =>
  `pg_logical/snapshots/${formatLsn(toLsn(lsn)).replace("/", "-")}.snap`;

test("auxiliary files: each as of its LSN, and none once it is gone", () => {
  const h = new IngestHarness();
  assert.deepEqual(pathsAt(h), []);
  const first = putSlot(h, "one", 500, 600);
  putSlot(h, "one", 700, 800);
  const both = putSlot(h, "two", 500, 600);
  h.record((ingest) => ingest.auxFileGone("pg_replslot/one/state"));
  assert.deepEqual(pathsAt(h), ["pg_replslot/two/state"]);
  assert.deepEqual(pathsAt(h, both), ["pg_replslot/one/state", "pg_replslot/two/state"]);
  const [then] = readAuxFiles(h.storage, BEGIN, first);
  assert.deepEqual(
    Buffer.from(then!.bytes),
    Buffer.from(slotState({ name: "one", restartLsn: 500, confirmedFlush: 600 })),
  );
  h.record((ingest) => ingest.auxFileGone("pg_replslot/two/state"));
  assert.deepEqual(pathsAt(h), []);
});

test("auxiliary files: a branch has none of its parent's, and its own of the same name", () => {
  const h = new IngestHarness();
  const parents = putSlot(h, "one", 500, 600);
  putSlot(h, "two", 500, 600);
  assert.deepEqual(pathsAt(h, undefined, parents), ["pg_replslot/two/state"]);
  assert.deepEqual(pathsAt(h, undefined, h.storage.lastRecordLsn), []);
  const branch = h.storage.lastRecordLsn;
  putSlot(h, "one", 900, 950);
  assert.deepEqual(pathsAt(h, undefined, branch), ["pg_replslot/one/state"]);
});

test("auxiliary files: snapshots that a slot may begin with, and those only", () => {
  const h = new IngestHarness();
  const made = [400, 500, 550, 600, 601, 900, 950, 1000];
  for (const lsn of made) {
    h.record((ingest) => ingest.auxFile(snapshot(lsn), 0, Buffer.from("snapshot")));
  }
  assert.deepEqual(pathsAt(h), [], "nobody decodes");
  putSlot(h, "one", 500, 600);
  putSlot(h, "two", 900, 950);
  const found = pathsAt(h).filter((path) => path.endsWith(".snap"));
  assert.deepEqual(found, [500, 550, 600, 900, 950].map(snapshot).sort());
  h.record((ingest) => ingest.auxFileGone(snapshot(550)));
  assert.ok(!pathsAt(h).includes(snapshot(550)));
});

test("auxiliary files: a mapping is whole, in the order of its pieces, and goes as a whole", () => {
  const h = new IngestHarness();
  const path = "pg_logical/mappings/map-5-4eb-0_1A000028-2ea-2f0";
  putSlot(h, "one", 500, 600);
  h.record((ingest) => ingest.auxFile(path, 0, Buffer.alloc(72, 1)));
  h.record((ingest) => ingest.auxFile(path, 72, Buffer.alloc(36, 2)));
  const mapping = readAuxFiles(h.storage, BEGIN, h.storage.lastRecordLsn).find(
    (file) => file.path === path,
  );
  assert.deepEqual(
    Buffer.from(mapping!.bytes),
    Buffer.concat([Buffer.alloc(72, 1), Buffer.alloc(36, 2)]),
  );
  h.record((ingest) => ingest.auxFileGone(path));
  assert.deepEqual(pathsAt(h), ["pg_replslot/one/state"]);
});

/** What is in storage, whether a start gets it or not. */
function keptAt(h: IngestHarness, lsn = h.storage.lastRecordLsn): string[] {
  return [...h.storage.scan([KEYSPACE_AUX_FILE], lsn)]
    .map(
      ({ value }) =>
        /pg_(replslot|logical)[a-zA-Z0-9/_.-]+/.exec(String.fromCharCode(...value))![0],
    )
    .sort();
}

const shutdown = (ingest: WalIngest) => ingest.checkpoint(CHECKPOINT, true);
const mapping = (lsn: number) =>
  `pg_logical/mappings/map-5-4eb-${formatLsn(toLsn(lsn)).replace("/", "_")}-2ea-2f0`;

test("auxiliary files: what no slot needs any more is gone at a shutdown checkpoint, and there before it", () => {
  const h = new IngestHarness();
  for (const lsn of [400, 500, 600]) {
    h.record((ingest) => ingest.auxFile(snapshot(lsn), 0, new Uint8Array([1])));
    h.record((ingest) => ingest.auxFile(mapping(lsn), 0, new Uint8Array([1])));
  }
  putSlot(h, "one", 600, 600);
  // Its WAL is gone.
  putSlot(h, "lost", 0, 300);
  const before = putSlot(h, "two", 500, 600);
  h.record((ingest) => ingest.checkpoint(CHECKPOINT, false));
  const all = [400, 500, 600].flatMap((lsn) => [snapshot(lsn), mapping(lsn)]);
  const slots = ["one", "two", "lost"].map((name) => `pg_replslot/${name}/state`);
  assert.deepEqual(keptAt(h), [...all, ...slots].sort(), "a slot that is being made may need them");
  h.record(shutdown);
  assert.deepEqual(keptAt(h), [...all.slice(2), ...slots].sort());
  assert.deepEqual(keptAt(h, before), [...all, ...slots].sort(), "time travel");
  h.record((ingest) => ingest.auxFileGone("pg_replslot/one/state"));
  h.record((ingest) => ingest.auxFileGone("pg_replslot/two/state"));
  h.record(shutdown);
  assert.deepEqual(keptAt(h), ["pg_replslot/lost/state"]);
});

test("auxiliary files: a branch's first start removes what it has of its parent's", () => {
  const h = new IngestHarness();
  h.record((ingest) => ingest.auxFile(snapshot(600), 0, new Uint8Array([1])));
  const parents = putSlot(h, "one", 500, 600);
  h.storage.startLsn = parents;
  putSlot(h, "own", 550, 600);
  h.record(shutdown);
  assert.deepEqual(keptAt(h), ["pg_replslot/own/state"]);
  assert.deepEqual(keptAt(h, parents), [snapshot(600), "pg_replslot/one/state"]);
});

test("auxiliary files: a state that makes no sense keeps all, and stops nothing", () => {
  const h = new IngestHarness();
  h.record((ingest) => ingest.auxFile(snapshot(400), 0, new Uint8Array([1])));
  h.record((ingest) => ingest.auxFile("pg_replslot/bad/state", 0, new Uint8Array([1])));
  h.record(shutdown);
  assert.deepEqual(keptAt(h), [snapshot(400), "pg_replslot/bad/state"]);
  assert.throws(() => pathsAt(h), { kind: "corrupt" });
});

test("auxiliary files: other paths are passed over", () => {
  const h = new IngestHarness();
  putSlot(h, "one", 500, 600);
  for (const path of [
    "global/pg_control",
    "pg_replslot/../state",
    "pg_replslot/a/b/state",
    "pg_replslot/UPPER/state",
    "pg_replslot/one/state.tmp",
    "pg_logical/snapshots/../0-1.snap",
    "pg_logical/mappings/map",
    "",
  ]) {
    h.record((ingest) => ingest.auxFile(path, 0, Buffer.from("bytes")));
    assert.deepEqual(pathsAt(h), ["pg_replslot/one/state"], path);
    h.record((ingest) => ingest.auxFileGone(path));
  }
});
