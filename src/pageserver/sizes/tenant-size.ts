// A tenant's synthetic size: what its branches, windows and leases take at least, wherever its layers are by now.

import { monotonicMs } from "../../base/clock.ts";
import { formatLsn, type Lsn, maxLsn } from "../../base/lsn.ts";
import type { SyntheticSize } from "../api.ts";
import { collectionCutoff } from "../retention/collection.ts";
import type { UpkeepSettings } from "../retention/tenant-config.ts";
import type { Tenant } from "../storage/tenant.ts";
import type { Timeline } from "../storage/timeline.ts";
import { type SizePoint, smallestSize } from "./size-model.ts";
import type { LogicalSizes } from "./timeline-sizes.ts";

interface PlacedPoint extends SizePoint {
  readonly timeline: Timeline;
  readonly lsn: Lsn;
}

/** Errors as a read's. */
export async function syntheticSize(
  tenant: Tenant,
  settings: UpkeepSettings,
  sizes: LogicalSizes,
): Promise<SyntheticSize> {
  const builder = new PointBuilder(tenant.timelines, sizes);
  for (const timeline of ancestorsFirst(tenant.timelines)) {
    await builder.add(timeline, await collectionCutoff(timeline, settings));
  }
  const { points } = builder;
  return {
    id: tenant.tenantId,
    size: smallestSize(points),
    segments: points.map(({ timeline, lsn, parent, walBytes, logicalBytes, isNeeded }) => ({
      timeline_id: timeline.timelineId,
      lsn: formatLsn(lsn),
      parent: parent ?? null,
      wal: walBytes,
      logical_size: logicalBytes,
      needed: isNeeded,
    })),
  };
}

/** A loop: branches can be thousands deep. */
function ancestorsFirst(timelines: readonly Timeline[]): Timeline[] {
  const sorted = new Set<Timeline>();
  for (const timeline of timelines) {
    const chain: Timeline[] = [];
    let next: Timeline | undefined = timeline;
    while (next !== undefined && !sorted.has(next)) {
      chain.push(next);
      next = next.ancestor;
    }
    for (const one of chain.reverse()) {
      sorted.add(one);
    }
  }
  return [...sorted];
}

class PointBuilder {
  readonly points: PlacedPoint[] = [];
  readonly #sizes: LogicalSizes;
  /** Where branches begin: of a timeline, by LSN, the point's index. */
  readonly #branchPoints = new Map<Timeline, Map<Lsn, number>>();

  /** By ancestor and LSN: a branch that begins there. */
  readonly #branches = new Map<Timeline, Map<Lsn, Timeline>>();

  constructor(timelines: readonly Timeline[], sizes: LogicalSizes) {
    this.#sizes = sizes;
    for (const timeline of timelines) {
      const { ancestor, ancestorLsn } = timeline;
      if (ancestor !== undefined) {
        const branches = this.#branches.get(ancestor) ?? new Map<Lsn, Timeline>();
        this.#branches.set(ancestor, branches.set(ancestorLsn, timeline));
      }
    }
  }

  /** Who may read there: below the cutoff of a timeline only its branches know where they begin. */
  #readerAt(timeline: Timeline, lsn: Lsn): Timeline | undefined {
    return timeline.isKept(lsn) ? timeline : this.#branches.get(timeline)?.get(lsn);
  }

  /** Its ancestor before it. `cutoff`: all from there on is read. */
  async add(timeline: Timeline, cutoff: Lsn): Promise<void> {
    const { ancestor, ancestorLsn, lastRecordLsn } = timeline;
    const windowStart = ancestor === undefined ? cutoff : maxLsn(cutoff, timeline.startLsn);
    const leases = new Set(timeline.leases.left(monotonicMs()).keys());
    const own = new Set([...timeline.branchPoints.lsns, ...leases, windowStart, lastRecordLsn]);
    // A branch of a branch at its very start begins there as well.
    let last = ancestor && this.#branchPoints.get(ancestor)?.get(ancestorLsn);
    const byLsn = new Map<Lsn, number>();
    this.#branchPoints.set(timeline, byLsn);
    for (const lsn of [...own].sort((a, b) => a - b)) {
      const reader = this.#readerAt(timeline, lsn);
      if (reader === undefined) {
        continue;
      }
      const logicalBytes = await this.#sizes.at(reader, lsn);
      const before = last === undefined ? undefined : this.points[last];
      const index = this.points.length;
      this.points.push({
        timeline,
        lsn,
        logicalBytes,
        parent: last,
        walBytes: before === undefined ? 0 : lsn - before.lsn,
        isNeeded: before !== undefined && lsn > windowStart,
      });
      byLsn.set(lsn, index);
      if (leases.has(lsn) || lsn === windowStart) {
        // The state itself is read, whatever comes behind it.
        const state = { timeline, lsn, logicalBytes, parent: index, walBytes: 0, isNeeded: true };
        this.points.push(state);
      }
      last = index;
    }
  }
}
