// Chains of gist, SP-GiST and hash deltas for block 3, each from a page of zeros on: input to fuzz redo.

import type { SeededRandom } from "../../src/base/random.ts";
import { buildDelta, concat, type DeltaReference, pack } from "./delta-builder.ts";

const HASH = 12;
const GIST = 14;
const SPGIST = 16;

function u16s(...values: number[]): Uint8Array {
  return pack(...values.map((value) => ["u16", value] as const));
}

function u32s(...values: number[]): Uint8Array {
  return pack(...values.map((value) => ["u32", value] as const));
}

/** A record's part for its reference `own`, to block 3; the other references are to other blocks. */
function part(
  rmid: number,
  info: number,
  own: number,
  count: number,
  main: Uint8Array,
  data?: Uint8Array,
): Uint8Array {
  const references: DeltaReference[] = Array.from({ length: count }, (_, id) => ({
    id,
    blkno: id === own ? 3 : 50 + id,
  }));
  return buildDelta({ rmid, info, blockId: own, references, main, ...(data && { data }) });
}

function tuple(size: number): Uint8Array {
  return concat(u16s(0, 9, 1, size), new Uint8Array(size - 8).fill(size));
}

function tuples(random: SeededRandom, count: number): Uint8Array {
  return concat(...Array.from({ length: count }, () => tuple(16 + 8 * random.int(12))));
}

function gistChain(random: SeededRandom): Uint8Array[] {
  const count = 10 + random.int(20);
  const split = concat(u32s(7, 0, 900, 0), Uint8Array.from([1, 0, 2, 0, 1, 0, 0, 0]));
  const most = Array.from({ length: count - 4 }, (_, i) => i + 4);
  const deletePage = concat(u32s(800, 0), u16s(1));
  return [
    part(GIST, 0x30, 1, 3, split, concat(u32s(count), tuples(random, count))),
    part(GIST, 0x00, 0, 1, u16s(0, 3), tuples(random, 3)),
    part(GIST, 0x00, 0, 1, u16s(1, 1), concat(u16s(1 + random.int(count)), tuple(64))),
    part(GIST, 0x00, 1, 2, u16s(0, 1)),
    part(GIST, 0x30, 0, 3, split),
    part(GIST, 0x10, 0, 1, concat(u32s(700), u16s(2, 0, 2, 5))),
    part(GIST, 0x60, 1, 2, deletePage),
    part(GIST, 0x00, 0, 1, u16s(most.length, 0), u16s(...most)),
  ];
}

function leaf(random: SeededRandom): Uint8Array {
  const size = 16 + 8 * random.int(9);
  return concat(u32s(size << 2), u16s(0, 0, 9, 1), new Uint8Array(size - 12).fill(size));
}

function inner(nodes: number): Uint8Array {
  const parts = Array.from({ length: nodes }, () => tuple(16));
  return concat(u32s(nodes << 3), u16s(8 + 16 * nodes, 0), ...parts);
}

function spgistLeafChain(random: SeededRandom): Uint8Array[] {
  const chain: Uint8Array[] = [];
  const leaves = 12 + random.int(10);
  for (let i = 1; i <= leaves; i++) {
    const main = concat(u16s(i === 1 ? 1 : 0, i, i > 4 ? 2 : 0, 0, 0), leaf(random));
    chain.push(part(SPGIST, 0x10, 0, 1, main));
  }
  const moveHead = concat(u16s(3, 0, 0, 1, 0, 0), u32s(800, 0));
  const moved = concat(
    moveHead,
    u16s(7, 3, 5, 1, 2, 3, 4),
    ...[1, 2, 3, 4].map(() => leaf(random)),
  );
  const dead = concat(u16s(1, 2, 1, 1), u32s(800, 0), u16s(9, 6, 10, 12, 4, 1, 2));
  const pickHead = concat(u16s(0, 2, 3, 0, 1, 0, 0, 0, 0, 0), u32s(800, 0), u16s(2, 1));
  const pick = concat(pickHead, u16s(1, leaves, 3), Uint8Array.from([0, 0, 1]), inner(2));
  return chain.concat([
    part(SPGIST, 0x20, 0, 3, moved),
    part(
      SPGIST,
      0x20,
      1,
      3,
      concat(moveHead, u16s(1, 2, 4, 3, 5, leaves + 1, leaves + 2), moved.slice(34)),
    ),
    part(SPGIST, 0x60, 0, 1, dead),
    part(SPGIST, 0x80, 0, 1, concat(u16s(1, leaves), u32s(700), u16s(0, 7))),
    part(SPGIST, 0x50, 0, 3, concat(pick, leaf(random), leaf(random), leaf(random))),
    part(SPGIST, 0x70, 0, 1, concat(u16s(2, 0), u32s(800, 0), u16s(1, 3))),
  ]);
}

