// Whether so much WAL was replayed that a base's files are all of one moment.
//
// Source: access/transam/xlogrecovery.c, CheckRecoveryConsistency, 14-18.

import { StorageError } from "../base/errors.ts";
import { formatLsn, INVALID_LSN, type Lsn, lsnFromParts } from "../base/lsn.ts";
import { XLOG_BACKUP_END } from "../postgres/opcodes.ts";
import { RM_XLOG_ID, XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import type { BaseBackup } from "./base-backup.ts";
import type { WalEnd } from "./wal-reader.ts";

export class Consistency {
  readonly #base: BaseBackup;
  #lsn: Lsn | undefined;

  constructor(base: BaseBackup) {
    this.#base = base;
    if (!base.needsBackupEnd && base.minRecoveryPoint === INVALID_LSN) {
      this.#lsn = base.startLsn;
    }
  }

  /** From here on; undefined before it is reached. */
  get lsn(): Lsn | undefined {
    return this.#lsn;
  }

  /** The record was replayed; true where it makes the base consistent. */
  note(record: XLogRecord): boolean {
    if (this.#lsn !== undefined || !this.#isReachedBy(record)) {
      return false;
    }
    this.#lsn = record.endLsn;
    return true;
  }

  #isReachedBy(record: XLogRecord): boolean {
    const { needsBackupEnd, startLsn, minRecoveryPoint } = this.#base;
    if (!needsBackupEnd) {
      return record.endLsn >= minRecoveryPoint;
    }
    const isEnd =
      record.rmid === RM_XLOG_ID &&
      (record.info & XLR_RMGR_INFO_MASK) === XLOG_BACKUP_END &&
      record.mainLength >= 8;
    // Its data is where that backup started: other backups can end meanwhile.
    const at = record.mainOffset;
    return (
      isEnd &&
      lsnFromParts(record.view.getUint32(at + 4, true), record.view.getUint32(at, true)) ===
        startLsn
    );
  }

  /** Its LSN. StorageError `invalid` where the WAL ended before it. */
  reached(end: WalEnd): Lsn {
    if (this.#lsn !== undefined) {
      return this.#lsn;
    }
    const wanted = this.#base.needsBackupEnd
      ? "the end of the backup"
      : formatLsn(this.#base.minRecoveryPoint);
    const message = `the WAL ends at ${formatLsn(end.lsn)} (${end.reason}), before ${wanted}: until there the base is not consistent`;
    throw new StorageError("invalid", "inconsistent-base", message);
  }
}
