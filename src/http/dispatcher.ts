// From one request to its answer: guards, route, checks, errors, log line and metrics, for HTTP/1.1 and HTTP/2.

import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { monotonicMs, setTimer, type Timer } from "../base/clock.ts";
import { errnoCode, errorKind, errorMessage, StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { randomBytes } from "../base/random.ts";
import { errorBody, statusOfError } from "./http-errors.ts";
import type { HttpLimits } from "./limits.ts";
import { checkHost, checkJson, checkOrigin, parseTarget } from "./request-guard.ts";
import { RequestMetrics } from "./request-metrics.ts";
import {
  AnswerWithHeaders,
  type MediaAnswer,
  mediaRoute,
  type Route,
  type Scope,
} from "./route.ts";
import { type FoundRoute, RouteTable } from "./route-table.ts";

export interface MetricsSource {
  readonly contentType: string;
  text(): string | Promise<string>;
}

export interface DispatcherOptions {
  /** Name in the OpenAPI document. */
  readonly component: string;
  readonly routes: readonly Route[];
  /** Of the component, for `GET /metrics`, beside those of the requests. */
  readonly metrics: MetricsSource;
  readonly logger: Logger;
  readonly listenHost: string;
  readonly allowedHosts: readonly string[];
  readonly limits: HttpLimits;
  /**
   * Throws where the caller of a route may not do what its scope says. Default: everybody may. What it gives is the
   * request's `caller`.
   */
  readonly authorize?:
    | ((request: IncomingMessage, scope: Scope, found: FoundRoute) => unknown)
    | undefined;
  /** Default: `errorBody`. */
  readonly errorBody?:
    | ((error: unknown, requestId: string, request: IncomingMessage) => unknown)
    | undefined;
}

/** What is told of now is not to be kept; and it is what its type says. */
const DEFAULT_HEADERS = { "cache-control": "no-store", "x-content-type-options": "nosniff" };
const UNKNOWN_ROUTE = { method: "none", path: "none" };
const CHANGES = new Set(["POST", "PUT", "PATCH", "DELETE"]);

export class Dispatcher {
  readonly table: RouteTable;
  readonly #options: DispatcherOptions;
  readonly #metrics = new RequestMetrics();
  #running = 0;
  #idle: (() => void) | undefined;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    this.table = new RouteTable([...options.routes, ...this.#ownRoutes()]);
  }

  /** Never rejects. HTTP/2's compatible objects are taken too. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const started = monotonicMs();
    const id = requestId(request);
    this.#running++;
    let route: { method: string; path: string } = UNKNOWN_ROUTE;
    let failure: unknown;
    // A connection that breaks is seen by whoever reads or writes; unheard, it would end the process.
    request.on("error", () => undefined);
    response.on("error", () => undefined);
    try {
      response.setHeader("x-request-id", id);
      const found = this.#find(request);
      route = found.route;
      const caller = await this.#options.authorize?.(request, found.route.scope, found);
      const body = CHANGES.has(found.route.method)
        ? await readJson(request, found.route.maxBodyBytes ?? this.#options.limits.maxBodyBytes)
        : undefined;
      const { params, query } = found;
      const given = await found.route.handle({ id, params, query, body, caller });
      const { headers, answer } =
        given instanceof AnswerWithHeaders ? given : { headers: {}, answer: given };
      await this.#checkAnswer(found.route, answer);
      setHeaders(response, { ...DEFAULT_HEADERS, ...headers });
      await this.#send(response, found.route, answer);
    } catch (error) {
      failure = error;
      this.#sendError(request, response, error, id);
    } finally {
      const seconds = (monotonicMs() - started) / 1000;
      this.#metrics.observe(route, response.statusCode, seconds);
      this.#log(request, response, id, seconds, failure);
      this.#running--;
      if (this.#running === 0) {
        this.#idle?.();
      }
    }
  }

  /** The guards alone, for requests that others answer (gRPC); false where this one is answered now. */
  admits(
    request: IncomingMessage,
    response: ServerResponse,
    authorize?: (request: IncomingMessage) => void,
  ): boolean {
    try {
      this.#guard(request);
      authorize?.(request);
      return true;
    } catch (error) {
      response.on("error", () => undefined);
      this.#sendError(request, response, error, requestId(request));
      return false;
    }
  }

  #guard(request: IncomingMessage): void {
    const authority = (request.headers[":authority"] as string | undefined) ?? request.headers.host;
    checkHost({
      authority,
      listenHost: this.#options.listenHost,
      localAddress: request.socket.localAddress,
      allowedHosts: this.#options.allowedHosts,
    });
    checkOrigin(request.headers, authority);
  }

  /** Resolves when no request is being answered, at the latest after `graceMs`. */
  async drain(graceMs: number): Promise<void> {
    if (this.#running === 0) {
      return;
    }
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
      timer = setTimer(resolve, graceMs);
    });
    timer?.cancel();
  }

  #find(request: IncomingMessage) {
    const { segments, query } = parseTarget(request.url);
    this.#guard(request);
    const found = this.table.find(request.method ?? "", segments);
    if (CHANGES.has(found.route.method)) {
      checkJson(request.headers);
    }
    return { ...found, query };
  }

  #ownRoutes(): Route[] {
    const { component, metrics } = this.#options;
    return [
      mediaRoute(
        {
          method: "GET",
          path: "/api/openapi.json",
          summary: "This document.",
          scope: "public",
          mediaType: "application/json",
        },
        async () => {
          // Loads zod: only where somebody asks (the compute agent).
          const { openApiDocument } = await import("./openapi.ts");
          return JSON.stringify(await openApiDocument(component, this.table.routes));
        },
      ),
      mediaRoute(
        {
          method: "GET",
          path: "/metrics",
          summary: "Metrics in Prometheus's text format.",
          scope: "public",
          mediaType: metrics.contentType,
        },
        async () => {
          const text = await metrics.text();
          return text + (text === "" || text.endsWith("\n") ? "" : "\n") + this.#metrics.text();
        },
      ),
    ];
  }

  async #send(response: ServerResponse, route: Route, answer: unknown): Promise<void> {
    response.statusCode = route.status;
    response.setTimeout(this.#options.limits.sendTimeoutMs, () => response.destroy());
    if (route.mediaType !== undefined) {
      const mediaType = `${response.getHeader("content-type") ?? route.mediaType}`;
      await sendMedia(response, mediaType, answer as MediaAnswer);
    } else if (answer === undefined) {
      response.end();
    } else {
      sendText(response, "application/json", JSON.stringify(answer));
    }
  }

  #sendError(request: IncomingMessage, response: ServerResponse, error: unknown, id: string): void {
    if (response.headersSent) {
      // Half an answer must not look like a whole one.
      response.destroy();
      return;
    }
    // Also of one that is not sent: it is counted and logged.
    response.statusCode = statusOfError(error);
    if (error instanceof StorageError && error.code === "request-aborted") {
      // Nobody waits for it.
      response.destroy();
      return;
    }
    if (error instanceof StorageError && typeof error.fields["allow"] === "string") {
      response.setHeader("allow", error.fields["allow"]);
    }
    if (!request.complete && request.httpVersionMajor < 2) {
      // What is left of the request is not worth reading.
      response.setHeader("connection", "close");
    }
    const body = (this.#options.errorBody ?? errorBody)(error, id, request);
    sendText(response, "application/json", JSON.stringify(body));
  }

  #log(
    request: IncomingMessage,
    response: ServerResponse,
    id: string,
    seconds: number,
    failure: unknown,
  ): void {
    const { logger } = this.#options;
    const path = (request.url ?? "").slice(0, 300);
    const fields = { requestId: id, method: request.method, path };
    const kind = failure === undefined ? undefined : errorKind(failure);
    if (errnoCode(failure) === "ERR_STREAM_PREMATURE_CLOSE") {
      logger.info(fields, "the caller went away during the answer");
    } else if (kind === "internal" || kind === "corrupt") {
      logger.error({ ...fields, error: failure }, "request failed");
    } else {
      const done = { ...fields, status: response.statusCode, ms: Math.round(seconds * 1000) };
      const reason = failure === undefined ? {} : { reason: errorMessage(failure) };
      const level = CHANGES.has(request.method ?? "") ? "info" : "debug";
      logger[level]({ ...done, ...reason }, "request answered");
    }
  }

  /** Tests switch this on: an answer that its schema does not describe is our bug. */
  async #checkAnswer(route: Route, answer: unknown): Promise<void> {
    if (process.env["STRATA_CHECK_ANSWERS"] !== "1" || route.mediaType !== undefined) {
      return;
    }
    const { checkAnswer } = await import("./answer-check.ts");
    await checkAnswer(route, answer);
  }
}

