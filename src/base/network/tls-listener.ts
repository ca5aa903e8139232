// The server side of TLS between our services: one connection's handshake.

import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { setTimer } from "../clock.ts";
import { StorageError } from "../errors.ts";
import type { TlsCertificates } from "./tls-certificates.ts";

/** Content type of a TLS handshake record: what a ClientHello begins with. No request of HTTP or of Postgres does. */
export const TLS_HANDSHAKE = 0x16;

export interface HandshakeOptions {
  readonly certificates: TlsCertificates;
  /** ALPN names that are spoken here, best first. A client that offers others only is refused, one that offers none is not. */
  readonly protocols: readonly string[];
  readonly timeoutMs: number;
}

/**
 * Serves TLS on a connection; what has been read of it must have been put back (`unshift`). Rejects with StorageError where there is
 * none in the end: the connection is destroyed then, and the client has been told by an alert, if at all.
 */
export function serveTls(socket: Socket, options: HandshakeOptions): Promise<TLSSocket> {
  const { certificates, protocols, timeoutMs } = options;
  return new Promise((resolve, reject) => {
    if (socket.destroyed) {
      reject(new StorageError("invalid", "tls-failed", "TLS handshake failed: it is gone already"));
      return;
    }
    const stream = new TLSSocket(socket, {
      isServer: true,
      secureContext: certificates.find().context,
      SNICallback: (name, done) => done(null, certificates.find(name).context),
      ALPNCallback: (offered) => protocols.find((one) => offered.protocols.includes(one)),
    });
    const failed = (cause?: unknown) => {
      timer.cancel();
      socket.destroy();
      const message = `TLS handshake failed${cause instanceof Error ? `: ${cause.message}` : ""}`;
      reject(new StorageError("invalid", "tls-failed", message, { cause }));
    };
    const timer = setTimer(() => failed(new Error(`it took more than ${timeoutMs} ms`)), timeoutMs);
    stream.on("error", failed);
    // What a handshake dies of that `error` is not told of.
    stream.on("_tlsError", failed);
    stream.once("close", failed);
    stream.once("secure", () => {
      timer.cancel();
      stream.off("close", failed);
      // As tls.Server does, which this is not: node:http2 waits for it otherwise, and what it has read already has nowhere to go.
      Object.assign(stream, { secureConnecting: false });
      resolve(stream);
    });
  });
}
