// What the agent's HTTP routes show and do; the supervisor implements it.

import type {
  ComputeStatus,
  ConfigureAnswer,
  StartMetrics,
  TerminateAnswer,
  TerminateMode,
} from "./api.ts";
import type { Configuration } from "./sessions/configuration.ts";
import type { HotBlocksControl } from "./sessions/hot-blocks-control.ts";
import type { PostgresAddress } from "./sessions/maintenance-session.ts";

export interface ComputeControl {
  /** Without `activity` Postgres is not asked, and `last_active` is null. */
  status(asked: { readonly activity: boolean }): Promise<ComputeStatus>;
  /** Undefined before the first start has succeeded. */
  startMetrics(): StartMetrics | undefined;
  /** Prometheus text format. */
  metricsText(): string;
  /** Resolves when Postgres has ended. */
  terminate(mode: TerminateMode): Promise<TerminateAnswer>;
  /** Of the unix socket. StorageError `unavailable` while Postgres does not run. */
  postgresAddress(): PostgresAddress;
  /** Of its specification. */
  readonly pgBin: string | undefined;
  /** Resolves when all of it is so. */
  configure(configuration: Configuration): Promise<ConfigureAnswer>;
  /** Of the endpoint's list of hot blocks. */
  hotBlocks(): Promise<HotBlocksControl>;
}
