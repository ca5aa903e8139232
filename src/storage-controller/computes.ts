// The computes that run on a timeline, as whoever starts and stops them knows them.

import type { TenantId, TimelineId } from "../base/ids.ts";
import type { ComputeStatus } from "../compute/api.ts";

export interface RunningCompute {
  /** For messages. */
  readonly id: string;
  /** Of its WAL and its safekeepers; when it was last used is left out. Rejects where it does not answer. */
  status(): Promise<ComputeStatus>;
}

export interface Computes {
  /** Those that may write to the timeline. */
  runningPrimaries(tenantId: TenantId, timelineId: TimelineId): readonly RunningCompute[];
  /** Those that follow it. */
  runningReplicas(tenantId: TenantId, timelineId: TimelineId): readonly RunningCompute[];
}
