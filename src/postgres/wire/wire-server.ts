// The server side of the Postgres protocol: start-up, simple queries and CopyBoth, for our services.

import { createServer, type Server, type Socket } from "node:net";
import {
  requireScope,
  type ServiceName,
  type TokenClaims,
  type TokenVerifier,
} from "../../base/auth/service-token.ts";
import { setTimer, type Timer } from "../../base/clock.ts";
import { errorKind, errorMessage, SQLSTATE, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { freeMemory } from "../../base/memory/free-memory.ts";
import { isLoopback } from "../../base/network/addresses.ts";
import { emitDataDirectly } from "../../base/network/direct-data.ts";
import type { TlsCertificates } from "../../base/network/tls-certificates.ts";
import { CopyChannel } from "./copy-channel.ts";
import {
  cstring,
  encodeMessage,
  int16,
  int32,
  MAX_MESSAGE_BYTES,
  MessageReader,
  PROTOCOL_3,
  ReceiveBudget,
  readCstrings,
} from "./wire-messages.ts";

const SSL_REQUEST = 80877103;
const GSSENC_REQUEST = 80877104;
const CANCEL_REQUEST = 80877102;
const MAX_STARTUP_BYTES = 10_000;
/** One of each kind. */
const MAX_ENCRYPTION_REQUESTS = 2;
const TEXT_OID = 25;
/** AuthenticationCleartextPassword. */
const CLEARTEXT_PASSWORD = 3;
/** From connecting to the first command. Postgres's authentication_timeout. */
const STARTUP_TIMEOUT_MS = 60_000;
/** For the other side to take our last answer and close. */
const LINGER_MS = 1000;
/** Unfinished messages of all connections. */
const MAX_UNFINISHED_BYTES = 512 * 1024 * 1024;
/** Commands that wait for the one before; answers that wait for a client that does not read. */
const MAX_WAITING_QUERIES = 100;
const MAX_UNSENT_BYTES = 1024 * 1024;

export interface WireHandlers {
  /** Who connects must give a service token as the password; undefined: everybody may. */
  readonly callers?: TokenVerifier | undefined;
  /** Called after start-up; throwing refuses the connection. */
  onSession?(session: WireSession): void | Promise<void>;
  /** One simple query. Answers through `session`; a thrown error becomes an ErrorResponse. */
  onQuery(session: WireSession, sql: string): Promise<void>;
  logger: Logger;
}

/** One client's connection. */
export class WireSession {
  /** What the start-up packet said: user, database, application_name, ... */
  readonly parameters: ReadonlyMap<string, string>;
  /** `-c key=value` and bare `key=value` words of the start-up parameter `options`. */
  readonly options: ReadonlyMap<string, string>;
  readonly remote: string;
  readonly #socket: Socket;
  readonly #refuse: (error: unknown) => void;
  channel: CopyChannel | undefined;
  /** Of the token that it gave; undefined where none is asked for. */
  caller: TokenClaims | undefined;
  /** Told to the client when `onSession` has returned. Stock clients refuse a major above their own. */
  serverVersion = "17.0 (Strata)";

  constructor(
    socket: Socket,
    parameters: ReadonlyMap<string, string>,
    refuse: (error: unknown) => void,
  ) {
    this.#socket = socket;
    this.#refuse = refuse;
    this.parameters = parameters;
    this.options = parseOptions(parameters.get("options") ?? "");
    this.remote = `${socket.remoteAddress ?? "?"}:${socket.remotePort ?? 0}`;
  }

  /** A whole text-format result; `tag` as in CommandComplete, for example `SELECT 1`. */
  sendRows(
    columns: readonly string[],
    rows: readonly (readonly (string | null)[])[],
    tag: string,
  ): void {
    const description: Uint8Array[] = [int16(columns.length)];
    for (const column of columns) {
      description.push(cstring(column), int32(0), int16(0), int32(TEXT_OID));
      description.push(int16(-1), int32(-1), int16(0));
    }
    this.#socket.write(encodeMessage("T", ...description));
    for (const row of rows) {
      const parts: Uint8Array[] = [int16(row.length)];
      for (const value of row) {
        const bytes = value === null ? undefined : Buffer.from(value);
        parts.push(int32(bytes?.length ?? -1));
        if (bytes !== undefined) {
          parts.push(bytes);
        }
      }
      this.#socket.write(encodeMessage("D", ...parts));
    }
    this.sendCommandComplete(tag);
  }

  sendCommandComplete(tag: string): void {
    this.#socket.write(encodeMessage("C", cstring(tag)));
  }

  /** Switches to CopyBoth; the connection serves nothing else afterwards. */
  copyBoth(): CopyChannel {
    this.#socket.write(encodeMessage("W", Buffer.from([0]), int16(0)));
    emitDataDirectly(this.#socket);
    this.channel = new CopyChannel(this.#socket);
    return this.channel;
  }

  /** StorageError `forbidden` where who connected may not do what belongs to `tenantId`. */
  requireTenant(service: ServiceName, tenantId: string): void {
    if (this.caller !== undefined) {
      requireScope(this.caller, service, tenantId);
    }
  }

  /** Ends the connection with an ErrorResponse. */
  refuse(error: unknown): void {
    this.#refuse(error);
  }
}

function parseOptions(text: string): Map<string, string> {
  const options = new Map<string, string>();
  for (const word of text.split(/\s+/)) {
    const match = /^(?:-c|--)?([A-Za-z_][\w.-]*)=(.*)$/.exec(word);
    if (match !== null) {
      options.set(match[1]!, match[2]!);
    }
  }
  return options;
}

function errorResponse(error: unknown, severity: "ERROR" | "FATAL"): Buffer {
  const fields = [`S${severity}`, `V${severity}`, `C${SQLSTATE[errorKind(error)]}`];
  if (error instanceof StorageError) {
    fields.push(`R${error.code}`);
  }
  fields.push(`M${errorMessage(error)}`);
  return encodeMessage("E", ...fields.map(cstring), Buffer.from([0]));
}

const NOTHING = new Uint8Array(0);
const READY = encodeMessage("Z", Buffer.from("I"));

/** What a ClientHello begins with: a record of content type handshake. As a length of a start-up packet it would be 369 MB. */
const TLS_HANDSHAKE = 0x16;
/** Registered for Postgres's protocol; what is direct TLS has to name it, so that it is no other protocol's. */
const ALPN = "postgresql";

/**
 * State of one socket from its first byte to its end. With certificates nothing but a refusal leaves in the clear: TLS begins
 * directly (Postgres 17's sslnegotiation=direct, our own clients) or where the client asks for it (SSLRequest).
 */
class ServerConnection {
  #socket: Socket;
  readonly #handlers: WireHandlers;
  readonly #reader: MessageReader;
  readonly #startupTimeoutMs: number;
  /** Set while TLS is still to come. */
  #certificates: TlsCertificates | undefined;
  #startup: Buffer | undefined = Buffer.alloc(0);
  #session: WireSession | undefined;
  #queries: Promise<void> = Promise.resolve();
  #encryptionRequests = 0;
  #waitingQueries = 0;
  /** Until the first command; then, of a connection that ends, until it is cut. */
  #timer: Timer | undefined;
  #ending = false;
  /** Set while its token is waited for. */
  #protocol: number | undefined;

  constructor(
    socket: Socket,
    handlers: WireHandlers,
    budget: ReceiveBudget,
    startupTimeoutMs: number,
    certificates: TlsCertificates | undefined,
  ) {
    this.#socket = socket;
    this.#certificates = certificates;
    this.#startupTimeoutMs = startupTimeoutMs;
    this.#handlers = handlers;
    this.#reader = new MessageReader(MAX_MESSAGE_BYTES, budget);
    this.#startTimer();
    socket.setNoDelay(true);
    this.#listen();
    socket.on("close", () => {
      this.#timer?.cancel();
      this.#reader.release();
      this.#session?.channel?.deliverClose();
    });
  }

  #startTimer(): void {
    const timeoutMs = this.#startupTimeoutMs;
    this.#timer = setTimer(() => {
      const message = `no command within ${timeoutMs} ms`;
      this.#refuse(new StorageError("unavailable", "startup-timeout", message));
    }, timeoutMs);
  }

  #listen(): void {
    const socket = this.#socket;
    socket.on("data", this.#onData);
    // Nothing more comes; what we have written may still leave.
    socket.on("end", this.#onEnd);
    socket.on("error", (error) => this.#session?.channel?.deliverClose(error));
  }

  readonly #onData = (chunk: Buffer): void => {
    try {
      if (!this.#ending) {
        // A Buffer's slice() is no copy, and who keeps a part of what is lent takes one.
        this.#receive(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
        freeMemory(chunk);
      }
    } catch (error) {
      this.#refuse(error);
    }
  };

  readonly #onEnd = (): void => this.#end();

  /** The rest of the connection is inside of TLS; `first` are bytes of it that were read already. */
  async #startTls(first: Buffer, isDirect: boolean): Promise<void> {
    const certificates = this.#certificates!;
    const socket = this.#socket;
    this.#certificates = undefined;
    this.#startup = Buffer.alloc(0);
    socket.off("data", this.#onData);
    socket.off("end", this.#onEnd);
    socket.pause();
    // Too late is refused by an alert, or by nothing, but not in the clear.
    this.#timer?.cancel();
    if (first.length > 0) {
      socket.unshift(first);
    }
    try {
      const { serveTls } = await import("../../base/network/tls-listener.ts");
      const stream = await serveTls(socket, {
        certificates,
        protocols: [ALPN],
        timeoutMs: this.#startupTimeoutMs,
      });
      if (isDirect && stream.alpnProtocol !== ALPN) {
        throw new StorageError("invalid", "no-alpn", `direct TLS needs ALPN '${ALPN}'`);
      }
      this.#socket = stream;
      this.#startTimer();
      this.#listen();
    } catch (error) {
      this.#ending = true;
      socket.destroy();
      const remote = `${socket.remoteAddress ?? "?"}:${socket.remotePort ?? 0}`;
      const reason = errorMessage(error);
      this.#handlers.logger.info({ reason, remote }, "connection refused");
    }
  }

  /**
   * Writes the last bytes and closes; cuts the connection where the other side does not. What it still
   * sends is read and dropped: with unread bytes the kernel would reset, and the error be lost.
   */
  #end(last: Uint8Array = NOTHING): void {
    if (this.#ending) {
      return;
    }
    this.#ending = true;
    this.#reader.release();
    this.#timer?.cancel();
    this.#timer = setTimer(() => this.#socket.destroy(), LINGER_MS);
    this.#socket.resume();
    this.#socket.end(last);
  }

  #receive(chunk: Uint8Array): void {
    if (this.#startup !== undefined) {
      this.#startup = Buffer.concat([this.#startup, chunk]);
      this.#receiveStartup();
      return;
    }
    this.#reader.push(chunk, (type, body) => {
      this.#receiveMessage(String.fromCharCode(type), body);
    });
    this.#session?.channel?.deliverIdle();
  }

  #receiveStartup(): void {
    const bytes = this.#startup;
    if (bytes?.[0] === TLS_HANDSHAKE && this.#certificates !== undefined) {
      void this.#startTls(bytes, true);
      return;
    }
    if (bytes === undefined || bytes.length < 8) {
      return;
    }
    const length = bytes.readInt32BE(0);
    if (length < 8 || length > MAX_STARTUP_BYTES) {
      throw new StorageError("invalid", "bad-startup", `start-up packet of ${length} bytes`);
    }
    if (bytes.length < length) {
      return;
    }
    const code = bytes.readInt32BE(4);
    const rest = bytes.subarray(length);
    if (code === SSL_REQUEST || code === GSSENC_REQUEST) {
      this.#encryptionRequests++;
      if (this.#encryptionRequests > MAX_ENCRYPTION_REQUESTS) {
        throw new StorageError("invalid", "bad-startup", "asks for encryption again and again");
      }
      const startsTls = code === SSL_REQUEST && this.#certificates !== undefined;
      if (startsTls && rest.length > 0) {
        // Sent in the clear, by who knows whom, to be taken for what was encrypted (CVE-2021-23214).
        throw new StorageError("invalid", "bad-startup", "data came with the request for TLS");
      }
      this.#socket.write(startsTls ? "S" : "N");
      if (startsTls) {
        void this.#startTls(rest, false);
        return;
      }
      this.#startup = rest;
      this.#receiveStartup();
      return;
    }
    if (code === CANCEL_REQUEST) {
      this.#socket.destroy();
      return;
    }
    if (code >> 16 !== 3) {
      throw new StorageError("invalid", "bad-protocol", `unsupported protocol version ${code}`);
    }
    if (this.#certificates !== undefined) {
      throw new StorageError(
        "forbidden",
        "tls-needed",
        "this port speaks TLS only: sslmode=verify-full with sslrootcert= the authority's certificate ('strata ca trust' says where it is)",
      );
    }
    const words = readCstrings(bytes.subarray(8, length));
    const parameters = new Map<string, string>();
    for (let i = 0; i + 1 < words.length; i += 2) {
      parameters.set(words[i]!, words[i + 1]!);
    }
    this.#startup = undefined;
    const session = new WireSession(this.#socket, parameters, (error) => this.#refuse(error));
    this.#session = session;
    if (this.#handlers.callers === undefined) {
      this.#queries = this.#greet(session, code);
    } else {
      this.#protocol = code;
      this.#socket.write(encodeMessage("R", int32(CLEARTEXT_PASSWORD)));
    }
    if (rest.length > 0) {
      this.#receive(rest);
    }
  }

  async #greet(session: WireSession, protocol: number): Promise<void> {
    try {
      await this.#handlers.onSession?.(session);
    } catch (error) {
      this.#refuse(error);
      return;
    }
    if (this.#ending) {
      return;
    }
    if (protocol !== PROTOCOL_3) {
      // NegotiateProtocolVersion: newest minor we speak, no unknown options.
      this.#socket.write(encodeMessage("v", int32(PROTOCOL_3), int32(0)));
    }
    const status = (name: string, value: string) =>
      encodeMessage("S", cstring(name), cstring(value));
    this.#socket.write(
      Buffer.concat([
        encodeMessage("R", int32(0)),
        status("server_version", session.serverVersion),
        status("client_encoding", "UTF8"),
        status("server_encoding", "UTF8"),
        status("integer_datetimes", "on"),
        status("standard_conforming_strings", "on"),
        READY,
      ]),
    );
  }

  #receiveToken(type: string, body: Uint8Array, protocol: number): void {
    const { callers } = this.#handlers;
    const session = this.#session!;
    if (type === "X") {
      this.#end();
      return;
    }
    if (type !== "p") {
      throw new StorageError("invalid", "bad-startup", "expected a password message");
    }
    session.caller = callers?.verify(readCstrings(body)[0]);
    this.#protocol = undefined;
    this.#queries = this.#greet(session, protocol);
  }

  #receiveMessage(type: string, body: Uint8Array): void {
    if (this.#protocol !== undefined) {
      this.#receiveToken(type, body, this.#protocol);
      return;
    }
    const channel = this.#session?.channel;
    if (channel !== undefined) {
      if (type === "d") {
        channel.deliver(body);
      } else if (type === "c" || type === "f" || type === "X") {
        channel.deliverClose();
        this.#end();
      }
      return;
    }
    switch (type) {
      case "Q": {
        const sql = readCstrings(body)[0] ?? "";
        this.#timer?.cancel();
        this.#waitingQueries++;
        if (this.#waitingQueries > MAX_WAITING_QUERIES) {
          const message = `${this.#waitingQueries} commands at once`;
          throw new StorageError("unavailable", "too-many-commands", message);
        }
        this.#queries = this.#queries.then(() => this.#runQuery(sql));
        break;
      }
      case "X":
        this.#end();
        break;
      case "H":
      case "S":
      case "p":
        break;
      default:
        throw new StorageError(
          "unsupported",
          "bad-message",
          `message type '${type}' is not supported here: only simple queries are`,
        );
    }
  }

  async #runQuery(sql: string): Promise<void> {
    const session = this.#session;
    await this.#answersRead();
    this.#waitingQueries--;
    if (session === undefined || this.#ending || this.#socket.destroyed) {
      return;
    }
    try {
      await this.#handlers.onQuery(session, sql.replace(/;\s*$/, ""));
    } catch (error) {
      if (session.channel !== undefined) {
        this.#refuse(error);
        return;
      }
      this.#handlers.logger.debug({ error, sql, remote: session.remote }, "query refused");
      if (!this.#ending) {
        this.#socket.write(errorResponse(error, "ERROR"));
      }
    }
    if (session.channel === undefined && !this.#ending) {
      this.#socket.write(READY);
    }
  }

  /** Resolves when a client that asks without reading has read most, or is gone. */
  #answersRead(): Promise<void> {
    const socket = this.#socket;
    if (socket.writableLength < MAX_UNSENT_BYTES || socket.destroyed) {
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const done = () => {
        socket.off("drain", done);
        socket.off("close", done);
        resolve();
      };
      socket.on("drain", done);
      socket.on("close", done);
    });
  }

  #refuse(error: unknown): void {
    if (this.#ending) {
      return;
    }
    this.#handlers.logger.info(
      { reason: errorMessage(error), remote: this.#session?.remote },
      "connection refused",
    );
    this.#session?.channel?.deliverClose(error instanceof Error ? error : undefined);
    if (!this.#socket.destroyed) {
      this.#end(errorResponse(error, "FATAL"));
    }
  }
}