function spgistInnerChain(): Uint8Array[] {
  const pickHead = concat(u16s(1, 0, 0, 0, 1, 1, 0, 0, 0, 0), u32s(800, 0));
  const addNode = concat(u16s(1, 0, 0xff00, 0, 0, 0), u32s(800, 0), inner(6));
  const moveNode = concat(u16s(1, 4, 0, 2, 1, 0), u32s(800, 0), inner(7));
  return [
    part(SPGIST, 0x50, 2, 3, concat(pickHead, inner(4))),
    part(SPGIST, 0x30, 0, 1, addNode),
    part(SPGIST, 0x40, 0, 1, concat(u16s(1, 2, 0x0100), inner(1), inner(6))),
    part(SPGIST, 0x10, 1, 2, concat(u16s(0, 5, 0, 2, 3), tuple(16))),
    part(SPGIST, 0x20, 2, 3, concat(u16s(1, 0, 0, 2, 4, 0), u32s(800, 0), u16s(1, 2, 3))),
    part(SPGIST, 0x30, 0, 3, moveNode),
  ];
}

function hashTupleChain(random: SeededRandom): Uint8Array[] {
  const overflow = concat(u16s(4096), new Uint8Array(1));
  const chain = [part(HASH, 0x30, 0, 2, overflow, u32s(5))];
  for (let i = 1; i < 15 + random.int(10); i++) {
    chain.push(part(HASH, 0x20, 0, 2, u16s(1 + random.int(i)), tuple(16 + 8 * random.int(4))));
  }
  const moved = concat(u16s(2, 7, 9), tuple(16), tuple(24));
  const squeeze = (count: number) => concat(u32s(8, 9), u16s(count), Uint8Array.from([0, 1]));
  return chain.concat([
    part(HASH, 0x70, 1, 3, concat(u16s(2), new Uint8Array(1)), moved.slice(2)),
    part(HASH, 0x70, 2, 3, concat(u16s(2), new Uint8Array(1)), u16s(2, 3, 8)),
    part(HASH, 0x80, 1, 6, squeeze(1), concat(u16s(3), tuple(32))),
    part(HASH, 0x80, 3, 6, squeeze(1)),
    part(HASH, 0x90, 1, 2, Uint8Array.from([1, 1]), u16s(1, 4, 5, 6)),
    part(HASH, 0xc0, 0, 2, concat(u32s(700), u16s(2, 0, 1, 3))),
    part(HASH, 0x40, 0, 3, concat(u32s(6), u16s(0x22, 0x12), Uint8Array.from([3]))),
    part(HASH, 0x60, 0, 2, u16s(0x42, 0x02)),
    part(HASH, 0xa0, 0, 1, new Uint8Array(0)),
    part(HASH, 0x80, 2, 6, squeeze(0)),
  ]);
}

function hashMetaChain(): Uint8Array[] {
  const init = new Uint8Array(14);
  const view = new DataView(init.buffer);
  view.setFloat64(0, 200_000, true);
  view.setUint16(12, 300, true);
  return [
    part(HASH, 0x00, 0, 1, init),
    part(HASH, 0x10, 1, 2, u16s(4096)),
    part(HASH, 0x20, 1, 2, u16s(1)),
    part(HASH, 0x30, 4, 5, concat(u16s(4096), new Uint8Array(1)), u32s(70)),
    part(
      HASH,
      0x40,
      2,
      3,
      concat(u32s(6), u16s(0x22, 0x12), Uint8Array.from([3])),
      u32s(1, 3, 5, 2),
    ),
    part(HASH, 0x80, 6, 7, new Uint8Array(12), u32s(13)),
    part(HASH, 0xb0, 0, 1, new Uint8Array(8)),
    part(HASH, 0xc0, 1, 2, concat(u32s(700), u16s(2, 0, 1, 3))),
  ];
}

function hashBitmapChain(): Uint8Array[] {
  return [
    part(HASH, 0x10, 0, 2, u16s(4096)),
    part(HASH, 0x80, 5, 6, new Uint8Array(12), u32s(13)),
    part(HASH, 0x30, 2, 5, concat(u16s(4096), new Uint8Array(1)), u32s(13)),
  ];
}

/** Each chain applies without an error. */
export function gistSpgistHashChains(random: SeededRandom): Uint8Array[][] {
  return [
    gistChain(random),
    spgistLeafChain(random),
    spgistInnerChain(),
    hashTupleChain(random),
    hashMetaChain(),
    hashBitmapChain(),
  ];
}
