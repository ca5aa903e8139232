// The computes that run on a timeline, as whoever starts and stops them knows them.

import type { TenantId, TimelineId } from "../base/ids.ts";
import type { ComputeStatus } from "../compute/api.ts";

export interface RunningCompute {
  /** For messages. */
  readonly id: string;
  /** Rejects where it does not answer. */
  /** Of its WAL and its safekeepers; when it was last used is left out. */
  status(): Promise<ComputeStatus>;
}

export interface Computes {
  /** Those that may write to the timeline. */
  runningPrimaries(tenantId: TenantId, timelineId: TimelineId): readonly RunningCompute[];
}
