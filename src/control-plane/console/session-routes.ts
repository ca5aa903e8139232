// Logging in to the console and out of it.

import { z } from "zod";
import { StorageError } from "../../base/errors.ts";
import { AnswerWithHeaders, type Route, route } from "../../http/route.ts";
import type { Accounts, Caller } from "../accounts.ts";
import { callerOf } from "../api-v2/lookup.ts";
import type { FrontAddress } from "../api-v2/views.ts";
import { linkAnswer, loginBody, sessionAnswer } from "./schemas.ts";
import { type Secret, type SessionCaller, type Sessions, setCookie } from "./sessions.ts";

/** On which the server listens: for the cookie's name; with TLS, the cookie is for TLS only. */
export interface SessionPort {
  number(): number;
  readonly isEncrypted: boolean;
}

export function sessionRoutes(
  sessions: Sessions,
  accounts: Accounts,
  port: SessionPort,
  { httpPort }: FrontAddress,
): Route[] {
  return [
    route(
      {
        method: "POST",
        path: "/console/login_links",
        summary: "A token that logs a browser in to the console, once.",
        scope: "admin",
        answer: linkAnswer,
      },
      async (request) => {
        const { token, expiresAt } = await sessions.createLink(callerOf(request).keyId);
        return { token, expires_at: expiresAt };
      },
    ),
    route(
      {
        method: "POST",
        path: "/console/session",
        summary: "Logs in, with a one-time token or an API key; the session is a cookie.",
        scope: "public",
        body: loginBody,
        answer: z.object({ expires_at: z.string() }),
      },
      async ({ body }) => {
        const { token, expiresAt } = await logIn(sessions, accounts, body);
        const cookie = setCookie(port, token);
        return new AnswerWithHeaders({ "set-cookie": cookie }, { expires_at: expiresAt });
      },
    ),
    route(
      {
        method: "GET",
        path: "/console/session",
        summary: "What the caller may do.",
        scope: "tenant",
        answer: sessionAnswer,
      },
      (request) => {
        const { scope, projectId } = callerOf(request);
        return { scope, project_id: projectId, proxy_http_port: httpPort };
      },
    ),
    route(
      {
        method: "DELETE",
        path: "/console/session",
        summary: "Logs out: the cookie is worth nothing from then on.",
        scope: "tenant",
        answer: z.object({}),
      },
      async (request) => {
        const caller = callerOf(request) as Caller & Partial<SessionCaller>;
        if (caller.session !== undefined) {
          await sessions.end(caller.session);
        }
        return new AnswerWithHeaders({ "set-cookie": setCookie(port, "") }, {});
      },
    ),
  ];
}

async function logIn(
  sessions: Sessions,
  accounts: Accounts,
  { token, api_key: key }: z.infer<typeof loginBody>,
): Promise<Secret> {
  if ((token === undefined) === (key === undefined)) {
    throw new StorageError("invalid", "bad-login", "give either a token or an api_key");
  }
  if (token !== undefined) {
    return await sessions.redeem(token);
  }
  const { keyId } = await accounts.authenticate(`Bearer ${key}`, "console");
  return await sessions.open(keyId);
}
