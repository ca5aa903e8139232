// The proxy's HTTP port: /sql and WebSockets for everybody, /status and /metrics for whoever runs it; with and without TLS.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { TLSSocket } from "node:tls";
import { isLoopback, plainAddress } from "../../base/network/addresses.ts";
import type { TlsCertificates } from "../../base/network/tls-certificates.ts";
import type { Route } from "../../http/route.ts";
import { HttpServer } from "../../http/server.ts";
import type { ProxyParts } from "../proxy-parts.ts";
import { SqlOverHttp } from "./sql-over-http.ts";
import { DEFAULT_SQL_POOL, SqlPool } from "./sql-pool.ts";
import { WebSocketFront } from "./web-socket.ts";

/** How a connection with TLS begins: a handshake record of TLS 1.x. No HTTP request does. */
const TLS_PREFACE = "\x16\x03";

export interface FrontHttpOptions {
  readonly parts: ProxyParts;
  readonly routes: readonly Route[];
  readonly listenHost: string;
  readonly allowedHosts: readonly string[];
}

export class FrontHttp {
  readonly #http: HttpServer;
  readonly #parts: ProxyParts;
  readonly #pool: SqlPool;
  readonly #sql: SqlOverHttp;
  readonly #webSockets: WebSocketFront;

  constructor({ parts, routes, listenHost, allowedHosts }: FrontHttpOptions) {
    this.#parts = parts;
    this.#pool = new SqlPool(DEFAULT_SQL_POOL, parts.logger);
    this.#sql = new SqlOverHttp(parts, this.#pool);
    this.#webSockets = new WebSocketFront(parts);
    const { registry } = parts.metrics;
    const { certificates } = parts;
    this.#http = new HttpServer({
      component: "proxy",
      routes,
      metrics: { contentType: registry.contentType, text: () => registry.metrics() },
      logger: parts.logger,
      listenHost,
      allowedHosts,
      limits: { maxConnections: parts.settings.maxConnections },
      takes: (request, response) => this.#takes(request, response),
      otherProtocol:
        certificates === undefined
          ? undefined
          : { preface: TLS_PREFACE, serve: (socket) => this.#serveTls(socket, certificates) },
    });
    this.#http.node.on("upgrade", (request: IncomingMessage, _: Duplex, head: Buffer) =>
      this.#webSockets.upgrade(request, request.socket, head, addressOf(request)),
    );
  }

  listen(host: string, port: number): Promise<number> {
    return this.#http.listen(host, port);
  }

  async close(): Promise<void> {
    this.#webSockets.close();
    await this.#http.close();
    this.#pool.close();
  }

  #serveTls(socket: Socket, certificates: TlsCertificates): void {
    const { context } = certificates.find();
    const stream = new TLSSocket(socket, {
      isServer: true,
      secureContext: context,
      SNICallback: (name, done) => done(null, certificates.find(name).context),
      ALPNProtocols: ["http/1.1"],
    });
    stream.on("error", () => socket.destroy());
    stream.on("_tlsError", () => socket.destroy());
    this.#http.adopt(stream);
  }

  /** What is not for the routes of `src/http`. */
  #takes(request: IncomingMessage, response: ServerResponse): boolean {
    const path = (request.url ?? "").replace(/[?#].*$/s, "");
    if (path !== "/sql") {
      return false;
    }
    if (request.method === "OPTIONS") {
      this.#sql.preflight(response);
      return true;
    }
    if (request.method !== "POST") {
      return false;
    }
    const address = addressOf(request);
    const { requireTls } = this.#parts.settings;
    if (!(request.socket instanceof TLSSocket) && (requireTls || !isLoopback(address))) {
      response.writeHead(403, { "content-type": "text/plain" });
      response.end("passwords are taken over https only");
      return true;
    }
    void this.#sql.handle(request, response, address);
    return true;
  }
}

function addressOf(request: IncomingMessage): string {
  return plainAddress(request.socket.remoteAddress ?? "");
}
