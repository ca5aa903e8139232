// How long the parts of an endpoint's last start took, for who asks why its first connection waited. Nothing is woken for it.

import { type Route, route } from "../../http/route.ts";
import { findEndpointRow, type Parts } from "../api-v2/lookup.ts";
import { endpointParams } from "../api-v2/schemas.ts";
import { startAnswer } from "./schemas.ts";

export function startRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/console/projects/{project_id}/endpoints/{endpoint_id}/last_start",
        summary: "How long the parts of an endpoint's last start took; of one that sleeps, too.",
        scope: "tenant",
        params: endpointParams,
        answer: startAnswer,
      },
      async ({ params }) => {
        const { endpoint } = await findEndpointRow(parts, params);
        const last = await parts.computes.provider.lastStart(endpoint.id);
        return {
          last: last === undefined ? null : { at: last.at ?? null, metrics: last.metrics },
        };
      },
    ),
  ];
}
