// Sizes of relation forks at the head of a timeline: what ingest must know to extend and truncate.

import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn } from "../../base/lsn.ts";
import type { RelationFork } from "../../wal-decoder/record-sink.ts";
import type { RelationSize } from "../api.ts";
import {
  KEYSPACE_RELATION_SIZE,
  type KeyPrefix,
  prefixField4,
  prefixField5,
  relBlockPrefix,
  relSizePrefix,
} from "../layers/key.ts";
import { PrefixMap } from "../layers/prefix-map.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

export const FORK_MAIN = 0;
export const FORK_FSM = 1;
export const FORK_VM = 2;
export const FORK_INIT = 3;

/** `RelationHead.blocks` of a fork that does not exist. */
export const ABSENT = -1;

/** Heads kept; dropped all at once beyond it, as a miss costs one read. */
const MAX_HEADS = 500_000;
/** Heads used lately, by low bits of the relation's number: saves making the key's prefix. */
const RECENT_HEADS = 256;
/** A longer gap is no extension that Postgres makes: 128 GiB. */
const MAX_GAP_BLOCKS = 2 ** 24;

export interface RelationHead {
  readonly blockPrefix: KeyPrefix;
  readonly sizePrefix: KeyPrefix;
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
  /** Current size, or ABSENT. */
  blocks: number;
  /** Changed in the record at hand. */
  dirty: boolean;
}

/** u32 LE, as sizes are stored. */
export function encodeSize(blocks: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, blocks, true);
  return bytes;
}

/** StorageError `corrupt` where the stored size has not 4 bytes. */
export function decodeSize(bytes: Uint8Array): number {
  if (bytes.length !== 4) {
    throw new StorageError("corrupt", "bad-size", `a stored size has ${bytes.length} bytes, not 4`);
  }
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
}

/** Every fork of every relation in a database, ascending. */
export function readRelations(
  storage: Pick<TimelineStorage, "scan">,
  lsn: Lsn,
  spcOid: number,
  dbOid: number,
): RelationSize[] {
  return [...storage.scan([KEYSPACE_RELATION_SIZE, spcOid, dbOid], lsn)].map((entry) => ({
    relNumber: prefixField4(entry.prefix),
    fork: prefixField5(entry.prefix),
    blocks: decodeSize(entry.value),
  }));
}

/** Whether a database has a fork of a relation numbered `relNumber` or higher. */
export function hasRelationsFrom(
  storage: Pick<TimelineStorage, "scan">,
  lsn: Lsn,
  ...directoryAndNumber: readonly [spcOid: number, dbOid: number, relNumber: number]
): boolean {
  const [spcOid, dbOid] = directoryAndNumber;
  const first = [KEYSPACE_RELATION_SIZE, ...directoryAndNumber];
  for (const _ of storage.scan([KEYSPACE_RELATION_SIZE, spcOid, dbOid], lsn, first)) {
    return true;
  }
  return false;
}

/**
 * A write-back cache. Invariant that makes stale versions of blocks harmless: whenever a fork grows
 * over a block that the growing record itself does not initialise, and whenever a visibility-map
 * page goes away, the block gets a tombstone, so nothing older shows through.
 */
export class RelationHeads {
  readonly #storage: TimelineStorage;
  readonly #heads = new PrefixMap<RelationHead>();
  readonly #recent: (RelationHead | undefined)[] = new Array(RECENT_HEADS).fill(undefined);
  #dirty: RelationHead[] = [];

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
  }

  get(spcOid: number, dbOid: number, relNumber: number, fork: number): RelationHead {
    const slot = (relNumber * 4 + fork) & (RECENT_HEADS - 1);
    const recent = this.#recent[slot];
    if (
      recent !== undefined &&
      recent.relNumber === relNumber &&
      recent.fork === fork &&
      recent.dbOid === dbOid &&
      recent.spcOid === spcOid
    ) {
      return recent;
    }
    const prefix = relBlockPrefix(spcOid, dbOid, relNumber, fork);
    let head = this.#heads.get(prefix);
    if (head === undefined) {
      head = this.#load(prefix, spcOid, dbOid, relNumber, fork);
      this.#heads.set(prefix, head);
    }
    this.#recent[slot] = head;
    return head;
  }

  of(rel: RelationFork): RelationHead {
    return this.get(rel.spcOid, rel.dbOid, rel.relNumber, rel.fork);
  }

  #load(
    blockPrefix: KeyPrefix,
    spcOid: number,
    dbOid: number,
    relNumber: number,
    fork: number,
  ): RelationHead {
    const sizePrefix = relSizePrefix(spcOid, dbOid, relNumber, fork);
    // Whatever is not published yet is in the cache, so the published size is the current one.
    const stored = this.#storage.readValue(sizePrefix, 0, this.#storage.lastRecordLsn);
    const blocks = stored === undefined ? ABSENT : decodeSize(stored);
    return { blockPrefix, sizePrefix, spcOid, dbOid, relNumber, fork, blocks, dirty: false };
  }

  resize(head: RelationHead, blocks: number): void {
    if (head.blocks !== blocks) {
      head.blocks = blocks;
      if (!head.dirty) {
        head.dirty = true;
        this.#dirty.push(head);
      }
    }
  }

  /** Makes the fork hold `blkno`, creating it where it does not exist; skipped blocks read as zeros. */
  extendOver(head: RelationHead, blkno: number, lsn: Lsn): void {
    const first = Math.max(head.blocks, 0);
    if (blkno - first > MAX_GAP_BLOCKS) {
      throw new StorageError(
        "corrupt",
        "relation-gap",
        `the record ending at ${formatLsn(lsn)} writes block ${blkno} of a relation of ${first} blocks`,
      );
    }
    for (let gap = first; gap < blkno; gap++) {
      this.#storage.putTombstone(head.blockPrefix, gap, lsn);
    }
    this.resize(head, blkno + 1);
  }

  /** Shrinks to at most `blocks`; never grows, never creates. */
  truncate(head: RelationHead, blocks: number, lsn: Lsn): void {
    if (head.blocks > blocks) {
      this.#forgetMapPages(head, blocks, lsn);
      this.resize(head, blocks);
    }
  }

  drop(head: RelationHead, lsn: Lsn): void {
    if (head.blocks !== ABSENT) {
      this.#forgetMapPages(head, 0, lsn);
      this.resize(head, ABSENT);
    }
  }

  /** Map pages are changed in place when they come back, so the old ones must not be found. */
  #forgetMapPages(head: RelationHead, blocks: number, lsn: Lsn): void {
    if (head.fork === FORK_VM) {
      for (let blkno = blocks; blkno < head.blocks; blkno++) {
        this.#storage.putTombstone(head.blockPrefix, blkno, lsn);
      }
    }
  }

  /** Writes the sizes that changed in the record that ends at `lsn`. */
  flush(lsn: Lsn): void {
    if (this.#dirty.length === 0) {
      return;
    }
    for (const head of this.#dirty) {
      head.dirty = false;
      if (head.blocks === ABSENT) {
        this.#storage.putTombstone(head.sizePrefix, 0, lsn);
      } else {
        this.#storage.putImage(head.sizePrefix, 0, lsn, encodeSize(head.blocks));
      }
    }
    this.#dirty = [];
  }

  /** After everything was published: keeps the cache within its bound. */
  trim(): void {
    if (this.#heads.size > MAX_HEADS) {
      this.#heads.clear();
      this.#recent.fill(undefined);
    }
  }
}
