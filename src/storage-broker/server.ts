// The broker's listener: gRPC over plain HTTP/2, and /status and /metrics over HTTP/1.1 or HTTP/2.

import { type Server as Http1Server, createServer as http1Server } from "node:http";
import { type Http2Server, createServer as http2Server, type ServerHttp2Session } from "node:http2";
import { createServer, type Server, type Socket } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Gauge, Registry } from "prom-client";
import { errnoCode, StorageError } from "../base/errors.ts";
import { Broker } from "./broker.ts";
import { BrokerService } from "./broker_pb.ts";

/** What an HTTP/2 connection begins with (RFC 9113, 3.4); HTTP/1.1 never does. */
const HTTP2_PREFACE = "PRI * HTTP/2.0";

interface PlainRequest {
  readonly url?: string | undefined;
  readonly method?: string | undefined;
}

interface PlainResponse {
  writeHead(status: number, headers: Record<string, string>): unknown;
  end(body: string): unknown;
}

export class BrokerServer {
  readonly broker = new Broker();
  readonly #listener: Server;
  readonly #http1: Http1Server;
  readonly #http2: Http2Server;
  readonly #sockets = new Set<Socket>();
  readonly #sessions = new Set<ServerHttp2Session>();

  constructor() {
    const registry = brokerMetrics(this.broker);
    const plain = (request: PlainRequest, response: PlainResponse) => {
      void answerPlain(registry, request, response);
    };
    const grpc = connectNodeAdapter({
      routes: (router) => router.service(BrokerService, this.broker),
      connect: false,
      grpcWeb: false,
      fallback: plain as never,
    });
    this.#http2 = http2Server({}, grpc);
    this.#http2.on("session", (session) => {
      this.#sessions.add(session);
      session.on("close", () => this.#sessions.delete(session));
      session.on("error", () => session.destroy());
    });
    this.#http1 = http1Server(plain);
    // One port for both, as Neon's: told apart by the first bytes.
    this.#listener = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      socket.on("error", () => socket.destroy());
      socket.setNoDelay(true);
      socket.once("data", (chunk: Buffer) => {
        socket.pause();
        socket.unshift(chunk);
        const head = chunk.subarray(0, HTTP2_PREFACE.length).toString("latin1");
        const isHttp2 = HTTP2_PREFACE.startsWith(head);
        (isHttp2 ? this.#http2 : this.#http1).emit("connection", socket);
        process.nextTick(() => socket.resume());
      });
    });
  }

  /** StorageError `conflict` where the address is in use. */
  listen(host: string, port: number): Promise<{ port: number }> {
    return new Promise((resolve, reject) => {
      this.#listener.once("error", (error) => {
        reject(
          errnoCode(error) === "EADDRINUSE"
            ? new StorageError("conflict", "port-in-use", `port in use: ${host}:${port}`)
            : error,
        );
      });
      this.#listener.listen({ host, port }, () => {
        const address = this.#listener.address();
        resolve({ port: typeof address === "object" && address !== null ? address.port : port });
      });
    });
  }

  close(): Promise<void> {
    for (const session of this.#sessions) {
      session.destroy();
    }
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    return new Promise((resolve) => this.#listener.close(() => resolve()));
  }
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

async function answerPlain(
  registry: Registry,
  request: PlainRequest,
  response: PlainResponse,
): Promise<void> {
  if (request.url === "/status") {
    response.writeHead(200, { "content-type": "text/plain" });
    response.end("");
  } else if (request.url === "/metrics") {
    const body = await registry.metrics();
    response.writeHead(200, { "content-type": registry.contentType });
    response.end(body);
  } else {
    response.writeHead(404, { "content-type": "application/json" });
    response.end(JSON.stringify({ msg: `no route ${request.method} ${request.url}` }));
  }
}
