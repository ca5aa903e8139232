// The client side of the Postgres protocol between our services: start-up, simple queries, CopyBoth.

import { createConnection, type Socket } from "node:net";
import { ownToken } from "../../base/auth/service-token.ts";
import { setIdleTimer } from "../../base/clock.ts";
import { type ErrorKind, SQLSTATE, StorageError } from "../../base/errors.ts";
import { clientTls, connectTls, tlsProblem } from "../../base/network/service-tls.ts";
import { CopyChannel } from "./copy-channel.ts";
import {
  cstring,
  encodeMessage,
  int32,
  MessageReader,
  PROTOCOL_3,
  readCstrings,
} from "./wire-messages.ts";

const DEFAULT_TIMEOUT_MS = 10_000;
/** AuthenticationCleartextPassword: how our services ask for a service token. Postgres is never told to ask so. */
const CLEARTEXT_PASSWORD = 3;
const KIND_OF_SQLSTATE = new Map<string, ErrorKind>(
  Object.entries(SQLSTATE).map(([kind, state]) => [state, kind as ErrorKind]),
);

export interface WireAddress {
  /** As for libpq: where it begins with a slash, the directory of a unix socket. */
  readonly host: string;
  readonly port: number;
  /** Start-up parameters: `user`, `database`, `options`, `replication`, ... */
  readonly parameters?: Readonly<Record<string, string>>;
  /** For connecting and for each query; default 10 s, 0 waits for ever. */
  readonly timeoutMs?: number;
  /** Of a server that is Postgres, whose states are more than our services'; undefined: as one of ours means it. */
  readonly kindOfState?: (sqlState: string) => ErrorKind | undefined;
  /**
   * For much that is received. A payload of CopyData must then really not be kept after the call: the next read of any such
   * connection overwrites it.
   */
  readonly sharesReceiveBuffer?: boolean;
}

export interface WireResult {
  readonly columns: string[];
  readonly rows: (string | null)[][];
}

/**
 * Of all connections with `sharesReceiveBuffer`: what a read of a socket brought is handed out before the next one. Large, so
 * that pages come in few reads; always the same, so that there is nothing to allocate and to collect. Not a Buffer, whose `slice` is no copy.
 */
const RECEIVE_BUFFER = new Uint8Array(256 * 1024);

interface PendingReply {
  readonly result: WireResult;
  error?: StorageError;
  /** Set for CopyBoth: resolves at CopyBothResponse instead of ReadyForQuery. */
  readonly wantsCopy: boolean;
  resolve(value: WireResult | CopyChannel): void;
  reject(error: Error): void;
}

/**
 * Connects and goes through start-up, with TLS where other machines can reach the address. StorageError `unavailable` where nobody
 * answers, or with no certificate that is believed.
 */
export async function connectWire(address: WireAddress): Promise<WireConnection> {
  const connection = new WireConnection(address);
  await connection.ready;
  return connection;
}

/** Splits `host:port`; StorageError `invalid` where it is not one. */
export function parseHostPort(text: string): { host: string; port: number } {
  const match = /^\[?([^\]]*?)\]?:(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || match[1] === "" || port > 65535) {
    throw new StorageError("invalid", "bad-address", `not a host:port: '${text}'`);
  }
  return { host: match[1]!, port };
}

export class WireConnection {
  /** Settles when start-up is done. */
  readonly ready: Promise<void>;
  readonly #socket: Socket;
  readonly #reader = new MessageReader();
  readonly #name: string;
  readonly #timeoutMs: number;
  readonly #kindOfState: WireAddress["kindOfState"];
  #channel: CopyChannel | undefined;
  #pending: PendingReply | undefined;
  #failure: StorageError | undefined;
  #closeHandlers: ((error?: Error) => void)[] = [];

