// Tests of what ingest keeps of tablespaces and of the directories that databases have in them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { IngestHarness } from "../../../testing/ingest-harness.ts";
import { KEYSPACE_DATABASE, prefixField2, prefixField3 } from "../layers/key.ts";
import { readTablespaces } from "./tablespaces.ts";

const relation = (spcOid: number, dbOid: number, relNumber = 17000) => ({
  ...{ spcOid, dbOid, relNumber, fork: 0 },
});

test("tablespaces: created and dropped, each as of its LSN", () => {
  const h = new IngestHarness();
  h.record((ingest) => ingest.tablespaceCreate(16400, "/srv/schnell é"));
  const both = h.record((ingest) => ingest.tablespaceCreate(16390, ""));
  h.record((ingest) => ingest.tablespaceDrop(16400));
  const names = (lsn = h.storage.lastRecordLsn) => readTablespaces(h.storage, lsn);
  assert.deepEqual(names(), [{ spcOid: 16390, location: "" }]);
  assert.equal(names(both).find(({ spcOid }) => spcOid === 16400)?.location, "/srv/schnell é");
});

test("tablespaces: a database has a directory from its first relation there on, until one of the two goes", () => {
  const h = new IngestHarness();
  const directories = () =>
    [...h.storage.scan([KEYSPACE_DATABASE], h.storage.lastRecordLsn)].map(
      ({ prefix }) => `${prefixField2(prefix)}/${prefixField3(prefix)}`,
    );
  h.record((ingest) => ingest.relationCreate(relation(1663, 5)));
  assert.deepEqual(directories(), [], "a directory of initdb's is known anyway");
  h.record((ingest) => {
    ingest.relationCreate(relation(16400, 5));
    ingest.relationCreate(relation(16400, 5, 17001));
    ingest.relationCreate(relation(16400, 6));
    ingest.relationCreate(relation(16401, 5));
  });
  assert.deepEqual(directories().sort(), ["16400/5", "16400/6", "16401/5"]);
  h.record((ingest) => ingest.databaseDrop(5, [16400, 16401]));
  assert.deepEqual(directories(), ["16400/6"]);
  h.record((ingest) => ingest.relationCreate(relation(16400, 5, 17002)));
  assert.deepEqual(directories().sort(), ["16400/5", "16400/6"]);
  h.record((ingest) => ingest.tablespaceDrop(16400));
  assert.deepEqual(directories(), []);
  h.record((ingest) => {
    ingest.tablespaceCreate(16400, "");
    ingest.relationCreate(relation(16400, 6, 17003));
  });
  assert.deepEqual(directories(), ["16400/6"]);
});
