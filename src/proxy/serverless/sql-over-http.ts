// POST /sql: statements over HTTP, as Neon's serverless driver sends them.
//
// Source: @neondatabase/serverless 1.2 (what it reads), neondatabase/neon proxy/src/serverless/sql_over_http.rs. 400 is what
// Postgres says of a statement, with its fields; 413 and 507 are too large; other errors are text for the driver.

import type { IncomingMessage, ServerResponse } from "node:http";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import {
  chooseEndpoint,
  endpointOfHost,
  noEndpointNamed,
  parseClientOptions,
} from "../client/endpoint-name.ts";
import { readable } from "../client/startup-packet.ts";
import type { ProxyParts } from "../proxy-parts.ts";
import { postgresFields, type RowBudget, SqlConnection, type SqlResult } from "./sql-connection.ts";
import type { Lease, SqlPool } from "./sql-pool.ts";
import { parseSqlRequest, type SqlRequest, type SqlStatement } from "./sql-request.ts";
import { jsonRow } from "./sql-values.ts";

const MAX_REQUEST_BYTES = 10 * 1024 * 1024;
const MAX_RESPONSE_BYTES = 10 * 1024 * 1024;
/** A day. */
const PREFLIGHT_SECONDS = 86_400;
const ALLOWED_HEADERS = [
  "Authorization",
  "Content-Type",
  "Neon-Connection-String",
  "Neon-Raw-Text-Output",
  "Neon-Array-Mode",
  "Neon-Pool-Opt-In",
  "Neon-Batch-Read-Only",
  "Neon-Batch-Deferrable",
  "Neon-Batch-Isolation-Level",
  "X-Neon-Query-ID",
].join(", ");
/** Letter of an ErrorResponse to the driver's name. */
const ERROR_FIELDS = {
  severity: "S",
  code: "C",
  detail: "D",
  hint: "H",
  position: "P",
  internalPosition: "p",
  internalQuery: "q",
  where: "W",
  schema: "s",
  table: "t",
  column: "c",
  dataType: "d",
  constraint: "n",
  file: "F",
  line: "L",
  routine: "R",
} as const;

export class SqlOverHttp {
  readonly #parts: ProxyParts;
  readonly #pool: SqlPool;

  constructor(parts: ProxyParts, pool: SqlPool) {
    this.#parts = parts;
    this.#pool = pool;
  }

  /** Any web page may call: it needs a password, and gets nothing without. */
  preflight(response: ServerResponse): void {
    response.writeHead(200, {
      allow: "OPTIONS, POST",
      "access-control-allow-origin": "*",
      "access-control-allow-methods": "OPTIONS, POST",
      "access-control-allow-headers": ALLOWED_HEADERS,
      "access-control-max-age": `${PREFLIGHT_SECONDS}`,
    });
    response.end();
  }

  /** Never rejects. `address`: the caller's. */
  async handle(request: IncomingMessage, response: ServerResponse, address: string): Promise<void> {
    response.on("error", () => undefined);
    response.setHeader("access-control-allow-origin", "*");
    try {
      const body = await readBody(request);
      const sql = parseSqlRequest(request.headers, body);
      const { endpoint, answer } = await this.#run(sql, address, response);
      const { metrics, transfers } = this.#parts;
      metrics.sqlServed();
      transfers.add(endpoint, send(response, 200, JSON.stringify(answer)));
    } catch (error) {
      this.#refuse(error, response, address);
    }
  }

  #refuse(error: unknown, response: ServerResponse, address: string): void {
    const { logger, metrics } = this.#parts;
    const code = error instanceof StorageError ? error.code : "internal";
    metrics.sqlRefused(code);
    if (errorKind(error) === "internal") {
      logger.error({ error, remote: address }, "statement failed");
    } else {
      // Without the message: there may be data in it.
      logger.info({ code, remote: address }, "statement refused");
    }
    if (response.destroyed) {
      return;
    }
    send(response, statusOf(error), JSON.stringify(describeError(error)));
  }

  async #run(
    sql: SqlRequest,
    address: string,
    response: ServerResponse,
  ): Promise<{ readonly endpoint: string; readonly answer: object }> {
    const { settings, gate } = this.#parts;
    const { role, password, host, database, parameters } = sql.connection;
    const options = parseClientOptions(parameters.get("options") ?? "");
    const endpoint = chooseEndpoint(endpointOfHost(host, settings.domains), options.endpoint);
    if (endpoint === undefined) {
      throw noEndpointNamed(host, settings.domains[0] ?? "");
    }
    const caller = { address, endpoint: endpoint.id, role };
    const { token } = sql;
    const proof =
      token === undefined
        ? await gate.password(caller, Buffer.from(password))
        : await gate.token(caller, token);
    const startup = new Map(
      Object.entries({ ...Object.fromEntries(parameters), user: role, database }).map(
        ([name, value]) => [name, Buffer.from(value).toString("latin1")],
      ),
    );
    startup.delete("options");
    if (options.rest !== "") {
      startup.set("options", options.rest);
    }
    const key = JSON.stringify([
      ...[endpoint.id, role, database, options.compute, options.rest],
      token === undefined ? "password" : "token",
    ]);
    const make = async () =>
      new SqlConnection(await gate.connect(caller, options.compute, startup, proof));
    const work = (lease: SqlConnection) => runAll(lease, sql);
    const answer = await this.#withConnection(key, make, response, work);
    return { endpoint: endpoint.id, answer };
  }

  /** Once more, where the connection had been closed before it was asked. */
  async #withConnection<T>(
    key: string,
    make: () => Promise<SqlConnection>,
    response: ServerResponse,
    work: (connection: SqlConnection) => Promise<T>,
  ): Promise<T> {
    for (;;) {
      const lease = await this.#pool.acquire(key, make);
      const { connection } = lease;
      const gone = () => void connection.cancel();
      response.once("close", gone);
      try {
        return await work(connection);
      } catch (error) {
        if (!wasClosedBefore(lease, error)) {
          throw error;
        }
      } finally {
        response.off("close", gone);
        this.#pool.release(key, connection);
      }
    }
  }
}