  constructor(address: WireAddress) {
    this.#name = `${address.host}:${address.port}`;
    this.#timeoutMs = address.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#kindOfState = address.kindOfState;
    const { host, port } = address;
    const onread = {
      buffer: RECEIVE_BUFFER,
      callback: (length: number) => {
        this.#receive(RECEIVE_BUFFER.subarray(0, length));
        return true;
      },
    };
    const reading = address.sharesReceiveBuffer === true ? { onread } : {};
    const tls = host.startsWith("/") ? undefined : clientTls(host);
    if (host.startsWith("/")) {
      this.#socket = createConnection({ path: `${host}/.s.PGSQL.${port}`, ...reading });
    } else if (tls === undefined) {
      this.#socket = createConnection({ host, port, noDelay: true, ...reading });
      this.#socket.setKeepAlive(true, 10_000);
    } else {
      // Direct, without asking first: a round trip less, and nothing that could be answered with "no".
      this.#socket = connectTls(tls, { host, port, ALPNProtocols: ["postgresql"], ...reading });
    }
    const connected = tls === undefined ? "connect" : "secureConnect";
    this.#socket.once(connected, () => this.#sendStartup(address.parameters ?? {}));
    this.#socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    this.#socket.on("error", (error) => this.#fail(`connection to ${this.#name} failed`, error));
    this.#socket.on("close", () => this.#fail(`connection to ${this.#name} closed`));
    this.ready = this.#reply(false, "connect").then(() => undefined);
  }

  get closed(): boolean {
    return this.#failure !== undefined;
  }

  /** One simple query; one at a time. Errors keep the kind that the server's SQLSTATE names. */
  query(sql: string): Promise<WireResult> {
    const reply = this.#reply(false, withoutTexts(sql)) as Promise<WireResult>;
    this.#socket.write(encodeMessage("Q", cstring(sql)));
    return reply;
  }

  /** Sends a command that the server answers with CopyBoth. */
  copyBoth(sql: string): Promise<CopyChannel> {
    const reply = this.#reply(true, withoutTexts(sql)) as Promise<CopyChannel>;
    this.#socket.write(encodeMessage("Q", cstring(sql)));
    return reply;
  }

  /** Called once when the connection ends, whoever ended it. */
  onClose(handler: (error?: Error) => void): void {
    this.#closeHandlers.push(handler);
  }

  close(): void {
    this.#failure ??= new StorageError("unavailable", "closed", "connection was closed here");
    this.#socket.end(encodeMessage("X"));
    this.#socket.unref();
    this.#ended();
  }

