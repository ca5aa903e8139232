// The first bytes of a connection: TLS, asked for or direct, and the start-up packet.
//
// Source: libpq/be-secure*.c, tcop/backend_startup.c (17). What comes together with a request for TLS was sent in the clear by who
// knows whom, so it is refused (CVE-2021-23222); direct TLS needs ALPN `postgresql`, so that it cannot be mixed up with another
// protocol's.

import type { Duplex } from "node:stream";
import { TLSSocket } from "node:tls";
import { errorMessage } from "../../base/errors.ts";
import type { TlsCertificates } from "../../base/network/tls-certificates.ts";
import { readExactly } from "./exact-read.ts";
import { clientError, clientGone, protocolViolation } from "./postgres-errors.ts";
import {
  type CancelPacket,
  checkStartupLength,
  GSSENC_REQUEST,
  parseStartup,
  SSL_REQUEST,
  type StartupPacket,
} from "./startup-packet.ts";

const ALPN = "postgresql";
/** Content type of a TLS handshake record: what a ClientHello begins with. */
const TLS_HANDSHAKE = 0x16;
const HEAD_BYTES = 8;

/** A connection whose first packet is here; it reads nothing until somebody reads from it. */
export interface OpenedClient {
  /** A TLSSocket where there is TLS. */
  readonly stream: Duplex;
  readonly packet: StartupPacket | CancelPacket;
  readonly isEncrypted: boolean;
  /** It sends its password in the clear, without being asked (Neon's drivers over WebSocket). */
  readonly asksPassword: boolean;
  /** A JWT that it has shown already (of a WebSocket's request), in place of a password. */
  readonly token: string | undefined;
  /** As the client sent it. */
  readonly serverName: string | undefined;
  /** For channel binding. */
  readonly endPointHash: Buffer | undefined;
}

type Encrypted = Omit<OpenedClient, "packet">;

export interface OpeningOptions {
  /** Undefined: no TLS in this connection. */
  readonly certificates: TlsCertificates | undefined;
  /** Tells where errors are to be written to, once there is TLS. */
  readonly onStream: (stream: Duplex) => void;
  /** What is known of the connection already. */
  readonly outer?: Pick<OpenedClient, "isEncrypted" | "serverName" | "asksPassword" | "token">;
}

/** StorageError `client-gone`, or what the client is to be told. */
export async function openClient(socket: Duplex, options: OpeningOptions): Promise<OpenedClient> {
  const plain = {
    stream: socket,
    endPointHash: undefined,
    ...(options.outer ?? {
      isEncrypted: false,
      serverName: undefined,
      asksPassword: false,
      token: undefined,
    }),
  };
  let head = await readExactly(socket, HEAD_BYTES);
  if (head[0] === TLS_HANDSHAKE && options.certificates !== undefined) {
    socket.unshift(head);
    return finish(await startTls(socket, options, true));
  }
  let code = checkedCode(head);
  if (code === GSSENC_REQUEST) {
    refuseEarlyBytes(socket);
    socket.write("N");
    head = await readExactly(socket, HEAD_BYTES);
    code = checkedCode(head);
  }
  if (code === SSL_REQUEST) {
    refuseEarlyBytes(socket);
    if (options.certificates === undefined) {
      socket.write("N");
      return finish(plain);
    }
    socket.write("S");
    return finish(await startTls(socket, options, false));
  }
  return finish(plain, head);
}

function checkedCode(head: Buffer): number {
  const code = head.readInt32BE(4);
  checkStartupLength(head.readInt32BE(0), code);
  return code;
}

function refuseEarlyBytes(socket: Duplex): void {
  if (socket.readableLength > 0) {
    throw protocolViolation("received unencrypted data after the request for encryption");
  }
}

/** The start-up packet itself; `head` where its first bytes are here. */
async function finish(opened: Encrypted, head?: Buffer): Promise<OpenedClient> {
  const first = head ?? (await readExactly(opened.stream, HEAD_BYTES));
  const code = checkedCode(first);
  if (code === SSL_REQUEST || code === GSSENC_REQUEST) {
    throw protocolViolation("asks for encryption again");
  }
  const body = await readExactly(opened.stream, first.readInt32BE(0) - HEAD_BYTES);
  return { ...opened, packet: parseStartup(code, body) };
}

function startTls(
  socket: Duplex,
  { certificates, onStream }: OpeningOptions,
  isDirect: boolean,
): Promise<Encrypted> {
  return new Promise((resolve, reject) => {
    let certificate = certificates!.find();
    const stream = new TLSSocket(socket, {
      isServer: true,
      secureContext: certificate.context,
      SNICallback: (name, done) => {
        certificate = certificates!.find(name);
        done(null, certificate.context);
      },
      // Undefined refuses the handshake: the client insists on another protocol.
      ALPNCallback: ({ protocols }) => (protocols.includes(ALPN) ? ALPN : undefined),
    });
    const failed = (error: unknown) => {
      socket.destroy();
      reject(clientError("08P01", "tls-failed", `TLS handshake failed: ${errorMessage(error)}`));
    };
    stream.on("error", failed);
    // What a handshake dies of that `error` is not told of.
    stream.on("_tlsError", failed);
    stream.once("close", () => reject(clientGone()));
    stream.once("secure", () => {
      if (isDirect && stream.alpnProtocol !== ALPN) {
        failed("direct TLS needs ALPN 'postgresql'");
        return;
      }
      onStream(stream);
      const { servername } = stream as unknown as { servername?: string | false };
      resolve({
        stream,
        isEncrypted: true,
        asksPassword: false,
        token: undefined,
        serverName: servername || undefined,
        endPointHash: certificate.endPointHash,
      });
    });
  });
}
