// An HTTP server of a component: its routes behind the same guards and limits as everybody's.

import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
  STATUS_CODES,
} from "node:http";
import type { Server as NetServer, Socket } from "node:net";
import { errnoCode, StorageError } from "../base/errors.ts";
import { isLoopback } from "../base/network/addresses.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { Dispatcher, type DispatcherOptions } from "./dispatcher.ts";
import { errorBody, statusOfError } from "./http-errors.ts";
import { HTTP_LIMITS, type HttpLimits } from "./limits.ts";
import { type OtherProtocol, sharePort } from "./shared-port.ts";

export interface HttpServerOptions extends Omit<DispatcherOptions, "limits" | "allowedHosts"> {
  /** Names that callers may use for this server beside loopback and the address it listens on. */
  readonly allowedHosts?: readonly string[] | undefined;
  readonly limits?: Partial<HttpLimits> | undefined;
  readonly otherProtocol?: OtherProtocol | undefined;
  /** With TLS, and without plain text, on an address that other machines can reach. */
  readonly certificates?: TlsCertificates | undefined;
  /** ALPN names of what is spoken here, best first; HTTP/1.1 where none are given. */
  readonly protocols?: readonly string[] | undefined;
  /** For requests that are no routes of ours, and not behind our guards: true where it answers this one. */
  readonly takes?: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined;
}

export class HttpServer {
  readonly dispatcher: Dispatcher;
  readonly limits: HttpLimits;
  /** Node's own. */
  readonly node: Server;
  readonly #options: HttpServerOptions;
  readonly #closeUndecided: (() => void)[] = [];

  constructor(options: HttpServerOptions) {
    this.#options = options;
    this.limits = { ...HTTP_LIMITS, ...options.limits };
    this.dispatcher = new Dispatcher({
      ...options,
      allowedHosts: options.allowedHosts ?? [],
      limits: this.limits,
    });
    this.node = createLimitedServer(this.limits, (request, response) => {
      if (options.takes?.(request, response) !== true) {
        void this.dispatcher.handle(request, response);
      }
    });
    if (options.otherProtocol !== undefined) {
      const close = sharePort(
        this.node,
        options.otherProtocol,
        this.limits.headersTimeoutMs,
        (socket) => refuse(socket, { code: "ERR_HTTP_REQUEST_TIMEOUT" }),
      );
      this.#closeUndecided.push(close);
    }
  }

  /** The port; 0 takes a free one. StorageError `conflict` where the address is in use. */
  async listen(host: string, port: number): Promise<number> {
    const { certificates, protocols = ["http/1.1"], logger } = this.#options;
    if (certificates !== undefined && !isLoopback(host)) {
      // Loaded for who needs it: TLS takes longer to load than HTTP.
      const { requireTls } = await import("./tls-port.ts");
      const close = requireTls(this.node, {
        certificates,
        protocols,
        logger,
        timeoutMs: this.limits.headersTimeoutMs,
        plaintext: (socket) => {
          refuse(socket, { code: "PLAIN_TEXT" });
          // What it still sends is dropped: with unread bytes the kernel would reset, and the answer be lost.
          socket.resume();
        },
      });
      this.#closeUndecided.push(close);
    }
    return new Promise((resolve, reject) => {
      this.node.once("error", (cause) => reject(listenError(cause, host, port)));
      this.node.listen({ host, port }, () => resolve(boundPort(this.node, port)));
    });
  }

  /** Takes over a port on which `server` listens already; connections that it has, hand to `adopt`. */
  takeOver(server: NetServer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.node.once("error", reject);
      this.node.listen(server, () => resolve());
    });
  }

  /** Serves a connection that somebody else accepted. */
  adopt(socket: Socket): void {
    this.node.emit("connection", socket);
  }

  /** Requests that are being answered get `closeGraceMs`; whoever only sits on a connection none. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.node.close(() => resolve()));
    for (const close of this.#closeUndecided) {
      close();
    }
    await this.dispatcher.drain(this.limits.closeGraceMs);
    this.node.closeAllConnections();
    await closed;
  }
}

function createLimitedServer(limits: HttpLimits, listener: RequestListener): Server {
  const responses = new WeakMap<object, ServerResponse>();
  const server = createServer(
    {
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      connectionsCheckingInterval: limits.checkIntervalMs,
      maxHeaderSize: limits.maxHeaderBytes,
      noDelay: true,
    },
    (request: IncomingMessage, response: ServerResponse) => {
      responses.set(request.socket, response);
      listener(request, response);
    },
  );
  server.maxHeadersCount = limits.maxHeaders;
  server.maxConnections = limits.maxConnections;
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    const response = responses.get(socket);
    if (!socket.writable || (response?.headersSent && !response.writableFinished)) {
      socket.destroy();
    } else {
      refuse(socket, error);
    }
  });
  return server;
}

/** What Node refuses before there is a request. */
function refuse(socket: Socket, cause: { readonly code?: string | undefined }): void {
  const [code, message] =
    cause.code === "ERR_HTTP_REQUEST_TIMEOUT"
      ? ["request-timeout", "the request took too long to arrive"]
      : cause.code === "HPE_HEADER_OVERFLOW"
        ? ["headers-too-large", "the headers are too large"]
        : cause.code === "PLAIN_TEXT"
          ? [
              "tls-needed",
              "this port speaks TLS only: https, with the authority that 'strata ca trust' names",
            ]
          : ["bad-http", "this is not HTTP"];
  const error = new StorageError("invalid", code, message, { cause });
  const body = JSON.stringify(errorBody(error));
  const status = statusOfError(error);
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
    () => socket.destroy(),
  );
}

function listenError(cause: unknown, host: string, port: number): unknown {
  return errnoCode(cause) === "EADDRINUSE"
    ? new StorageError("conflict", "port-in-use", `port in use: ${host}:${port}`, { cause })
    : cause;
}

function boundPort(server: Server, asked: number): number {
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : asked;
}
