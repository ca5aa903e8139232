// Single faults, as wrong redo would make them, for the test that the recovery oracle sees each.
//
// Each changes or drops the deltas of one kind; so does redo that forgets a flag or a case.

import {
  DELTA_CLOG_STATUS,
  DELTA_COMMIT_TS,
  DELTA_HEADER_SIZE,
  DELTA_MULTIXACT_MEMBERS,
  DELTA_MULTIXACT_OFFSETS,
  DELTA_RECORD,
  DELTA_REFERENCE_SIZE,
  DELTA_VM_CLEAR,
  DELTA_VM_TRUNCATE,
} from "../../src/wal-decoder/delta.ts";
import type { RelationFork } from "../../src/wal-decoder/record-sink.ts";

export interface Fault {
  readonly name: string;
  /** Given its own copy of a delta: what redo gets instead (undefined: nothing), or `untouched`. */
  inject(delta: Uint8Array, rel: RelationFork | undefined): Uint8Array | undefined | "untouched";
}

const HEAP2 = 9;
const HEAP = 10;
const BTREE = 11;
const SEQ = 15;
const BRIN = 17;

export function mainAt(delta: Uint8Array): number {
  return DELTA_HEADER_SIZE + delta[8]! * DELTA_REFERENCE_SIZE;
}

export function dataAt(delta: Uint8Array): number {
  const view = new DataView(delta.buffer, delta.byteOffset);
  return mainAt(delta) + view.getUint32(12, true);
}

/** `opcodes`: of xl_info's high four bits, the init bit of heap and BRIN left out. */
function isRecord(
  delta: Uint8Array,
  rmid: number,
  opcodes: readonly number[],
  blockId: number,
): boolean {
  const mask = rmid === HEAP || rmid === HEAP2 || rmid === BRIN ? 0x70 : 0xf0;
  return (
    delta[0] === DELTA_RECORD &&
    delta[1] === rmid &&
    delta[3] === blockId &&
    opcodes.includes(delta[2]! & mask)
  );
}

export function dropRecord(
  name: string,
  rmid: number,
  opcodes: readonly number[],
  blockId = 0,
): Fault {
  return {
    name,
    inject: (delta) => (isRecord(delta, rmid, opcodes, blockId) ? undefined : "untouched"),
  };
}

function dropKind(name: string, kind: number): Fault {
  return { name, inject: (delta) => (delta[0] === kind ? undefined : "untouched") };
}

/** Clears bits of a byte of the main data where any of them is set. */
function clearMainBits(
  name: string,
  rmid: number,
  opcodes: readonly number[],
  blockId: number,
  offset: number,
  bits: number,
): Fault {
  return {
    name,
    inject: (delta) => {
      if (!isRecord(delta, rmid, opcodes, blockId)) {
        return "untouched";
      }
      const at = mainAt(delta) + offset;
      if ((delta[at]! & bits) === 0) {
        return "untouched";
      }
      delta[at] = delta[at]! & ~bits;
      return delta;
    },
  };
}

export function changeRecord(
  name: string,
  rmid: number,
  opcodes: readonly number[],
  blockId: number,
  change: (delta: Uint8Array) => boolean,
): Fault {
  return {
    name,
    inject: (delta) =>
      isRecord(delta, rmid, opcodes, blockId) && change(delta) ? delta : "untouched",
  };
}

