// Single faults in GIN, BRIN and generic redo, for the test that the recovery oracle sees each.

import { changeRecord, dataAt, dropRecord, type Fault, mainAt } from "./redo-faults.ts";

const GIN = 13;
const BRIN = 17;
const GENERIC = 20;
const INSERT_ISDATA = 0x01;
const INSERT_ISLEAF = 0x02;

function u16(delta: Uint8Array, at: number): number {
  return delta[at]! | (delta[at + 1]! << 8);
}

/** Flips the lowest bit of a byte of the main data. */
function flipMain(name: string, rmid: number, opcode: number, blockId: number, at: number): Fault {
  return changeRecord(name, rmid, [opcode], blockId, (delta) => {
    const byte = mainAt(delta) + at;
    delta[byte] = delta[byte]! ^ 1;
    return true;
  });
}

export const GIN_BRIN_FAULTS: readonly Fault[] = [
  changeRecord("a GIN entry is added beside the one it replaces", GIN, [0x20], 0, (delta) => {
    const isDelete = dataAt(delta) + 2;
    if ((u16(delta, mainAt(delta)) & INSERT_ISDATA) !== 0 || delta[isDelete] === 0) {
      return false;
    }
    delta[isDelete] = 0;
    return true;
  }),
  changeRecord("a GIN downlink keeps its child after a split", GIN, [0x20], 0, (delta) => {
    const main = mainAt(delta);
    if ((u16(delta, main) & INSERT_ISLEAF) !== 0) {
      return false;
    }
    delta.copyWithin(main + 6, main + 2, main + 6);
    return true;
  }),
  changeRecord("an item added to a posting list is off by one", GIN, [0x20], 0, (delta) => {
    const action = dataAt(delta) + 2;
    if ((u16(delta, mainAt(delta)) & 3) !== 3 || delta[action + 1] !== 4) {
      return false;
    }
    delta[action + 8] = delta[action + 8]! ^ 1;
    return true;
  }),
  changeRecord("vacuum forgets the last segment of a leaf", GIN, [0x90], 0, (delta) => {
    const actions = dataAt(delta);
    const isMany = u16(delta, actions) > 1;
    delta[actions] = delta[actions]! - (isMany ? 1 : 0);
    return isMany;
  }),
  flipMain("a new posting tree has another first item", GIN, 0x10, 0, 8),
  dropRecord("an insertion leaves INCOMPLETE_SPLIT on the child", GIN, [0x20], 1),
  dropRecord("a split leaves INCOMPLETE_SPLIT on the child", GIN, [0x30], 3),
  dropRecord("vacuum of a posting-tree leaf is lost", GIN, [0x90]),
  flipMain("a deleted posting-tree page has a wrong deleteXid", GIN, 0x50, 0, 8),
  dropRecord("the parent keeps a deleted page's downlink", GIN, [0x50], 1),
  dropRecord("the left sibling keeps its link to a deleted page", GIN, [0x50], 2),
  flipMain("the metapage counts its pending tuples wrong", GIN, 0x60, 0, 32),
  dropRecord("the tail of the pending list gets nothing", GIN, [0x60], 1),
  flipMain("a pending-list page has a wrong right link", GIN, 0x70, 0, 0),
  dropRecord("a deleted pending-list page stays", GIN, [0x80], 1),
  dropRecord("a new summary is not in the revmap", BRIN, [0x10], 1),
  dropRecord("a moved summary stays on its old page too", BRIN, [0x20], 2),
  dropRecord("summaries are not widened", BRIN, [0x30]),
  dropRecord("the BRIN metapage misses a revmap page", BRIN, [0x40], 0),
  dropRecord("desummarizing leaves the revmap", BRIN, [0x50], 0),
  dropRecord("desummarizing leaves the summary", BRIN, [0x50], 1),
  changeRecord("a generic change is one byte off", GENERIC, [0x00], 0, (delta) => {
    const at = dataAt(delta);
    delta[at] = delta[at]! ^ 1;
    return at < delta.length;
  }),
];
