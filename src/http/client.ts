// One way to call another component's HTTP API: deadline, reused connections, errors with the kind that was sent.

import type { Agent, ClientRequest, IncomingMessage } from "node:http";
import { ownToken } from "../base/auth/service-token.ts";
import { abortAfter, setIdleTimer } from "../base/clock.ts";
import { errorMessage, StorageError } from "../base/errors.ts";
import { serviceUrl, tlsOfUrl, tlsProblem } from "../base/network/service-tls.ts";
import { kindOfStatus } from "./http-errors.ts";
import type { Method } from "./route.ts";

/** An answer that is read whole. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export interface HttpClientOptions {
  /** Whom it talks to: `safekeeper`. In messages and codes. */
  readonly component: string;
  /**
   * `host:port`, or a URL without a path. With TLS where other machines can reach it, as `serviceUrl` has it.
   */
  readonly address: string;
  /** From the call to the end of the answer. */
  readonly timeoutMs: number;
  /** There is but one: what it refuses need not say which one refused. */
  readonly isOnlyOne?: boolean;
  /** For `Authorization: Bearer`; asked at each call, as it may change. Default: this process's service token. */
  readonly bearer?: (() => string | undefined) | undefined;
}

export interface CallOptions {
  readonly body?: unknown;
  readonly timeoutMs?: number;
  /**
   * So long may the server take to say that it wants the body (`Expect: 100-continue`), which is sent then: one that is stopped or
   * hangs is `unavailable` after that, and has not been asked for anything.
   */
  readonly patienceMs?: number | undefined;
}

/** Not imported: a compute starts without node:http (docs/decisions). */
function http() {
  return process.getBuiltinModule("node:http");
}

function https() {
  return process.getBuiltinModule("node:https");
}

/** Of this process, without and with TLS; idle connections do not keep it alive. */
let sharedAgent: Agent | undefined;
let sharedTlsAgent: Agent | undefined;

function agentOf(isTls: boolean): Agent {
  if (!isTls) {
    sharedAgent ??= new (http().Agent)({ keepAlive: true });
    return sharedAgent;
  }
  // No session is taken up again: each connection looks whether the certificate is still good.
  sharedTlsAgent ??= new (https().Agent)({ keepAlive: true, maxCachedSessions: 0 });
  return sharedTlsAgent;
}

/**
 * Every call throws StorageError: `unavailable` (`COMPONENT-unreachable`) where no whole answer came in
 * time, else what the server said.
 *
 * Only GET uses a connection again, and only GET is sent a second time: a server may close an idle
 * connection just when a request goes out, and then nobody knows whether a change was made.
 */
export class HttpClient {
  readonly #component: string;
  readonly #address: string;
  readonly #host: string;
  readonly #timeoutMs: number;
  readonly #isOnlyOne: boolean;
  readonly #bearer: () => string | undefined;

  constructor(options: HttpClientOptions) {
    const { component, address, timeoutMs, isOnlyOne = false, bearer = ownToken } = options;
    this.#bearer = bearer;
    this.#component = component;
    this.#address = address.replace(/\/$/, "");
    this.#host = this.#address.replace(/^\w+:\/\//, "");
    this.#timeoutMs = timeoutMs;
    this.#isOnlyOne = isOnlyOne;
  }

