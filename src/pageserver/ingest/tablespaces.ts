// The user's tablespaces: kept from WAL, and read for a compute that starts.
//
// Source: commands/tablespace.c (CreateTableSpace, DropTableSpace, TablespaceCreateDbspace). The key's
// index is the tablespace's OID, the value its location, UTF-8: an absolute path, or nothing where it is
// in place. A compute keeps the files in its own directory wherever the location is. Which databases have a directory in
// it is no matter of WAL: Postgres makes one when it makes the first file there, so we mark it then.

import type { Lsn } from "../../base/lsn.ts";
import { FIRST_NORMAL_OBJECT_ID } from "../../postgres/relation-path.ts";
import {
  dbDirPrefix,
  KEYSPACE_DATABASE,
  KEYSPACE_TABLESPACE,
  prefixField3,
  TABLESPACE_PREFIX,
} from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

/** A mark has no content. */
const EXISTS = new Uint8Array([1]);

export interface Tablespace {
  readonly spcOid: number;
  /** Absolute; empty where it is in place. */
  readonly location: string;
}

/** The writing side; one per WalIngest. */
export class Tablespaces {
  readonly #storage: TimelineStorage;
  /** Directories of databases, `spcOid/dbOid`, that are marked for certain. */
  readonly #marked = new Set<string>();

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
  }

  create(spcOid: number, location: string, lsn: Lsn): void {
    this.#storage.putImage(TABLESPACE_PREFIX, spcOid, lsn, Buffer.from(location));
  }

  /** As of `doneLsn` all records before this one are published. */
  drop(spcOid: number, doneLsn: Lsn, lsn: Lsn): void {
    this.#storage.putTombstone(TABLESPACE_PREFIX, spcOid, lsn);
    for (const { prefix } of [...this.#storage.scan([KEYSPACE_DATABASE, spcOid], doneLsn)]) {
      this.#storage.putTombstone(prefix, 0, lsn);
      this.directoryDropped(spcOid, prefixField3(prefix));
    }
  }

  /** A relation is made: its database has a directory in the tablespace from now on. */
  relationMade(spcOid: number, dbOid: number, lsn: Lsn): void {
    const directory = `${spcOid}/${dbOid}`;
    if (spcOid < FIRST_NORMAL_OBJECT_ID || this.#marked.has(directory)) {
      return;
    }
    this.#marked.add(directory);
    const prefix = dbDirPrefix(spcOid, dbOid);
    if (this.#storage.readValue(prefix, 0, this.#storage.lastRecordLsn) === undefined) {
      this.#storage.putImage(prefix, 0, lsn, EXISTS);
    }
  }

  directoryDropped(spcOid: number, dbOid: number): void {
    this.#marked.delete(`${spcOid}/${dbOid}`);
  }
}

/** Every tablespace of the user's as of `lsn`, by ascending OID. */
export function readTablespaces(storage: Pick<TimelineStorage, "scan">, lsn: Lsn): Tablespace[] {
  return [...storage.scan([KEYSPACE_TABLESPACE], lsn)].map(({ index, value }) => ({
    spcOid: index,
    location: Buffer.from(value).toString("utf8"),
  }));
}
