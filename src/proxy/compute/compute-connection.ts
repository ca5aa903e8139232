// A connection to the Postgres of a compute: the login with the keys of a role, then bytes for whoever uses it.
//
// What it reads lies in one buffer of the whole process (net's `onread`), so that a read costs neither memory nor an event:
// 15 to 40 % of the user time of a proxied transaction (docs/decisions/0029-the-proxy.md).

import { createConnection, type Socket } from "node:net";
import { setTimer } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { ScramKeys } from "../../postgres/scram.ts";
import { SCRAM_SHA_256, ScramClient } from "../../postgres/wire/scram-exchange.ts";
import { cstring, encodeMessage, int32, readCstrings } from "../../postgres/wire/wire-messages.ts";
import type { CancelTarget } from "../client/cancel-keys.ts";
import { encodeCancel, encodeStartup } from "../client/startup-packet.ts";
import type { ComputeAddress } from "./control-plane.ts";

/** Lent to `onData` for one call; the next read of any of these connections overwrites it. */
const RECEIVE_BUFFER = new Uint8Array(64 * 1024);
/** What Postgres says before it is ready: parameters, notices. */
const MAX_GREETING_BYTES = 1024 * 1024;
const KEEP_ALIVE_MS = 60_000;
const CANCEL_TIMEOUT_MS = 5000;
/** Message types, as bytes. */
const AUTHENTICATION = 0x52;
const BACKEND_KEY_DATA = 0x4b;
const ERROR_RESPONSE = 0x45;
const READY_FOR_QUERY = 0x5a;
/** Codes of AuthenticationRequest (libpq/protocol.h). */
const AUTH_OK = 0;
const AUTH_SASL = 10;
const AUTH_SASL_CONTINUE = 11;
const AUTH_SASL_FINAL = 12;
/** cannot_connect_now: starts, or stops. */
const CANNOT_CONNECT_NOW = "57P03";
const ADMIN_SHUTDOWN = "57P01";

/** How a client's role is proved to Postgres: with keys, or by coming through the unix socket, for who has shown a token. */
export type LoginProof = ScramKeys | typeof BY_SOCKET;
export const BY_SOCKET = "by-socket";

export interface LoginOptions {
  readonly address: ComputeAddress;
  /** Of the start-up packet, as latin1. */
  readonly parameters: ReadonlyMap<string, string>;
  readonly proof: LoginProof;
  readonly timeoutMs: number;
}

/** Of a login that failed: it may work when the compute has been woken once more. */
export function isComputeAway(error: unknown): boolean {
  return error instanceof StorageError && error.code === "compute-away";
}

/** Of a login that failed: the role's secret is another one by now. */
export function isStaleSecret(error: unknown): boolean {
  return error instanceof StorageError && error.fields["staleSecret"] === true;
}

export class ComputeConnection {
  /** Owned by whoever has the connection. */
  readonly socket: Socket;
  readonly address: ComputeAddress;
  /** Postgres's, for cancelling. */
  pid = 0;
  key: Buffer = Buffer.alloc(0);
  /** ParameterStatus and notices, as they came, up to and without the first ReadyForQuery. */
  greeting: Buffer = Buffer.alloc(0);
  /** Gets what Postgres sends, lent for the call; false stops the reading until `socket.resume()`. */
  onData: (chunk: Uint8Array) => boolean = () => true;

  private constructor(address: ComputeAddress, socketPath: string | undefined) {
    this.address = address;
    const { host, port } = address;
    this.socket = createConnection({
      ...(socketPath === undefined ? { host, port } : { path: socketPath }),
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
      onread: {
        buffer: RECEIVE_BUFFER,
        callback: (length) => this.onData(RECEIVE_BUFFER.subarray(0, length)),
      },
    });
    // Whoever waits hears of `close`.
    this.socket.on("error", () => {});
  }

  /**
   * Resolves at the first ReadyForQuery. StorageError `compute-away` where nobody is there, or Postgres starts or stops;
   * else what Postgres said, to be passed on (`fields.response`).
   */
  static login(options: LoginOptions): Promise<ComputeConnection> {
    const { address, proof } = options;
    if (proof === BY_SOCKET && address.socketPath === undefined) {
      return Promise.reject(noSocket(address));
    }
    const socketPath = proof === BY_SOCKET ? address.socketPath : undefined;
    const connection = new ComputeConnection(address, socketPath);
    return new Promise((resolve, reject) => {
      const { socket } = connection;
      const login = new Login(connection, proof);
      const fail = (error: unknown) => {
        timer.cancel();
        socket.off("close", closed);
        socket.destroy();
        reject(error);
      };
      const closed = () => fail(computeAway(connection.address, "the connection broke"));
      const timer = setTimer(
        () => fail(computeAway(connection.address, `no answer in ${options.timeoutMs} ms`)),
        options.timeoutMs,
      );
      socket.on("error", (error) => fail(computeAway(connection.address, errorMessage(error))));
      socket.on("close", closed);
      socket.once("connect", () => socket.write(encodeStartup(options.parameters)));
      connection.onData = (chunk) => {
        try {
          if (login.receive(chunk)) {
            timer.cancel();
            socket.off("close", closed);
            connection.onData = () => true;
            resolve(connection);
          }
        } catch (error) {
          fail(error);
        }
        return true;
      };
    });
  }

