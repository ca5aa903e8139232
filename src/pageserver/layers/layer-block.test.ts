import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import { StorageError } from "../../base/errors.ts";
import { toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { relBlockPrefix } from "./key.ts";
import {
  endEntry,
  entryKind,
  firstEntry,
  type LayerBlock,
  parseBlock,
  valueEnd,
  valueStart,
} from "./layer-block.ts";
import {
  FIRST_KEY,
  LAST_KEY,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  type LayerName,
} from "./layer-format.ts";
import { type LayerSource, readLayerIndex } from "./layer-index.ts";
import { LayerWriter } from "./layer-writer.ts";
import { VALUE_DELTA, VALUE_IMAGE, VALUE_TOMBSTONE } from "./version-chain.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const KEYS = { keyStart: FIRST_KEY, keyEnd: LAST_KEY };
const DELTA_NAME: LayerName = {
  ...KEYS,
  kind: LAYER_KIND_DELTA,
  lsnStart: toLsn(0x1_0000_0000),
  lsnEnd: toLsn(0x1_0010_0000),
};
const IMAGE_NAME: LayerName = {
  ...KEYS,
  kind: LAYER_KIND_IMAGE,
  lsnStart: toLsn(0x500),
  lsnEnd: toLsn(0x501),
};

function sourceOf(file: Buffer, name: LayerName): LayerSource {
  return {
    path: "test",
    name,
    sizeBytes: file.length,
    read: (offset, length) => Uint8Array.from(file.subarray(offset, offset + length)),
  };
}

/** The blocks as they are stored. */
function storedBlocks(source: LayerSource): Uint8Array<ArrayBuffer>[] {
  const { words, blockCount } = readLayerIndex(source);
  return Array.from({ length: blockCount }, (_, i) =>
    source.read(words[9 * i + 7]!, words[9 * i + 8]!),
  );
}

async function written(
  name: LayerName,
  add: (writer: LayerWriter) => void,
): Promise<Uint8Array<ArrayBuffer>[]> {
  const directory = await mkdtemp(join(tmpdir(), "strata-block-"));
  try {
    const writer = await LayerWriter.create(directory, name.kind);
    add(writer);
    const { fileName } = await writer.finish(name);
    return storedBlocks(sourceOf(readFileSync(join(directory, fileName)), name));
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Each value as its index, LSN's place, kind, length and first byte. */
function contents(block: LayerBlock): string[] {
  const out: string[] = [];
  for (let key = 0; key < block.keyCount; key++) {
    for (let entry = firstEntry(block, key); entry < endEntry(block, key); entry++) {
      const value = block.bytes.subarray(valueStart(block, entry), valueEnd(block, entry));
      const alike = value.every((byte) => byte === value[0]);
      out.push(`${entryKind(block, entry)}:${value.length}:${alike ? value[0] : "mixed"}`);
    }
  }
  return out;
}

function fixture(name: LayerName, kind: string): LayerBlock[] {
  const file = readFileSync(join(import.meta.dirname, `testdata/version-1.${kind}`));
  assert.equal(file.readUInt16LE(4), 1);
  return storedBlocks(sourceOf(file, name)).map((block) => parseBlock(block, "test", 0));
}

test("layers of format version 1 are read", () => {
  const deltas = fixture(DELTA_NAME, "delta").flatMap(contents);
  const expected = Array.from({ length: 30 }, (_, i) => {
    const index = Math.floor(i / 3);
    return `${VALUE_DELTA}:${index * 100}:${index === 0 ? undefined : index + (i % 3)}`;
  });
  assert.deepEqual(deltas, expected);
  assert.deepEqual(
    fixture(IMAGE_NAME, "image").flatMap(contents),
    [3, 4].map((byte) => `${VALUE_IMAGE}:8192:${byte}`),
  );
});

test("LayerWriter: a block is compressed where that saves an eighth, else raw", async () => {
  const random = new SeededRandom(1);
  const noise = Uint8Array.from({ length: 8192 }, () => random.int(256));
  const pages = [0, 3, 7, 8192].map((eighths) => {
    const page = new Uint8Array(8192);
    page.set(noise.subarray(0, Math.min(8192, eighths * 1024)));
    return page;
  });
  const huge = new Uint8Array((16 << 20) + 8).fill(7);
  const blocks = await written(IMAGE_NAME, (writer) => {
    for (const [i, page] of [...pages, huge].entries()) {
      writer.add(REL, i, toLsn(0x500), VALUE_IMAGE, page);
    }
  });
  assert.deepEqual(
    blocks.map((block) => block[4]),
    [1, 1, 0, 0, 0],
  );
  assert.ok(blocks[0]!.length < 150 && blocks[1]!.length < 3300);
  for (const [i, block] of blocks.entries()) {
    const parsed = parseBlock(block, "test", 0);
    const value = parsed.bytes.subarray(valueStart(parsed, 0), valueEnd(parsed, 0));
    assert.equal(Buffer.compare(value, [...pages, huge][i]!), 0);
  }
});

function deltaBlocks(): Promise<Uint8Array<ArrayBuffer>[]> {
  const random = new SeededRandom(2);
  return written(DELTA_NAME, (writer) => {
    for (let index = 0; index < 30; index++) {
      for (let i = random.int(40); i >= 0; i--) {
        const value = new Uint8Array(random.int(300)).fill(index);
        writer.add(REL, index, DELTA_NAME.lsnStart, VALUE_DELTA, value);
      }
    }
  });
}

/** Parses after the change, with the right checksum; undefined where it is refused as corrupt. */
function parseChanged(
  block: Uint8Array,
  change: (words: Uint32Array) => void,
): LayerBlock | undefined {
  const bytes = Uint8Array.from(block);
  const words = new Uint32Array(bytes.buffer);
  change(words);
  words[0] = crc32(bytes.subarray(4));
  try {
    return parseBlock(bytes, "layer-1", 4096);
  } catch (error) {
    assert.ok(error instanceof StorageError && error.kind === "corrupt", String(error));
    assert.match(error.message, /layer layer-1, offset 4\d\d\d: /);
    return undefined;
  }
}

test("parseBlock: hostile tables, raw or compressed, are refused or lie within the block", async () => {
  const random = new SeededRandom(3);
  let refused = 0;
  for (const stored of await deltaBlocks()) {
    const raw = parseBlock(Uint8Array.from(stored), "test", 0);
    assert.equal(stored[4], 1);
    for (const block of [stored, raw.bytes]) {
      for (let round = 0; round < 500; round++) {
        const tableWords = Math.min(block.length, raw.valuesAt) / 4;
        const parsed = parseChanged(block, (words) => {
          const at = 1 + random.int(tableWords - 1);
          words[at] = random.pick([0, 1, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, random.int(3000)]);
        });
        refused += parsed === undefined ? 1 : 0;
        for (let entry = 0; entry < (parsed?.entryCount ?? 0); entry++) {
          assert.ok(valueStart(parsed!, entry) <= valueEnd(parsed!, entry));
          assert.ok(valueEnd(parsed!, entry) <= parsed!.bytes.length);
          assert.ok(entryKind(parsed!, entry) <= VALUE_TOMBSTONE);
        }
      }
    }
  }
  assert.ok(refused > 500, `only ${refused} refused`);
});

test("parseBlock: lengths that lie are refused before memory is asked for", async () => {
  const [stored] = await deltaBlocks();
  const refusedAs = (at: number, value: number, message: RegExp) =>
    assert.throws(
      () => {
        const bytes = Uint8Array.from(stored!);
        const words = new Uint32Array(bytes.buffer);
        words[at] = value;
        words[0] = crc32(bytes.subarray(4));
        parseBlock(bytes, "test", 0);
      },
      { kind: "corrupt", message },
    );
  const rawLength = new Uint32Array(stored!.buffer)[2]!;
  for (const length of [0, 8, rawLength + 4, (16 << 20) + 8, 0xffff_fff8]) {
    refusedAs(2, length, /offset 8: a raw block cannot have \d+ bytes/);
  }
  for (const length of [rawLength - 8, rawLength + 8, 16 << 20]) {
    refusedAs(2, length, /offset 0: the block does not decompress to \d+ bytes/);
  }
  for (const length of [stored!.length - 15, 0xffff_ffff]) {
    refusedAs(3, length, /offset 12: the compressed bytes lie outside the block/);
  }
  refusedAs(1, 2, /offset 4: codec 2 is not known/);
});