export const FAULTS: readonly Fault[] = [
  clearMainBits("delete forgets that the row moved to another partition", HEAP, [0x10], 0, 7, 0x10),
  clearMainBits("delete of a speculative tuple keeps xmin", HEAP, [0x10], 0, 7, 0x08),
  clearMainBits("delete leaves PD_ALL_VISIBLE", HEAP, [0x10], 0, 7, 0x01),
  clearMainBits("insert leaves PD_ALL_VISIBLE", HEAP, [0x00], 0, 2, 0x01),
  clearMainBits("update leaves PD_ALL_VISIBLE on the old page", HEAP, [0x20, 0x40], 0, 7, 0x01),
  clearMainBits("a row lock forgets that xmax is a multixact", HEAP, [0x60], 0, 6, 0x01),
  clearMainBits("a row lock forgets KEY SHARE", HEAP, [0x60], 0, 6, 0x08),
  clearMainBits("pruning without the cleanup lock's repair", HEAP2, [0x10, 0x20], 0, 1, 0x04),
  clearMainBits("VISIBLE forgets all-frozen in the map", HEAP2, [0x40], 0, 4, 0x02),
  changeRecord("an update is taken for a HOT update", HEAP, [0x20], 0, (delta) => {
    delta[2] = (delta[2]! & ~0x70) | 0x40;
    return delta[8] === 1;
  }),
  dropRecord("a speculative insertion is never confirmed", HEAP, [0x50]),
  dropRecord("in-place updates are lost", HEAP, [0x70]),
  dropRecord("VISIBLE does not reach the heap page", HEAP2, [0x40], 1),
  dropRecord("locks of updated rows are lost", HEAP2, [0x60]),
  changeRecord("the last tuple of a freeze plan stays", HEAP2, [0x20], 0, (delta) => {
    const at = dataAt(delta) + 4;
    if ((delta[mainAt(delta) + 1]! & 0x10) === 0) {
      return false;
    }
    // t_infomask of the first plan loses HEAP_XMIN_FROZEN.
    delta[at + 7] = delta[at + 7]! & ~0x03;
    return true;
  }),
  dropRecord("the child of a btree insertion keeps INCOMPLETE_SPLIT", BTREE, [0x10, 0x20], 1),
  dropRecord("the page right of a btree split keeps its left link", BTREE, [0x30, 0x40], 2),
  changeRecord("btree deduplication forgets its last interval", BTREE, [0x60], 0, (delta) => {
    const at = mainAt(delta);
    const view = new DataView(delta.buffer, delta.byteOffset);
    const intervals = view.getUint16(at, true);
    view.setUint16(at, intervals - 1, true);
    return intervals > 0;
  }),
  changeRecord("a deleted btree page has a wrong safexid", BTREE, [0x80, 0x90], 0, (delta) => {
    const at = mainAt(delta) + 16;
    delta[at] = delta[at]! ^ 1;
    return true;
  }),
  changeRecord("a posting list is split one TID too early", BTREE, [0x50], 0, (delta) => {
    const at = dataAt(delta);
    const view = new DataView(delta.buffer, delta.byteOffset);
    const position = view.getUint16(at, true);
    view.setUint16(at, Math.max(1, position - 1), true);
    return position > 1;
  }),
  dropRecord("the btree metapage misses a cleanup", BTREE, [0xe0]),
  changeRecord("a sequence forgets is_called", SEQ, [0x00], 0, (delta) => {
    const last = delta.length - 1;
    delta[last] = delta[last]! ^ 1;
    return true;
  }),
  dropKind("heap records do not clear visibility-map bits", DELTA_VM_CLEAR),
  {
    name: "a lock clears all-visible too",
    inject: (delta) => {
      if (delta[0] !== DELTA_VM_CLEAR || delta[1] !== 2) {
        return "untouched";
      }
      delta[1] = 3;
      return delta;
    },
  },
  dropKind("truncation leaves bits in the visibility map", DELTA_VM_TRUNCATE),
  {
    name: "aborts count as commits",
    inject: (delta) => {
      if (delta[0] !== DELTA_CLOG_STATUS || delta[1] !== 2) {
        return "untouched";
      }
      delta[1] = 1;
      return delta;
    },
  },
  dropKind("multixact offsets are not written", DELTA_MULTIXACT_OFFSETS),
  dropKind("commit timestamps are not written", DELTA_COMMIT_TS),
  {
    name: "multixact members lose their status",
    inject: (delta) => {
      if (delta[0] !== DELTA_MULTIXACT_MEMBERS || delta[12] === 0) {
        return "untouched";
      }
      delta[12] = 0;
      return delta;
    },
  },
];
