// A timeline that arrives from elsewhere: files in a directory of its own, walked, durable before it counts.

import { join } from "node:path";
import { type Disk, diskError } from "../../base/disk.ts";
import { type DiskSteps, PAUSE } from "../../base/disk-steps.ts";
import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, maxLsn, segmentNumber, walFileName } from "../../base/lsn.ts";
import { pgVersion } from "../../postgres/versions.ts";
import type { AcceptorPersistentState } from "../consensus/acceptor.ts";
import { CONTROL_FILE_NAME, writeControlFile } from "../control-file.ts";
import { SegmentCheck } from "../wal-backup/segment-check.ts";

const READ_BYTES = 256 * 1024;

/** WAL segments of one timeline, whole and in order. What may take long is steps: others are written to meanwhile. */
export class IncomingTimeline {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #state: AcceptorPersistentState;
  readonly #check: SegmentCheck;
  #file: number | undefined;
  #segno: number;
  #offset = 0;

  /**
   * `directory` is made anew. `state` is what the control file will say; the segments from that of
   * `startLsn` to that of `state.flushedLsn` are to come.
   */
  constructor(disk: Disk, directory: string, state: AcceptorPersistentState, startLsn: Lsn) {
    this.#disk = disk;
    this.#directory = directory;
    this.#state = state;
    this.#segno = segmentNumber(startLsn, state.walSegSize);
    this.#check = new SegmentCheck({
      segmentSize: state.walSegSize,
      pageMagic: pgVersion(Math.floor(state.pgVersion / 10_000)).pageMagic,
      systemId: state.systemId,
    });
    try {
      disk.removeTree(directory);
      disk.makeDirectory(directory);
    } catch (error) {
      throw diskError(error, "make a directory for incoming WAL");
    }
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
  *write(bytes: Uint8Array): DiskSteps {
    const { walSegSize } = this.#state;
    const { start, end } = this.#walInSegment;
    if (this.#offset + bytes.length > walSegSize || start >= end) {
      throw new StorageError("corrupt", "bad-snapshot", "more WAL than there should be");
    }
    try {
      const file = yield* this.#openFile();
      yield (disk) => disk.write(file, bytes, this.#offset);
    } catch (error) {
      throw diskError(error, "write incoming WAL");
    }
    this.#offset += bytes.length;
    if (this.#offset === walSegSize) {
      yield* this.#endSegment();
    }
  }

  /** Everything is durable in its directory when it is done; StorageError `corrupt` where WAL is missing. */
  finish(): void {
    const { flushedLsn, localStartLsn } = this.#state;
    if (flushedLsn > localStartLsn) {
      if (this.#offset > 0 || this.#walInSegment.end > 0) {
        const message = `no segment ${this.nextSegmentName}, with WAL up to ${formatLsn(flushedLsn)}`;
        throw new StorageError("corrupt", "bad-snapshot", message);
      }
      this.#check.endAt(flushedLsn);
    }
    // Last, as it makes the names of all files in the directory durable.
    writeControlFile(join(this.#directory, CONTROL_FILE_NAME), this.#state, this.#disk);
  }

  /** Lets go of files; the directory stays. */
  *close(): DiskSteps {
    const file = this.#file;
    this.#file = undefined;
    if (file !== undefined) {
      yield (disk) => disk.close(file);
    }
  }

  *#openFile(): DiskSteps<number> {
    const path = join(this.#directory, this.nextSegmentName);
    this.#file ??= (yield (disk) => disk.open(path, "wx+")) as number;
    return this.#file;
  }

  *#endSegment(): DiskSteps {
    const { start, end } = this.#walInSegment;
    const lsn = this.#segno * this.#state.walSegSize;
    try {
      const file = yield* this.#openFile();
      yield (disk) => disk.fsync(file);
      if (start > 0) {
        this.#check.startAt((lsn + start) as Lsn);
      }
      for (let at = start; at < end; ) {
        const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, end - at));
        const bytesRead = this.#disk.read(file, buffer, 0, buffer.length, at);
        this.#check.feed((lsn + at) as Lsn, buffer.subarray(0, bytesRead));
        at += bytesRead || buffer.length;
        yield PAUSE;
      }
    } catch (error) {
      throw diskError(error, "check incoming WAL");
    }
    yield* this.close();
    this.#segno++;
    this.#offset = 0;
  }
}
