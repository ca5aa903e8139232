// What redo must have been given in a test that claims to cover it: names of deltas and of their parts.
//
// A delta's name is its resource manager, its opcode in hex and its block reference; or its kind, where
// it is no record's. Parts say what a delta does beyond that. A name without a reference is a record's
// whose pages always come as images.

import { RM_GIN_ID, RM_HEAP2_ID } from "../../src/postgres/rmgr.ts";
import { DELTA_RECORD } from "../../src/wal-decoder/delta.ts";
import { dataAt, mainAt } from "./redo-faults.ts";

const GIN_DATA_LEAF = 3;
const PAGE_MAGIC_AT = 10;
/** From 17 on one kind of record prunes, vacuums and freezes. */
const PAGE_MAGIC_17 = 0xd116;

export const HEAP_DELTAS: readonly string[] = [
  ...["0", "10", "20", "40", "50", "60", "70", "80", "a0"].map((op) => `10 ${op} 0`),
  "10 20 1",
  "10 a0 1",
  ...["10", "20", "30", "40", "50", "60", "d0"].map((op) => `9 ${op} 0`),
  "9 40 1",
  ...["0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "a0", "b0", "c0", "e0"].map(
    (op) => `11 ${op} 0`,
  ),
  ...["10 1", "20 1", "20 2", "30 1", "30 2", "40 1", "40 2", "40 3", "80 1", "80 2", "80 3"].map(
    (op) => `11 ${op}`,
  ),
  ...["90 2", "90 4", "a0 1", "a0 2", "b0 1"].map((op) => `11 ${op}`),
  "15 0 0",
  "kind 3",
  "kind 4",
  "kind 5",
  "kind 6",
  "kind 7",
];

/** How heap records clear bits of the visibility map: up to 17.10 and 18.4 they do not name its page. */
export const IMPLIED_MAP_DELTAS: readonly string[] = ["kind 2"];
/**
 * From 17.11 and 18.6 on they do: inserts, deletes, updates (new page, old page), locks, COPY. Not there:
 * 9 60 1 (LOCK_UPDATED), because a row version that someone must still follow an update to is too new
 * for its page to be all-frozen.
 */
export const REGISTERED_MAP_DELTAS: readonly string[] = [
  ...["0 1", "10 1", "20 2", "20 3", "40 3", "60 1"].map((name) => `10 ${name}`),
  "9 50 1",
];

export const GIN_BRIN_DELTAS: readonly string[] = [
  ...["10 0", "20 0", "20 1", "30 3", "50 0", "50 1", "50 2", "60 0", "60 1", "70 0"].map(
    (name) => `${RM_GIN_ID} ${name}`,
  ),
  ...["80 0", "80 1", "80 16", "90 0", "40"].map((name) => `${RM_GIN_ID} ${name}`),
  ...["0 0", "10 0", "10 1", "20 0", "20 1", "20 2", "30 0", "40 0", "40 1"].map(
    (name) => `17 ${name}`,
  ),
  ...["50 0", "50 1", "90 0", "90 1", "a0 0", "a0 1", "a0 2"].map((name) => `17 ${name}`),
  ...["0 0", "0 1"].map((name) => `20 ${name}`),
  "insert into tree 0",
  "insert into tree 1",
  "insert into tree 2, delete 0",
  "insert into tree 2, delete 1",
  ...["20 1", "20 2", "20 3", "20 4", "90 1", "90 3"].map((name) => `leaf ${name}`),
  "tail gets tuples",
  "tail gets a link",
];

/**
 * Not there:
 * - gist 70 (ASSIGN_LSN): written with wal_level minimal only, which no standby and no pageserver reads;
 * - hash 50 0 (SPLIT_PAGE) as a delta: it always has an image;
 * - hash 30 3 (ADD_OVFL_PAGE, new bitmap page): the index must have 32,768 overflow pages before, 256 MB;
 * - hash 80 4 (SQUEEZE_PAGE, page after the freed one): the page freed is always the last of its chain.
 * The last two are in gist-spgist-hash.test.ts.
 */
export const GIST_SPGIST_HASH_DELTAS: readonly string[] = [
  ...["0 0", "0 1", "10 0", "30 0", "30 1", "30 2", "30 3", "60 0", "60 1", "20"].map(
    (name) => `14 ${name}`,
  ),
  ...["10 0", "10 1", "20 0", "20 1", "20 2", "30 0", "30 1", "30 2", "40 0", "40 1"].map(
    (name) => `16 ${name}`,
  ),
  ...["50 0", "50 1", "50 2", "50 3", "60 0", "70 0", "80 0"].map((name) => `16 ${name}`),
  ...["0 0", "10 0", "10 1", "20 0", "20 1", "30 0", "30 1", "30 2", "30 4"].map(
    (name) => `12 ${name}`,
  ),
  ...["40 0", "40 1", "40 2", "60 0", "60 1", "70 0", "70 1", "70 2"].map((name) => `12 ${name}`),
  ...["80 0", "80 1", "80 2", "80 3", "80 5", "80 6", "90 0", "90 1", "a0 0", "b0 0"].map(
    (name) => `12 ${name}`,
  ),
  ...["c0 0", "c0 1", "50"].map((name) => `12 ${name}`),
];

