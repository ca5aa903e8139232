// GIN, BRIN and generic deltas made by hand, for unit tests and the redo fuzzer.

import type { SeededRandom } from "../../src/base/random.ts";
import { buildDelta, concat, type DeltaFields, pack } from "./delta-builder.ts";

const GIN = 13;
const BRIN = 17;
const GENERIC = 20;
/** Every chain is of this block. */
const BLOCK = 3;

/** A heap TID: block number, offset number. */
export type Item = readonly [blkno: number, offnum: number];

export function tid([blkno, offnum]: Item): Uint8Array {
  return pack(["u16", blkno >>> 16], ["u16", blkno & 0xffff], ["u16", offnum]);
}

/** A posting list of items in order: the codec once more, with bigint, from the format alone. */
export function postingList(...items: readonly Item[]): Uint8Array {
  const bytes: number[] = [];
  const values = items.map(([blkno, offnum]) => (BigInt(blkno) << 11n) | BigInt(offnum));
  for (let i = 1; i < values.length; i++) {
    let step = values[i]! - values[i - 1]!;
    for (; step > 0x7fn; step >>= 7n) {
      bytes.push(Number(step & 0x7fn) | 0x80);
    }
    bytes.push(Number(step));
  }
  const padding = new Uint8Array(bytes.length % 2);
  const header = concat(tid(items[0]!), pack(["u16", bytes.length]));
  return concat(header, new Uint8Array(bytes), padding);
}

/** Actions of a recompression. */
export const addItems = (segno: number, ...items: readonly Item[]): Uint8Array =>
  concat(pack(["u8", segno], ["u8", 4], ["u16", items.length]), ...items.map(tid));
export const removeSegment = (segno: number): Uint8Array => pack(["u8", segno], ["u8", 1]);
export const insertSegment = (segno: number, list: Uint8Array): Uint8Array =>
  concat(pack(["u8", segno], ["u8", 2]), list);
export const replaceSegment = (segno: number, list: Uint8Array): Uint8Array =>
  concat(pack(["u8", segno], ["u8", 3]), list);

export function recompression(...actions: readonly Uint8Array[]): DeltaFields {
  return {
    rmid: GIN,
    info: 0x20,
    main: pack(["u16", 3]),
    data: concat(pack(["u16", actions.length]), ...actions),
  };
}

function items(random: SeededRandom, block: number, count: number): Item[] {
  const list: Item[] = [];
  for (let i = 0, offnum = 0; i < count; i++) {
    offnum += 1 + random.int(4);
    list.push([block + Math.floor(offnum / 200), 1 + (offnum % 200)]);
  }
  return list;
}

/** A posting-tree leaf, changed at random segments. */
function leafChain(random: SeededRandom): DeltaFields[] {
  const lists = [0, 1, 2, 3].map((n) => postingList(...items(random, n * 1000, 20)));
  const all = concat(...lists);
  const create = { rmid: GIN, info: 0x10, main: concat(pack(["u32", all.length]), all) };
  const vacuum = recompression(replaceSegment(0, postingList(...items(random, 0, 9))));
  return [
    create,
    recompression(addItems(random.int(2), ...items(random, 500, 5))),
    recompression(addItems(0, [20, 7]), addItems(3, ...items(random, 3500, 30))),
    recompression(insertSegment(2, postingList(...items(random, 1900, 40))), removeSegment(3)),
    { ...vacuum, info: 0x90, main: new Uint8Array(0) },
  ];
}

/** A pending-list page and an entry page: the same thing but for the flags, which insertion checks. */
function listChain(random: SeededRandom): DeltaFields[] {
  const tuple = (size: number) =>
    concat(pack(["u32", 1], ["u16", 1], ["u16", size]), new Uint8Array(size - 8).fill(size));
  const tuples = Array.from({ length: 1 + random.int(9) }, () => tuple(16 + 8 * random.int(9)));
  const update = concat(
    new Uint8Array(72),
    pack(["u32", 0xffffffff], ["u32", 0], ["u32", 2], ["u32", 0]),
  );
  return [
    {
      rmid: GIN,
      info: 0x70,
      main: pack(["u32", 0xffffffff], ["u32", tuples.length]),
      data: concat(...tuples),
    },
    { rmid: GIN, info: 0x60, blockId: 1, main: update, data: concat(tuple(24), tuple(40)) },
  ];
}

/** A regular BRIN page. */
function summaryChain(random: SeededRandom): DeltaFields[] {
  const chain: DeltaFields[] = [];
  const count = 4 + random.int(20);
  const data = () => new Uint8Array(8 + 8 * random.int(9)).fill(1 + random.int(255));
  for (let offnum = 1; offnum <= count; offnum++) {
    const main = pack(["u32", offnum], ["u32", 1], ["u16", offnum]);
    chain.push({ rmid: BRIN, info: offnum === 1 ? 0x90 : 0x10, main, data: data() });
  }
  const gone = pack(["u32", 1], ["u32", 2], ["u16", 2]);
  const last = pack(["u16", count], ["u16", 0], ["u32", 1], ["u32", 1], ["u16", 1]);
  return [
    ...chain,
    { rmid: BRIN, info: 0x30, main: pack(["u16", 3]), data: data() },
    { rmid: BRIN, info: 0x50, blockId: 1, main: gone },
    { rmid: BRIN, info: 0x20, blockId: 2, main: last },
    { rmid: BRIN, info: 0x10, main: pack(["u32", 9], ["u32", 1], ["u16", 2]), data: data() },
  ];
}

/** A revmap page; then an extension takes it over. */
function revmapChain(random: SeededRandom): DeltaFields[] {
  const set = pack(["u32", random.int(9000)], ["u32", 1 + random.int(5)], ["u16", 3]);
  const data = concat(
    pack(["u16", 12], ["u16", 2], ["u16", 60], ["u16", 40], ["u16", 8]),
    tid([1, 1]),
  );
  return [
    { rmid: BRIN, info: 0x40, blockId: 1, main: pack(["u32", BLOCK]) },
    { rmid: BRIN, info: 0x10, blockId: 1, main: set },
    { rmid: BRIN, info: 0x50, main: pack(["u32", 2], ["u32", random.int(9000)], ["u16", 1]) },
    { rmid: GENERIC, info: 0, data: concat(data, new Uint8Array(2)) },
  ];
}

/** Chains of deltas; each makes its page, block 3 of the main fork, from nothing. */
export function ginBrinChains(random: SeededRandom): Uint8Array[][] {
  const chains = [leafChain, listChain, summaryChain, revmapChain];
  return chains.map((make) =>
    make(random).map((fields) => {
      const id = fields.blockId ?? 0;
      const others = [0, 1, 2].filter((other) => other < id);
      const references = [...others, id].map((n) => ({ id: n, blkno: n === id ? BLOCK : 9 + n }));
      return buildDelta({ ...fields, references });
    }),
  );
}
