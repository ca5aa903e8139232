// Statements of the console's editor, run in a session of their own, whose results are told as they come.
//
// Over the endpoint's unix socket, where no password is asked for, by the simple protocol: several statements at once,
// as psql -c. Each message is one line of JSON:
//   {"t":"columns","columns":[{"name","type"}]}     `type`: an OID of pg_type
//   {"t":"rows","rows":[[text|null|{"text","bytes"}]]}   the last: cut, with its whole length
//   {"t":"done","tag","ms"}                         of one statement
//   {"t":"notice"|"error","severity","code","message","detail","hint","position","where"}
//   {"t":"cut","why"}                               more than is shown; what still ran was cancelled
//   {"t":"end","ms"}                                the last line of a run that came to its end
// An empty line says that it still runs.

import { createConnection, type Socket } from "node:net";
import { monotonicMs, setRepeatingTimer, type Timer } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import {
  cstring,
  encodeMessage,
  int32,
  MessageReader,
  PROTOCOL_3,
  readCstrings,
} from "../../postgres/wire/wire-messages.ts";

const CANCEL_CODE = 80877102;
/** Longer values are cut: a page is no place for them. */
const MAX_VALUE_BYTES = 64 * 1024;
/** What waits for the reader; above it Postgres is not read from. */
const MAX_WAITING_BYTES = 1024 * 1024;
/** Less than what an HTTP answer may be silent. */
const ALIVE_INTERVAL_MS = 10_000;
const ERROR_FIELDS: Readonly<Record<string, string>> = {
  V: "severity",
  C: "code",
  M: "message",
  D: "detail",
  H: "hint",
  P: "position",
  W: "where",
};

export interface SqlRunOptions {
  /** Of the unix socket. */
  readonly path: string;
  readonly user: string;
  readonly database: string;
  readonly query: string;
  readonly maxRows: number;
  readonly maxBytes: number;
}

type Cell = string | null | { readonly text: string; readonly bytes: number };

/** To be iterated once. Its `return` cancels what runs, also while `next` waits. */
export class SqlRun implements AsyncIterable<Uint8Array>, AsyncIterator<Uint8Array> {
  readonly #options: SqlRunOptions;
  readonly #socket: Socket;
  readonly #reader = new MessageReader();
  readonly #begunMs = monotonicMs();
  readonly #alive: Timer | undefined;
  #statementMs = monotonicMs();
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #wake: (() => void) | undefined;
  #rows: Cell[][] = [];
  #rowsLeft: number;
  #bytesLeft: number;
  #hasEnded = false;
  #isCut = false;
  #sentQuery = false;
  /** Postgres's, for cancelling. */
  #cancelKey = Buffer.alloc(0);

  constructor(options: SqlRunOptions) {
    this.#options = options;
    this.#rowsLeft = options.maxRows;
    this.#bytesLeft = options.maxBytes;
    this.#socket = createConnection({ path: options.path });
    this.#socket.on("connect", () => this.#socket.write(startup(options)));
    this.#socket.on("data", (chunk) => this.#receive(chunk));
    this.#socket.on("error", (error) => this.#broken(errorMessage(error)));
    this.#socket.on("close", () => this.#broken("the connection to Postgres broke"));
    this.#alive = setRepeatingTimer(() => this.#push(Buffer.from("\n")), ALIVE_INTERVAL_MS);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Uint8Array>> {
    while (this.#waiting.length === 0 && !this.#hasEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#waiting.length === 0) {
      return { done: true, value: undefined };
    }
    const value = Buffer.concat(this.#waiting);
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#socket.resume();
    return { done: false, value };
  }

  /** Whoever wanted the results has gone. */
  async return(): Promise<IteratorResult<Uint8Array>> {
    if (!this.#hasEnded) {
      this.#cancel();
      this.#end();
    }
    return { done: true, value: undefined };
  }

  #receive(chunk: Uint8Array): void {
    try {
      this.#reader.push(chunk, (type, body) => this.#message(String.fromCharCode(type), body));
    } catch (error) {
      this.#tell({ t: "error", severity: "FATAL", message: errorMessage(error) });
      this.#end();
      return;
    }
    this.#tellRows();
    if (this.#waitingBytes > MAX_WAITING_BYTES) {
      this.#socket.pause();
    }
  }

