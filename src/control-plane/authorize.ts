// What each kind of API key may do.

import type { IncomingMessage } from "node:http";
import { StorageError } from "../base/errors.ts";
import type { Scope } from "../http/route.ts";
import type { FoundRoute } from "../http/route-table.ts";
import type { Accounts, Caller } from "./accounts.ts";
import { type Sessions, sessionCookie } from "./console/sessions.ts";
import { PROXY_PREFIX } from "./proxy-routes.ts";

/** Whoever reads these can write: they tell passwords, or statements of users with what is in them. */
const WRITERS_ROUTES = /\/(?:reveal_password|connection_uri|logs|logs\/download)$/;
/** What keys of one project may call beside what is in its project: their own lists. */
const OWN_LISTS = new Set([
  "/api/v2/projects",
  "/api/v2/projects/shared",
  "/api/v2/users/me",
  "/api/v2/users/me/organizations",
  "/api/v2/auth",
  "/api/v2/consumption_history/projects",
  "/api/v2/regions",
  "/console/changes",
]);
/** Whoever is logged in may ask what that is good for, and log out. */
const OWN_SESSION = "/console/session";
const IN_PROJECT = /^\/(?:api\/v2|console)\/projects\/\{project_id\}/;

/**
 * By an API key, else by the console's cookie. StorageError `unauthorized` without a valid one, `forbidden` for what this
 * one may not.
 */
export async function authorizeCaller(
  { accounts, sessions }: { readonly accounts: Accounts; readonly sessions: Sessions },
  request: IncomingMessage,
  scope: Scope,
  found: FoundRoute,
): Promise<Caller | undefined> {
  if (scope === "public") {
    return undefined;
  }
  const { authorization } = request.headers;
  const cookie = authorization === undefined ? sessionCookie(request) : undefined;
  const address = request.socket.remoteAddress ?? "";
  const caller =
    cookie === undefined
      ? await accounts.authenticate(authorization, address)
      : await sessions.callerOf(cookie);
  checkCaller(caller, found);
  return caller;
}

export function checkCaller(caller: Caller, { route, params }: FoundRoute): void {
  const refuse = (code: string, why: string) => new StorageError("forbidden", code, why);
  const isProxys = route.path.startsWith(`${PROXY_PREFIX}/`);
  if (caller.scope === "proxy") {
    if (!isProxys) {
      throw refuse("proxy-key", "this API key is the proxy's: it is for what the proxy asks only");
    }
    return;
  }
  if (route.path === OWN_SESSION) {
    return;
  }
  const isRead = route.method === "GET";
  if (caller.scope === "read_only" && (!isRead || WRITERS_ROUTES.test(route.path))) {
    throw refuse("read-only-key", "this API key is for reading only");
  }
  const isList = isRead && OWN_LISTS.has(route.path);
  if (caller.projectId !== null && !isList && params["project_id"] !== caller.projectId) {
    throw refuse("foreign-project", "this API key is of another project");
  }
  const isOwners = !IN_PROJECT.test(route.path) && !isList;
  if (caller.scope !== "all" && isOwners) {
    throw refuse("key-scope", "only an API key of scope 'all' may do this");
  }
}
