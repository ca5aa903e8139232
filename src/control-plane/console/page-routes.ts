// The console's files for the browser, and what stands there while a checkout builds them.
//
// Only names of the build are found, in memory: there is no path to leave. Nothing on the page may come from elsewhere,
// nor run or style anything that is not a file of ours; what CodeMirror makes as style has the page's nonce.

import { extname } from "node:path";
import { z } from "zod";
import { StorageError } from "../../base/errors.ts";
import { randomBytes } from "../../base/random.ts";
import { AnswerWithHeaders, mediaRoute, type Route } from "../../http/route.ts";
import type { BuildState, ConsoleBuild } from "./console-build.ts";

const HTML = "text/html; charset=utf-8";
const SCRIPT = "text/javascript; charset=utf-8";
const MEDIA_TYPES: Readonly<Record<string, string>> = {
  ".js": SCRIPT,
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};
/** In index.html, where the nonce of one answer comes. */
const NONCE_PLACE = "CSP-NONCE";
/** Names of files below assets/ have the hash of their content in them. */
const FOR_EVER = "public, max-age=31536000, immutable";
/** Of the page that stands there during a build; what is behind the address's `#` stays. */
const WAIT_SCRIPT = 'fetch("/console/built").finally(() => location.reload());\n';

export function pageRoutes(build: ConsoleBuild): Route[] {
  return [
    mediaRoute(
      {
        method: "GET",
        path: "/",
        summary: "The console's page.",
        scope: "public",
        mediaType: HTML,
        query: z.looseObject({ retry: z.string().max(1).optional() }),
      },
      ({ query }) => page(build.state({ retry: query.retry !== undefined })),
    ),
    mediaRoute(
      {
        method: "GET",
        path: "/console/wait.js",
        summary: "Looks again when the console is built.",
        scope: "public",
        mediaType: SCRIPT,
      },
      () => WAIT_SCRIPT,
    ),
    mediaRoute(
      {
        method: "GET",
        path: "/console/built",
        summary: "Answers when the console is built, or cannot be.",
        scope: "public",
        mediaType: "text/plain",
      },
      () => build.settled(),
    ),
    mediaRoute(
      {
        method: "GET",
        path: "/assets/{name}",
        summary: "A file of the console's.",
        scope: "public",
        mediaType: "application/octet-stream",
        params: z.object({ name: z.string().max(200) }),
      },
      ({ params }) => {
        const state = build.state();
        const bytes = state.state === "ready" ? state.files.get(params.name) : undefined;
        const mediaType = MEDIA_TYPES[extname(params.name)];
        if (bytes === undefined || mediaType === undefined) {
          throw new StorageError("not-found", "no-file", `no file ${params.name}`);
        }
        const headers = { "content-type": mediaType, "cache-control": FOR_EVER };
        return new AnswerWithHeaders({ ...headers, ...guards("") }, bytes);
      },
    ),
  ];
}

function page(state: BuildState) {
  const nonce = randomBytes(16).toString("base64");
  const text =
    state.state === "ready"
      ? state.files.get("index.html")!.toString("utf8").replaceAll(NONCE_PLACE, nonce)
      : waitingPage(state);
  return new AnswerWithHeaders({ "cache-control": "no-cache", ...guards(nonce) }, text);
}

function waitingPage(state: BuildState): string {
  const [title, body] =
    state.state === "failed"
      ? [
          "The console could not be built",
          `<pre>${escapeHtml(state.why)}</pre><p><a href="/?retry=1">Try again</a>. All else works.</p>`,
        ]
      : [
          "The console is being built",
          '<p>This checkout has its sources only: once, it takes a minute.</p><script src="/console/wait.js"></script>',
        ];
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title><h1>${title}</h1>${body}</html>\n`;
}

function guards(nonce: string): Record<string, string> {
  const styles = nonce === "" ? "'self'" : `'self' 'nonce-${nonce}'`;
  return {
    "content-security-policy":
      `default-src 'none'; script-src 'self'; style-src ${styles}; img-src 'self'; font-src 'self'; connect-src 'self'; ` +
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
  };
}

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
