// What the safekeeper's HTTP routes work on.

import type { SafekeeperMetrics } from "./metrics.ts";
import type { Timeline } from "./timeline.ts";
import type { TimelineManager } from "./timeline-manager.ts";
import type { WalBackup } from "./wal-backup/wal-backup.ts";
import type { WalPusher } from "./wal-push.ts";

export interface SafekeeperRouteOptions {
  readonly nodeId: number;
  readonly timelines: TimelineManager;
  readonly metrics: SafekeeperMetrics;
  readonly backup: WalBackup;
  receiversOf(timeline: Timeline): ReadonlySet<WalPusher>;
}