/** What pruning, vacuuming and freezing does to a page, alone and together. */
export function pruneParts(major: number): readonly string[] {
  const alone = ["redirects", "dead", "unused", "freezes"].map((what) => `prune ${what}`);
  return major >= 17
    ? [
        ...alone,
        "prune without the cleanup lock",
        "prune redirects, dead",
        "prune redirects, dead, freezes",
        "prune dead, unused",
        "prune unused, freezes",
      ]
    : [...alone, "prune redirects, dead", "prune redirects, dead, unused"];
}

/** The delta's name. */
export function deltaName(delta: Uint8Array): string {
  return delta[0] === DELTA_RECORD
    ? `${delta[1]} ${(delta[2]! & 0xf0).toString(16)} ${delta[3]}`
    : `kind ${delta[0]}`;
}

/** What it does beyond its name, for GIN and for pruning. */
export function deltaParts(delta: Uint8Array): string[] {
  if (delta[0] !== DELTA_RECORD || delta.length === 0) {
    return [];
  }
  if (delta[1] === RM_GIN_ID) {
    return ginParts(delta);
  }
  return delta[1] === RM_HEAP2_ID ? prunes(delta) : [];
}

/** Kind of tree, action on posting lists. */
function ginParts(delta: Uint8Array): string[] {
  const opcode = delta[2]! & 0xf0;
  const view = new DataView(delta.buffer, delta.byteOffset, delta.length);
  const main = mainAt(delta);
  const data = dataAt(delta);
  if (opcode === 0x60 && delta[3] === 1) {
    return [view.getInt32(main + 80, true) > 0 ? "tail gets tuples" : "tail gets a link"];
  }
  if ((opcode !== 0x20 && opcode !== 0x90) || delta[3] !== 0) {
    return [];
  }
  const flags = opcode === 0x90 ? GIN_DATA_LEAF : view.getUint16(main, true);
  if (flags !== GIN_DATA_LEAF) {
    const isDelete = flags === 2 ? `, delete ${delta[data + 2]}` : "";
    return [`insert into tree ${flags}${isDelete}`];
  }
  const parts: string[] = [];
  let at = data + 2;
  for (let actions = view.getUint16(data, true); actions > 0; actions--) {
    const action = delta[at + 1]!;
    parts.push(`leaf ${opcode.toString(16)} ${action}`);
    at += 2;
    if (action === 2 || action === 3) {
      at += 8 + ((view.getUint16(at + 6, true) + 1) & ~1);
    } else if (action === 4) {
      at += 2 + view.getUint16(at, true) * 6;
    }
  }
  return parts;
}

function prunes(delta: Uint8Array): string[] {
  const opcode = delta[2]! & 0x70;
  if (opcode < 0x10 || opcode > 0x30) {
    return [];
  }
  const view = new DataView(delta.buffer, delta.byteOffset, delta.length);
  const main = mainAt(delta);
  const what: string[] = [];
  const parts: string[] = [];
  if (view.getUint16(PAGE_MAGIC_AT, true) >= PAGE_MAGIC_17) {
    const flags = delta[main + 1]!;
    what.push(
      ...((flags & 0x20) !== 0 ? ["redirects"] : []),
      ...((flags & 0x40) !== 0 ? ["dead"] : []),
      ...((flags & 0x80) !== 0 ? ["unused"] : []),
      ...((flags & 0x10) !== 0 ? ["freezes"] : []),
    );
    if ((flags & 0x04) === 0) {
      parts.push("prune without the cleanup lock");
    }
  } else if (opcode === 0x10) {
    const redirected = view.getUint16(main + 4, true);
    const dead = view.getUint16(main + 6, true);
    const rest = delta.length - dataAt(delta) - 4 * redirected - 2 * dead;
    what.push(
      ...(redirected > 0 ? ["redirects"] : []),
      ...(dead > 0 ? ["dead"] : []),
      ...(rest > 0 ? ["unused"] : []),
    );
  } else {
    what.push(opcode === 0x20 ? "unused" : "freezes");
  }
  return [...parts, `prune ${what.join(", ")}`];
}
