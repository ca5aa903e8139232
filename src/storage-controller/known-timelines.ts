// What never changes of a timeline, of those that this process was told about: its branches have the same.

import type { TimelineId } from "../base/ids.ts";
import type { TimelineInfo } from "../pageserver/api.ts";

/** Branches are made of few timelines; who finds nothing here asks. */
const MAX_KNOWN = 1000;

export type LastingFacts = Pick<TimelineInfo, "system_id" | "wal_seg_size" | "pg_version">;

export class KnownTimelines {
  /** The longest known first. */
  readonly #facts = new Map<string, LastingFacts>();

  note({ timeline_id, system_id, wal_seg_size, pg_version }: TimelineInfo): void {
    const [oldest] = this.#facts.keys();
    if (oldest !== undefined && this.#facts.size >= MAX_KNOWN && !this.#facts.has(timeline_id)) {
      this.#facts.delete(oldest);
    }
    this.#facts.set(timeline_id, { system_id, wal_seg_size, pg_version });
  }

  of(timelineId: TimelineId): LastingFacts | undefined {
    return this.#facts.get(timelineId);
  }
}
