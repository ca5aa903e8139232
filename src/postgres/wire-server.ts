// The server side of the Postgres protocol: start-up, simple queries and CopyBoth, for our services.

import { createServer, type Server, type Socket } from "node:net";
import { errorKind, errorMessage, SQLSTATE, StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { CopyChannel } from "./copy-channel.ts";
import {
  cstring,
  encodeMessage,
  int16,
  int32,
  MessageReader,
  readCstrings,
} from "./wire-messages.ts";

const SSL_REQUEST = 80877103;
const GSSENC_REQUEST = 80877104;
const CANCEL_REQUEST = 80877102;
const PROTOCOL_3 = 196608;
const MAX_STARTUP_BYTES = 10_000;
const TEXT_OID = 25;

export interface WireHandlers {
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
  channel: CopyChannel | undefined;
  /** Told to the client when `onSession` has returned. Stock clients refuse a major above their own. */
  serverVersion = "17.0 (Strata)";

  constructor(socket: Socket, parameters: ReadonlyMap<string, string>) {
    this.#socket = socket;
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
    this.channel = new CopyChannel(this.#socket);
    return this.channel;
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

const READY = encodeMessage("Z", Buffer.from("I"));

/** State of one socket from its first byte to its end. */
class ServerConnection {
  readonly #socket: Socket;
  readonly #handlers: WireHandlers;
  readonly #reader = new MessageReader();
  #startup: Buffer | undefined = Buffer.alloc(0);
  #session: WireSession | undefined;
  #queries: Promise<void> = Promise.resolve();

  constructor(socket: Socket, handlers: WireHandlers) {
    this.#socket = socket;
    this.#handlers = handlers;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => {
      try {
        this.#receive(chunk);
      } catch (error) {
        this.#refuse(error);
      }
    });
    socket.on("error", (error) => this.#session?.channel?.deliverClose(error));
    socket.on("close", () => this.#session?.channel?.deliverClose());
  }

  #receive(chunk: Buffer): void {
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
      this.#socket.write("N");
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
    const words = readCstrings(bytes.subarray(8, length));
    const parameters = new Map<string, string>();
    for (let i = 0; i + 1 < words.length; i += 2) {
      parameters.set(words[i]!, words[i + 1]!);
    }
    this.#startup = undefined;
    const session = new WireSession(this.#socket, parameters);
    this.#session = session;
    this.#queries = this.#greet(session, code);
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

  #receiveMessage(type: string, body: Uint8Array): void {
    const channel = this.#session?.channel;
    if (channel !== undefined) {
      if (type === "d") {
        channel.deliver(body);
      } else if (type === "c" || type === "f" || type === "X") {
        channel.deliverClose();
        this.#socket.end();
      }
      return;
    }
    switch (type) {
      case "Q": {
        const sql = readCstrings(body)[0] ?? "";
        this.#queries = this.#queries.then(() => this.#runQuery(sql));
        break;
      }
      case "X":
        this.#socket.end();
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
    if (session === undefined || this.#socket.destroyed) {
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
      this.#socket.write(errorResponse(error, "ERROR"));
    }
    if (session.channel === undefined) {
      this.#socket.write(READY);
    }
  }

  #refuse(error: unknown): void {
    this.#handlers.logger.info(
      { reason: errorMessage(error), remote: this.#session?.remote },
      "connection refused",
    );
    this.#session?.channel?.deliverClose(error instanceof Error ? error : undefined);
    if (!this.#socket.destroyed) {
      this.#socket.end(errorResponse(error, "FATAL"));
    }
  }
}

/** Listens and hands sessions and queries to the handlers. */
export class WireServer {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(handlers: WireHandlers) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      new ServerConnection(socket, handlers);
    });
  }

  /** Port 0 takes a free one. StorageError `conflict` where the address is in use. */
  listen(host: string, port: number): Promise<{ port: number }> {
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

  /** Stops listening and ends every connection. */
  close(): Promise<void> {
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}
