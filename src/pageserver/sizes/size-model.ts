// How much it takes at least to keep a tenant's history: the cheapest set of snapshots and WAL.
//
// As Neon's tenant_size_model: points of the tree of branches, each with the WAL that leads to it from its parent. The state at a
// point can be had from a snapshot there, or from its parent's state and that WAL. Where an edge is needed every LSN of
// it is read, so its WAL is kept, and its parent's state can be had.

export interface SizePoint {
  /** Index of the point before it, which is lower than its own; undefined for a root. */
  readonly parent: number | undefined;
  /** From the parent to here; 0 for a root. */
  readonly walBytes: number;
  /** Of a snapshot here. */
  readonly logicalBytes: number;
  /** Whether all between the parent and here, both included, is read. */
  readonly isNeeded: boolean;
}

/** Bytes. */
export function smallestSize(points: readonly SizePoint[]): number {
  // What the points behind each one cost where its state is there for other reasons, and where only WAL before it is missing.
  const behind = points.map(() => 0);
  const without = points.map(() => 0);
  let total = 0;
  for (let i = points.length - 1; i >= 0; i--) {
    const { parent, walBytes, logicalBytes, isNeeded } = points[i]!;
    // Its own state by nothing before it: from a snapshot, or nobody needs it, and those behind it look after themselves.
    const alone = Math.min(logicalBytes + behind[i]!, without[i]!);
    if (parent === undefined) {
      total += alone;
      continue;
    }
    const byWal = walBytes + behind[i]!;
    behind[parent]! += isNeeded ? byWal : Math.min(byWal, alone);
    without[parent]! += isNeeded ? Number.POSITIVE_INFINITY : alone;
  }
  return total;
}
