// Fuzzes the texts of records with damaged real ones of every major; `run(seed, steps)`.
//
// Invariant: a record that decodes gives one line and one JSON object, whatever its data says, and soon;
// one that does not is StorageError `corrupt`.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { MAJORS, PG_VERSIONS } from "../../src/postgres/versions.ts";
import { XLogRecord } from "../../src/postgres/xlog-record.ts";
import { recordJson, recordLine } from "../../src/wal-dump/record-text.ts";

/** The longest lists are those of offset numbers that fit the data: 2 bytes make 7 characters. */
const MAX_LENGTH = 20_000;

const SAMPLES = MAJORS.flatMap((major) =>
  readFileSync(
    join(import.meta.dirname, `../../src/wal-dump/testdata/records-${major}.txt`),
    "latin1",
  )
    .trim()
    .split("\n")
    .filter((_, i) => i % 2 === 1)
    .map((hex) => Uint8Array.from(Buffer.from(hex, "hex"))),
);

export function run(seed: number, steps: number): { cases: number; described: number } {
  const random = new SeededRandom(seed);
  let described = 0;
  for (let i = 0; i < steps; i++) {
    const bytes = random.pick(SAMPLES).slice();
    for (let n = 1 + random.int(4); n > 0; n--) {
      // From the info and resource manager on.
      const at = 16 + random.int(bytes.length - 16);
      bytes[at] = random.pick([
        0,
        1,
        0x7f,
        0xff,
        random.int(256),
        bytes[at]! ^ (1 << random.int(8)),
      ]);
    }
    const record = new XLogRecord();
    const { pageMagic } = PG_VERSIONS[random.pick(MAJORS)];
    const lsn = toLsn(0x1000028);
    record.setHeader(bytes, new DataView(bytes.buffer), 0, lsn, lsn, pageMagic);
    try {
      record.decode();
    } catch (error) {
      assert.ok(error instanceof StorageError && error.kind === "corrupt", String(error));
      continue;
    }
    for (const text of [recordLine(record, random.bool()), recordJson(record)]) {
      assert.ok(text.length < MAX_LENGTH, `${text.length} characters`);
    }
    described++;
  }
  return { cases: steps, described };
}
