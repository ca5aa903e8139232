// A server connection of a pool: what it sends goes to the client that has it, without a copy more than one and without an object for
// a message.

import type { Duplex } from "node:stream";
import { cstring, encodeMessage } from "../../postgres/wire/wire-messages.ts";
import type { ComputeConnection } from "../compute/compute-connection.ts";
import { EXPECT, ResponseQueue, SETS_LOCALLY } from "./response-queue.ts";
import { serverName } from "./statements.ts";

const HEADER_BYTES = 5;
/** Command tags are short. */
const MAX_GATHERED_BYTES = 1024;
const PARSE_COMPLETE = encodeMessage("1");
const CLOSE_COMPLETE = encodeMessage("3");
const DISCARD_ALL = encodeMessage("Q", cstring("DISCARD ALL"));
const NO_BYTES = Buffer.alloc(0);

const COMMAND_COMPLETE = "C".charCodeAt(0);
const READY_FOR_QUERY = "Z".charCodeAt(0);
const ERROR_RESPONSE = "E".charCodeAt(0);
const COPY_IN_RESPONSE = "G".charCodeAt(0);
const IDLE = "I".charCodeAt(0);

/** Tags of what stays in the session when the transaction is over. */
const SESSION_TAGS = /^(SET|LISTEN|PREPARE|DECLARE CURSOR|LOAD)\0/;
const FORGET_ALL_TAGS = /^(DISCARD ALL|DEALLOCATE ALL)\0/;

/** Who has the server for now. */
export interface ServerUser {
  readonly stream: Duplex;
  /** Nothing is under way, and no transaction is open. */
  onIdle(): void;
  /** The connection is gone; what it said last has been sent. */
  onGone(): void;
  /** The session has been emptied: no prepared statement is left. */
  onForgotten(): void;
}

export class PooledServer {
  readonly connection: ComputeConnection;
  readonly queue = new ResponseQueue();
  /** The session holds something that is the client's own: it stays with him. */
  isDirty = false;
  /** Takes COPY data. */
  inCopy = false;
  /** Cancel requests under way: the next client must not get them. */
  cancelling = 0;
  /** When the last of these has arrived. */
  onCancelled: () => void = () => {};
  /** Of the last ReadyForQuery. */
  inTransaction = false;
  /** The pool's. */
  onGone: () => void = () => {};
  #user: ServerUser | undefined;
  /** Ids of statements, the one used longest ago first. */
  readonly #statements = new Set<number>();
  readonly #maxStatements: number;
  #carry = NO_BYTES;
  /** Of the message that is being passed on. */
  #remaining = 0;
  #dropping = false;
  #isGone = false;
  /** While a read is being handled: its bytes, and from where on they have not been passed on. */
  #chunk: Uint8Array = NO_BYTES;
  #start = 0;
  #goOn = true;
  readonly #forget = (id: number) => void this.#statements.delete(id);