/**
 * A compute that stops ends its idle connections with 57P01, without having looked at what we sent. One that was at work
 * sends the same, but what it had to say before comes first, ParseComplete at the least.
 */
function wasClosedBefore({ isReused, connection }: Lease, error: unknown): boolean {
  return (
    isReused &&
    !connection.hasAnswered &&
    error instanceof StorageError &&
    error.fields["isFatal"] === true &&
    error.fields["sqlstate"] === "57P01"
  );
}

async function runAll(
  connection: SqlConnection,
  { begin, statements, rawText }: SqlRequest,
): Promise<object> {
  const budget = { leftBytes: MAX_RESPONSE_BYTES, limitBytes: MAX_RESPONSE_BYTES };
  if (begin === undefined) {
    return runOne(connection, statements[0]!, rawText, budget);
  }
  await connection.command(begin);
  const results: object[] = [];
  try {
    for (const statement of statements) {
      results.push(await runOne(connection, statement, rawText, budget));
    }
    await connection.command("COMMIT");
  } catch (error) {
    if (!connection.isClosed && connection.status !== "I") {
      await connection.command("ROLLBACK").catch(() => undefined);
    }
    throw error;
  }
  return { results };
}

async function runOne(
  connection: SqlConnection,
  { query, params, arrayMode }: SqlStatement,
  rawText: boolean,
  budget: RowBudget,
): Promise<object> {
  return describeResult(await connection.query(query, params, budget), rawText, arrayMode);
}

function describeResult(result: SqlResult, rawText: boolean, arrayMode: boolean): object {
  const { fields } = result;
  const rows = rawText ? result.rows : result.rows.map((row) => jsonRow(row, fields));
  return {
    ...result,
    rows: arrayMode
      ? rows
      : rows.map((row) => Object.fromEntries(row.map((value, i) => [fields[i]!.name, value]))),
    rowAsArray: arrayMode,
  };
}

function statusOf(error: unknown): number {
  const code = error instanceof StorageError ? error.code : "";
  const special: Readonly<Record<string, number>> = {
    "request-too-large": 413,
    "response-too-large": 507,
    "endpoint-not-up": 503,
    "control-plane-away": 503,
    "connection-lost": 500,
  };
  return special[code] ?? (errorKind(error) === "internal" ? 500 : 400);
}

/** As the driver makes a NeonDbError of it. */
function describeError(error: unknown): object {
  const given = postgresFields(error) ?? responseFields(error);
  const own = error instanceof StorageError ? error.fields : {};
  const message =
    errorKind(error) === "internal" ? "internal error of the proxy" : errorMessage(error);
  const code = typeof own["sqlstate"] === "string" ? own["sqlstate"] : null;
  const fields = Object.entries(ERROR_FIELDS).map(([name, letter]) => [
    name,
    given?.get(letter) ?? null,
  ]);
  return {
    message,
    ...Object.fromEntries(fields),
    ...(given === undefined ? { code, severity: "FATAL", hint: own["hint"] ?? null } : {}),
  };
}

/** Of an error that Postgres gave at the login. */
function responseFields(error: unknown): ReadonlyMap<string, string> | undefined {
  const response = error instanceof StorageError ? error.fields["response"] : undefined;
  if (!(response instanceof Uint8Array)) {
    return undefined;
  }
  const texts = readable(Buffer.from(response.subarray(5)).toString("latin1")).split("\0");
  return new Map(texts.filter((text) => text !== "").map((text) => [text[0]!, text.slice(1)]));
}

/** Bytes of the body. */
function send(response: ServerResponse, status: number, body: string): number {
  const length = Buffer.byteLength(body);
  response.writeHead(status, { "content-type": "application/json", "content-length": length });
  response.end(body);
  return length;
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const tooLarge = () =>
    new StorageError(
      "invalid",
      "request-too-large",
      `request is too large (max is ${MAX_REQUEST_BYTES} bytes)`,
    );
  if (Number(request.headers["content-length"] ?? 0) > MAX_REQUEST_BYTES) {
    throw tooLarge();
  }
  const bytes = await new Promise<Buffer>((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > MAX_REQUEST_BYTES) {
        reject(tooLarge());
      } else {
        chunks.push(chunk);
      }
    });
    request.on("end", () => resolve(Buffer.concat(chunks)));
    request.on("close", () => reject(new StorageError("unavailable", "client-gone", "gone")));
    request.on("error", () => reject(new StorageError("unavailable", "client-gone", "gone")));
  });
  try {
    return JSON.parse(bytes.toString()) as unknown;
  } catch (cause) {
    throw new StorageError(
      "invalid",
      "bad-request",
      `the body is not JSON: ${errorMessage(cause)}`,
      {
        cause,
      },
    );
  }
}