  /** The answer's JSON; undefined where it has no body. */
  async call<T>(method: Method, path: string, options: CallOptions = {}): Promise<T> {
    const signal = abortAfter(options.timeoutMs ?? this.#timeoutMs);
    const { body, patienceMs } = options;
    const chunks = await this.stream(method, path, signal, body, patienceMs);
    const text = await this.#collect(method, path, chunks);
    try {
      return (text === "" ? undefined : JSON.parse(text)) as T;
    } catch (cause) {
      const message = `${this.#component} ${this.#host}: ${method} ${path}: the answer is not JSON`;
      throw new StorageError("corrupt", "bad-answer", message, { cause });
    }
  }

  async text(method: Method, path: string, signal: AbortSignal, body?: unknown): Promise<string> {
    return this.#collect(method, path, await this.stream(method, path, signal, body));
  }

  /** The answer's bytes as they come; whoever reads them looks after the time (`signal`). */
  async stream(
    method: Method,
    path: string,
    signal: AbortSignal,
    body?: unknown,
    patienceMs?: number,
  ): Promise<AsyncIterable<Uint8Array>> {
    let response: IncomingMessage;
    try {
      response = await this.#send(method, path, signal, body, patienceMs);
    } catch (cause) {
      // One that says what to set is no network's.
      throw cause instanceof StorageError ? cause : this.#unreachable(method, path, cause);
    }
    const status = response.statusCode ?? 0;
    const chunks = this.#chunks(method, path, response);
    if (status >= 200 && status < 300) {
      return chunks;
    }
    throw await this.#refusal(method, path, response, chunks);
  }

  async #send(
    method: Method,
    path: string,
    signal: AbortSignal,
    body: unknown,
    patienceMs: number | undefined,
  ): Promise<IncomingMessage> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const bearer = this.#bearer();
    const base = serviceUrl(this.#address);
    const tls = base.startsWith("https:") ? tlsOfUrl(base) : undefined;
    const send = (agent: Agent | false) =>
      new Promise<IncomingMessage>((resolve, reject) => {
        const request = (tls === undefined ? http() : https()).request(base + path, {
          ...tls,
          method,
          signal,
          agent,
          headers: {
            // Servers refuse changes without it, also those without a body.
            "content-type": "application/json",
            "content-length": Buffer.byteLength(payload ?? ""),
            ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }),
            ...(patienceMs === undefined ? {} : { expect: "100-continue" }),
          },
        });
        request.on("response", resolve);
        request.on("error", (error) => {
          reject(request.reusedSocket && !signal.aborted ? new StaleConnection(error) : error);
        });
        if (patienceMs === undefined) {
          request.end(payload);
        } else {
          sendWhenWanted(request, payload, patienceMs);
        }
      });
    if (method !== "GET") {
      return send(false);
    }
    try {
      return await send(agentOf(tls !== undefined));
    } catch (error) {
      if (error instanceof StaleConnection) {
        return send(false);
      }
      throw error;
    }
  }

  async #collect(method: Method, path: string, chunks: AsyncIterable<Uint8Array>): Promise<string> {
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of chunks) {
      parts.push(chunk);
      size += chunk.length;
      if (size > MAX_ANSWER_BYTES) {
        throw this.#unreachable(method, path, new Error(`over ${MAX_ANSWER_BYTES} bytes`));
      }
    }
    return Buffer.concat(parts).toString();
  }

  async *#chunks(
    method: Method,
    path: string,
    response: IncomingMessage,
  ): AsyncGenerator<Uint8Array> {
    try {
      yield* response as AsyncIterable<Uint8Array>;
    } catch (cause) {
      throw this.#unreachable(method, path, cause);
    }
  }

  async #refusal(
    method: Method,
    path: string,
    response: IncomingMessage,
    chunks: AsyncIterable<Uint8Array>,
  ): Promise<StorageError> {
    const status = response.statusCode ?? 0;
    const body = parsedObject(await this.#collect(method, path, chunks));
    const { msg, code, request_id } = errorFields(body);
    const who = this.#isOnlyOne ? "" : `${this.#component} ${this.#host}: `;
    const message = `${who}${msg ?? `${method} ${path}: status ${status}`}`;
    return new StorageError(
      kindOfStatus(status, code),
      code ?? `${this.#component}-error`,
      message,
      {
        // `body`: for callers of services whose errors say more.
        fields: { request: `${method} ${path}`, status, requestId: request_id, body },
      },
    );
  }

  #unreachable(method: Method, path: string, cause: unknown): StorageError {
    const reason =
      cause instanceof Error && cause.name === "AbortError" && cause.cause instanceof Error
        ? cause.cause
        : cause;
    const problem = tlsProblem(reason, this.#host) ?? errorMessage(reason);
    const message = `${this.#component} ${this.#host}: ${method} ${path}: ${problem}`;
    return new StorageError("unavailable", `${this.#component}-unreachable`, message, { cause });
  }
}

function sendWhenWanted(
  request: ClientRequest,
  payload: string | undefined,
  patienceMs: number,
): void {
  const tired = setIdleTimer(() => {
    request.destroy(new Error(`no word within ${patienceMs / 1000} s`));
  }, patienceMs);
  request.on("continue", () => request.end(payload));
  for (const event of ["continue", "response", "error"]) {
    request.on(event, () => tired.cancel());
  }
  request.flushHeaders();
}

class StaleConnection extends Error {
  constructor(cause: Error) {
    super(cause.message, { cause });
  }
}

/** Undefined where the text is no object of JSON: not ours, then, and the status says enough. */
function parsedObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** Of a body that should be `{msg, code, request_id}`, or Neon's with `message`, but may come from anybody. */
function errorFields(body: Readonly<Record<string, unknown>> | undefined): {
  msg?: string;
  code?: string;
  request_id?: string;
} {
  const fields: Record<string, string> = {};
  for (const name of ["msg", "code", "request_id"]) {
    const field = body?.[name];
    if (typeof field === "string") {
      fields[name] = field;
    }
  }
  if (fields["msg"] === undefined && typeof body?.["message"] === "string") {
    fields["msg"] = body["message"];
  }
  return fields;
}
