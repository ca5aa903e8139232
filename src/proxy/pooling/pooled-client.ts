// A client of a pool: has a server connection for one transaction at a time, and does not notice.
//
// What stays in a session beyond its transaction (SET, LISTEN, SQL's PREPARE, cursors, temporary tables, advisory locks) keeps the
// server connection with this client, until he goes or says DISCARD ALL; before another gets it, it is emptied.

import type { Duplex } from "node:stream";
import { errorMessage } from "../../base/errors.ts";
import { MessageReader, type ReceiveBudget } from "../../postgres/wire/wire-messages.ts";
import { errorResponse, protocolViolation } from "../client/postgres-errors.ts";
import type { ComputeConnection } from "../compute/compute-connection.ts";
import type { MessageWriter } from "./message-writer.ts";
import type { PooledServer, ServerUser } from "./pooled-server.ts";
import { EXPECT, SETS_LOCALLY } from "./response-queue.ts";
import type { ServerPool } from "./server-pool.ts";
import { isServerName, type Statement, type StatementTable, serverName } from "./statements.ts";

/** As Postgres's own limit for these messages is far above what anybody sends, ours is of memory. */
const MAX_MESSAGE_BYTES = 256 * 1024 * 1024;
const HEADER_BYTES = 5;
/** Of one client. */
const MAX_NAMES = 10_000;
/** Statements whose tag does not tell what they leave in the session. */
const LEAVES_BEHIND = /set_config|pg_(?:try_)?advisory_lock|\btemp(?:orary)?\b/i;
const SET_LOCAL = /^\s*set\s+(?:local|transaction)\b[^;]*;?\s*\0?$/i;
const STATEMENT = "S".charCodeAt(0);

const type = (letter: string) => letter.charCodeAt(0);
const PARSE = type("P");
const BIND = type("B");
const DESCRIBE = type("D");
const CLOSE = type("C");
const EXECUTE = type("E");
const SYNC = type("S");
const QUERY = type("Q");
const FUNCTION_CALL = type("F");
const COPY_DONE = type("c");
const COPY_FAIL = type("f");
const TERMINATE = type("X");

export interface PooledClientOptions {
  readonly stream: Duplex;
  readonly pool: ServerPool;
  readonly statements: StatementTable;
  readonly budget: ReceiveBudget;
  /** Shared: what is written is taken, or dropped, before anything else can happen. */
  readonly writer: MessageWriter;
  /** Makes a server connection for this client's pool. */
  readonly login: () => Promise<ComputeConnection>;
}

export class PooledClient implements ServerUser {
  readonly stream: Duplex;
  readonly #options: PooledClientOptions;
  readonly #reader: MessageReader;
  readonly #writer: MessageWriter;
  /** By the client's names; "" is not in it. */
  readonly #names = new Map<string, Statement>();
  #server: PooledServer | undefined;
  #lastServer: PooledServer | undefined;
  /** Chunks that wait for a server. */
  #held: Buffer[] = [];
  #waiting = false;
  /** Messages since the last Sync, which no ReadyForQuery will answer. */
  #unsynced = false;
  #closed = false;

  constructor(options: PooledClientOptions) {
    this.#options = options;
    this.stream = options.stream;
    this.#writer = options.writer;
    this.#reader = new MessageReader(MAX_MESSAGE_BYTES, options.budget);
  }

