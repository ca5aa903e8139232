// The first endpoint of a branch that was just made: what the command line and the control plane share.

import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import type { TimelineInfo } from "../../pageserver/api.ts";
import { controllerOf } from "../controller.ts";
import type { Spawn } from "../daemon.ts";
import { startWithLocks } from "../endpoints/start-endpoint.ts";
import { createEndpoint, type Endpoint, freeEndpointId } from "../endpoints.ts";
import type { StrataHome } from "../home.ts";
import { withEndpointMaking } from "../lock.ts";

const START_TIMEOUT_MS = 90_000;

/**
 * A primary, called as the branch where that can be, or the one that was `made` before; it runs when this resolves. Errors as
 * createEndpoint and startWithLocks.
 */
export async function startOnNewBranch(
  home: StrataHome,
  branchName: string,
  info: Pick<TimelineInfo, "tenant_id" | "timeline_id" | "pg_version">,
  spawn: Spawn,
  made?: Endpoint,
): Promise<Endpoint> {
  const make = async () => {
    const tenantId = parseTenantId(info.tenant_id);
    const timelineId = parseTimelineId(info.timeline_id);
    const id = freeEndpointId(home, branchName);
    const placement = controllerOf(home).placementOf(tenantId, timelineId);
    const wanted = { id, tenantId, timelineId, pgVersion: info.pg_version };
    return createEndpoint(home, wanted, placement);
  };
  const endpoint = made ?? (await withEndpointMaking(home, make));
  return startWithLocks(home, endpoint, {
    timeoutMs: START_TIMEOUT_MS,
    print: () => {},
    // Nobody knows its address yet.
    onPortMoved: () => {},
    spawn,
  });
}
