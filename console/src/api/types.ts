// What the API takes and gives: the control plane's own types, nothing of which is in the build.

export type {
  ApiBranch,
  ApiDatabase,
  ApiEndpoint,
  ApiKey,
  ApiOperation,
  ApiProject,
  ApiRole,
  ConsoleCosts,
  ConsoleLayers,
  ConsoleSession,
  ConsoleSqlRequest,
  ConsoleStart,
  ConsoleTree,
  CreatedApiKey,
  LogEvent,
  LogLevel,
  LogSource,
  MonitoringSample,
} from "../../../src/control-plane/api.ts";

import type { ConsoleTree } from "../../../src/control-plane/api.ts";

export type TreeBranch = ConsoleTree["branches"][number];
