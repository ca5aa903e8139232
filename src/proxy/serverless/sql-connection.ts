// Single statements on a connection of a compute, by the extended protocol with everything as text.

import { StorageError } from "../../base/errors.ts";
import {
  cstring,
  encodeMessage,
  int16,
  int32,
  MessageReader,
  readCstrings,
} from "../../postgres/wire/wire-messages.ts";
import { protocolViolation } from "../client/postgres-errors.ts";
import { type ComputeConnection, sendCancel } from "../compute/compute-connection.ts";

const SYNC = encodeMessage("S");
const DESCRIBE_PORTAL = encodeMessage("D", Buffer.from("P\0"));
const EXECUTE = encodeMessage("E", cstring(""), int32(0));
const COPY_FAIL = encodeMessage("f", cstring("COPY cannot be used here"));
const MAX_PARAMS = 65_535;

/** A column, with the names of node-postgres. */
export interface SqlField {
  readonly name: string;
  readonly tableID: number;
  readonly columnID: number;
  readonly dataTypeID: number;
  readonly dataTypeSize: number;
  readonly dataTypeModifier: number;
  readonly format: "text";
}

export interface SqlResult {
  /** The first word of the command tag. */
  readonly command: string;
  readonly rowCount: number | null;
  readonly fields: readonly SqlField[];
  /** Values as Postgres writes them. */
  readonly rows: readonly (readonly (string | null)[])[];
}

/** How many bytes of rows may still come, over all the statements of a request. */
export interface RowBudget {
  leftBytes: number;
  readonly limitBytes: number;
}

/** Letter to text, of an ErrorResponse. */
export type ErrorFields = ReadonlyMap<string, string>;

/** What Postgres said; undefined for errors of others. */
export function postgresFields(error: unknown): ErrorFields | undefined {
  const fields = error instanceof StorageError ? error.fields["postgres"] : undefined;
  return fields instanceof Map ? (fields as ErrorFields) : undefined;
}

interface Pending {
  readonly budget: RowBudget;
  readonly rows: (string | null)[][];
  fields: SqlField[];
  tag: string;
  error: StorageError | undefined;
  resolve(result: SqlResult): void;
  reject(error: StorageError): void;
}

export class SqlConnection {
  readonly #compute: ComputeConnection;
  readonly #reader = new MessageReader();
  #pending: Pending | undefined;
  #failure: StorageError | undefined;
  /** Of ReadyForQuery: `I` idle, `T` in a transaction, `E` in one that failed. */
  status = "I";
  /** Postgres has begun to do what it was asked since the connection was last given out. */
  hasAnswered = false;
  /** Called once, when the connection is of no more use. */
  onClose: () => void = () => {};

  constructor(compute: ComputeConnection) {
    this.#compute = compute;
    compute.onData = (chunk) => {
      this.#receive(chunk);
      return true;
    };
    compute.socket.once("close", () => this.#fail("the connection to Postgres broke"));
    if (compute.socket.destroyed) {
      this.#fail("the connection to Postgres broke");
    }
  }

  get isClosed(): boolean {
    return this.#failure !== undefined;
  }

  /**
   * One statement; one at a time. Errors are StorageErrors: of Postgres with `postgresFields`; `response-too-large` and
   * `connection-lost` end the connection.
   */
  query(sql: string, params: readonly (string | null)[], budget: RowBudget): Promise<SqlResult> {
    if (params.length > MAX_PARAMS) {
      throw protocolViolation(`${params.length} parameters: at most ${MAX_PARAMS}`);
    }
    if (sql.includes("\0")) {
      throw protocolViolation("the query has a zero byte in it");
    }
    return this.#exchange(
      Buffer.concat([
        encodeMessage("P", cstring(""), cstring(sql), int16(0)),
        bindMessage(params),
        DESCRIBE_PORTAL,
        EXECUTE,
        SYNC,
      ]),
      budget,
    );
  }

  /** A command of ours, without parameters and rows. */
  command(sql: string): Promise<SqlResult> {
    return this.#exchange(encodeMessage("Q", cstring(sql)), { leftBytes: 1000, limitBytes: 1000 });
  }

  /** Stops what is under way, and the connection with it. */
  async cancel(): Promise<void> {
    await sendCancel(this.#compute.cancelTarget);
    this.close();
  }

  close(): void {
    this.#compute.close();
    this.#fail("the connection was closed");
  }

  #exchange(messages: Buffer, budget: RowBudget): Promise<SqlResult> {
    if (this.#failure !== undefined) {
      return Promise.reject(this.#failure);
    }
    return new Promise((resolve, reject) => {
      this.#pending = {
        budget,
        rows: [],
        fields: [],
        tag: "",
        error: undefined,
        resolve,
        reject,
      };
      this.#compute.socket.write(messages);
    });
  }