  #message(type: string, body: Uint8Array): void {
    switch (type) {
      case "R":
        this.#authentication(body);
        return;
      case "K":
        this.#cancelKey = Buffer.from(body);
        return;
      case "T":
        this.#tell({ t: "columns", columns: columnsOf(body) });
        return;
      case "D":
        this.#row(rowOf(body), body.length);
        return;
      case "H":
        this.#tell({ t: "columns", columns: [{ name: "copy", type: 25 }] });
        return;
      case "d":
        this.#row([cellOf(body, 0, body.length)], body.length);
        return;
      case "G":
        this.#socket.write(encodeMessage("f", cstring("COPY FROM STDIN cannot be used here")));
        return;
      case "C":
        this.#done(readCstrings(body)[0] ?? "");
        return;
      case "E":
      case "N":
        this.#words(type === "E" ? "error" : "notice", body);
        return;
      case "Z":
        this.#ready();
        return;
      default:
        // ParameterStatus, EmptyQueryResponse, CopyDone, NotificationResponse.
        return;
    }
  }

  #authentication(body: Uint8Array): void {
    if (new DataView(body.buffer, body.byteOffset).getInt32(0) !== 0) {
      throw new StorageError(
        "internal",
        "asks-password",
        "Postgres asks for a password on its unix socket",
      );
    }
  }

  #ready(): void {
    if (this.#sentQuery) {
      this.#tell({ t: "end", ms: monotonicMs() - this.#begunMs });
      this.#end();
      return;
    }
    this.#sentQuery = true;
    this.#statementMs = monotonicMs();
    this.#socket.write(encodeMessage("Q", cstring(this.#options.query)));
  }

  #done(tag: string): void {
    this.#tellRows();
    const now = monotonicMs();
    this.#tell({ t: "done", tag, ms: now - this.#statementMs });
    this.#statementMs = now;
  }

  #row(row: Cell[], bytes: number): void {
    if (this.#isCut) {
      return;
    }
    this.#rowsLeft--;
    this.#bytesLeft -= bytes;
    if (this.#rowsLeft < 0 || this.#bytesLeft < 0) {
      this.#isCut = true;
      this.#tellRows();
      this.#tell({ t: "cut", why: this.#rowsLeft < 0 ? "rows" : "bytes" });
      this.#cancel();
      return;
    }
    this.#rows.push(row);
  }

  #words(t: "error" | "notice", body: Uint8Array): void {
    this.#tellRows();
    // That it was cancelled, whoever reads `cut` knows.
    const words: Record<string, string> = {};
    for (const text of readCstrings(body)) {
      const name = ERROR_FIELDS[text[0]!];
      if (name !== undefined) {
        words[name] = text.slice(1);
      }
    }
    this.#tell({ t, ...words });
    if (words["severity"] === "FATAL" || words["severity"] === "PANIC") {
      this.#end();
    }
  }

  #tellRows(): void {
    if (this.#rows.length > 0) {
      this.#tell({ t: "rows", rows: this.#rows });
      this.#rows = [];
    }
  }

  #tell(line: object): void {
    this.#push(Buffer.from(`${JSON.stringify(line)}\n`));
  }

  #push(bytes: Buffer): void {
    if (this.#hasEnded) {
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    this.#wake?.();
  }

  #broken(message: string): void {
    if (!this.#hasEnded) {
      this.#tell({ t: "error", severity: "FATAL", message });
      this.#end();
    }
  }

  /** What runs is told so on a connection of its own, which nobody waits for. */
  #cancel(): void {
    if (this.#cancelKey.length > 0) {
      const socket = createConnection({ path: this.#options.path });
      const key = this.#cancelKey;
      socket.on("error", () => {});
      socket.on("connect", () =>
        socket.end(Buffer.concat([int32(key.length + 8), int32(CANCEL_CODE), key])),
      );
      socket.resume();
    }
  }

  #end(): void {
    this.#hasEnded = true;
    this.#alive?.cancel();
    this.#socket.end(encodeMessage("X"));
    this.#socket.destroySoon();
    this.#wake?.();
  }
}

function startup({ user, database }: SqlRunOptions): Buffer {
  const words = { user, database, application_name: "strata console", client_encoding: "UTF8" };
  const body = Buffer.concat([
    int32(PROTOCOL_3),
    ...Object.entries(words).flatMap(([name, value]) => [cstring(name), cstring(value)]),
    Buffer.from([0]),
  ]);
  return Buffer.concat([int32(body.length + 4), body]);
}

function columnsOf(body: Uint8Array): { readonly name: string; readonly type: number }[] {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const columns = [];
  let at = 2;
  for (let i = view.getUint16(0); i > 0; i--) {
    const end = body.indexOf(0, at);
    const name = Buffer.from(body.subarray(at, end)).toString();
    columns.push({ name, type: view.getUint32(end + 7) });
    at = end + 19;
  }
  return columns;
}

function rowOf(body: Uint8Array): Cell[] {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const row: Cell[] = [];
  let at = 2;
  for (let i = view.getUint16(0); i > 0; i--) {
    const length = view.getInt32(at);
    at += 4;
    row.push(length < 0 ? null : cellOf(body, at, at + length));
    at += Math.max(length, 0);
  }
  return row;
}

/** A cut one may end within a letter, which the decoder then replaces. */
function cellOf(body: Uint8Array, from: number, to: number): Cell {
  const bytes = to - from;
  const text = Buffer.from(
    body.buffer,
    body.byteOffset + from,
    Math.min(bytes, MAX_VALUE_BYTES),
  ).toString();
  return bytes > MAX_VALUE_BYTES ? { text, bytes } : text;
}
