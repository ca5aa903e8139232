// The decoder takes every kind of record that Postgres 14 to 18 can write, and no other.

import assert from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../src/base/errors.ts";
import { toLsn } from "../src/base/lsn.ts";
import { RM_MAX_BUILTIN_ID, rmgrName } from "../src/postgres/rmgr.ts";
import { MAJORS, PG_VERSIONS, type PgMajor } from "../src/postgres/versions.ts";
import { XLogRecord } from "../src/postgres/xlog-record.ts";
import { interpretRecord } from "../src/wal-decoder/interpret-record.ts";
import { recordWithBlocks } from "../testing/redo/record-bytes.ts";
import { recordingSink } from "../testing/redo/recording-sink.ts";
import { opcodeOf, opcodesOf } from "./redo/opcodes.ts";

const START = toLsn(0x2000028);

function isTaken(major: PgMajor, rmid: number, info: number): boolean {
  // Long enough for any; that its numbers make no sense is another matter than an unknown opcode.
  const main = new Uint8Array(128).fill(1);
  const bytes = recordWithBlocks({ rmid, info, xid: 0x0101_0101, blocks: [], main });
  const record = new XLogRecord();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  record.setHeader(bytes, view, 0, START, toLsn(START + 4096), PG_VERSIONS[major].pageMagic);
  try {
    interpretRecord(record, recordingSink([]));
  } catch (error) {
    assert.ok(error instanceof StorageError, String(error));
    return error.code !== "unsupported-wal-record";
  }
  return true;
}

for (const major of MAJORS) {
  test(`PostgreSQL ${major}: every opcode of every resource manager is known, others are refused`, () => {
    const known = new Set(opcodesOf(major).map(({ rmid, info }) => `${rmid} ${info}`));
    for (let rmid = 0; rmid <= RM_MAX_BUILTIN_ID; rmid++) {
      for (let info = 0; info <= 0xf0; info += 0x10) {
        const name = `${rmgrName(rmid)} 0x${info.toString(16)}`;
        const expected = known.has(`${rmid} ${opcodeOf(rmid, info)}`);
        assert.equal(isTaken(major, rmid, info), expected, name);
      }
    }
  });
}