  #receive(chunk: Uint8Array): void {
    try {
      this.#reader.push(chunk, (type, body) => this.#message(String.fromCharCode(type), body));
    } catch (error) {
      const message = error instanceof StorageError ? error.message : "bad message of Postgres";
      this.#compute.socket.destroy();
      this.#fail(message, error instanceof StorageError ? error : undefined);
    }
  }

  #message(type: string, body: Uint8Array): void {
    const pending = this.#pending;
    this.hasAnswered ||= type !== "E";
    switch (type) {
      case "T":
        if (pending !== undefined) {
          pending.fields = parseFields(body);
        }
        return;
      case "D":
        pending?.rows.push(takeRow(body, pending.budget));
        return;
      case "d":
        take(body.length, pending?.budget);
        return;
      case "C":
        if (pending !== undefined) {
          pending.tag = readCstrings(body)[0] ?? "";
        }
        return;
      case "G":
        // Postgres has ignored our Sync while it waits for the data.
        this.#compute.socket.write(Buffer.concat([COPY_FAIL, SYNC]));
        return;
      case "E":
        this.#error(body, pending);
        return;
      case "Z":
        this.status = String.fromCharCode(body[0] ?? 0);
        this.#pending = undefined;
        if (pending?.error === undefined) {
          pending?.resolve(resultOf(pending));
        } else {
          pending.reject(pending.error);
        }
        return;
      default:
        // ParseComplete, BindComplete, NoData, ParameterStatus, notices, notifications.
        return;
    }
  }

  #error(body: Uint8Array, pending: Pending | undefined): void {
    const fields = new Map(readCstrings(body).map((text) => [text[0]!, text.slice(1)]));
    const isFatal = fields.get("V") !== "ERROR";
    const error = new StorageError("invalid", "postgres-error", fields.get("M") ?? "error", {
      fields: { postgres: fields, sqlstate: fields.get("C"), isFatal },
    });
    if (isFatal) {
      this.#failure ??= error;
      this.#fail("");
    } else if (pending !== undefined) {
      pending.error ??= error;
    }
  }

  #fail(message: string, cause?: StorageError): void {
    const first = this.#failure === undefined;
    this.#failure ??=
      cause ?? new StorageError("unavailable", "connection-lost", message, { cause });
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.reject(this.#failure);
    if (first || pending !== undefined) {
      this.onClose();
    }
  }
}

function bindMessage(params: readonly (string | null)[]): Buffer {
  // Postgres reads the count without a sign.
  const count = int16((params.length << 16) >> 16);
  const parts: Uint8Array[] = [cstring(""), cstring(""), int16(0), count];
  for (const param of params) {
    if (param === null) {
      parts.push(int32(-1));
    } else {
      const bytes = Buffer.from(param);
      parts.push(int32(bytes.length), bytes);
    }
  }
  parts.push(int16(0));
  return encodeMessage("B", ...parts);
}

function resultOf({ tag, fields, rows }: Pending): SqlResult {
  const words = tag.split(" ");
  const count = words.length > 1 ? words.at(-1)! : "";
  return {
    command: words[0]!,
    rowCount: /^\d+$/.test(count) ? Number(count) : null,
    fields,
    rows,
  };
}

function parseFields(body: Uint8Array): SqlField[] {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const fields: SqlField[] = [];
  let at = 2;
  for (let i = view.getUint16(0); i > 0; i--) {
    const end = body.indexOf(0, at);
    fields.push({
      name: textOf(body, at, end),
      tableID: view.getUint32(end + 1),
      columnID: view.getInt16(end + 5),
      dataTypeID: view.getUint32(end + 7),
      dataTypeSize: view.getInt16(end + 11),
      dataTypeModifier: view.getInt32(end + 13),
      format: "text",
    });
    at = end + 19;
  }
  return fields;
}

function takeRow(body: Uint8Array, budget: RowBudget): (string | null)[] {
  take(body.length, budget);
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const row: (string | null)[] = [];
  let at = 2;
  for (let i = view.getUint16(0); i > 0; i--) {
    const length = view.getInt32(at);
    at += 4;
    row.push(length < 0 ? null : textOf(body, at, at + length));
    at += Math.max(length, 0);
  }
  return row;
}

function take(bytes: number, budget: RowBudget | undefined): void {
  if (budget !== undefined) {
    budget.leftBytes -= bytes;
    if (budget.leftBytes < 0) {
      throw new StorageError(
        "invalid",
        "response-too-large",
        `response is too large (max is ${budget.limitBytes} bytes)`,
      );
    }
  }
}

function textOf(body: Uint8Array, from: number, to: number): string {
  return Buffer.from(body.buffer, body.byteOffset + from, to - from).toString();
}
