// What projects have used, added to the rows of the hour, the day and the month in which it was.

import type { Database } from "../state/database.ts";
import { frameStart, GRANULARITIES, splitByFrames } from "./frames.ts";

/** Of a frame's start, as rows have it: text sorts as time does. */
export function timeText(ms: number): string {
  return new Date(ms).toISOString();
}

export interface Use {
  activeMs: number;
  cpuMs: number;
  writtenBytes: number;
  transferBytes: number;
  sizeBytes: number | null;
}

/** Sums, by row. */
export class Uses {
  readonly #byRow = new Map<string, Use>();

  /** At one moment: bytes and processor time count where they are seen. */
  add(projectId: string, atMs: number, more: Partial<Use>): void {
    for (const granularity of GRANULARITIES) {
      this.#addTo(projectId, granularity, frameStart(granularity, atMs), more);
    }
  }

  addActive(
    projectId: string,
    active: { readonly fromMs: number; readonly toMs: number } | undefined,
  ): void {
    for (const granularity of active === undefined ? [] : GRANULARITIES) {
      for (const { startMs, ms } of splitByFrames(granularity, active!.fromMs, active!.toMs)) {
        this.#addTo(projectId, granularity, startMs, { activeMs: ms });
      }
    }
  }

  #addTo(projectId: string, granularity: string, startMs: number, more: Partial<Use>): void {
    const key = JSON.stringify([projectId, granularity, timeText(startMs)]);
    const use = this.#byRow.get(key) ?? noUse();
    use.activeMs += more.activeMs ?? 0;
    use.cpuMs += more.cpuMs ?? 0;
    use.writtenBytes += more.writtenBytes ?? 0;
    use.transferBytes += more.transferBytes ?? 0;
    use.sizeBytes = larger(use.sizeBytes, more.sizeBytes ?? null);
    this.#byRow.set(key, use);
  }

  async write(db: Database): Promise<void> {
    for (const [key, use] of this.#byRow) {
      const [project_id, granularity, frame_start] = JSON.parse(key) as [string, string, string];
      const { activeMs, cpuMs, writtenBytes, transferBytes, sizeBytes } = use;
      const isNothing = activeMs + cpuMs + writtenBytes + transferBytes === 0 && sizeBytes === null;
      if (isNothing) {
        continue;
      }
      const before = await db
        .selectFrom("consumption")
        .selectAll()
        .where("project_id", "=", project_id)
        .where("granularity", "=", granularity)
        .where("frame_start", "=", frame_start)
        .executeTakeFirst();
      const values = {
        active_ms: (before?.active_ms ?? 0) + activeMs,
        cpu_ms: (before?.cpu_ms ?? 0) + cpuMs,
        written_bytes: (before?.written_bytes ?? 0) + writtenBytes,
        transfer_bytes: (before?.transfer_bytes ?? 0) + transferBytes,
        size_bytes: larger(before?.size_bytes ?? null, sizeBytes),
      };
      await db
        .insertInto("consumption")
        .values({ project_id, granularity, frame_start, ...values })
        .onConflict((conflict) =>
          conflict.columns(["project_id", "granularity", "frame_start"]).doUpdateSet(values),
        )
        .execute();
    }
  }
}

function noUse(): Use {
  return { activeMs: 0, cpuMs: 0, writtenBytes: 0, transferBytes: 0, sizeBytes: null };
}

function larger(a: number | null, b: number | null): number | null {
  return a === null ? b : b === null ? a : Math.max(a, b);
}
