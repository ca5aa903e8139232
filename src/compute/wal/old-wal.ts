// WAL from before a compute's start: logical decoding reads it out of pg_wal, which in a new data directory begins there.

import { closeSync, ftruncateSync, openSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeFully } from "../../base/disk.ts";
import { errorKind } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import {
  addLsn,
  formatLsn,
  type Lsn,
  maxLsn,
  minLsn,
  pageStart,
  segmentNumber,
  segmentOffset,
  segmentStart,
  toLsn,
  walFileName,
} from "../../base/lsn.ts";
import { skipPageHeader } from "../../data-directory/wal-pages.ts";
import { giveToPostgres } from "../../postgres/installation.ts";
import type { PgVersion } from "../../postgres/versions.ts";
import {
  encodePageHeader,
  LONG_PAGE_HEADER_SIZE,
  pageHeaderSize,
} from "../../postgres/wal-page.ts";

/**
 * Hands out WAL [begin, end), contiguous and lent for the call. StorageError `not-found` where nobody has it any more,
 * `unavailable` where it may be had later.
 */
export type ReadWal = (
  begin: Lsn,
  end: Lsn,
  onWal: (lsn: Lsn, bytes: Uint8Array) => void,
) => Promise<void>;

export interface OldWalOptions {
  /** pg_wal, whose first segment is that of `end`. */
  readonly directory: string;
  /** Nothing before the page of the least restart_lsn is read; all are below `end`. */
  readonly slots: readonly { readonly name: string; readonly restartLsn: Lsn }[];
  /** Before it there is none. */
  readonly timelineStartLsn: Lsn;
  /** The compute's start: from there on Postgres has its own. */
  readonly end: Lsn;
  readonly version: PgVersion;
  readonly systemId: bigint;
  readonly segmentSize: number;
  readonly read: ReadWal;
  readonly logger: Logger;
}

/**
 * The segment of the start is filled before Postgres runs, which goes on writing in it. Those before it come when somebody
 * opens them; Postgres removes them again when no slot needs them.
 */
export class OldWal {
  readonly #options: OldWalOptions;
  readonly #fetching = new Map<number, Promise<boolean>>();
  /** Nothing before it is here or comes. */
  #begin: Lsn;

  constructor(options: OldWalOptions) {
    this.#options = options;
    this.#begin = options.end;
  }

  /**
   * To be called before Postgres runs: fills the start's segment. Returns the slots whose WAL is gone; nothing is fetched for
   * them. StorageError `unavailable` where it may be had later: to be called again.
   */
  async prepare(): Promise<string[]> {
    const { slots, read, timelineStartLsn, segmentSize } = this.#options;
    const lost: string[] = [];
    for (const { name, restartLsn } of [...slots].sort((a, b) => a.restartLsn - b.restartLsn)) {
      try {
        await read(restartLsn, addLsn(restartLsn, 1), () => {});
        const begin = maxLsn(pageStart(restartLsn), timelineStartLsn);
        this.#begin = skipPageHeaderOf(begin, segmentSize);
        // WAL goes from its old end, so what comes behind this is there.
        break;
      } catch (error) {
        if (errorKind(error) !== "not-found") {
          throw error;
        }
        lost.push(name);
      }
    }
    await this.#fillStart();
    return lost;
  }

  async #fillStart(): Promise<void> {
    const { end, segmentSize } = this.#options;
    const begin = maxLsn(this.#begin, segmentStart(end, segmentSize));
    if (begin < end) {
      const fd = openSync(this.#path(segmentNumber(end, segmentSize)), "r+");
      try {
        await this.#fill(fd, begin, end);
      } finally {
        closeSync(fd);
      }
    }
  }

  /**
   * True when segment `segno` is in pg_wal; false where no slot needs it, and where it is gone, of which the log tells.
   * StorageError `unavailable` where it may be had later.
   */
  fetchSegment(segno: number): Promise<boolean> {
    const { end, segmentSize } = this.#options;
    const first = segmentNumber(this.#begin, segmentSize);
    if (segno < first || segno >= segmentNumber(end, segmentSize)) {
      return Promise.resolve(false);
    }
    let fetching = this.#fetching.get(segno);
    if (fetching === undefined) {
      fetching = this.#fetch(segno).finally(() => this.#fetching.delete(segno));
      this.#fetching.set(segno, fetching);
    }
    return fetching;
  }

  async #fetch(segno: number): Promise<boolean> {
    const { segmentSize, end, logger } = this.#options;
    const start = toLsn(segno * segmentSize);
    const begin = maxLsn(this.#begin, start);
    const path = this.#path(segno);
    // Another name until it is whole: a name that Postgres passes over in pg_wal.
    const fresh = `${path}.fetched`;
    rmSync(fresh, { force: true });
    // What a superuser may have linked there is not written through.
    const fd = openSync(fresh, "wx+", 0o600);
    try {
      ftruncateSync(fd, segmentSize);
      await this.#fill(fd, begin, minLsn(end, toLsn(start + segmentSize)));
    } catch (error) {
      rmSync(fresh, { force: true });
      if (errorKind(error) === "not-found") {
        logger.error({ error, lsn: formatLsn(begin) }, "WAL that a replication slot needs is gone");
        return false;
      }
      throw error;
    } finally {
      closeSync(fd);
    }
    giveToPostgres(fresh);
    renameSync(fresh, path);
    return true;
  }

  async #fill(fd: number, begin: Lsn, end: Lsn): Promise<void> {
    const { segmentSize, read } = this.#options;
    const first = segmentStart(begin, segmentSize);
    // Readers check a segment's first header wherever in it they begin, and that of the page that they begin in.
    if (pageStart(begin) !== first) {
      this.#writeHeader(fd, first, 0);
    }
    if (pageStart(begin) !== begin) {
      const page = pageStart(begin);
      this.#writeHeader(fd, page, begin - page - pageHeaderSize(page, segmentSize));
    }
    await read(begin, end, (lsn, bytes) => writeFully(fd, bytes, segmentOffset(lsn, segmentSize)));
  }

  #writeHeader(fd: number, pageLsn: Lsn, remainingLength: number): void {
    const { version, systemId, segmentSize } = this.#options;
    const bytes = new Uint8Array(LONG_PAGE_HEADER_SIZE);
    const size = encodePageHeader(new DataView(bytes.buffer), 0, {
      ...{ pageMagic: version.pageMagic, pageLsn, systemId, timeline: 1 },
      ...{ segmentSize, remainingLength },
    });
    writeFully(fd, bytes.subarray(0, size), segmentOffset(pageLsn, segmentSize));
  }

  #path(segno: number): string {
    const { directory, segmentSize } = this.#options;
    return join(directory, walFileName(segno, 1, segmentSize));
  }
}

/** Past a header that a timeline begins in the middle of; a page's start stays, as its header is there. */
function skipPageHeaderOf(lsn: Lsn, segmentSize: number): Lsn {
  return lsn === pageStart(lsn) ? lsn : skipPageHeader(lsn, segmentSize);
}
