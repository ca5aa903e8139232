// The broker's listener: gRPC over HTTP/2, and /status and /metrics over HTTP/1.1 or HTTP/2.

import type { IncomingMessage, ServerResponse } from "node:http";
import { type Http2Server, createServer as http2Server, type ServerHttp2Session } from "node:http2";
import { Gauge, Registry } from "prom-client";
import { requireScope, type TokenVerifier } from "../base/auth/service-token.ts";
import { setTimer } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { authorizeBy, callerOf } from "../http/authorize.ts";
import { HTTP_LIMITS, type HttpLimits } from "../http/limits.ts";
import { type Route, route } from "../http/route.ts";
import { HttpServer } from "../http/server.ts";
import { Broker, MAX_MESSAGE_BYTES } from "./broker.ts";
import { BrokerService } from "./broker_pb.ts";
import { grpcHandler } from "./grpc-handler.ts";

/** What an HTTP/2 connection begins with (RFC 9113, 3.4); HTTP/1.1 never does. */
const HTTP2_PREFACE = "PRI * HTTP/2.0";
const MAX_STREAMS = 1000;

export interface BrokerServerOptions {
  readonly logger: Logger;
  /** Names that callers may use beside loopback and the address it listens on. */
  readonly allowedHosts?: readonly string[];
  readonly limits?: Partial<HttpLimits>;
  /** Who calls must show it a token; absent: everybody may. */
  readonly callers?: TokenVerifier | undefined;
  /** With TLS, and without plain text, on an address that other machines can reach. */
  readonly certificates?: TlsCertificates | undefined;
  /** An HTTP/2 connection on which nothing happens is asked, after so long, whether it is there. */
  readonly silenceMs?: number;
}

export class BrokerServer {
  readonly broker = new Broker();
  readonly #options: BrokerServerOptions;
  readonly #limits: HttpLimits;
  readonly #http2: Http2Server;
  readonly #sessions = new Set<ServerHttp2Session>();
  #http1: HttpServer | undefined;

  constructor(options: BrokerServerOptions) {
    this.#options = options;
    this.#limits = { ...HTTP_LIMITS, ...options.limits };
    this.#http2 = http2Server({
      settings: {
        maxConcurrentStreams: MAX_STREAMS,
        maxHeaderListSize: this.#limits.maxHeaderBytes,
      },
      maxHeaderListPairs: this.#limits.maxHeaders,
    });
    this.#http2.on("session", (session) => this.#watch(session));
  }

  /** Port 0 takes a free one. StorageError `conflict` where the address is in use. */
  async listen(host: string, port: number): Promise<{ port: number }> {
    const registry = brokerMetrics(this.broker);
    const http1 = new HttpServer({
      component: "storage_broker",
      routes: brokerRoutes(),
      metrics: { contentType: registry.contentType, text: () => registry.metrics() },
      logger: this.#options.logger,
      listenHost: host,
      allowedHosts: this.#options.allowedHosts,
      limits: this.#limits,
      authorize: authorizeBy(this.#options.callers, "storage_broker"),
      certificates: this.#options.certificates,
      protocols: ["h2", "http/1.1"],
      // One port for both, as Neon's.
      otherProtocol: {
        preface: HTTP2_PREFACE,
        serve: (socket) => {
          // Ports of HTTP let the other side close its half. Nobody who does that here waits for anything.
          socket.once("end", () => socket.destroy());
          this.#http2.emit("connection", socket);
        },
      },
    });
    this.#http1 = http1;
    this.#serveHttp2(http1);
    return { port: await http1.listen(host, port) };
  }

  async close(): Promise<void> {
    for (const session of this.#sessions) {
      session.destroy();
    }
    await this.#http1?.close();
  }

  /** RPCs go to the broker, everything else to the routes. */
  #serveHttp2({ dispatcher }: HttpServer): void {
    const { callers, logger } = this.#options;
    const grpc = grpcHandler(this.broker, { maxMessageBytes: MAX_MESSAGE_BYTES, logger });
    const authorize =
      callers === undefined
        ? undefined
        : (request: IncomingMessage) =>
            requireScope(callerOf(request, callers), "storage_broker", undefined);
    const prefix = `/${BrokerService.typeName}/`;
    const endless = `${prefix}${BrokerService.method.publishSafekeeperInfo.name}`;
    this.#http2.on("request", (request, response) => {
      // The same but for types.
      const plainRequest = request as unknown as IncomingMessage;
      const plainResponse = response as unknown as ServerResponse;
      if (!request.url.startsWith(prefix)) {
        void dispatcher.handle(plainRequest, plainResponse);
        return;
      }
      request.on("error", () => undefined);
      response.on("error", () => undefined);
      if (request.url !== endless) {
        const timer = setTimer(() => {
          if (!request.complete) {
            request.stream.close();
          }
        }, this.#limits.requestTimeoutMs);
        request.stream.on("close", () => timer?.cancel());
      }
      if (dispatcher.admits(plainRequest, plainResponse, authorize)) {
        grpc(request, response);
      }
    });
  }

  /** Closes connections without streams, and those that no longer answer. */
  #watch(session: ServerHttp2Session): void {
    this.#sessions.add(session);
    session.on("close", () => this.#sessions.delete(session));
    session.on("error", () => session.destroy());
    const silenceMs = this.#options.silenceMs ?? this.#limits.requestTimeoutMs;
    let streams = 0;
    let asked = false;
    session.setTimeout(this.#limits.headersTimeoutMs);
    session.on("stream", (stream) => {
      streams++;
      session.setTimeout(silenceMs);
      stream.on("close", () => streams--);
    });
    session.on("timeout", () => {
      if (streams === 0 || asked || session.destroyed) {
        session.destroy();
        return;
      }
      asked = session.ping(() => {
        asked = false;
      });
    });
  }
}

/** Beside the RPCs. */
export function brokerRoutes(): Route[] {
  return [
    route(
      { method: "GET", path: "/status", summary: "Answers while it runs.", scope: "public" },
      () => undefined,
    ),
  ];
}

function brokerMetrics(broker: Broker): Registry {
  const registry = new Registry();
  const gauge = (name: string, help: string, read: () => number) => {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  };
  const { counts } = { counts: () => broker.counts };
  gauge("storage_broker_active_publishers", "Publishing streams", () => counts().publishers);
  gauge("storage_broker_active_subscribers", "Subscriptions", () => counts().subscribers);
  gauge("storage_broker_published_messages_total", "Received", () => counts().published);
  gauge("storage_broker_broadcasted_messages_total", "Passed on", () => counts().delivered);
  gauge("storage_broker_broadcast_dropped_messages_total", "Dropped", () => counts().dropped);
  return registry;
}
