// WalIngest over a storage that only writes down, to see what ingest makes of typed changes.

import { crc32c } from "../src/base/crc32c.ts";
import { createLogger } from "../src/base/log.ts";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import { decodeSize } from "../src/pageserver/ingest/relation-heads.ts";
import { encodeStoredCheckPoint } from "../src/pageserver/ingest/stored-checkpoint.ts";
import { WalIngest } from "../src/pageserver/ingest/walingest.ts";
import {
  CHECKPOINT_INDEX,
  CONTROL_FILE_INDEX,
  CONTROL_PREFIX,
  comparePrefixes,
  type KeyPrefix,
  prefixStartsWith,
  relBlockPrefix,
  relSizePrefix,
  slruSizePrefix,
} from "../src/pageserver/layers/key.ts";
import { PrefixMap } from "../src/pageserver/layers/prefix-map.ts";
import type { TimelineStorage } from "../src/pageserver/storage/timeline-storage.ts";
import type { CheckPoint, RelationFork } from "../src/wal-decoder/record-sink.ts";

export const logger = createLogger("test");
export const CHECKPOINT: CheckPoint = {
  redo: toLsn(100),
  timeLineId: 1,
  prevTimeLineId: 1,
  fullPageWrites: false,
  walLevel: 1,
  nextFullXid: (1n << 32n) + 740n,
  nextOid: 16384,
  nextMulti: 1,
  nextMultiOffset: 0,
  oldestXid: 730,
  oldestXidDb: 1,
  oldestMulti: 1,
  oldestMultiDb: 1,
  time: 1_700_000_000n,
  oldestCommitTsXid: 0,
  newestCommitTsXid: 0,
  oldestActiveXid: 0,
};

type Version = { lsn: Lsn; kind: "image" | "delta" | "init" | "tombstone"; value: Uint8Array };

/** The parts of a pg_control of 17 that ingest looks at. */
export function controlFile(): Uint8Array {
  const bytes = new Uint8Array(8192);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, 1700, true);
  view.setUint32(288, crc32c(bytes, 0, 288), true);
  return bytes;
}

/** Keeps every version in order; a page "is" the list of versions since its last base. */
class RecordingStorage implements TimelineStorage {
  startLsn = toLsn(100);
  lastRecordLsn = toLsn(100);
  prevRecordLsn = toLsn(50);
  diskConsistentLsn = toLsn(100);
  readonly versions = new PrefixMap<Map<number, Version[]>>();

  replicaStarts: readonly Lsn[] = [];

  keepReplicaStarts(lsns: readonly Lsn[]): void {
    this.replicaStarts = lsns;
  }

  async whenResident<T>(read: () => T): Promise<T> {
    return read();
  }

  #put(prefix: KeyPrefix, index: number, version: Version): void {
    const byIndex = this.versions.get(prefix) ?? new Map<number, Version[]>();
    this.versions.set(prefix, byIndex);
    const list = byIndex.get(index) ?? [];
    byIndex.set(index, list);
    list.push({ ...version, value: Uint8Array.from(version.value) });
  }

  putImage(prefix: KeyPrefix, index: number, lsn: Lsn, value: Uint8Array): void {
    this.#put(prefix, index, { lsn, kind: "image", value });
  }

  putDelta(p: KeyPrefix, index: number, lsn: Lsn, value: Uint8Array, willInit: boolean): void {
    this.#put(p, index, { lsn, kind: willInit ? "init" : "delta", value });
  }

  putTombstone(prefix: KeyPrefix, index: number, lsn: Lsn): void {
    this.#put(prefix, index, { lsn, kind: "tombstone", value: new Uint8Array(0) });
  }

  makeRoom(): undefined {}

  advance(lsn: Lsn, prevRecordLsn: Lsn): void {
    this.lastRecordLsn = lsn;
    this.prevRecordLsn = prevRecordLsn;
  }

  /** Versions from the newest base on, as of `lsn`. */
  chain(prefix: KeyPrefix, index: number, lsn: Lsn = this.lastRecordLsn): Version[] {
    const all = (this.versions.get(prefix)?.get(index) ?? []).filter((v) => v.lsn <= lsn);
    const base = all.findLastIndex((version) => version.kind !== "delta");
    return all.slice(Math.max(base, 0));
  }

  readPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    return this.readValue(prefix, index, lsn);
  }

  readValue(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined {
    const [base] = this.chain(prefix, index, lsn);
    return base === undefined || base.kind === "tombstone" ? undefined : base.value;
  }

  *scan(fields: readonly number[], lsn: Lsn) {
    for (const [prefix, byIndex] of [...this.versions].sort(([a], [b]) => comparePrefixes(a, b))) {
      if (prefixStartsWith(prefix, fields)) {
        for (const index of byIndex.keys()) {
          const value = this.readValue(prefix, index, lsn);
          if (value !== undefined) {
            yield { prefix, index, value };
          }
        }
      }
    }
  }

  waitForLsn(): Promise<void> {
    return Promise.resolve();
  }
}

export class IngestHarness {
  readonly storage = new RecordingStorage();
  readonly ingest: WalIngest;
  #next = 1000;

  constructor(checkPoint: Partial<CheckPoint> = {}) {
    this.storage.putImage(
      CONTROL_PREFIX,
      CHECKPOINT_INDEX,
      toLsn(100),
      encodeStoredCheckPoint({ ...CHECKPOINT, ...checkPoint }),
    );
    this.storage.putImage(CONTROL_PREFIX, CONTROL_FILE_INDEX, toLsn(100), controlFile());
    this.ingest = new WalIngest(this.storage, logger);
  }

  /** One record; its end LSN. */
  record(changes: (ingest: WalIngest) => void): Lsn {
    const start = toLsn(this.#next);
    this.#next += 100;
    const end = toLsn(this.#next);
    this.ingest.beginRecord(start, end);
    changes(this.ingest);
    this.ingest.endRecord();
    this.ingest.publish();
    return end;
  }

  /** As `record`, where a change takes more than one turn. */
  async longRecord(changes: (ingest: WalIngest) => void): Promise<Lsn> {
    const start = toLsn(this.#next);
    this.#next += 100;
    const end = toLsn(this.#next);
    this.ingest.beginRecord(start, end);
    changes(this.ingest);
    await this.ingest.restOfRecord();
    this.ingest.endRecord();
    this.ingest.publish();
    return end;
  }

  size(rel: RelationFork, lsn: Lsn = this.storage.lastRecordLsn): number | undefined {
    const prefix = relSizePrefix(rel.spcOid, rel.dbOid, rel.relNumber, rel.fork);
    const value = this.storage.readValue(prefix, 0, lsn);
    return value === undefined ? undefined : decodeSize(value);
  }

  kinds(rel: RelationFork, blkno: number, lsn?: Lsn): string[] {
    const prefix = relBlockPrefix(rel.spcOid, rel.dbOid, rel.relNumber, rel.fork);
    return this.storage.chain(prefix, blkno, lsn).map((version) => version.kind);
  }

  /** Pages of a segment; undefined where it does not exist. */
  slruSize(kind: number, segno: number): number | undefined {
    const value = this.storage.readValue(
      slruSizePrefix(kind, segno),
      0,
      this.storage.lastRecordLsn,
    );
    return value === undefined ? undefined : decodeSize(value);
  }
}