  #sendStartup(parameters: Readonly<Record<string, string>>): void {
    const words = Object.entries({ user: "strata", database: "strata", ...parameters });
    const body = Buffer.concat([
      int32(PROTOCOL_3),
      ...words.flatMap(([name, value]) => [cstring(name), cstring(value)]),
      Buffer.from([0]),
    ]);
    this.#socket.write(Buffer.concat([int32(body.length + 4), body]));
  }

  #reply(wantsCopy: boolean, what: string): Promise<WireResult | CopyChannel> {
    if (this.#failure !== undefined) {
      return Promise.reject(this.#failure);
    }
    if (this.#pending !== undefined || this.#channel !== undefined) {
      throw new Error(`connection to ${this.#name} is busy: ${what}`);
    }
    return new Promise((resolve, reject) => {
      const pending: PendingReply = {
        result: { columns: [], rows: [] },
        wantsCopy,
        resolve,
        reject,
      };
      this.#pending = pending;
      if (this.#timeoutMs > 0) {
        const timer = setIdleTimer(() => {
          if (this.#pending === pending) {
            this.#fail(`no answer from ${this.#name} in ${this.#timeoutMs} ms: ${what}`);
            this.#socket.destroy();
          }
        }, this.#timeoutMs);
        const settle = <T>(action: (value: T) => void) => {
          return (value: T) => {
            timer?.cancel();
            action(value);
          };
        };
        pending.resolve = settle(resolve);
        pending.reject = settle(reject);
      }
    });
  }

  #receive(chunk: Uint8Array): void {
    try {
      this.#reader.push(chunk, (type, body) => {
        this.#receiveMessage(String.fromCharCode(type), body);
      });
    } catch (error) {
      this.#fail(`bad answer from ${this.#name}`, error);
      this.#socket.destroy();
      return;
    }
    this.#channel?.deliverIdle();
  }

  #receiveMessage(type: string, body: Uint8Array): void {
    if (this.#channel !== undefined && type === "d") {
      this.#channel.deliver(body);
      return;
    }
    const pending = this.#pending;
    switch (type) {
      case "T":
        pending?.result.columns.push(...parseColumns(body));
        break;
      case "D":
        pending?.result.rows.push(parseRow(body));
        break;
      case "E":
        this.#receiveError(parseError(body, this.#kindOfState));
        break;
      case "W":
        if (pending?.wantsCopy) {
          this.#pending = undefined;
          this.#channel = new CopyChannel(this.#socket);
          pending.resolve(this.#channel);
        }
        break;
      case "c":
        this.#fail(`${this.#name} ended the stream`);
        this.#socket.end();
        break;
      case "R":
        this.#checkAuthentication(body);
        break;
      case "Z":
        this.#pending = undefined;
        if (pending?.error !== undefined) {
          pending.reject(pending.error);
        } else {
          pending?.resolve(pending.result);
        }
        break;
      default:
        // ParameterStatus, BackendKeyData, NoticeResponse, CommandComplete: nothing to do.
        break;
    }
  }

  #receiveError(error: StorageError): void {
    if (this.#pending !== undefined && !error.fields["fatal"]) {
      this.#pending.error = error;
      return;
    }
    this.#failure ??= error;
    this.#channel?.deliverClose(error);
    this.#pending?.reject(error);
    this.#pending = undefined;
  }

  #checkAuthentication(body: Uint8Array): void {
    const method = new DataView(body.buffer, body.byteOffset, body.length).getInt32(0);
    const token = method === CLEARTEXT_PASSWORD ? ownToken() : undefined;
    if (token !== undefined) {
      this.#socket.write(encodeMessage("p", cstring(token)));
    } else if (method !== 0) {
      this.#fail(`${this.#name} asks for authentication method ${method}, which is not supported`);
      this.#socket.destroy();
    }
  }

  #fail(message: string, cause?: unknown): void {
    if (this.#failure === undefined) {
      const reason =
        tlsProblem(cause, this.#name) ?? (cause instanceof Error ? cause.message : undefined);
      const detail = reason === undefined ? message : `${message}: ${reason}`;
      this.#failure = new StorageError("unavailable", "connection-lost", detail, { cause });
    }
    this.#ended();
  }

  #ended(): void {
    const failure = this.#failure;
    this.#channel?.deliverClose(failure);
    const pending = this.#pending;
    this.#pending = undefined;
    if (failure !== undefined) {
      pending?.reject(failure);
    }
    const handlers = this.#closeHandlers;
    this.#closeHandlers = [];
    for (const handler of handlers) {
      handler(failure);
    }
  }
}

/** For messages: what a statement has between quotes may be a secret. */
function withoutTexts(sql: string): string {
  return sql.split("'", 1)[0]!.slice(0, 200);
}

function parseColumns(body: Uint8Array): string[] {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const columns: string[] = [];
  let at = 2;
  for (let i = 0; i < view.getInt16(0); i++) {
    const end = body.indexOf(0, at);
    columns.push(Buffer.from(body.subarray(at, end)).toString());
    at = end + 19;
  }
  return columns;
}

function parseRow(body: Uint8Array): (string | null)[] {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const row: (string | null)[] = [];
  let at = 2;
  for (let i = 0; i < view.getInt16(0); i++) {
    const length = view.getInt32(at);
    at += 4;
    row.push(length < 0 ? null : Buffer.from(body.subarray(at, at + length)).toString());
    at += Math.max(length, 0);
  }
  return row;
}

function parseError(body: Uint8Array, kindOfState: WireAddress["kindOfState"]): StorageError {
  const fields = new Map(readCstrings(body).map((text) => [text[0]!, text.slice(1)]));
  const state = fields.get("C") ?? "";
  const kind = kindOfState?.(state) ?? KIND_OF_SQLSTATE.get(state) ?? "internal";
  return new StorageError(kind, fields.get("R") ?? "remote-error", fields.get("M") ?? "error", {
    fields: { sqlstate: fields.get("C"), fatal: fields.get("S") === "FATAL" },
  });
}
