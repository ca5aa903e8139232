// Auxiliary files: what logical decoding keeps beside WAL, as storage has it and as a data directory has it.
//
// Neon's name for them. Of replication slots the logical ones that outlive their session, as a file each; the snapshots of
// the catalogs from which decoding goes on; and which rows of catalogs that were rewritten are which.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import {
  decodeReplicationSlot,
  type ReplicationSlot,
} from "../postgres/replication/replication-slot.ts";
import { readLeftFile } from "./left-files.ts";
import { makeDirectory } from "./make-directory.ts";

export interface AuxFile {
  /** Relative to the data directory; one that `isAuxPath`. */
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** slot.c, snapbuild.c (`%X-%X.snap`), rewriteheap.h (LOGICAL_REWRITE_FORMAT). */
const SLOT = /^pg_replslot\/([a-z0-9_]{1,63})\/state$/;
const SNAPSHOT = /^pg_logical\/snapshots\/([0-9A-F]{1,8}-[0-9A-F]{1,8})\.snap$/;
const MAPPING =
  /^pg_logical\/mappings\/map-[0-9a-f]{1,8}-[0-9a-f]{1,8}-([0-9A-F]{1,8}_[0-9A-F]{1,8})-[0-9a-f]{1,8}-[0-9a-f]{1,8}$/;

/** Of a slot's state: in no release more than some hundred. */
const MAX_SLOT_BYTES = 8192;

export function isAuxPath(path: string): boolean {
  return SLOT.test(path) || SNAPSHOT.test(path) || MAPPING.test(path);
}

/** Whether it is the state of a slot. */
export function isSlotPath(path: string): boolean {
  return SLOT.test(path);
}

export function isSnapshotPath(path: string): boolean {
  return SNAPSHOT.test(path);
}

/** Of which WAL the file is: a slot that begins above needs it no more. Undefined for the state of a slot. */
export function auxFileLsn(path: string): Lsn | undefined {
  const [, text] = SNAPSHOT.exec(path) ?? MAPPING.exec(path) ?? [];
  return text === undefined ? undefined : parseLsn(text.replace(/[-_]/, "/"));
}

/** StorageError `corrupt` where a state makes no sense. */
export function slotsOf(files: readonly AuxFile[]): ReplicationSlot[] {
  return files
    .filter(({ path }) => isSlotPath(path))
    .map(({ bytes }) => decodeReplicationSlot(bytes));
}

/**
 * Gives each to `write`, after the directory of its slot was made; in a data directory that has no slot yet. StorageError
 * `corrupt` for a path that is not one of theirs.
 */
export function placeAuxFiles(
  dataDirectory: string,
  files: readonly AuxFile[],
  write: (path: string, bytes: Uint8Array) => void,
): void {
  for (const { path, bytes } of files) {
    if (!isAuxPath(path)) {
      throw new StorageError("corrupt", "bad-aux-file", `not an auxiliary file: '${path}'`);
    }
    if (isSlotPath(path)) {
      makeDirectory(join(dataDirectory, path, ".."));
    }
    write(path, bytes);
  }
}

/** The logical slots that Postgres has left in a data directory: what a start has to begin with. */
export function readSlotFiles(dataDirectory: string): AuxFile[] {
  return readdirSync(join(dataDirectory, "pg_replslot"))
    .map((name) => `pg_replslot/${name}/state`)
    .filter(isSlotPath)
    .flatMap((path) => {
      const bytes = readLeftFile(dataDirectory, path, MAX_SLOT_BYTES);
      return bytes === undefined ? [] : [{ path, bytes }];
    })
    .filter(({ bytes }) => {
      const { dbOid, isPersistent } = decodeReplicationSlot(bytes);
      return dbOid !== 0 && isPersistent;
    });
}
