// The proxy's routes: what it is doing.

import { type Route, route } from "../http/route.ts";
import { type ProxyStatus, proxyStatusSchema } from "./api.ts";
import type { ProxyServer } from "./proxy-server.ts";

export function proxyRoutes(server: ProxyServer): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/status",
        summary: "Whether the proxy serves, and how many.",
        scope: "public",
        answer: proxyStatusSchema,
      },
      () => describe(server),
    ),
  ];
}

function describe(server: ProxyServer): ProxyStatus {
  const { certificates, endpoints, halfOpen, pools } = server.parts;
  const x509 = certificates?.find().x509;
  return {
    connections: server.connections,
    half_open_connections: halfOpen.count,
    pooled_server_connections: pools.serverConnections,
    endpoints: Object.fromEntries(endpoints.counts),
    tls:
      x509 === undefined
        ? null
        : { names: x509.subjectAltName ?? "", valid_to: x509.validToDate.toISOString() },
  };
}
