// Auxiliary files of logical decoding: kept from WAL, and read for a compute that starts.
//
// Key: three words of a hash of the path, and as index where the value's content begins in the file; only a mapping
// (XLOG_HEAP2_REWRITE) comes in more than one piece. Value:
//   offset size field
//        0    8 LSN          where the record that brought it ends
//        8    2 length of the path
//       10      path, content
// A branch inherits its parent's keys but not its slots, as in Neon: what a record of the parent's brought is passed over.

import { createHash } from "node:crypto";
import { StorageError } from "../../base/errors.ts";
import { INVALID_LSN, type Lsn } from "../../base/lsn.ts";
import {
  type AuxFile,
  auxFileLsn,
  isAuxPath,
  isSnapshotPath,
  slotsOf,
} from "../../data-directory/aux-files.ts";
import type { ReplicationSlot } from "../../postgres/replication/replication-slot.ts";
import { auxFilePrefix, KEYSPACE_AUX_FILE, prefixFields } from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

const HEADER_BYTES = 10;
/** Keys have 32 bits for it; a mapping has 36 bytes for each row of a catalog that is decoded still. */
const MAX_OFFSET = 2 ** 32 - 1;

/** The writing side; one per WalIngest. */
export class AuxFiles {
  readonly #storage: TimelineStorage;

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
  }

  /** `content` at `offset` of the file; StorageError `unsupported` for a file above 4 GB. */
  put(path: string, offset: number, content: Uint8Array, lsn: Lsn): void {
    if (!isAuxPath(path)) {
      return;
    }
    if (offset > MAX_OFFSET) {
      const message = `auxiliary file '${path}' has more than ${MAX_OFFSET} bytes`;
      throw new StorageError("unsupported", "large-aux-file", message);
    }
    this.#storage.putImage(prefixOf(path), offset, lsn, encodeAuxFile(path, content, lsn));
  }

  /** As of `doneLsn` all records before this one are published. */
  remove(path: string, doneLsn: Lsn, lsn: Lsn): void {
    if (!isAuxPath(path)) {
      return;
    }
    const prefix = prefixOf(path);
    for (const { index } of [...this.#storage.scan(prefixFields(prefix), doneLsn)]) {
      this.#storage.putTombstone(prefix, index, lsn);
    }
  }

  /**
   * At a shutdown checkpoint, which each start writes too, no Postgres runs: what no later start can need goes. Postgres has removed it in that
   * checkpoint, when nothing may be written about it, or was killed before. A slot that is being made, which storage does
   * not know yet, holds such files too, so it must not be done while Postgres runs. As of `doneLsn`, as in `remove`.
   */
  removeUnneeded(doneLsn: Lsn, lsn: Lsn): void {
    const found = [...this.#storage.scan([KEYSPACE_AUX_FILE], doneLsn)].map((key) => ({
      ...key,
      piece: decodeAuxFile(key.value),
    }));
    const isOwn = ({ piece }: (typeof found)[number]) => piece.lsn > this.#storage.startLsn;
    const oldest = oldestRestartLsn(
      found.filter(isOwn).map(({ piece: { path, content } }) => ({ path, bytes: content })),
    );
    for (const key of found) {
      if (!isOwn(key) || (auxFileLsn(key.piece.path) ?? oldest) < oldest) {
        this.#storage.putTombstone(key.prefix, key.index, lsn);
      }
    }
  }
}

/**
 * What a compute that starts at `lsn` needs: nothing where there is no slot. Of snapshots those that a slot may have to
 * begin with; decoding makes the others anew. `startLsn`: where the timeline begins.
 */
export function readAuxFiles(
  storage: Pick<TimelineStorage, "scan">,
  startLsn: Lsn,
  lsn: Lsn,
): AuxFile[] {
  const pieces = new Map<string, Uint8Array[]>();
  for (const { value } of storage.scan([KEYSPACE_AUX_FILE], lsn)) {
    const piece = decodeAuxFile(value);
    if (piece.lsn > startLsn) {
      // Scans go by offset within a file.
      const before = pieces.get(piece.path);
      if (before === undefined) {
        pieces.set(piece.path, [piece.content]);
      } else {
        before.push(piece.content);
      }
    }
  }
  const files = [...pieces].map(([path, parts]) => ({ path, bytes: Buffer.concat(parts) }));
  const slots = slotsOf(files);
  return slots.length === 0 ? [] : files.filter(({ path }) => isNeeded(path, slots));
}

/**
 * A slot's decoding begins at its restart_lsn and comes to a consistent state by its confirmed_flush at the latest, as it
 * did before, if it finds the snapshots between the two that it found then.
 */
function isNeeded(path: string, slots: readonly ReplicationSlot[]): boolean {
  const at = isSnapshotPath(path) ? auxFileLsn(path) : undefined;
  return (
    at === undefined ||
    slots.some(({ restartLsn, confirmedFlush }) => restartLsn <= at && at <= confirmedFlush)
  );
}

/** Where the first of the slots begins; Infinity where none does, and 0 where a state makes no sense, of which the next start tells. */
function oldestRestartLsn(files: readonly AuxFile[]): number {
  try {
    const begins = slotsOf(files).map(({ restartLsn }) => restartLsn);
    return Math.min(...begins.filter((lsn) => lsn !== INVALID_LSN));
  } catch {
    return 0;
  }
}

function prefixOf(path: string) {
  const hash = createHash("sha256").update(path).digest();
  return auxFilePrefix(hash.readUInt32BE(0), hash.readUInt32BE(4), hash.readUInt32BE(8));
}

function encodeAuxFile(path: string, content: Uint8Array, lsn: Lsn): Uint8Array {
  const head = Buffer.alloc(HEADER_BYTES);
  head.writeBigUInt64LE(BigInt(lsn), 0);
  head.writeUInt16LE(path.length, 8);
  return Buffer.concat([head, Buffer.from(path, "latin1"), content]);
}

function decodeAuxFile(value: Uint8Array): { lsn: Lsn; path: string; content: Uint8Array } {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.length);
  const pathEnd = value.length < HEADER_BYTES ? Infinity : HEADER_BYTES + bytes.readUInt16LE(8);
  const path = bytes.toString("latin1", HEADER_BYTES, Math.min(pathEnd, value.length));
  if (pathEnd > value.length || !isAuxPath(path)) {
    const message = `value of ${value.length} bytes is no auxiliary file`;
    throw new StorageError("corrupt", "bad-aux-file", message);
  }
  return { lsn: Number(bytes.readBigUInt64LE(0)) as Lsn, path, content: value.subarray(pathEnd) };
}
