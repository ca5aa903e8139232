// A directory of WAL segment files: which file has which segment, and which timelines lead to its end.
//
// Source: access/xlog_internal.h (names), access/transam/timeline.c (history files: lines
// `<parent>\t<switch LSN>\t<reason>`, oldest first) and XLogFileReadAnyTLI in xlogrecovery.c, 14-18.
// A segment in which the timeline changes exists for both; the newer file has a copy of the older
// one's part, so the newest timeline that has begun in or before a segment is read.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import {
  formatLsn,
  type Lsn,
  parseLsn,
  parseWalFileName,
  segmentNumber,
  walFileName,
} from "../base/lsn.ts";

interface Segment {
  readonly timeLineId: number;
  readonly segno: number;
  readonly path: string;
}

/** A timeline on the way from the base to the end, and the first segment that is read of it. */
interface TimelineStart {
  readonly timeLineId: number;
  readonly firstSegno: number;
}

export class WalDirectory {
  readonly path: string;
  readonly #segmentSize: number;
  readonly #segments: Segment[] = [];
  /** Paths of compressed segments by the name they would have. */
  readonly #compressed = new Map<string, string>();
  readonly #histories = new Map<number, { timeLineId: number; switchLsn: Lsn }[]>();
  #chain: readonly TimelineStart[] = [];
  #bySegno = new Map<number, Segment>();

  /**
   * StorageError: `not-found` where there is no such directory, `invalid` where it has no WAL, or only
   * compressed WAL. `segmentSize` in bytes, of the base's control file.
   */
  constructor(path: string, segmentSize: number) {
    this.path = path;
    this.#segmentSize = segmentSize;
    const status = statSync(path, { throwIfNoEntry: false });
    if (status === undefined) {
      throw new StorageError("not-found", "no-such-directory", `there is no '${path}'`);
    }
    if (!status.isDirectory()) {
      throw new StorageError("invalid", "not-a-directory", `'${path}' is not a directory of WAL`);
    }
    const partial: Segment[] = [];
    for (const name of readdirSync(path)) {
      const match = /^([0-9A-F]{24})(\.partial)?(\.(?:gz|lz4|zst))?$/.exec(name);
      const segno = match === null ? undefined : parseWalFileName(match[1]!, segmentSize);
      if (match === null || segno === undefined) {
        this.#addHistory(name);
      } else if (match[3] !== undefined) {
        this.#compressed.set(match[1]!, join(path, name));
      } else {
        const timeLineId = Number.parseInt(name.slice(0, 8), 16);
        const list = match[2] === undefined ? this.#segments : partial;
        list.push({ timeLineId, segno, path: join(path, name) });
      }
    }
    for (const segment of partial) {
      // What pg_receivewal is writing; the whole segment replaces it.
      if (!this.#segments.some((s) => s.segno === segment.segno && sameTimeline(s, segment))) {
        this.#segments.push(segment);
      }
    }
    if (this.#segments.length === 0) {
      for (const compressed of this.#compressed.values()) {
        throw compressedWal(compressed);
      }
      throw new StorageError("invalid", "no-wal", `there are no WAL segments in '${path}'`);
    }
  }

  #addHistory(name: string): void {
    const match = /^([0-9A-F]{8})\.history$/.exec(name);
    if (match === null) {
      return;
    }
    const entries: { timeLineId: number; switchLsn: Lsn }[] = [];
    for (const line of readFileSync(join(this.path, name), "utf8").split("\n")) {
      const fields = line.trim().split(/\s+/);
      if (line.trim() === "" || line.startsWith("#")) {
        continue;
      }
      const switchLsn = parseLsn(fields[1] ?? "");
      if (!/^\d+$/.test(fields[0]!) || switchLsn === undefined) {
        const message = `'${join(this.path, name)}' is not a timeline history: '${line}'`;
        throw new StorageError("invalid", "bad-timeline-history", message);
      }
      entries.push({ timeLineId: Number(fields[0]), switchLsn });
    }
    this.#histories.set(Number.parseInt(match[1]!, 16), entries);
  }

  /**
   * Chooses the timelines from `startLsn` on `timeLineId` to the newest, as Postgres's
   * recovery_target_timeline = latest does. StorageError `invalid` where the newest does not come from
   * there, or its history file is missing.
   */
  follow(timeLineId: number, startLsn: Lsn): void {
    const newest = this.#segments.reduce((id, s) => Math.max(id, s.timeLineId), timeLineId);
    const chain: TimelineStart[] = [{ timeLineId, firstSegno: 0 }];
    if (newest !== timeLineId) {
      const history = this.#histories.get(newest);
      if (history === undefined) {
        const name = `${newest.toString(16).toUpperCase().padStart(8, "0")}.history`;
        const message = `the WAL changes from timeline ${timeLineId} to ${newest}, but there is no ${name} in '${this.path}'`;
        throw new StorageError("invalid", "no-timeline-history", message);
      }
      const own = history.findIndex((entry) => entry.timeLineId === timeLineId);
      if (own < 0 || history[own]!.switchLsn < startLsn) {
        const left = own < 0 ? "" : `, which left it at ${formatLsn(history[own]!.switchLsn)}`;
        const message = `the base, at ${formatLsn(startLsn)} on timeline ${timeLineId}, is not in the history of timeline ${newest}${left}`;
        throw new StorageError("invalid", "not-in-timeline-history", message);
      }
      for (let i = own; i < history.length; i++) {
        const next = history[i + 1]?.timeLineId ?? newest;
        const firstSegno = segmentNumber(history[i]!.switchLsn, this.#segmentSize);
        chain.push({ timeLineId: next, firstSegno });
      }
    }
    this.#chain = chain.reverse();
    this.#bySegno = new Map();
    for (const segment of this.#segments) {
      if (this.#timelineOf(segment.segno) === segment.timeLineId) {
        this.#bySegno.set(segment.segno, segment);
      }
    }
  }

  #timelineOf(segno: number): number {
    return this.#chain.find(({ firstSegno }) => segno >= firstSegno)!.timeLineId;
  }

  /**
   * The file that has segment `segno`; undefined where there is none. After `follow`. StorageError
   * `unsupported` where there is only a compressed one.
   */
  pathOf(segno: number): string | undefined {
    const path = this.#bySegno.get(segno)?.path;
    const compressed = path === undefined ? this.#compressed.get(this.nameOf(segno)) : undefined;
    if (compressed !== undefined) {
      throw compressedWal(compressed);
    }
    return path;
  }

  /** The name that segment `segno` must have. After `follow`. */
  nameOf(segno: number): string {
    return walFileName(segno, this.#timelineOf(segno), this.#segmentSize);
  }

  /** Numbers of the segments at hand, ascending. After `follow`. */
  segnos(): number[] {
    return [...this.#bySegno.keys()].sort((a, b) => a - b);
  }
}

function compressedWal(path: string): StorageError {
  const message = `'${path}' is compressed: decompress the WAL first`;
  return new StorageError("unsupported", "compressed-wal", message);
}

function sameTimeline(a: Segment, b: Segment): boolean {
  return a.timeLineId === b.timeLineId;
}
