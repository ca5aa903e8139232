// offloaded_timelines.json: which timelines of a tenant are in the object store only, so that a start need not read their indexes.
//
// Ours, format version 1. Checksummed JSON (base/text/checksummed-json.ts): `format_version`, and `timelines`, each with what
// OffloadedTimeline has, in snake case. Nothing is lost with it: what it does not say is read from the store. A line
// counts while the timeline's newest index in the store is of its generation and the disk has none; it goes before that index is used.

import { join } from "node:path";
import { z } from "zod";
import { sleep } from "../../base/clock.ts";
import { type Disk, diskError, readFileIfExists, writeFileDurablyAsync } from "../../base/disk.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { parseTimelineId, type TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, parseLsn } from "../../base/lsn.ts";
import { decodeChecksummedJson, encodeChecksummedJson } from "../../base/text/checksummed-json.ts";
import { OFFLOADED_LIST_FORMAT_VERSION } from "../layers/format-versions.ts";
import type { IndexPart } from "../storage/index-part.ts";

export const OFFLOADED_LIST_NAME = "offloaded_timelines.json";
/** Many are archived one after the other: the list is written for all of them. */
const WRITE_DELAY_MS = 2000;

/** What is known of a timeline that is in the object store only. */
export interface OffloadedTimeline {
  readonly timelineId: TimelineId;
  readonly ancestor: IndexPart["ancestor"];
  /** Milliseconds since the Unix epoch. */
  readonly archivedAtMs: number;
  /** Of its newest index in the store. */
  readonly generation: number;
  /** Layers of its index that other timelines made: `<maker>/<file name>`. */
  readonly borrowed: readonly string[];
}

/** `index` is that of an archived one. */
export function offloadedTimeline(index: IndexPart): OffloadedTimeline {
  const { timelineId, ancestor, archivedAtMs = 0, generation, layers } = index;
  const borrowed = layers
    .filter(({ maker }) => maker !== timelineId)
    .map(({ maker, fileName }) => `${maker}/${fileName}`);
  return { timelineId, ancestor, archivedAtMs, generation, borrowed };
}

const lsnText = z.string().refine((text) => parseLsn(text) !== undefined, "not an LSN");
const idText = z.string().regex(/^[0-9a-f]{32}$/);

const schema = z.object({
  format_version: z.literal(OFFLOADED_LIST_FORMAT_VERSION),
  timelines: z.array(
    z.object({
      timeline_id: idText,
      ancestor_timeline_id: idText.nullable(),
      ancestor_lsn: lsnText.nullable(),
      archived_at_ms: z.number(),
      generation: z.int().min(1),
      borrowed: z.array(z.string()),
    }),
  ),
});

export function encodeOffloadedList(timelines: Iterable<OffloadedTimeline>): string {
  const lines = [...timelines].map(({ timelineId, ancestor, archivedAtMs, ...rest }) => ({
    timeline_id: timelineId,
    ancestor_timeline_id: ancestor?.timelineId ?? null,
    ancestor_lsn: ancestor === undefined ? null : formatLsn(ancestor.lsn),
    archived_at_ms: archivedAtMs,
    generation: rest.generation,
    borrowed: rest.borrowed,
  }));
  return encodeChecksummedJson({
    format_version: OFFLOADED_LIST_FORMAT_VERSION,
    timelines: lines,
  });
}

/** `corrupt` on anything that `encodeOffloadedList` does not write; `path` is for the message. */
export function decodeOffloadedList(text: string, path: string): OffloadedTimeline[] {
  const corrupt = (what: string, cause?: unknown) =>
    new StorageError("corrupt", "corrupt-offloaded-list", `${path}: ${what}`, { cause });
  /** Thousands may begin in one: its id is there once. */
  const ids = new Map<string, TimelineId>();
  const idOf = (id: string) => ids.get(id) ?? ids.set(id, parseTimelineId(id)).get(id)!;
  return decodeChecksummedJson(text, schema, corrupt).timelines.map((line) => ({
    timelineId: idOf(line.timeline_id),
    ancestor:
      line.ancestor_timeline_id === null || line.ancestor_lsn === null
        ? undefined
        : { timelineId: idOf(line.ancestor_timeline_id), lsn: parseLsn(line.ancestor_lsn)! },
    archivedAtMs: line.archived_at_ms,
    generation: line.generation,
    borrowed: line.borrowed,
  }));
}

export interface OffloadedListOptions {
  readonly tenantDirectory: string;
  readonly disk: Disk;
  readonly logger: Logger;
  /** What is to be written. */
  readonly lines: () => Iterable<OffloadedTimeline>;
}

export class OffloadedList {
  readonly #path: string;
  readonly #options: OffloadedListOptions;
  readonly #closing = new AbortController();
  #isStale = false;
  #writer: Promise<void> | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(options: OffloadedListOptions) {
    this.#path = join(options.tenantDirectory, OFFLOADED_LIST_NAME);
    this.#options = options;
  }

  /** Nothing where there is no list, or a damaged one. */
  read(): ReadonlyMap<TimelineId, OffloadedTimeline> {
    try {
      const text = readFileIfExists(this.#path, this.#options.disk)?.toString("utf8");
      const lines = text === undefined ? [] : decodeOffloadedList(text, this.#path);
      return new Map(lines.map((line) => [line.timelineId, line]));
    } catch (error) {
      const reason = errorMessage(error);
      this.#options.logger.warn({ reason }, "archived timelines are read from the object store");
      return new Map();
    }
  }

  /** Lines have come, or changed: they are written in a moment. */
  changed(): void {
    this.#isStale = true;
    this.#writer ??= this.#writeSoon();
  }

  async #writeSoon(): Promise<void> {
    await sleep(WRITE_DELAY_MS, this.#closing.signal).catch(() => undefined);
    this.#writer = undefined;
    if (!this.#closing.signal.aborted) {
      await this.#write();
    }
  }

  #write(): Promise<void> {
    const written = this.#last.then(async () => {
      this.#isStale = false;
      const text = encodeOffloadedList(this.#options.lines());
      await writeFileDurablyAsync(this.#path, text, this.#options.disk, `${this.#path}.___temp`);
    });
    this.#last = written.catch((error: unknown) => {
      const reason = errorMessage(error);
      this.#options.logger.warn({ reason }, "the list of archived timelines is not written");
    });
    return this.#last;
  }

  /** Before a line ceases to be true: when it resolves no line is on the disk. `unavailable` where that fails. */
  async forget(): Promise<void> {
    const { disk, tenantDirectory } = this.#options;
    const forgotten = this.#last.then(async () => {
      if (disk.exists(this.#path)) {
        await disk.background.removeTree(this.#path);
        await disk.background.fsyncDirectory(tenantDirectory);
      }
    });
    this.#last = forgotten.catch(() => undefined);
    try {
      await forgotten;
    } catch (error) {
      throw diskError(error, `remove ${this.#path}`);
    }
    this.changed();
  }

  /** `flush`: what has changed is written first. */
  async close(flush: boolean): Promise<void> {
    this.#closing.abort();
    if (flush && this.#isStale) {
      await this.#write();
    }
    await this.#last;
  }
}
