// Tests of what a clean stop puts behind the shutdown checkpoint: in which order, and when.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { slotState } from "../../../testing/compute/slot-state.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { crc32c } from "../../base/crc32c.ts";
import { createLogger } from "../../base/log.ts";
import { addLsn, type Lsn, toLsn } from "../../base/lsn.ts";
import { CONTROL_FILE_SIZE, DB_SHUTDOWNED } from "../../postgres/control-file.ts";
import { PG_VERSIONS } from "../../postgres/versions.ts";
import { WalStream } from "../../wal-decoder/wal-stream.ts";
import { hasShutDown, saveState } from "./save-state.ts";
import { ServedFiles } from "./served-files.ts";

const SEGMENT = 1024 * 1024;
const START = toLsn(SEGMENT);
const DB_IN_PRODUCTION = 6;
const version = PG_VERSIONS[17];

let path: string;

beforeEach(() => {
  path = mkdtempSync(join(tmpdir(), "strata-save-"));
  for (const folder of ["global", "base", "pg_tblspc", "pg_replslot", "pg_stat", "pg_wal"]) {
    mkdirSync(join(path, folder));
  }
});

afterEach(() => rmSync(path, { recursive: true, force: true }));

function writeControlFile(state: number, checkPointLsn: Lsn): void {
  const bytes = new Uint8Array(CONTROL_FILE_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, version.controlVersion, true);
  view.setUint32(16, state, true);
  view.setBigUint64(32, BigInt(checkPointLsn), true);
  view.setUint32(version.controlCrcOffset, crc32c(bytes, 0, version.controlCrcOffset), true);
  writeFileSync(join(path, "global/pg_control"), bytes);
}

test("hasShutDown: where the last record is the checkpoint of a shutdown that was finished", () => {
  const end = { lsn: addLsn(START, 1000), lastRecordLsn: addLsn(START, 800) };
  assert.equal(hasShutDown(path, end), false);
  writeControlFile(DB_SHUTDOWNED, end.lastRecordLsn);
  assert.equal(hasShutDown(path, end), true);
  writeControlFile(DB_IN_PRODUCTION, end.lastRecordLsn);
  assert.equal(hasShutDown(path, end), false);
  writeControlFile(DB_SHUTDOWNED, START);
  assert.equal(hasShutDown(path, end), false);
});

test("saveState: statistics come last, as they count only where nothing follows", () => {
  mkdirSync(join(path, "pg_replslot/s"));
  const slot = slotState({ name: "s", restartLsn: 500, confirmedFlush: 600 });
  writeFileSync(join(path, "pg_replslot/s/state"), slot);
  writeFileSync(join(path, "pg_stat/pgstat.stat"), "statistics");
  const builder = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  builder.appendFilled(100);
  const segment = join(path, "pg_wal/000000010000000000000001");
  writeFileSync(segment, builder.bytes);
  truncateSync(segment, SEGMENT);
  const end = { lsn: builder.endLsn, lastRecordLsn: builder.records.at(-1)!.startLsn };
  const compute = {
    ...{ dataDirectory: path, pgVersion: 17, systemId: 42n, walSegmentSize: SEGMENT },
    ...{ startLsn: START, versionDirectory: "PG_17_202406281", served: new ServedFiles() },
    logger: createLogger("test", "silent"),
  };
  const upTo = saveState(compute, end);
  const stream = new WalStream({
    ...{ startLsn: end.lsn, pageMagic: version.pageMagic, segmentSize: SEGMENT },
  });
  stream.feed(readFileSync(segment).subarray(end.lsn - START, upTo - START));
  const prefixes: string[] = [];
  while (stream.next()) {
    const { record } = stream;
    record.decode();
    const { buffer, byteOffset } = record.view;
    const data = Buffer.from(buffer, byteOffset + record.mainOffset + 24, record.mainLength - 24);
    prefixes.push(data.toString("latin1", 0, data.indexOf(0)));
  }
  assert.deepEqual(prefixes, ["strata_file:pg_replslot/s/state", "strata_statistics"]);
});
