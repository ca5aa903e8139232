// WAL of a timeline from a running safekeeper, as a dump reads it.

import { StorageError } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn, maxLsn, minLsn, pageStart, parseLsn } from "../base/lsn.ts";
import { pgVersion } from "../postgres/versions.ts";
import type { SafekeeperTimelineStatus } from "../safekeeper/api.ts";
import { openReplication, SafekeeperHttpClient } from "../safekeeper/client.ts";
import type { WalSource } from "./wal-source.ts";

/** Bytes waiting to be dumped before the safekeeper has to wait. */
const MAX_QUEUED_BYTES = 1024 * 1024;

export interface SafekeeperNode {
  /** `HOST:PORT` each. */
  readonly httpAddr: string;
  readonly pgAddr: string;
}

export interface SafekeeperRange {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly startLsn: Lsn;
  /** Absent: all that is committed now. */
  readonly endLsn?: Lsn | undefined;
}

/**
 * Committed WAL from the page of `startLsn` on, from the safekeeper that has most of it. StorageError
 * `unavailable` where none answers, `not-found` where they have not got the timeline or that part of
 * its WAL.
 */
export async function openSafekeeperWal(
  nodes: readonly SafekeeperNode[],
  range: SafekeeperRange,
): Promise<WalSource> {
  const { node, status } = await newestSafekeeper(nodes, range);
  const [begin, commit] = [lsnOf(status.local_start_lsn), lsnOf(status.commit_lsn)];
  const { startLsn, endLsn = commit } = range;
  if (startLsn < begin || endLsn > commit || startLsn >= endLsn) {
    const has = `${formatLsn(begin)} to ${formatLsn(commit)}`;
    throw new StorageError(
      "not-found",
      "wal-not-here",
      `WAL from ${formatLsn(startLsn)} to ${formatLsn(endLsn)} is wanted; the safekeepers have ${has}`,
    );
  }
  return new SafekeeperWal(node.pgAddr, range, {
    startLsn: maxLsn(pageStart(startLsn), begin),
    endLsn: minLsn(pageStart((endLsn + 8191) as Lsn), commit),
    segmentSize: status.pg_info.wal_seg_size,
    pageMagic: pgVersion(Math.floor(status.pg_info.pg_version / 10_000)).pageMagic,
  });
}

function lsnOf(text: string): Lsn {
  const lsn = parseLsn(text);
  if (lsn === undefined) {
    throw new StorageError(
      "internal",
      "bad-lsn",
      `a safekeeper says '${text}' where an LSN belongs`,
    );
  }
  return lsn;
}

async function newestSafekeeper(
  nodes: readonly SafekeeperNode[],
  range: SafekeeperRange,
): Promise<{ node: SafekeeperNode; status: SafekeeperTimelineStatus }> {
  const answers = await Promise.allSettled(
    nodes.map(async (node) => ({
      node,
      status: await new SafekeeperHttpClient(node.httpAddr).timelineStatus(
        range.tenantId,
        range.timelineId,
      ),
    })),
  );
  const found = answers.filter((answer) => answer.status === "fulfilled").map(({ value }) => value);
  const [newest] = found.toSorted(
    (a, b) => lsnOf(b.status.commit_lsn) - lsnOf(a.status.commit_lsn),
  );
  if (newest === undefined) {
    throw answers.find((answer) => answer.status === "rejected")!.reason;
  }
  return newest;
}

interface Extent {
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  readonly segmentSize: number;
  readonly pageMagic: number;
}

class SafekeeperWal implements WalSource {
  readonly startLsn: Lsn;
  readonly segmentSize: number;
  readonly pageMagic: number;
  readonly #pgAddr: string;
  readonly #range: SafekeeperRange;
  readonly #endLsn: Lsn;

  constructor(pgAddr: string, range: SafekeeperRange, extent: Extent) {
    this.#pgAddr = pgAddr;
    this.#range = range;
    this.#endLsn = extent.endLsn;
    this.startLsn = extent.startLsn;
    this.segmentSize = extent.segmentSize;
    this.pageMagic = extent.pageMagic;
  }

  async *chunks(): AsyncGenerator<Uint8Array> {
    const queue: Uint8Array[] = [];
    let queued = 0;
    let ended = false;
    let failure: Error | undefined;
    let wake = () => {};
    const { tenantId, timelineId } = this.#range;
    const stream = await openReplication(
      {
        pgAddr: this.#pgAddr,
        tenantId,
        timelineId,
        applicationName: "wal-dump",
        startLsn: this.startLsn,
      },
      {
        onWal: (_lsn, bytes) => {
          queue.push(bytes.slice());
          queued += bytes.length;
          if (queued > MAX_QUEUED_BYTES) {
            stream.pause();
          }
          wake();
        },
        onClose: (error) => {
          ended = true;
          failure = error;
          wake();
        },
      },
    );
    try {
      for (let position = this.startLsn; position < this.#endLsn; ) {
        const bytes = queue.shift();
        if (bytes !== undefined) {
          queued -= bytes.length;
          position = (position + bytes.length) as Lsn;
          yield bytes;
          continue;
        }
        if (ended) {
          throw new StorageError(
            "unavailable",
            "wal-stream-ended",
            `the WAL stream from ${this.#pgAddr} ended at ${formatLsn(position)}: ${failure?.message ?? "closed"}`,
          );
        }
        const arrival = Promise.withResolvers<void>();
        wake = arrival.resolve;
        stream.resume();
        await arrival.promise;
      }
    } finally {
      stream.resume(); // a paused socket would never see the other end close
      stream.close();
    }
  }

  /** Committed WAL ends with a record; where a range ends inside one, that one is left out. */
  endProblem(): undefined {
    return undefined;
  }
}
