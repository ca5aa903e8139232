import assert from "node:assert/strict";
import { test } from "node:test";
import {
  parseRelationPath,
  relationPath,
  slruPath,
  storageDirectoryPath,
  storagePath,
  tablespaceVersionDirectory,
} from "./relation-path.ts";

test("parseRelationPath and relationPath: round trip for every kind of relation file", () => {
  const cases: [string, number, number, number, number, number][] = [
    ["base/5/16384", 1663, 5, 16384, 0, 0],
    ["base/5/16384_fsm", 1663, 5, 16384, 1, 0],
    ["base/4294967295/4294967295_vm.7", 1663, 4294967295, 4294967295, 2, 7],
    ["base/1/16384_init", 1663, 1, 16384, 3, 0],
    ["base/1/16384.32767", 1663, 1, 16384, 0, 32767],
    ["global/1262", 1664, 0, 1262, 0, 0],
    ["global/1262_vm", 1664, 0, 1262, 2, 0],
  ];
  for (const [path, spcOid, dbOid, relNumber, fork, segment] of cases) {
    const rel = { kind: "relation", spcOid, dbOid, relNumber, fork, segment } as const;
    assert.deepEqual(parseRelationPath(path), rel);
    assert.equal(relationPath(rel), path);
  }
});

test("parseRelationPath: SLRU segments", () => {
  assert.deepEqual(parseRelationPath("pg_xact/0000"), { kind: "slru", slru: 0, segment: 0 });
  assert.deepEqual(parseRelationPath("pg_multixact/members/14078"), {
    kind: "slru",
    slru: 1,
    segment: 0x14078,
  });
  assert.deepEqual(parseRelationPath("pg_multixact/offsets/00AF"), {
    kind: "slru",
    slru: 2,
    segment: 0xaf,
  });
  assert.equal(slruPath(2, 0xaf), "pg_multixact/offsets/00AF");
  assert.deepEqual(parseRelationPath("pg_commit_ts/28028"), {
    kind: "slru",
    slru: 3,
    segment: 0x28028,
  });
  assert.equal(slruPath(3, 0x28028), "pg_commit_ts/28028");
});

test("parseRelationPath: everything else in a data directory is neither", () => {
  for (const path of [
    "",
    "PG_VERSION",
    "base",
    "base/5",
    "base/5/PG_VERSION",
    "base/5/pg_filenode.map",
    "base/5/pg_internal.init",
    "base/5/t3_16384",
    "base/05/16384",
    "base/5/016384",
    "base/5/0",
    "base/5/16384.0",
    "base/5/16384_xyz",
    "base/5/16384_vm_vm",
    "base/5/16384\n",
    "base/5/4294967296",
    "base/pgsql_tmp/pgsql_tmp1.0",
    "./base/5/16384",
    "global/pg_control",
    "global/1262/1",
    "pg_xact/0",
    "pg_xact/00af",
    "pg_subtrans/0000",
    "pg_wal/000000010000000000000001",
    "pg_tblspc/16383/PG_17_202406281/5/16401",
    "pg_tblspc/16400/PG_17_202406281/0/16401",
    "pg_tblspc/16400/16401",
    "pg_tblspc/16400/PG_17_202406281/pgsql_tmp/1",
  ]) {
    assert.equal(parseRelationPath(path), undefined, path);
  }
});

test("relationPath: impossible tablespaces and impossible relations have none", () => {
  const rel = { spcOid: 1663, dbOid: 5, relNumber: 1, fork: 0, segment: 0 };
  assert.equal(relationPath({ ...rel, spcOid: 16383 }), undefined);
  assert.equal(relationPath({ ...rel, spcOid: 16400, dbOid: 0 }), undefined);
  assert.equal(relationPath({ ...rel, dbOid: 0 }), undefined);
  assert.equal(relationPath({ ...rel, fork: 4 }), undefined);
});

test("storagePath: the way back from parseRelationPath; directories too", () => {
  const inTablespace = "pg_tblspc/16400/PG_17_202406281/5/16401_fsm.3";
  for (const path of [
    ...["base/5/16384_vm.7", "global/1262", "pg_multixact/members/14078"],
    inTablespace,
  ]) {
    const version = tablespaceVersionDirectory(17, 202406281);
    assert.equal(storagePath(parseRelationPath(path)!, version), path);
  }
  assert.equal((parseRelationPath(inTablespace) as { spcOid: number }).spcOid, 16400);
  assert.equal(storageDirectoryPath({ kind: "relation", spcOid: 1664, dbOid: 0 }), "global");
  assert.equal(storageDirectoryPath({ kind: "relation", spcOid: 1663, dbOid: 5 }), "base/5");
  assert.equal(storageDirectoryPath({ kind: "slru", slru: 2 }), "pg_multixact/offsets");
});
