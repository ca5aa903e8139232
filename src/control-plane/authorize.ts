// What each kind of API key may do.

import type { IncomingMessage } from "node:http";
import { StorageError } from "../base/errors.ts";
import type { Scope } from "../http/route.ts";
import type { FoundRoute } from "../http/route-table.ts";
import type { Accounts, Caller } from "./accounts.ts";

/** Whoever reads these can write: they tell passwords. */
const PASSWORD_ROUTES = /\/(?:reveal_password|connection_uri)$/;
/** What keys of one project may call beside what is in its project: their own lists. */
const OWN_LISTS = new Set([
  "/api/v2/projects",
  "/api/v2/projects/shared",
  "/api/v2/users/me",
  "/api/v2/users/me/organizations",
  "/api/v2/auth",
  "/api/v2/regions",
]);

/** StorageError `unauthorized` without a valid key, `forbidden` for what this one may not. */
export async function authorizeCaller(
  accounts: Accounts,
  request: IncomingMessage,
  scope: Scope,
  found: FoundRoute,
): Promise<Caller | undefined> {
  if (scope === "public") {
    return undefined;
  }
  const address = request.socket.remoteAddress ?? "";
  const caller = await accounts.authenticate(request.headers.authorization, address);
  checkCaller(caller, found);
  return caller;
}

export function checkCaller(caller: Caller, { route, params }: FoundRoute): void {
  const refuse = (code: string, why: string) => new StorageError("forbidden", code, why);
  const isRead = route.method === "GET";
  if (caller.scope === "read_only" && (!isRead || PASSWORD_ROUTES.test(route.path))) {
    throw refuse("read-only-key", "this API key is for reading only");
  }
  const isList = isRead && OWN_LISTS.has(route.path);
  if (caller.projectId !== null && !isList && params["project_id"] !== caller.projectId) {
    throw refuse("foreign-project", "this API key is of another project");
  }
  const isOwners = !route.path.startsWith("/api/v2/projects/{project_id}") && !isList;
  if (caller.scope !== "all" && isOwners) {
    throw refuse("key-scope", "only an API key of scope 'all' may do this");
  }
}
