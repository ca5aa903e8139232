// Finds the route of a request.

import { StorageError } from "../base/errors.ts";
import type { Method, Route } from "./route.ts";

interface Entry {
  readonly route: Route;
  readonly parts: readonly { readonly name: string; readonly isParameter: boolean }[];
}

export interface FoundRoute {
  readonly route: Route;
  readonly params: Readonly<Record<string, string>>;
}

export class RouteTable {
  readonly routes: readonly Route[];
  /** By number of segments; names before parameters, so that the first that fits is the right one. */
  readonly #entries = new Map<number, Entry[]>();

  /** Throws for two routes of one method and path. */
  constructor(routes: readonly Route[]) {
    this.routes = routes;
    const known = new Set<string>();
    for (const route of routes) {
      const parts = route.path
        .slice(1)
        .split("/")
        .map((part) => {
          const isParameter = part.startsWith("{");
          return { name: isParameter ? part.slice(1, -1) : part, isParameter };
        });
      const shape = parts.map(({ name, isParameter }) => (isParameter ? "{}" : name)).join("/");
      if (known.has(`${route.method} ${shape}`)) {
        throw new Error(`two routes ${route.method} ${route.path}`);
      }
      known.add(`${route.method} ${shape}`);
      const entries = this.#entries.get(parts.length) ?? [];
      this.#entries.set(parts.length, entries);
      entries.push({ route, parts });
    }
    const rank = ({ parts }: Entry) => parts.map((part) => (part.isParameter ? "1" : "0")).join("");
    for (const entries of this.#entries.values()) {
      entries.sort((a, b) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
    }
  }

  /**
   * HEAD finds GET. StorageError `not-found`; where the path has other methods, `invalid` with the
   * field `allow`.
   */
  find(method: string, segments: readonly string[]): FoundRoute {
    const wanted = method === "HEAD" ? "GET" : method;
    const allow = new Set<Method>();
    for (const { route, parts } of this.#entries.get(segments.length) ?? []) {
      const fits = parts.every(
        ({ name, isParameter }, i) => (isParameter && segments[i] !== "") || name === segments[i],
      );
      if (fits && route.method === wanted) {
        const params: Record<string, string> = Object.create(null);
        for (const [i, { name, isParameter }] of parts.entries()) {
          if (isParameter) {
            params[name] = segments[i]!;
          }
        }
        return { route, params };
      }
      if (fits) {
        allow.add(route.method);
      }
    }
    const what = `${method} /${segments.join("/")}`.slice(0, 300);
    if (allow.size > 0) {
      const methods = [...allow].join(", ");
      throw new StorageError("invalid", "method-not-allowed", `no route ${what}, only ${methods}`, {
        fields: { allow: methods },
      });
    }
    throw new StorageError("not-found", "no-route", `no route ${what}`);
  }
}
