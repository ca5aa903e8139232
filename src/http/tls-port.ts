// Puts TLS in front of an HTTP server's port: who comes in plain text is told so, and nothing else.

import type { Server } from "node:http";
import type { Socket } from "node:net";
import { setTimer } from "../base/clock.ts";
import { errorMessage } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { TlsCertificates } from "../base/network/tls-certificates.ts";
import { serveTls, TLS_HANDSHAKE } from "../base/network/tls-listener.ts";

export interface TlsPortOptions {
  readonly certificates: TlsCertificates;
  /** ALPN names of what is spoken inside, best first. */
  readonly protocols: readonly string[];
  /** For the first byte, and then for the handshake. */
  readonly timeoutMs: number;
  readonly logger: Logger;
  /** Gets connections that do not begin with a handshake. */
  readonly plaintext: (socket: Socket) => void;
}

/**
 * From here on the server's listeners of `connection` get TLS connections, after the handshake. Returns what ends those that are not
 * so far: `node:http` does not know of them, but its `close` waits for them.
 */
export function requireTls(server: Server, options: TlsPortOptions): () => void {
  const undecided = new Set<Socket>();
  const listeners = server.listeners("connection");
  server.removeAllListeners("connection");
  const secure = async (socket: Socket) => {
    try {
      const stream = await serveTls(socket, options);
      for (const listener of listeners) {
        listener.call(server, stream);
      }
    } catch (error) {
      const remote = `${socket.remoteAddress ?? "?"}:${socket.remotePort ?? 0}`;
      options.logger.info({ reason: errorMessage(error), remote }, "connection refused");
    } finally {
      undecided.delete(socket);
    }
  };
  server.on("connection", (socket: Socket) => {
    undecided.add(socket);
    const timer = setTimer(() => socket.destroy(), options.timeoutMs);
    socket.once("data", (first: Buffer) => {
      timer.cancel();
      socket.pause();
      socket.unshift(first);
      if (first[0] === TLS_HANDSHAKE) {
        void secure(socket);
      } else {
        undecided.delete(socket);
        options.plaintext(socket);
      }
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      timer.cancel();
      undecided.delete(socket);
    });
  });
  return () => {
    for (const socket of undecided) {
      socket.destroy();
    }
  };
}