  get cancelTarget(): CancelTarget {
    return { ...this.address, pid: this.pid, key: this.key };
  }

  /** Says goodbye and closes; nothing that is under way is waited for. */
  close(): void {
    if (!this.socket.destroyed) {
      this.socket.end(encodeMessage("X"));
      this.socket.destroySoon();
    }
  }
}

function noSocket({ host, port }: ComputeAddress): StorageError {
  const message = `compute ${host}:${port} is not on this machine: tokens open computes of this machine only`;
  return new StorageError("unsupported", "no-unix-socket", message, {
    fields: { sqlstate: "0A000" },
  });
}

function computeAway({ host, port }: ComputeAddress, why: string): StorageError {
  return new StorageError("unavailable", "compute-away", `compute ${host}:${port}: ${why}`, {
    fields: { sqlstate: CANNOT_CONNECT_NOW },
  });
}

/** What Postgres says between the start-up packet and ReadyForQuery. Not hot: it may gather bytes. */
class Login {
  readonly #connection: ComputeConnection;
  /** Undefined: nothing is to be proved. */
  readonly #scram: ScramClient | undefined;
  readonly #greeting: Buffer[] = [];
  #pending = Buffer.alloc(0);
  #received = 0;

  constructor(connection: ComputeConnection, proof: LoginProof) {
    this.#connection = connection;
    this.#scram = proof === BY_SOCKET ? undefined : new ScramClient(proof);
  }

  /** True when Postgres is ready. */
  receive(chunk: Uint8Array): boolean {
    this.#received += chunk.length;
    if (this.#received > MAX_GREETING_BYTES) {
      throw computeAway(this.#connection.address, "it says too much before it is ready");
    }
    this.#pending = Buffer.concat([this.#pending, chunk]);
    while (this.#pending.length >= 5) {
      const end = 1 + this.#pending.readInt32BE(1);
      if (end < 5) {
        throw computeAway(this.#connection.address, "its messages have no length");
      }
      if (end > this.#pending.length) {
        return false;
      }
      const message = this.#pending.subarray(0, end);
      this.#pending = this.#pending.subarray(end);
      if (this.#take(message)) {
        this.#connection.greeting = Buffer.concat(this.#greeting);
        return true;
      }
    }
    return false;
  }

  #take(message: Buffer): boolean {
    const body = message.subarray(5);
    switch (message[0]) {
      case AUTHENTICATION:
        this.#authenticate(body);
        return false;
      case BACKEND_KEY_DATA:
        this.#connection.pid = body.readInt32BE(0);
        this.#connection.key = Buffer.from(body.subarray(4));
        return false;
      case ERROR_RESPONSE:
        throw this.#refused(message);
      case READY_FOR_QUERY:
        return true;
      default:
        this.#greeting.push(message);
        return false;
    }
  }

  #authenticate(body: Buffer): void {
    const { socket } = this.#connection;
    const scram = this.#scram;
    const code = body.readInt32BE(0);
    if (code === AUTH_OK) {
      return;
    }
    const text = body.subarray(4).toString("latin1");
    if (scram !== undefined && code === AUTH_SASL && text.split("\0").includes(SCRAM_SHA_256)) {
      const first = Buffer.from(scram.clientFirst);
      socket.write(encodeMessage("p", cstring(SCRAM_SHA_256), int32(first.length), first));
      return;
    }
    if (scram !== undefined && code === AUTH_SASL_CONTINUE) {
      const final = scram.proceed(text);
      if (final === undefined) {
        throw staleSecret("the password has been changed just now");
      }
      socket.write(encodeMessage("p", Buffer.from(final)));
      return;
    }
    if (code === AUTH_SASL_FINAL && scram?.accepts(text) === true) {
      return;
    }
    throw new StorageError(
      "internal",
      "compute-authentication",
      `the compute asks for authentication ${code}, or its answer is wrong`,
    );
  }

  #refused(message: Buffer): StorageError {
    const fields = new Map(
      readCstrings(message.subarray(5)).map((text) => [text[0]!, text.slice(1)]),
    );
    const sqlstate = fields.get("C") ?? "";
    const text = fields.get("M") ?? "";
    if (sqlstate === CANNOT_CONNECT_NOW || sqlstate === ADMIN_SHUTDOWN) {
      return computeAway(this.#connection.address, text);
    }
    return new StorageError("forbidden", "refused-by-postgres", text, {
      fields: {
        sqlstate,
        response: Buffer.from(message),
        // invalid_password; invalid_authorization_specification also has other reasons.
        staleSecret: sqlstate === "28P01",
      },
    });
  }
}

function staleSecret(message: string): StorageError {
  return new StorageError("forbidden", "stale-secret", message, {
    fields: { sqlstate: "28P01", staleSecret: true },
  });
}

/** Resolves when Postgres has taken the request, or cannot be reached: nobody is told which. */
export function sendCancel({ host, port, pid, key }: CancelTarget): Promise<void> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port });
    const timer = setTimer(() => socket.destroy(), CANCEL_TIMEOUT_MS);
    socket.on("error", () => {});
    socket.on("connect", () => socket.end(encodeCancel(pid, key)));
    // Postgres closes when the signal is sent.
    socket.resume();
    socket.on("close", () => {
      timer.cancel();
      resolve();
    });
  });
}
