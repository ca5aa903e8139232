import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32c } from "../base/crc32c.ts";
import { addLsn, toLsn } from "../base/lsn.ts";
import { type CheckPoint, decodeCheckPoint, encodeCheckPoint } from "./checkpoint.ts";
import {
  applyParameterChange,
  CONTROL_FILE_SIZE,
  decodeControlFile,
  encodeStartControlFile,
} from "./control-file.ts";
import { decodeRelationMap } from "./relation-map.ts";
import { MAJORS, PG_VERSIONS, type PgMajor, pgVersion, versionFromPageMagic } from "./versions.ts";

const CHECK_POINT: CheckPoint = {
  redo: toLsn(0x12_3456_7890),
  timeLineId: 1,
  prevTimeLineId: 1,
  fullPageWrites: false,
  walLevel: 2,
  nextFullXid: (3n << 32n) | 0xfffffff0n,
  nextOid: 24576,
  nextMulti: 0xffffffff,
  nextMultiOffset: 77,
  oldestXid: 730,
  oldestXidDb: 1,
  oldestMulti: 9,
  oldestMultiDb: 5,
  time: 1_760_000_000n,
  oldestCommitTsXid: 0,
  newestCommitTsXid: 0,
  oldestActiveXid: 0,
};

const PARAMETERS = {
  walLevel: 1,
  maxConnections: 100,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedTransactions: 5,
  maxLocksPerTransaction: 64,
};

/** As small as a control file can be and pass: identification and checksum. */
function template(major: PgMajor): Uint8Array {
  const { controlVersion, controlCrcOffset } = PG_VERSIONS[major];
  const bytes = new Uint8Array(CONTROL_FILE_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, 42n, true);
  view.setUint32(8, controlVersion, true);
  view.setUint32(12, 202406281, true);
  view.setFloat64(208, 1234567.0, true);
  view.setUint32(228, 16 * 1024 * 1024, true);
  bytes.fill(0xab, 256, controlCrcOffset);
  view.setUint32(controlCrcOffset, crc32c(bytes, 0, controlCrcOffset), true);
  return bytes;
}

test("CheckPoint: round trip, wal_level only from 17 on", () => {
  for (const major of MAJORS) {
    const bytes = encodeCheckPoint(CHECK_POINT, PG_VERSIONS[major]);
    assert.equal(bytes.length, 88);
    const walLevel = major >= 17 ? 2 : 1;
    const decoded = decodeCheckPoint(bytes, 0, bytes.length, PG_VERSIONS[major]);
    assert.deepEqual(decoded, { ...CHECK_POINT, walLevel });
  }
});

test("decodeCheckPoint: too short or an impossible redo is corrupt", () => {
  const bytes = encodeCheckPoint(CHECK_POINT, PG_VERSIONS[17]);
  assert.throws(() => decodeCheckPoint(bytes, 0, 87, PG_VERSIONS[17]), { kind: "corrupt" });
  assert.throws(() => decodeCheckPoint(bytes, 1, 88, PG_VERSIONS[17]), { kind: "corrupt" });
  bytes[7] = 1;
  assert.throws(() => decodeCheckPoint(bytes, 0, 88, PG_VERSIONS[17]), { kind: "corrupt" });
});

test("encodeStartControlFile: says that the cluster was shut down at the checkpoint", () => {
  for (const major of MAJORS) {
    const version = PG_VERSIONS[major];
    const start = { version, systemId: 99n, checkPoint: CHECK_POINT, parameters: PARAMETERS };
    const bytes = encodeStartControlFile(template(major), start);
    const decoded = decodeControlFile(bytes, major);
    assert.equal(decoded.version.major, major);
    assert.equal(decoded.systemId, 99n);
    assert.equal(decoded.state, 1);
    assert.equal(decoded.checkPointLsn, CHECK_POINT.redo);
    assert.equal(decoded.checkPoint.nextFullXid, CHECK_POINT.nextFullXid);
    assert.equal(decoded.catalogVersion, 202406281);
    assert.equal(decoded.segmentSize, 16 * 1024 * 1024);
    assert.equal(decoded.dataChecksums, false);
    const view = new DataView(bytes.buffer);
    assert.equal(view.getFloat64(208, true), 1234567.0);
    assert.equal(view.getUint32(192, true), 5);
    assert.deepEqual([decoded.minRecoveryPoint, view.getUint32(144, true)], [0, 0]);
    const minRecoveryPoint = addLsn(CHECK_POINT.redo, 4000);
    const later = encodeStartControlFile(template(major), { ...start, minRecoveryPoint });
    assert.equal(decodeControlFile(later, major).minRecoveryPoint, minRecoveryPoint);
    assert.equal(new DataView(later.buffer).getUint32(144, true), 1);
  }
});

