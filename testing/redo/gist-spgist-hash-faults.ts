// Single faults in gist, SP-GiST and hash redo, for the test that the recovery oracle sees each.

import { changeRecord, dropRecord, type Fault, mainAt } from "./redo-faults.ts";

const HASH = 12;
const GIST = 14;
const SPGIST = 16;

/** Gives a byte of the main data another value, where it has another. */
function setMain(
  name: string,
  rmid: number,
  opcode: number,
  blockId: number,
  offset: number,
  value: number,
): Fault {
  return changeRecord(name, rmid, [opcode], blockId, (delta) => {
    const at = mainAt(delta) + offset;
    const differs = delta[at] !== value;
    delta[at] = value;
    return differs;
  });
}

/** Flips the lowest bit of a byte of the main data. */
function flipMain(
  name: string,
  rmid: number,
  opcode: number,
  blockId: number,
  offset: number,
): Fault {
  return changeRecord(name, rmid, [opcode], blockId, (delta) => {
    const at = mainAt(delta) + offset;
    delta[at] = delta[at]! ^ 1;
    return true;
  });
}

/** Makes a u16 of the main data zero. */
function zeroMain16(
  name: string,
  rmid: number,
  opcode: number,
  blockId: number,
  offset: number,
): Fault {
  return changeRecord(name, rmid, [opcode], blockId, (delta) => {
    const at = mainAt(delta) + offset;
    const differs = delta[at] !== 0 || delta[at + 1] !== 0;
    delta.fill(0, at, at + 2);
    return differs;
  });
}

export const GIST_SPGIST_HASH_FAULTS: readonly Fault[] = [
  dropRecord("a gist insertion leaves FOLLOW_RIGHT and the NSN of the child", GIST, [0x00], 1),
  dropRecord("a gist split leaves FOLLOW_RIGHT and the NSN of the child", GIST, [0x30], 0),
  flipMain("the last page of a gist split has another right link", GIST, 0x30, 3, 0),
  flipMain("the pages of a gist split keep no NSN", GIST, 0x30, 2, 8),
  setMain("a gist split takes leaves for inner pages", GIST, 0x30, 2, 16, 0),
  dropRecord("killed gist items stay", GIST, [0x10]),
  flipMain("a deleted gist page has a wrong deleteXid", GIST, 0x60, 0, 0),
  dropRecord("the parent keeps a deleted gist page's downlink", GIST, [0x60], 1),
  setMain("moved SP-GiST leaves leave no redirect", SPGIST, 0x20, 0, 16, 1),
  flipMain("an SP-GiST redirect has another xid", SPGIST, 0x20, 0, 12),
  zeroMain16("a new SP-GiST leaf is not in its chain", SPGIST, 0x10, 0, 4),
  flipMain("a parent's downlink is one node off", SPGIST, 0x10, 1, 8),
  setMain("a moved SP-GiST inner tuple keeps its downlink", SPGIST, 0x30, 2, 5, 0xff),
  setMain("a picksplit forgets that inner and parent share a page", SPGIST, 0x50, 2, 12, 0),
  setMain("a page for nulls is not marked so", SPGIST, 0x50, 1, 11, 0),
  zeroMain16("SP-GiST vacuum leaves chains as they were", SPGIST, 0x60, 0, 6),
  zeroMain16("SP-GiST vacuum leaves placeholders at the end", SPGIST, 0x80, 0, 2),
  flipMain("a hash tuple goes one place too far", HASH, 0x20, 0, 0),
  dropRecord("the hash metapage misses a freed overflow page", HASH, [0x80], 6),
  dropRecord("the bitmap misses a freed overflow page", HASH, [0x80], 5),
  setMain("squeezing leaves the link to a freed page", HASH, 0x80, 1, 11, 0),
  dropRecord("a reused overflow page stays free in the bitmap", HASH, [0x30], 2),
  dropRecord("the old bucket of a split keeps its maxbucket", HASH, [0x40], 0),
  setMain("a split moves the masks of the hash metapage too late", HASH, 0x40, 2, 8, 0),
  dropRecord("a bucket keeps NEEDS_SPLIT_CLEANUP", HASH, [0xa0]),
  dropRecord("the hash metapage counts removed tuples", HASH, [0xc0], 1),
];
