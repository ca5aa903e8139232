import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { type RemovalPositions, walRemovalHorizon } from "./wal-removal.ts";

const at = (lsn: number): Lsn => toLsn(lsn);
const ALL: RemovalPositions = {
  commitLsn: at(1000),
  remoteConsistentLsn: at(900),
  peerHorizonLsn: at(900),
  backupLsn: at(900),
  readers: [],
};

test("walRemovalHorizon: the slowest of all who could ask decides", () => {
  assert.equal(walRemovalHorizon(ALL), 900);
  assert.equal(walRemovalHorizon({ ...ALL, commitLsn: at(300) }), 299);
  for (const field of ["remoteConsistentLsn", "peerHorizonLsn", "backupLsn"] as const) {
    assert.equal(walRemovalHorizon({ ...ALL, [field]: at(300) }), 300, field);
  }
  assert.equal(walRemovalHorizon({ ...ALL, readers: [at(950), at(400), at(500)] }), 400);
});

test("walRemovalHorizon: without an object store there is nothing to wait for, nor to read from", () => {
  assert.equal(walRemovalHorizon({ ...ALL, backupLsn: undefined }), 900);
  const end = at(2 ** 31);
  const far = { ...ALL, commitLsn: end, remoteConsistentLsn: end };
  // A reader, or a safekeeper, that has stood still for more than 1 GiB.
  for (const positions of [
    { ...far, peerHorizonLsn: end, readers: [at(8)] },
    { ...far, peerHorizonLsn: at(8), readers: [end] },
  ]) {
    assert.equal(walRemovalHorizon({ ...positions, backupLsn: undefined }), 8);
    assert.equal(walRemovalHorizon({ ...positions, backupLsn: end }), 2 ** 31 - 1);
    assert.equal(walRemovalHorizon({ ...positions, backupLsn: at(2 ** 30) }), 2 ** 30);
  }
});

test("walRemovalHorizon: the byte before the commit LSN stays: a log may be cut there, and a restart looks for it", () => {
  const end = { commitLsn: at(1024), remoteConsistentLsn: at(1024), peerHorizonLsn: at(1024) };
  assert.equal(walRemovalHorizon({ ...ALL, ...end, backupLsn: at(1024) }), 1023);
});