  /** Resolves when the client's connection is gone. */
  run(): Promise<void> {
    const { stream } = this;
    stream.on("data", (chunk: Buffer) => this.#receive(chunk));
    stream.on("drain", () => this.#server?.connection.socket.resume());
    return new Promise((resolve) => {
      const closed = () => {
        this.#close();
        resolve();
      };
      if (stream.destroyed) {
        closed();
      } else {
        stream.once("close", closed);
      }
    });
  }

  /** Stops what is under way; nothing where there is nothing. */
  async cancel(send: (server: ComputeConnection) => Promise<void>): Promise<void> {
    const server = this.#server;
    if (server !== undefined) {
      server.cancelling++;
      await send(server.connection);
      server.cancelling--;
      if (server.cancelling === 0) {
        const { onCancelled } = server;
        server.onCancelled = () => undefined;
        onCancelled();
      }
    }
  }

  onIdle(): void {
    const server = this.#server;
    if (server !== undefined && !this.#unsynced && !server.isDirty && server.queue.isEmpty) {
      this.#giveBack(server, false);
    }
  }

  onGone(): void {
    this.#server = undefined;
    this.stream.end();
  }

  onForgotten(): void {
    for (const statement of this.#names.values()) {
      this.#options.statements.release(statement);
    }
    this.#names.clear();
  }

  #giveBack(server: PooledServer, inTransaction: boolean): void {
    this.#server = undefined;
    this.#lastServer = server;
    server.detach();
    void this.#options.pool.release(server, inTransaction);
  }

  #receive(chunk: Buffer): void {
    if (this.#closed) {
      return;
    }
    if (this.#server === undefined) {
      if (!this.#waiting && this.#isTerminate(chunk)) {
        this.stream.end();
        return;
      }
      this.#held.push(chunk);
      this.#attach();
      return;
    }
    this.#forward(this.#server, chunk);
  }