function setHeaders(response: ServerResponse, headers: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(headers)) {
    response.setHeader(name, value);
  }
}

async function sendMedia(
  response: ServerResponse,
  mediaType: string,
  answer: MediaAnswer,
): Promise<void> {
  if (typeof answer === "string" || answer instanceof Uint8Array) {
    sendText(response, mediaType, answer);
    return;
  }
  response.setHeader("content-type", mediaType);
  await pipeline(Readable.from(answer, { objectMode: false }), response);
}

function sendText(response: ServerResponse, contentType: string, text: string | Uint8Array): void {
  response.setHeader("content-type", contentType);
  response.setHeader("content-length", Buffer.byteLength(text));
  response.end(text);
}

/** The caller's, so that one id goes through all components; else a new one. */
function requestId(request: IncomingMessage): string {
  const given = request.headers["x-request-id"];
  return typeof given === "string" && /^[\w.-]{1,100}$/.test(given)
    ? given
    : randomBytes(8).toString("hex");
}

/** `{}` without a body. */
async function readJson(request: IncomingMessage, maxBytes: number): Promise<unknown> {
  const bytes = await readBody(request, maxBytes);
  if (bytes.length === 0) {
    return {};
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    const message = `the body is not JSON: ${errorMessage(cause)}`;
    throw new StorageError("invalid", "bad-json", message, { cause });
  }
}

/** Not by iterating: leaving early would close the connection before the answer is sent. */
function readBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const tooLarge = () =>
      new StorageError("invalid", "body-too-large", `a body has at most ${maxBytes} bytes`);
    if (Number(request.headers["content-length"] ?? 0) > maxBytes) {
      reject(tooLarge());
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxBytes) {
        request.removeAllListeners("data").resume();
        reject(tooLarge());
        return;
      }
      chunks.push(chunk);
    });
    request.on("end", () => resolve(Buffer.concat(chunks)));
    request.on("close", () =>
      reject(new StorageError("invalid", "request-aborted", "the request ended before its body")),
    );
  });
}
