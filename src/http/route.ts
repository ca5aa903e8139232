// One route of an HTTP API: what it is called, what goes in, what comes out, who may call it.

import type { z } from "zod";
import { StorageError } from "../base/errors.ts";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/**
 * What a caller must be allowed to do, once callers prove who they are:
 * - `public`: anybody who reaches the port (probes, metrics, the description of the API);
 * - `tenant`: whoever may act for the tenant in the path;
 * - `admin`: whoever runs this node.
 */
export type Scope = "public" | "tenant" | "admin";

export interface HttpRequest<P = unknown, Q = unknown, B = unknown> {
  /** As in the answer's `x-request-id` and in the log. */
  readonly id: string;
  /** Decoded segments of the path by their name in the route. */
  readonly params: P;
  readonly query: Q;
  /** `{}` where the request has none. */
  readonly body: B;
  /** What the server's `authorize` made of whoever asks; undefined where it made nothing. */
  readonly caller: unknown;
}

/** zod's, for the checks of `route` and for the OpenAPI document. */
export interface RouteSchemas {
  readonly params?: z.ZodType | undefined;
  readonly query?: z.ZodType | undefined;
  readonly body?: z.ZodType | undefined;
  /** Absent: the answer has no body, or is no JSON. */
  readonly answer?: z.ZodType | undefined;
}

export interface Route {
  readonly method: Method;
  /** With parameters in braces: `/v1/tenant/{tenant}`. */
  readonly path: string;
  /** One sentence for the OpenAPI document. */
  readonly summary: string;
  readonly scope: Scope;
  /** Of an answer that is no error. */
  readonly status: number;
  /** Absent: JSON, or nothing where `handle` gives undefined. */
  readonly mediaType: string | undefined;
  /** Of a request; absent: the server's limit. */
  readonly maxBodyBytes?: number;
  /** Loaded when asked for, where loading zod costs too much (the compute agent). */
  schemas(): RouteSchemas | Promise<RouteSchemas>;
  /** A value for JSON; with a media type a string or chunks of bytes. */
  handle(request: HttpRequest): unknown;
}

export interface RouteDeclaration<P, Q, B, A> {
  readonly method: Method;
  readonly path: string;
  readonly summary: string;
  readonly scope: Scope;
  /** Default 200. */
  readonly status?: number;
  readonly params?: z.ZodType<P>;
  readonly query?: z.ZodType<Q>;
  readonly body?: z.ZodType<B>;
  readonly answer?: z.ZodType<A>;
}

/** An answer that has headers of its own; a `content-type` among them takes the place of the route's. */
export class AnswerWithHeaders<A> {
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly answer: A;

  constructor(headers: Readonly<Record<string, string>>, answer: A) {
    this.headers = headers;
    this.answer = answer;
  }
}

type Answer<A> = A | AnswerWithHeaders<A>;

/** Handlers see what the schemas made of the request; StorageError `invalid` names what they refuse. */
export function route<P = unknown, Q = unknown, B = unknown, A = void>(
  declaration: RouteDeclaration<P, Q, B, A>,
  handle: (request: HttpRequest<P, Q, B>) => Answer<NoInfer<A>> | Promise<Answer<NoInfer<A>>>,
): Route {
  const { params, query, body, answer } = declaration;
  return {
    ...head(declaration),
    mediaType: undefined,
    schemas: () => ({ params, query, body, answer }),
    handle: (request) =>
      handle({
        id: request.id,
        params: check(params, request.params),
        query: check(query, request.query),
        body: check(body, request.body),
        caller: request.caller,
      }),
  };
}

/** A route whose answer is no JSON: text, or chunks of bytes that are sent as they come. */
export function mediaRoute<P = unknown, Q = unknown, B = unknown>(
  declaration: Omit<RouteDeclaration<P, Q, B, unknown>, "answer"> & {
    readonly mediaType: string;
  },
  handle: (request: HttpRequest<P, Q, B>) => Answer<MediaAnswer> | Promise<Answer<MediaAnswer>>,
): Route {
  const { params, query, body, mediaType } = declaration;
  return {
    ...head(declaration),
    mediaType,
    schemas: () => ({ params, query, body }),
    handle: (request) =>
      handle({
        id: request.id,
        params: check(params, request.params),
        query: check(query, request.query),
        body: check(body, request.body),
        caller: request.caller,
      }),
  };
}

/** Of an iterable the `return` is called when the caller goes away, also while its `next` is waited for. */
export type MediaAnswer = string | Uint8Array | AsyncIterable<Uint8Array>;

function head(
  declaration: Pick<Route, "method" | "path" | "summary" | "scope"> & { status?: number },
) {
  const { method, path, summary, scope, status = 200 } = declaration;
  return { method, path, summary, scope, status };
}

function check<T>(schema: z.ZodType<T> | undefined, value: unknown): T {
  if (schema === undefined) {
    return value as T;
  }
  const result = schema.safeParse(value);
  if (!result.success) {
    const problems = result.error.issues.map(({ path, message }) =>
      path.length === 0 ? message : `${path.join(".")}: ${message}`,
    );
    throw new StorageError("invalid", "bad-request", `bad request: ${problems.join("; ")}`);
  }
  return result.data;
}
