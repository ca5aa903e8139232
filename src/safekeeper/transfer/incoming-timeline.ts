// A timeline that arrives from elsewhere: files in a directory of its own, walked, durable before it counts.

import { mkdirSync, rmSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { diskError, fsyncDirectory, REAL_DISK } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, maxLsn, segmentNumber, walFileName } from "../../base/lsn.ts";
import { pgVersion } from "../../postgres/versions.ts";
import type { AcceptorPersistentState } from "../consensus/acceptor.ts";
import { CONTROL_FILE_NAME, writeControlFile } from "../control-file.ts";
import { SegmentCheck } from "../wal-backup/segment-check.ts";

const READ_BYTES = 256 * 1024;

/** WAL segments of one timeline, whole and in order. Does not block: other timelines are written to. */
export class IncomingTimeline {
  readonly #directory: string;
  readonly #state: AcceptorPersistentState;
  readonly #check: SegmentCheck;
  #file: FileHandle | undefined;
  #segno: number;
  #offset = 0;

  /**
   * `directory` is made anew. `state` is what the control file will say; the segments from that of
   * `startLsn` to that of `state.flushedLsn` are to come.
   */
  constructor(directory: string, state: AcceptorPersistentState, startLsn: Lsn) {
    this.#directory = directory;
    this.#state = state;
    this.#segno = segmentNumber(startLsn, state.walSegSize);
    this.#check = new SegmentCheck({
      segmentSize: state.walSegSize,
      pageMagic: pgVersion(Math.floor(state.pgVersion / 10_000)).pageMagic,
      systemId: state.systemId,
    });
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
  }

  /** The name that the next segment must have. */
  get nextSegmentName(): string {
    return walFileName(this.#segno, 1, this.#state.walSegSize);
  }

  /** Bytes [start, end) of the current segment that are WAL; the rest is of no account. */
  get #walInSegment(): { start: number; end: number } {
    const { walSegSize, flushedLsn, localStartLsn } = this.#state;
    const lsn = (this.#segno * walSegSize) as Lsn;
    const start = maxLsn(lsn, localStartLsn) - lsn;
    return { start, end: Math.min(walSegSize, flushedLsn - lsn) };
  }

  /** The next bytes of the current segment; whole segments, zeros where there is no WAL. */
  async write(bytes: Uint8Array): Promise<void> {
    const { walSegSize } = this.#state;
    const { start, end } = this.#walInSegment;
    if (this.#offset + bytes.length > walSegSize || start >= end) {
      throw new StorageError("corrupt", "bad-snapshot", "more WAL than there should be");
    }
    try {
      const path = join(this.#directory, this.nextSegmentName);
      this.#file ??= await open(path, "wx+", 0o600);
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await this.#file.write(
          bytes,
          done,
          undefined,
          this.#offset + done,
        );
        done += bytesWritten;
      }
    } catch (error) {
      throw diskError(error, "write incoming WAL");
    }
    this.#offset += bytes.length;
    if (this.#offset === walSegSize) {
      await this.#endSegment(this.#file);
    }
  }

  /** Everything is durable in its directory when it resolves; StorageError `corrupt` where WAL is missing. */
  async finish(): Promise<void> {
    const { flushedLsn, localStartLsn } = this.#state;
    if (flushedLsn > localStartLsn) {
      if (this.#offset > 0 || this.#walInSegment.end > 0) {
        const message = `no segment ${this.nextSegmentName}, with WAL up to ${formatLsn(flushedLsn)}`;
        throw new StorageError("corrupt", "bad-snapshot", message);
      }
      this.#check.endAt(flushedLsn);
    }
    writeControlFile(join(this.#directory, CONTROL_FILE_NAME), this.#state, REAL_DISK);
    fsyncDirectory(this.#directory);
  }

  /** Lets go of files; the directory stays. */
  async close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }

  async #endSegment(file: FileHandle): Promise<void> {
    const { start, end } = this.#walInSegment;
    const lsn = this.#segno * this.#state.walSegSize;
    try {
      await file.sync();
      if (start > 0) {
        this.#check.startAt((lsn + start) as Lsn);
      }
      for (let at = start; at < end; ) {
        const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, end - at));
        const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
        this.#check.feed((lsn + at) as Lsn, buffer.subarray(0, bytesRead));
        at += bytesRead || buffer.length;
      }
    } catch (error) {
      throw diskError(error, "check incoming WAL");
    }
    await this.close();
    this.#segno++;
    this.#offset = 0;
  }
}
