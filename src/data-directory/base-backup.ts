// A base to replay from: what its backup_label, PG_VERSION and pg_control say about where and how to start.
//
// Source of the rules: access/transam/xlogrecovery.c (InitWalRecovery, read_backup_label,
// CheckRecoveryConsistency), 14-18. Three sorts of directory can be replayed:
//   with backup_label     a backup of a running server: from START WAL LOCATION; consistent at its
//                         BACKUP_END record, or, taken from a standby, at pg_control's minRecoveryPoint
//   state 1 (shut down)   a stopped copy: from its shutdown checkpoint; consistent from the start
//   another state         an atomic snapshot of a running server or of a standby: from the redo point of
//                         the last checkpoint; a standby's is consistent at minRecoveryPoint

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { StorageError, withContext } from "../base/errors.ts";
import { INVALID_LSN, type Lsn, maxLsn, parseLsn } from "../base/lsn.ts";
import { type ControlFile, decodeControlFile } from "../postgres/control-file.ts";
import { type PgMajor, pgVersion } from "../postgres/versions.ts";

/** DBState of pg_control. */

export interface BaseBackup {
  readonly directory: string;
  readonly major: PgMajor;
  readonly control: ControlFile;
  /** Where replay starts: a record's start. */
  readonly startLsn: Lsn;
  /** The WAL timeline of `startLsn`. */
  readonly timeLineId: number;
  /** Pages may be from later than `startLsn` until a BACKUP_END record that names it was replayed. */
  readonly needsBackupEnd: boolean;
  /** Replay must reach this; 0: nothing. */
  readonly minRecoveryPoint: Lsn;
}

/** StorageError `invalid` or `not-found` where `directory` is no data directory, else of pg_control. */
export function openDataDirectory(directory: string): { major: PgMajor; control: ControlFile } {
  const status = statSync(directory, { throwIfNoEntry: false });
  if (status === undefined) {
    throw new StorageError("not-found", "no-such-directory", `there is no '${directory}'`);
  }
  if (!status.isDirectory()) {
    throw notData(directory, "it is a file");
  }
  const archive = readdirSync(directory).find((name) => /^base\.tar(\.\w+)?$/.test(name));
  if (archive !== undefined) {
    throw notData(directory, `unpack ${archive} first (or take the backup with -Fp)`);
  }
  for (const name of ["PG_VERSION", "global/pg_control", "base"]) {
    if (!existsSync(join(directory, name))) {
      throw notData(directory, `it has no ${name}`);
    }
  }
  const text = readFileSync(join(directory, "PG_VERSION"), "latin1").trim();
  if (!/^\d{1,3}$/.test(text)) {
    throw notData(directory, `PG_VERSION says '${text.slice(0, 20)}'`);
  }
  const { major } = pgVersion(Number(text));
  try {
    const bytes = new Uint8Array(readFileSync(join(directory, "global", "pg_control")));
    return { major, control: decodeControlFile(bytes, major) };
  } catch (error) {
    throw withContext(error, `read ${join(directory, "global/pg_control")}`);
  }
}

function notData(directory: string, why: string): StorageError {
  const message = `'${directory}' is not a data directory of Postgres: ${why}`;
  return new StorageError("invalid", "not-a-data-directory", message);
}

/** StorageError as `openDataDirectory`; `unsupported` for an incremental backup. */
export function openBaseBackup(directory: string): BaseBackup {
  const { major, control } = openDataDirectory(directory);
  checkTablespaces(directory);
  const labelFile = join(directory, "backup_label");
  const common = { directory, major, control };
  if (!existsSync(labelFile)) {
    return {
      ...common,
      startLsn: control.checkPoint.redo,
      timeLineId: control.checkPoint.timeLineId,
      needsBackupEnd: false,
      minRecoveryPoint: control.minRecoveryPoint,
    };
  }
  const label = readLabel(labelFile);
  return {
    ...common,
    startLsn: label.startLsn,
    timeLineId: label.timeLineId,
    needsBackupEnd: !label.fromStandby,
    minRecoveryPoint: label.fromStandby
      ? maxLsn(control.minRecoveryPoint, label.startLsn)
      : INVALID_LSN,
  };
}

function readLabel(path: string): { startLsn: Lsn; timeLineId: number; fromStandby: boolean } {
  const text = readFileSync(path, "utf8");
  const line = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(text)?.[1]?.trim();
  const start = /^(\S+) \(file ([0-9A-F]{8})[0-9A-F]{16}\)$/.exec(line("START WAL LOCATION") ?? "");
  const startLsn = parseLsn(start?.[1] ?? "");
  if (start === null || startLsn === undefined || startLsn === INVALID_LSN) {
    const message = `'${path}' does not say where its WAL starts`;
    throw new StorageError("invalid", "bad-backup-label", message);
  }
  if (line("INCREMENTAL FROM LSN") !== undefined) {
    const message = `'${path}' is of an incremental backup: make a full one of it with pg_combinebackup`;
    throw new StorageError("unsupported", "incremental-backup", message);
  }
  return {
    startLsn,
    timeLineId: Number.parseInt(start[2]!, 16),
    fromStandby: line("BACKUP FROM") === "standby",
  };
}

/** A backup in tar format lists its tablespaces here instead of having links to them. */
function checkTablespaces(directory: string): void {
  const path = join(directory, "tablespace_map");
  for (const line of existsSync(path) ? readFileSync(path, "utf8").split("\n") : []) {
    const oid = /^\d+/.exec(line)?.[0];
    if (oid !== undefined && !existsSync(join(directory, "pg_tblspc", oid))) {
      const message = `tablespace ${oid} of '${directory}' is missing: link it as pg_tblspc/${oid}`;
      throw new StorageError("invalid", "missing-tablespace", message);
    }
  }
}
