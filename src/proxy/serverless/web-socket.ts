// GET /v2: Postgres's protocol in binary frames of a WebSocket, for drivers that have no TCP.
//
// Source: @neondatabase/serverless 1.2: it sends start-up packet and password together, so it must be asked for the password in the
// clear. As with Neon's proxy any path will do. The endpoint is in `Host`, in the query's `address`, or in the start-up options.

import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { createWebSocketStream, WebSocketServer } from "ws";
import { openClient } from "../client/client-opening.ts";
import { ClientSession } from "../client/client-session.ts";
import { endpointOfHost } from "../client/endpoint-name.ts";
import type { ProxyParts } from "../proxy-parts.ts";
import { bearerOf } from "./sql-request.ts";

/** Of a frame; a driver sends a message in one. */
const MAX_FRAME_BYTES = 64 * 1024 * 1024;

export class WebSocketFront {
  readonly #parts: ProxyParts;
  readonly #server = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_FRAME_BYTES,
    // Rows are compressed in vain, and slowly.
    perMessageDeflate: false,
    clientTracking: true,
  });

  constructor(parts: ProxyParts) {
    this.#parts = parts;
  }

  get connections(): number {
    return this.#server.clients.size;
  }

  /** `address`: the caller's. */
  upgrade(request: IncomingMessage, socket: Socket, head: Buffer, address: string): void {
    socket.on("error", () => {});
    let token: string | undefined;
    try {
      token = bearerOf(request.headers);
    } catch {
      socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
      return;
    }
    this.#server.handleUpgrade(request, socket, head, (webSocket) => {
      const stream = createWebSocketStream(webSocket);
      const outer = {
        isEncrypted: socket instanceof TLSSocket,
        serverName: this.#hostOf(request),
        asksPassword: true,
        token,
      };
      const session = new ClientSession({ connection: stream, socket }, address, this.#parts);
      void session.run((onStream) =>
        openClient(stream, { certificates: undefined, onStream, outer }),
      );
    });
  }

  #hostOf(request: IncomingMessage): string | undefined {
    const address = URL.parse(request.url ?? "", "http://x")?.searchParams.get("address");
    const names = [address, request.headers.host].map((name) => name?.replace(/:\d+$/, ""));
    const { domains } = this.#parts.settings;
    return names.find((name) => endpointOfHost(name, domains) !== undefined);
  }

  close(): void {
    for (const webSocket of this.#server.clients) {
      webSocket.terminate();
    }
  }
}
