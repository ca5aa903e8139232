// EntryChunks: what goes in comes out, here and in another thread's view, over every boundary.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { EntryChunks, NO_ENTRY } from "./entry-chunks.ts";

interface Given {
  readonly lsn: Lsn;
  readonly kind: number;
  readonly length: number;
  readonly previous: number;
}

/** The value of entry `entry`: neighbours differ. */
function valueOfEntry(entry: number, length: number): Uint8Array {
  return new Uint8Array(length).fill(1 + (entry % 255));
}

function assertHolds(chunks: EntryChunks, given: readonly Given[]): void {
  for (const [entry, { lsn, kind, length, previous }] of given.entries()) {
    const place = chunks.place(entry);
    const found = {
      lsn: chunks.lsn(entry),
      kind: chunks.kind(entry),
      length: chunks.lengthAt(place),
      previous: chunks.previous(entry),
    };
    assert.deepEqual(found, { lsn, kind, length, previous }, `entry ${entry}`);
    const offset = chunks.offsetAt(place);
    assert.equal(offset % 8, 0);
    const value = chunks.bytes[chunks.chunkAt(place)]!.subarray(offset, offset + length);
    assert.ok(Buffer.compare(value, valueOfEntry(entry, length)) === 0, `value of entry ${entry}`);
  }
}

test("EntryChunks: keeps entries over the ends of tables and chunks, whatever their size", () => {
  const random = new SeededRandom(3);
  const chunks = new EntryChunks();
  const given: Given[] = [];
  // Three tables of 65536; now and then nothing, or more than a chunk of 4 MiB.
  for (let entry = 0; entry < 140_000; entry++) {
    const odd = random.int(10_000);
    const length = odd === 0 ? 5_000_000 + random.int(9) : odd < 500 ? 0 : random.int(90);
    const lsn = toLsn(2 ** 52 + entry);
    const kind = random.int(4);
    const previous = entry === 0 || random.int(3) === 0 ? NO_ENTRY : random.int(entry);
    assert.equal(chunks.append(lsn, kind, valueOfEntry(entry, length)), entry);
    chunks.setPrevious(entry, previous);
    given.push({ lsn, kind, length, previous });
  }
  assert.equal(chunks.count, given.length);
  assertHolds(chunks, given);
  assertHolds(new EntryChunks(structuredClone(chunks.shared)), given);
});

test("EntryChunks: a few entries take kilobytes", () => {
  const chunks = new EntryChunks();
  chunks.append(toLsn(1), 0, new Uint8Array(100));
  const { tables, chunks: values } = chunks.shared;
  const bytes = [...tables, ...values].reduce((sum, buffer) => sum + buffer.byteLength, 0);
  assert.ok(bytes < 32_768, `${bytes} bytes`);
});
