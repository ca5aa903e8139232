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
      search: 'checkJson(request.headers["content-type"]);',
      replace: "",
      test: SERVER_TEST,
      name: "HttpServer: every refusal is {msg, code, request_id} under its status",
    },
    {
      rule: "nobody is asked whether a caller may",
      file: DISPATCHER,
      search: "await this.#options.authorize?.(request, found.route.scope);",
      replace: "",
      test: SERVER_TEST,
      name: "HttpServer: authorize sees the scope before anything is done",
    },
  ],
};