  #isTerminate(chunk: Buffer): boolean {
    return chunk[0] === TERMINATE && chunk.length === HEADER_BYTES && this.#reader.isEmpty;
  }

  #attach(): void {
    if (this.#waiting) {
      return;
    }
    const { pool, login } = this.#options;
    const idle = pool.take(this.#lastServer);
    if (idle !== undefined) {
      this.#begin(idle);
      return;
    }
    this.#waiting = true;
    this.stream.pause();
    pool.acquire(login).then(
      (server) => {
        this.#waiting = false;
        if (this.#closed) {
          void pool.release(server, false);
          return;
        }
        this.#begin(server);
        this.stream.resume();
      },
      (error: unknown) => {
        this.#waiting = false;
        if (!this.#closed) {
          this.stream.end(errorResponse(error));
        }
      },
    );
  }

  #begin(server: PooledServer): void {
    this.#server = server;
    server.attach(this);
    const held = this.#held;
    this.#held = [];
    for (const chunk of held) {
      this.#forward(server, chunk);
    }
  }

  #forward(server: PooledServer, chunk: Buffer): void {
    try {
      this.#reader.push(chunk, (type, body) => this.#message(server, type, body));
    } catch (error) {
      // Else the next client would send what this one began with.
      this.#writer.drop();
      this.stream.end(errorResponse(protocolViolation(errorMessage(error))));
      this.#close();
      return;
    }
    const bytes = this.#writer.take();
    if (bytes !== undefined && !server.send(bytes)) {
      this.stream.pause();
    }
    // What is first now may be one that nobody else answers.
    server.invent();
  }

  #message(server: PooledServer, type: number, body: Uint8Array): void {
    const { queue } = server;
    switch (type) {
      case PARSE:
        this.#parse(server, body);
        break;
      case BIND:
        this.#bind(server, body);
        break;
      case DESCRIBE:
      case CLOSE:
        this.#named(server, type, body);
        break;
      case EXECUTE:
        this.#writer.message(type, body);
        queue.push(EXPECT.execute);
        break;
      case SYNC:
        this.#writer.message(type, body);
        this.#unsynced = false;
        // Among COPY data it is ignored.
        if (!server.inCopy) {
          queue.push(EXPECT.sync);
        }
        return;
      case QUERY:
      case FUNCTION_CALL:
        this.#writer.message(type, body);
        queue.push(EXPECT.query, this.#looksLocal(server, body) ? SETS_LOCALLY : 0);
        return;
      case TERMINATE:
        this.stream.end();
        return;
      default:
        // COPY data, Flush.
        server.inCopy &&= type !== COPY_DONE && type !== COPY_FAIL;
        this.#writer.message(type, body);
        return;
    }
    this.#unsynced = true;
  }

  /** A statement without a name goes as it is; others get ours, unless the server has them already. */
  #parse(server: PooledServer, body: Uint8Array): void {
    const nameEnd = endOf(body, 0);
    const definition = body.subarray(nameEnd + 1);
    this.#looksLocal(server, definition);
    if (nameEnd === 0) {
      this.#writer.message(PARSE, body);
      server.queue.push(EXPECT.parse);
      return;
    }
    const name = textOf(body, 0, nameEnd);
    this.#release(name);
    if (this.#names.size >= MAX_NAMES) {
      throw protocolViolation(`more than ${MAX_NAMES} prepared statements`);
    }
    const statement = this.#options.statements.acquire(definition);
    this.#names.set(name, statement);
    if (server.hasStatement(statement.id)) {
      server.queue.push(EXPECT.inventParse);
    } else {
      this.#sendParse(server, statement, EXPECT.parse);
    }
  }

  #bind(server: PooledServer, body: Uint8Array): void {
    const portalEnd = endOf(body, 0);
    const nameEnd = endOf(body, portalEnd + 1);
    const statement = this.#prepare(server, textOf(body, portalEnd + 1, nameEnd));
    if (statement === undefined) {
      this.#writer.message(BIND, body);
    } else {
      this.#writer.begin(BIND);
      this.#writer.bytes(body.subarray(0, portalEnd + 1));
      this.#writer.text(serverName(statement.id));
      this.#writer.bytes(body.subarray(nameEnd));
      this.#writer.end();
    }
    server.queue.push(EXPECT.bind);
  }

  /** Describe and Close, of a statement or a portal. */
  #named(server: PooledServer, type: number, body: Uint8Array): void {
    const isStatement = body[0] === STATEMENT;
    const name = textOf(body, 1, endOf(body, 1));
    if (type === CLOSE && isStatement && name !== "") {
      // The server keeps it for others.
      this.#release(name);
      server.queue.push(EXPECT.inventClose);
      return;
    }
    const statement = isStatement ? this.#prepare(server, name) : undefined;
    if (statement === undefined) {
      this.#writer.message(type, body);
    } else {
      this.#writer.begin(type);
      this.#writer.bytes(body.subarray(0, 1));
      this.#writer.text(`${serverName(statement.id)}\0`);
      this.#writer.end();
    }
    server.queue.push(type === CLOSE ? EXPECT.close : EXPECT.describe);
  }

  /** The statement of that name, which the server has then; undefined where it has no name, or Postgres is to say that there is none. */
  #prepare(server: PooledServer, name: string): Statement | undefined {
    const statement = name === "" ? undefined : this.#names.get(name);
    if (statement === undefined && isServerName(name)) {
      throw protocolViolation(`prepared statement "${name}" does not exist`);
    }
    if (statement !== undefined && !server.hasStatement(statement.id)) {
      this.#sendParse(server, statement, EXPECT.swallowParse);
    }
    return statement;
  }

  #sendParse(server: PooledServer, statement: Statement, expect: number): void {
    const surplus = server.addStatement(statement.id);
    if (surplus !== undefined) {
      this.#writer.begin(CLOSE);
      this.#writer.text(`S${surplus}\0`);
      this.#writer.end();
      server.queue.push(EXPECT.swallowClose);
    }
    this.#writer.begin(PARSE);
    this.#writer.text(`${serverName(statement.id)}\0`);
    this.#writer.bytes(statement.definition);
    this.#writer.end();
    server.queue.push(expect, statement.id);
  }

  #release(name: string): void {
    const statement = this.#names.get(name);
    if (statement !== undefined) {
      this.#names.delete(name);
      this.#options.statements.release(statement);
    }
  }

  /** Whether it is a single `SET LOCAL`. What leaves something in the session is noted with the server. */
  #looksLocal(server: PooledServer, text: Uint8Array): boolean {
    const sql = textOf(text, 0, text.length);
    server.isDirty ||= LEAVES_BEHIND.test(sql);
    return SET_LOCAL.test(sql);
  }

  #close(): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#reader.release();
    this.onForgotten();
    const server = this.#server;
    if (server !== undefined) {
      // In a transaction, or in the middle of something: nobody will end it.
      const isBusy = !server.queue.isEmpty || this.#unsynced || server.inTransaction;
      this.#giveBack(server, isBusy);
    }
  }
}

/** Of a cstring that begins at `from`: where its zero is. */
function endOf(body: Uint8Array, from: number): number {
  const end = body.indexOf(0, from);
  if (end < 0) {
    throw protocolViolation("a name without its end");
  }
  return end;
}

/** latin1: a letter a byte. */
function textOf(body: Uint8Array, from: number, to: number): string {
  return Buffer.from(body.buffer, body.byteOffset + from, to - from).toString("latin1");
}
