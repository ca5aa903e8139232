// Who may call which route of our services: the caller's service token against the route's scope.

import type { IncomingMessage } from "node:http";
import {
  requireScope,
  type ServiceName,
  type TokenClaims,
  type TokenVerifier,
} from "../base/auth/service-token.ts";
import type { Scope } from "./route.ts";
import type { FoundRoute } from "./route-table.ts";

/** For `authorize` of an HTTP server; undefined without a verifier: then everybody may. */
export function authorizeBy(
  verifier: TokenVerifier | undefined,
  service: ServiceName,
): ((request: IncomingMessage, scope: Scope, found: FoundRoute) => void) | undefined {
  return verifier === undefined
    ? undefined
    : (request, scope, { params }) => {
        if (scope !== "public") {
          const tenantId = scope === "tenant" ? params["tenant"] : undefined;
          requireScope(callerOf(request, verifier), service, tenantId);
        }
      };
}

/** StorageError `forbidden` where the request has no good token. */
export function callerOf(request: IncomingMessage, verifier: TokenVerifier): TokenClaims {
  return verifier.verify(/^Bearer (\S+)$/i.exec(request.headers.authorization ?? "")?.[1]);
}
