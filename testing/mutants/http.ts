// Broken rules of every HTTP server: what a web page can make a browser send, and who may call.

import type { MutantPart } from "./mutant.ts";

const GUARD = "src/http/request-guard.ts";
const GUARD_TEST = "src/http/request-guard.test.ts";
const DISPATCHER = "src/http/dispatcher.ts";
const SERVER_TEST = "src/http/server.test.ts";

export const HTTP_MUTANTS: MutantPart = {
  part: "http",
  mutants: [
    {
      rule: "a token counts for ever",
      file: "src/base/auth/service-token.ts",
      search: "if (claims.exp * 1000 <= nowMs()) {",
      replace: "if (claims.exp <= 0) {",
      test: "src/base/auth/service-token.test.ts",
      name: "TokenVerifier: what was signed is what comes out, and only in time",
    },
    {
      rule: "whoever writes a token need not sign it",
      file: "src/base/auth/service-token.ts",
      search: '!crypto().verify(null, signed, key, Buffer.from(signature, "base64url"))',
      replace: "signed.length === 0",
      test: "src/base/auth/service-token.test.ts",
      name: "TokenVerifier: nothing else is a token",
    },
    {
      rule: "a token of any tenant opens every tenant",
      file: "src/base/auth/service-token.ts",
      search: "claims.tenant_id === tenantId);",
      replace: 'claims.tenant_id !== "");',
      test: "src/base/auth/service-token.test.ts",
      name: "requireScope: who may do what, where",
    },
    {
      rule: "the pageserver asks no compute whose tenant it reads",
      file: "src/pageserver/page-service.ts",
      search: 'session.requireTenant("pageserver", tenantId);',
      replace: "",
      test: "test/http/service-tokens.test.ts",
      name: "service tokens: Postgres's protocol of pageserver and safekeeper asks for one",
    },
    {
      rule: "the broker tells everybody",
      file: "src/storage-broker/server.ts",
      search: "dispatcher.admits(plainRequest, plainResponse, authorize)",
      replace: "dispatcher.admits(plainRequest, plainResponse)",
      test: "test/http/service-tokens.test.ts",
      name: "service tokens: the broker tells and takes nothing without one",
    },
    {
      rule: "a page whose host name was given our address reads every answer",
      file: GUARD,
      search: "if (!known) {",
      replace: 'if (host === "") {',
      test: GUARD_TEST,
      name: "checkHost: names of others are forbidden, no name is invalid",
    },
    {
      rule: "pages of another origin may call",
      file: GUARD,
      search: "if (foreign) {",
      replace: 'if (origin === "") {',
      test: GUARD_TEST,
      name: "checkOrigin: pages of this server only",
    },
    {
      rule: "what another site's page fetches counts as a link that was followed",
      file: GUARD,
      search: 'return headers["sec-fetch-mode"] === "navigate";',
      replace: 'return headers["sec-fetch-mode"] !== "websocket";',
      test: GUARD_TEST,
      name: "checkOrigin: pages of this server only",
    },
    {
      rule: "a change may come with any type that begins like JSON's",
      file: GUARD,
      search: "/^application\\/json\\s*(;|$)/i",
      replace: "/^application\\/json/i",
      test: GUARD_TEST,
      name: "checkJson: no type that a form or a blind fetch may send",
    },
    {
      rule: "a target that cannot be decoded is an error of another kind",
      file: GUARD,
      search: "throw badTarget(segment);",
      replace: 'throw new URIError("malformed");',
      test: GUARD_TEST,
      name: "parseTarget: whatever is no path is invalid, never another error",
    },
    {
      rule: "a change needs no JSON type",
      file: DISPATCHER,
      search: "checkJson(request.headers);",
      replace: "",
      test: SERVER_TEST,
      name: "HttpServer: every refusal is {msg, code, request_id} under its status",
    },
    {
      rule: "nobody is asked whether a caller may",
      file: DISPATCHER,
      search: "await this.#options.authorize?.(request, found.route.scope, found);",
      replace: "undefined;",
      test: SERVER_TEST,
      name: "HttpServer: authorize sees the scope before anything is done",
    },
    {
      rule: "that a subscriber of the broker goes is told of as a failure",
      file: "src/storage-broker/grpc-handler.ts",
      search: "if (stream.destroyed || stream.aborted) {",
      replace: 'if (rpc === "") {',
      test: "src/storage-broker/broker.test.ts",
      name: "broker: that a subscriber goes while it is being sent something",
    },
    {
      rule: "who has ended his connection to the broker stays a subscriber",
      file: "src/storage-broker/server.ts",
      search: 'socket.once("end", () => socket.destroy());',
      replace: "",
      test: "src/storage-broker/broker.test.ts",
      name: "broker: that a subscriber goes while it is being sent something",
    },
  ],
};