  constructor(connection: ComputeConnection, maxStatements: number) {
    this.connection = connection;
    this.#maxStatements = maxStatements;
    connection.onData = (chunk) => this.#receive(chunk);
    connection.socket.once("close", () => this.#gone());
    connection.socket.on("drain", () => this.#user?.stream.resume());
    if (connection.socket.destroyed) {
      this.#gone();
    }
  }

  get isGone(): boolean {
    return this.#isGone;
  }

  get statements(): number {
    return this.#statements.size;
  }

  attach(user: ServerUser): void {
    this.#user = user;
  }

  detach(): void {
    this.#user = undefined;
    this.connection.socket.resume();
  }

  /** False: the client should wait. */
  send(messages: Uint8Array): boolean {
    return this.connection.socket.write(messages);
  }

  /** Whether the server has it; it has been used then. */
  hasStatement(id: number): boolean {
    if (!this.#statements.has(id)) {
      return false;
    }
    this.#statements.delete(id);
    this.#statements.add(id);
    return true;
  }

  /** It will have it. The name of one that has to be closed for it, if any. */
  addStatement(id: number): string | undefined {
    this.#statements.add(id);
    if (this.#statements.size <= this.#maxStatements) {
      return undefined;
    }
    const oldest: number = this.#statements.values().next().value!;
    this.#statements.delete(oldest);
    return serverName(oldest);
  }

  forgetStatement(id: number): void {
    this.#statements.delete(id);
  }

  /** Empties the session; resolves when that is done, false where the connection is of no more use. */
  reset(): Promise<boolean> {
    return new Promise((resolve) => {
      const sink: ServerUser = {
        // What it says is nobody's.
        stream: { write: () => true, resume: () => undefined } as unknown as Duplex,
        onForgotten: () => undefined,
        onIdle: () => {
          this.isDirty = false;
          this.detach();
          resolve(true);
        },
        onGone: () => resolve(false),
      };
      this.isDirty = false;
      this.attach(sink);
      this.queue.push(EXPECT.query);
      this.send(DISCARD_ALL);
    });
  }

  close(): void {
    this.connection.close();
    this.#gone();
  }

  #gone(): void {
    if (!this.#isGone) {
      this.#isGone = true;
      this.onGone();
      this.#user?.onGone();
    }
  }

  /** False where the client does not take more: the reading stops until he does. */
  #receive(lent: Uint8Array): boolean {
    const chunk = this.#carry.length === 0 ? lent : Buffer.concat([this.#carry, lent]);
    this.#carry = NO_BYTES;
    const user = this.#user;
    const { length } = chunk;
    this.#chunk = chunk;
    this.#start = 0;
    this.#goOn = true;
    let at = 0;
    while (at < length) {
      if (this.#remaining > 0) {
        const take = Math.min(this.#remaining, length - at);
        this.#remaining -= take;
        at += take;
        this.#start = this.#dropping ? at : this.#start;
        continue;
      }
      if (length - at < HEADER_BYTES) {
        break;
      }
      const type = chunk[at]!;
      const bytes =
        1 +
        ((chunk[at + 1]! << 24) | (chunk[at + 2]! << 16) | (chunk[at + 3]! << 8) | chunk[at + 4]!);
      if (bytes < HEADER_BYTES) {
        this.close();
        return false;
      }
      const isShort = type === COMMAND_COMPLETE || type === READY_FOR_QUERY;
      if (isShort && bytes <= MAX_GATHERED_BYTES && at + bytes > length) {
        break;
      }
      const from = at;
      at = Math.min(at + bytes, length);
      this.#remaining = from + bytes - at;
      this.#dropping = this.#drops(type);
      if (this.#dropping) {
        this.#pass(from);
        this.#start = at;
      }
      if (this.#looksInto(type)) {
        this.#settle(type, chunk, from, at);
      }
    }
    this.#pass(at);
    if (at < length) {
      this.#carry = Buffer.from(chunk.subarray(at));
    }
    this.#chunk = NO_BYTES;
    // Who has it now takes what comes.
    return this.#goOn || this.#user !== user;
  }

  /**
   * To the client, what has been read and not been passed on, up to `end`: in as few writes as there can be, since each
   * costs a system call.
   */
  #pass(end: number): void {
    if (this.#start < end && this.#user !== undefined) {
      // Copied: the chunk is lent.
      const bytes = Buffer.from(this.#chunk.subarray(this.#start, end));
      this.#goOn = this.#user.stream.write(bytes) && this.#goOn;
    }
    this.#start = end;
  }

  /** Whether the client must not see it. */
  #drops(type: number): boolean {
    const { first } = this.queue;
    return (
      (first === EXPECT.swallowParse || first === EXPECT.swallowClose) && this.queue.endsFirst(type)
    );
  }

  /** Whether it changes what is expected. The others, rows above all, are only passed on. */
  #looksInto(type: number): boolean {
    return (
      type === ERROR_RESPONSE ||
      type === COMMAND_COMPLETE ||
      type === COPY_IN_RESPONSE ||
      this.queue.endsFirst(type)
    );
  }

  /** `chunk` has the message at `[from, end)`. */
  #settle(type: number, chunk: Uint8Array, from: number, end: number): void {
    const { queue } = this;
    if (type === COMMAND_COMPLETE) {
      this.#readTag(chunk, from + HEADER_BYTES);
    }
    if (type === COPY_IN_RESPONSE) {
      this.inCopy = true;
      queue.dropSyncs();
      return;
    }
    if (type === ERROR_RESPONSE) {
      this.inCopy = false;
      // A simple query, and a Sync, end with ReadyForQuery all the same.
      if (queue.first !== EXPECT.query) {
        queue.skipToSync(this.#forget);
      }
      return;
    }
    if (!queue.endsFirst(type)) {
      return;
    }
    queue.shift();
    if (isInvented(queue.first)) {
      this.#pass(end);
      this.invent();
    }
    if (type === READY_FOR_QUERY) {
      this.inCopy = false;
      this.inTransaction = chunk[from + HEADER_BYTES] !== IDLE;
      if (queue.isEmpty && !this.inTransaction) {
        this.#pass(end);
        this.#user?.onIdle();
      }
    }
  }

  /** Gives the client the answers of which the server knows nothing, as far as it is their turn. */
  invent(): void {
    const { queue } = this;
    while (isInvented(queue.first)) {
      const isParse = queue.first === EXPECT.inventParse;
      queue.shift();
      this.#user?.stream.write(isParse ? PARSE_COMPLETE : CLOSE_COMPLETE);
    }
  }

  #readTag(chunk: Uint8Array, at: number): void {
    const tag = Buffer.from(chunk.buffer, chunk.byteOffset + at, Math.min(20, chunk.length - at));
    // S, R, L, P, D: no tag of a query begins so but SELECT.
    const first = tag[0]!;
    if (first < 0x44 || (first === 0x53 && tag[2] === 0x4c)) {
      return;
    }
    const text = tag.toString("latin1");
    if (FORGET_ALL_TAGS.test(text)) {
      this.#statements.clear();
      this.isDirty &&= text.startsWith("DEALLOCATE");
      this.#user?.onForgotten();
    } else if (SESSION_TAGS.test(text)) {
      this.isDirty ||= this.queue.firstStatement !== SETS_LOCALLY;
    }
  }
}

function isInvented(kind: number): boolean {
  return kind === EXPECT.inventParse || kind === EXPECT.inventClose;
}