test("applyParameterChange: the parameters and the checksum are new, the rest is as it was", () => {
  for (const major of MAJORS) {
    const before = template(major);
    const change = { ...PARAMETERS, walLogHints: true, trackCommitTimestamp: true };
    const after = applyParameterChange(before, change);
    assert.equal(decodeControlFile(after, major).trackCommitTimestamp, true);
    assert.equal(decodeControlFile(before, major).trackCommitTimestamp, false);
    const { controlCrcOffset } = PG_VERSIONS[major];
    const changed = [...after.keys()].filter((at) => after[at] !== before[at]);
    assert.ok(
      changed.every((at) => (at >= 172 && at <= 200) || (at >> 2) << 2 === controlCrcOffset),
      `${changed}`,
    );
    const back = { ...change, walLogHints: false, trackCommitTimestamp: false };
    assert.equal(
      decodeControlFile(applyParameterChange(after, back), major).trackCommitTimestamp,
      false,
    );
  }
  assert.throws(
    () =>
      applyParameterChange(new Uint8Array(8192), {
        ...PARAMETERS,
        walLogHints: false,
        trackCommitTimestamp: false,
      }),
    { kind: "corrupt" },
  );
});

test("decodeControlFile: damage anywhere is corrupt, another version unsupported", () => {
  for (const at of [0, 40, 100, 287, 288]) {
    const bytes = template(17);
    bytes[at]! ^= 1;
    assert.throws(() => decodeControlFile(bytes), { kind: "corrupt" }, `byte ${at}`);
  }
  assert.throws(() => decodeControlFile(new Uint8Array(10)), { kind: "corrupt" });
  assert.throws(() => decodeControlFile(template(17), 16), { kind: "unsupported" });
});

test("versions: magics and majors name each other; others are unknown", () => {
  for (const major of MAJORS) {
    assert.equal(versionFromPageMagic(pgVersion(major).pageMagic)?.major, major);
  }
  assert.equal(versionFromPageMagic(0xd117), undefined);
  assert.throws(() => pgVersion(13), { kind: "unsupported" });
});

test("decodeRelationMap: both layouts; magic, count and checksum are checked", () => {
  for (const [size, slots] of [
    [512, 62],
    [524, 64],
  ] as const) {
    const bytes = new Uint8Array(size);
    const view = new DataView(bytes.buffer);
    const seal = () => view.setUint32(8 + slots * 8, crc32c(bytes, 0, 8 + slots * 8), true);
    view.setUint32(0, 0x592717, true);
    view.setInt32(4, 2, true);
    for (const [i, value] of [1259, 16400, 1249, 1249].entries()) {
      view.setUint32(8 + i * 4, value, true);
    }
    seal();
    assert.deepEqual(decodeRelationMap(bytes), [
      { oid: 1259, relNumber: 16400 },
      { oid: 1249, relNumber: 1249 },
    ]);
    bytes[9]! ^= 1;
    assert.throws(() => decodeRelationMap(bytes), { kind: "corrupt" });
    view.setInt32(4, slots + 1, true);
    seal();
    assert.throws(() => decodeRelationMap(bytes), { kind: "corrupt" });
  }
  assert.throws(() => decodeRelationMap(new Uint8Array(513)), { kind: "corrupt" });
});
