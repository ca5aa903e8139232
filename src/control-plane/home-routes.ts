// What commands of this home's owner ask for: a process that runs already does it in less time than one takes to load it.
//
// A command that finds no control plane does the same by itself, with the same functions and under the same locks.

import type { IncomingMessage } from "node:http";
import { parseTimelineId } from "../base/ids.ts";
import { type Route, route } from "../http/route.ts";
import { startOnNewBranch } from "../local/branches/branch-endpoint.ts";
import { createBranch } from "../local/branches/create-branch.ts";
import { spawnDaemon } from "../local/daemon.ts";
import { connectionUrl, freeEndpointId } from "../local/endpoints.ts";
import { withHomeShared } from "../local/lock.ts";
import type { Computes } from "./computes/computes.ts";
import type { Context } from "./context.ts";
import { homeBranchAnswer, homeBranchBody } from "./home-schemas.ts";

const PREFIX = "/home";

export function isHomeRequest(request: IncomingMessage): boolean {
  return request.url?.startsWith(`${PREFIX}/`) === true;
}

export function homeRoutes({ home, computes }: Context & { readonly computes: Computes }): Route[] {
  return [
    route(
      {
        method: "POST",
        path: `${PREFIX}/branches`,
        summary: "A branch, as `strata branch create` makes it.",
        scope: "admin",
        status: 201,
        body: homeBranchBody,
        answer: homeBranchAnswer,
      },
      async ({ body }) => {
        const notices: string[] = [];
        const wanted = {
          tenantId: body.tenant_id,
          timelineId: parseTimelineId(body.timeline_id),
          ancestorBranchName: body.parent,
          ancestorStartLsn: body.at,
          skSet: body.sk_set,
        };
        const agent = body.start ? computes.provider.agentAhead() : undefined;
        try {
          const info = await withHomeShared(home, () =>
            createBranch(home, body.name, wanted, (line) => notices.push(line)),
          );
          const made = {
            tenant_id: info.tenant_id,
            timeline_id: info.timeline_id,
            ancestor_lsn: info.ancestor_lsn,
            notices,
          };
          if (!body.start) {
            return { ...made, endpoint_id: freeEndpointId(home, body.name) };
          }
          const endpoint = await startOnNewBranch(
            home,
            body.name,
            info,
            async (daemon) => (await agent?.take(daemon)) ?? spawnDaemon(daemon),
          );
          return {
            ...made,
            endpoint_id: endpoint.id,
            connection_url: connectionUrl(home, endpoint),
          };
        } finally {
          await agent?.release();
        }
      },
    ),
  ];
}