export interface WireServerOptions {
  /** From connecting to the first command; a minute where none is given. */
  readonly startupTimeoutMs?: number | undefined;
  /** With TLS, and without plain text, on an address that other machines can reach. */
  readonly certificates?: TlsCertificates | undefined;
}

/** Listens and hands sessions and queries to the handlers. */
export class WireServer {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #given: TlsCertificates | undefined;
  /** Of the address that it listens on. */
  #certificates: TlsCertificates | undefined;

  constructor(
    handlers: WireHandlers,
    { startupTimeoutMs = STARTUP_TIMEOUT_MS, certificates }: WireServerOptions = {},
  ) {
    this.#given = certificates;
    const budget = new ReceiveBudget(MAX_UNFINISHED_BYTES);
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      new ServerConnection(socket, handlers, budget, startupTimeoutMs, this.#certificates);
    });
  }

  /** Port 0 takes a free one. StorageError `conflict` where the address is in use. */
  listen(host: string, port: number): Promise<{ port: number }> {
    this.#certificates = isLoopback(host) ? undefined : this.#given;
    return new Promise((resolve, reject) => {
      this.#server.once("error", (error: NodeJS.ErrnoException) => {
        reject(
          error.code === "EADDRINUSE"
            ? new StorageError("conflict", "port-in-use", `port in use: ${host}:${port}`, {
                cause: error,
              })
            : error,
        );
      });
      this.#server.listen({ host, port }, () => {
        const address = this.#server.address();
        resolve({ port: typeof address === "object" && address !== null ? address.port : port });
      });
    });
  }

  /** On a unix socket: `path` is made, and must not be there. */
  listenAt(path: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ path }, resolve);
    });
  }

  /** Stops listening and ends every connection. */
  close(): Promise<void> {
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}
