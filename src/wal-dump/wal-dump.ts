// Reads WAL from a source, record by record, and writes what a filter admits.

import { StorageError } from "../base/errors.ts";
import { alignLsn, formatLsn, type Lsn, pageOffset } from "../base/lsn.ts";
import { pageHeaderSize } from "../postgres/wal-page.ts";
import { WalStream } from "../wal-decoder/wal-stream.ts";
import { type FirstRecord, FirstRecordFinder } from "./first-record.ts";
import type { LineOutput } from "./line-output.ts";
import { recordJson, recordLine } from "./record-text.ts";
import { admits, type WalFilter } from "./wal-filter.ts";
import type { WalSource } from "./wal-source.ts";
import type { WalStats } from "./wal-stats.ts";

export interface WalDumpOptions {
  readonly filter: WalFilter;
  /** Records that begin before are left out. */
  readonly startLsn?: Lsn | undefined;
  /** Records that end behind it are left out. */
  readonly endLsn?: Lsn | undefined;
  /** How many records to show or count. */
  readonly limit?: number | undefined;
  readonly format: "text" | "details" | "json" | "none";
  /** Counted into it instead of written. */
  readonly stats?: WalStats | undefined;
  /** Things a person should know that are no records. */
  readonly notice: (text: string) => void;
}

/**
 * Ends at the end of the source, of `endLsn`, of the limit, or when nobody reads any more. StorageError
 * `corrupt` where the WAL is wrong or ends inside a record, `not-found` where there is no record; what
 * came before was written to `output`, if not flushed.
 */
export async function dumpWal(
  source: WalSource,
  options: WalDumpOptions,
  output: LineOutput,
): Promise<void> {
  const dump = new WalDump(source, options, output);
  for await (const chunk of source.chunks()) {
    dump.feed(chunk);
    while (dump.next()) {
      if (output.isFull) {
        await output.flush();
      }
      if (output.closed || dump.limitReached) {
        return;
      }
    }
    if (dump.ended) {
      break;
    }
  }
  dump.finish();
  // The last bytes may hold records where the source was too small for a whole page.
  while (dump.next() && !dump.limitReached) {
    // next() writes.
  }
  dump.checkEnd();
}

class WalDump {
  readonly #source: WalSource;
  readonly #options: WalDumpOptions;
  readonly #output: LineOutput;
  readonly #finder: FirstRecordFinder;
  #stream: WalStream | undefined;
  #segmentSize: number;
  /** Where the next chunk belongs. */
  #position: Lsn;
  #seen = 0;
  #shown = 0;

  constructor(source: WalSource, options: WalDumpOptions, output: LineOutput) {
    this.#source = source;
    this.#options = options;
    this.#output = output;
    this.#segmentSize = source.segmentSize;
    this.#position = source.startLsn;
    this.#finder = new FirstRecordFinder(source);
  }

  get limitReached(): boolean {
    return this.#options.limit !== undefined && this.#shown >= this.#options.limit;
  }

  /** No more records will come: zeros in place of one, or `endLsn`. */
  get ended(): boolean {
    return this.#stream?.stop === "zeroed" || this.#endReached;
  }

  get #endReached(): boolean {
    const { endLsn } = this.#options;
    return endLsn !== undefined && this.#position >= endLsn;
  }

  /** Takes the part of the chunk that lies in front of `endLsn`. */
  feed(chunk: Uint8Array): void {
    const { endLsn } = this.#options;
    const wanted = endLsn === undefined ? chunk.length : alignLsn(endLsn) - this.#position;
    const bytes = chunk.subarray(0, Math.max(0, wanted));
    this.#position = (this.#position + bytes.length) as Lsn;
    if (this.#stream !== undefined) {
      this.#stream.feed(bytes);
    } else {
      this.#begin(this.#finder.feed(bytes));
    }
  }

  #begin(first: FirstRecord | undefined): void {
    if (first !== undefined) {
      const { startLsn, pageMagic } = first;
      this.#stream = new WalStream({ startLsn, pageMagic, segmentSize: this.#segmentSize });
      this.#stream.feed(first.bytes);
    }
  }

  finish(): void {
    if (this.#stream === undefined) {
      this.#begin(this.#finder.finish());
    }
  }

  /** Shows the next record, if it is wanted; false where there is none yet. */
  next(): boolean {
    const stream = this.#stream;
    if (stream === undefined || !stream.next()) {
      return false;
    }
    const { record } = stream;
    const { filter, startLsn, stats, format } = this.#options;
    if (startLsn !== undefined && record.startLsn < startLsn) {
      return true;
    }
    if (this.#seen++ === 0) {
      this.#first(record.startLsn);
    }
    record.decode();
    if (!admits(filter, record)) {
      return true;
    }
    this.#shown++;
    if (stats !== undefined) {
      stats.add(record);
    } else if (format === "json") {
      this.#output.write(recordJson(record));
    } else if (format !== "none") {
      this.#output.write(recordLine(record, format === "details"));
    }
    return true;
  }

  #first(lsn: Lsn): void {
    const { startLsn, stats, notice } = this.#options;
    if (stats !== undefined) {
      stats.startLsn = lsn;
    }
    if (startLsn !== undefined && lsn !== startLsn && startLsn % this.#segmentSize !== 0) {
      const skipped = `skipping over ${lsn - startLsn} bytes`;
      notice(`first record is after ${formatLsn(startLsn)}, at ${formatLsn(lsn)}, ${skipped}`);
    }
  }

  /** Throws where the source should not have ended as it did. */
  checkEnd(): void {
    const { startLsn = this.#source.startLsn } = this.#options;
    const stream = this.#stream;
    const ended = stream?.stop === "zeroed" || this.#endReached || this.limitReached;
    const problem = ended
      ? undefined
      : this.#source.endProblem(
          this.#position,
          stream === undefined ? undefined : this.#open(stream),
        );
    if (problem !== undefined) {
      throw problem;
    }
    if (this.#seen === 0) {
      const from = formatLsn(startLsn);
      throw new StorageError("not-found", "no-wal-record", `no whole WAL record from ${from} on`);
    }
  }

  /** Start of a record of which there are bytes, but not all. */
  #open(stream: WalStream): Lsn | undefined {
    const end = stream.recordEndLsn;
    const atPage = pageOffset(end) === 0;
    const start = atPage ? ((end + pageHeaderSize(end, this.#segmentSize)) as Lsn) : end;
    return stream.fedLsn > start ? start : undefined;
  }
}
