// branch create without a control plane: this process does the work.

import { parseTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { isBundle, programOf } from "../../base/program-files.mjs";
import type { NewHomeBranch, NewHomeBranchRequest } from "../../control-plane/api.ts";
import { type ClaimedAgent, WarmAgents } from "../../local/agents/warm-agents.ts";
import { startOnNewBranch } from "../../local/branches/branch-endpoint.ts";
import { createBranch } from "../../local/branches/create-branch.ts";
import { branchNames, resolveTenant } from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import { spawnDaemon } from "../../local/daemon.ts";
import { connectionUrl, freeEndpointId, listEndpoints } from "../../local/endpoints.ts";
import type { StrataHome } from "../../local/home.ts";
import type { TimelineInfo } from "../../pageserver/api.ts";
import { notice, withHomeShared } from "../cli.ts";

/** Goes on where a control plane was when it went away. */
export async function createHere(
  home: StrataHome,
  request: NewHomeBranchRequest,
): Promise<NewHomeBranch> {
  // It loads while the branch is made.
  const agent = request.start ? agentAhead(home) : undefined;
  try {
    const info = await withHomeShared(home, () => newBranch(home, request));
    const made = { ...info, notices: [] };
    if (!request.start) {
      return { ...made, endpoint_id: freeEndpointId(home, request.name) };
    }
    const endpoint = await startOnNewBranch(
      home,
      request.name,
      info,
      async (daemon) => (await agent?.take(daemon)) ?? spawnDaemon(daemon),
      listEndpoints(home).find(({ spec }) => spec.timelineId === info.timeline_id),
    );
    return { ...made, endpoint_id: endpoint.id, connection_url: connectionUrl(home, endpoint) };
  } finally {
    await agent?.release();
  }
}

/** A control plane that went away may have made it. Call with the home shared. */
async function newBranch(home: StrataHome, request: NewHomeBranchRequest): Promise<TimelineInfo> {
  const config = home.config();
  const tenantId = resolveTenant(config, request.tenant_id);
  const timelineId = parseTimelineId(request.timeline_id);
  if (branchNames(config, tenantId).get(timelineId) === request.name) {
    return controllerOf(home).timeline(tenantId, timelineId);
  }
  const wanted = {
    tenantId: request.tenant_id,
    ancestorBranchName: request.parent,
    ancestorStartLsn: request.at,
    skSet: request.sk_set,
  };
  return createBranch(home, request.name, wanted, notice);
}

/** Undefined where it would be run from sources, whose files a pool looks at first. */
function agentAhead(home: StrataHome): ClaimedAgent | undefined {
  if (!home.isInitialized() || !isBundle(programOf("compute/main.ts"))) {
    return undefined;
  }
  const logger = createLogger("cli", "silent");
  return new WarmAgents({ size: 0, directory: home.endpointsDirectory(), logger }).claim();
}
