// Refuses requests that no tool of ours sends: targets that cannot be parsed, and what web pages can make a browser send.

import type { IncomingHttpHeaders } from "node:http";
import { StorageError } from "../base/errors.ts";

export interface RequestTarget {
  /** Decoded, without the leading slash. */
  readonly segments: readonly string[];
  readonly query: Readonly<Record<string, string>>;
}

/**
 * Of an origin-form target, `/a/b?c=d`. Never the URL class: it throws for some, and reads `//host/path`
 * as another host. StorageError `invalid`.
 */
export function parseTarget(target: string | undefined): RequestTarget {
  if (target === undefined || !target.startsWith("/")) {
    throw badTarget(target ?? "");
  }
  const mark = target.indexOf("?");
  const path = mark < 0 ? target : target.slice(0, mark);
  const query: Record<string, string> = Object.create(null);
  for (const [name, value] of new URLSearchParams(mark < 0 ? "" : target.slice(mark + 1))) {
    if (name in query) {
      throw new StorageError("invalid", "bad-target", `'${name}' is twice in the query`);
    }
    query[name] = value;
  }
  // RFC 3986's characters of a path, at least one between two slashes.
  if (!/^(\/[\w\-.~!$&'()*+,;=:@%]+)+\/?$|^\/$/.test(path)) {
    throw badTarget(path);
  }
  return { segments: path.slice(1).split("/").map(decode), query };
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw badTarget(segment);
  }
}

function badTarget(target: string): StorageError {
  return new StorageError("invalid", "bad-target", `not a path: '${target.slice(0, 200)}'`);
}

/** Where a request came in, as far as it tells whom it was meant for. */
export interface Reached {
  /** `Host`, or HTTP/2's `:authority`. */
  readonly authority: string | undefined;
  /** The address that the server was told to listen on. */
  readonly listenHost: string;
  /** Of the connection, our side. */
  readonly localAddress: string | undefined;
  /** Further names that this server goes by. */
  readonly allowedHosts: readonly string[];
}

/**
 * A web page of a stranger can give its own host name our address (DNS rebinding); the browser then lets
 * it read every answer, but still names that host. StorageError `forbidden`.
 */
export function checkHost(reached: Reached): void {
  const host = hostOf(reached.authority);
  if (host === undefined) {
    throw new StorageError("invalid", "bad-host", "the request needs a Host");
  }
  const known =
    host === "localhost" ||
    host === "::1" ||
    /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host) ||
    host === plainAddress(reached.listenHost) ||
    host === plainAddress(reached.localAddress ?? "") ||
    reached.allowedHosts.some((allowed) => plainAddress(allowed) === host);
  if (!known) {
    throw new StorageError("forbidden", "wrong-host", `this server does not go by '${host}'`);
  }
}

/**
 * Browsers name the page that a request comes from; none of another origin may call, not even blindly.
 * StorageError `forbidden`.
 */
export function checkOrigin(headers: IncomingHttpHeaders, authority: string | undefined): void {
  const { origin } = headers;
  const site = headers["sec-fetch-site"];
  const foreign =
    // A link that somebody follows is a navigation; the page that it stands on does not see the answer.
    (site !== undefined && site !== "same-origin" && site !== "none" && !isNavigation(headers)) ||
    (origin !== undefined && origin !== `http://${authority}` && origin !== `https://${authority}`);
  if (foreign) {
    const page = origin ?? "another site";
    throw new StorageError("forbidden", "wrong-origin", `no requests from pages of ${page}`);
  }
}

function isNavigation(headers: IncomingHttpHeaders): boolean {
  return headers["sec-fetch-mode"] === "navigate";
}

/**
 * A page of another origin can send some bodies, and none, without asking first; never this type, and never with a
 * header `Authorization` of its own. StorageError `invalid`.
 */
export function checkJson(headers: IncomingHttpHeaders): void {
  const isJson = /^application\/json\s*(;|$)/i.test(headers["content-type"] ?? "");
  if (!isJson && !/^bearer /i.test(headers.authorization ?? "")) {
    throw new StorageError(
      "invalid",
      "not-json",
      "changes need the header 'Content-Type: application/json', also without a body",
    );
  }
}

/** Lower case, without port and brackets; undefined where it is no host. */
function hostOf(authority: string | undefined): string | undefined {
  const match = /^(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?$/i.exec(authority ?? "");
  const host = match?.[1] ?? match?.[2];
  return host === undefined ? undefined : plainAddress(host).replace(/\.$/, "");
}

/** One form for an address: IPv4 inside IPv6 is IPv4. */
function plainAddress(address: string): string {
  return address.toLowerCase().replace(/^::ffff:(?=\d+\.)/, "");
}
