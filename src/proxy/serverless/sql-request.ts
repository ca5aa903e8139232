// What a request to /sql says: headers, connection string, statements and parameters.
//
// Source: @neondatabase/serverless 1.2 (what it sends), neondatabase/neon proxy/src/serverless (what is taken beside it). The body is
// JSON, whatever its content type says: {query, params?, arrayMode?} or {queries: [...]}.

import type { IncomingHttpHeaders } from "node:http";
import type { StorageError } from "../../base/errors.ts";
import { clientError } from "../client/postgres-errors.ts";
import { parameterText } from "./sql-values.ts";

const ISOLATION_LEVELS: Readonly<Record<string, string>> = {
  ReadUncommitted: "READ UNCOMMITTED",
  ReadCommitted: "READ COMMITTED",
  RepeatableRead: "REPEATABLE READ",
  Serializable: "SERIALIZABLE",
};
const MAX_QUERIES = 10_000;

export interface ConnectionString {
  readonly role: string;
  /** Empty where there is a token. */
  readonly password: string;
  readonly host: string;
  readonly database: string;
  /** Start-up parameters: `options`, `application_name`. */
  readonly parameters: ReadonlyMap<string, string>;
}

export interface SqlStatement {
  readonly query: string;
  readonly params: readonly (string | null)[];
  readonly arrayMode: boolean;
}

export interface SqlRequest {
  readonly connection: ConnectionString;
  /** Of `Authorization: Bearer`: it counts, and not the password. */
  readonly token: string | undefined;
  /** Values as Postgres writes them, not as JSON has them. */
  readonly rawText: boolean;
  /** How a transaction around all begins; undefined: one statement by itself. */
  readonly begin: string | undefined;
  readonly statements: readonly SqlStatement[];
}

/** StorageError `invalid`, which is 400. */
export function parseSqlRequest(headers: IncomingHttpHeaders, body: unknown): SqlRequest {
  const isTrue = (name: string) => headers[name] === "true";
  const arrayMode = isTrue("neon-array-mode");
  const from = object(body);
  const batch = from["queries"];
  const list = batch === undefined ? [from] : batch;
  if (!Array.isArray(list) || list.length > MAX_QUERIES) {
    throw badRequest(`queries must be a list of at most ${MAX_QUERIES}`);
  }
  const token = bearerOf(headers);
  return {
    connection: parseConnectionString(headers["neon-connection-string"], token !== undefined),
    token,
    rawText: isTrue("neon-raw-text-output"),
    begin: batch === undefined ? undefined : beginOf(headers),
    statements: list.map((one) => parseStatement(object(one), arrayMode)),
  };
}

function parseStatement(from: Record<string, unknown>, arrayMode: boolean): SqlStatement {
  const { query, params = [], arrayMode: own = arrayMode } = from;
  if (typeof query !== "string") {
    throw badRequest("query must be a string");
  }
  if (!Array.isArray(params)) {
    throw badRequest("params must be a list");
  }
  return { query, params: params.map(parameterText), arrayMode: own === true };
}

function beginOf(headers: IncomingHttpHeaders): string {
  const level = headers["neon-batch-isolation-level"];
  const sql = ["BEGIN"];
  if (level !== undefined) {
    const words = typeof level === "string" ? ISOLATION_LEVELS[level] : undefined;
    if (words === undefined) {
      throw badRequest("invalid isolation level");
    }
    sql.push(`ISOLATION LEVEL ${words}`);
  }
  if (headers["neon-batch-read-only"] === "true") {
    sql.push("READ ONLY");
  }
  if (headers["neon-batch-deferrable"] === "true") {
    sql.push("DEFERRABLE");
  }
  return sql.join(" ");
}

/** Undefined where the header is not there. StorageError `invalid` for another scheme. */
export function bearerOf({ authorization }: IncomingHttpHeaders): string | undefined {
  if (authorization === undefined) {
    return undefined;
  }
  const token = /^bearer +(\S+) *$/i.exec(authorization)?.[1];
  if (token === undefined) {
    throw badRequest("the header Authorization must be 'Bearer TOKEN'");
  }
  return token;
}

function parseConnectionString(
  text: string | string[] | undefined,
  hasToken: boolean,
): ConnectionString {
  const url = typeof text === "string" ? URL.parse(text) : null;
  if (url === null || !/^postgres(ql)?:$/.test(url.protocol)) {
    // Without the text: there is a password in it.
    throw badRequest(
      "the header Neon-Connection-String must be postgresql://USER:PASSWORD@ENDPOINT.DOMAIN/DATABASE",
    );
  }
  const role = decoded(url.username);
  const database = decoded(url.pathname.slice(1)) || role;
  if (role === "" || (url.password === "" && !hasToken)) {
    throw badRequest(`the connection string must have a user${hasToken ? "" : " and a password"}`);
  }
  const parameters = new Map<string, string>();
  for (const name of ["options", "application_name"]) {
    const value = url.searchParams.get(name);
    if (value !== null) {
      parameters.set(name, value);
    }
  }
  const password = decoded(url.password);
  if ([role, database, password, ...parameters.values()].some((one) => one.includes("\0"))) {
    throw badRequest("the connection string has a zero byte in it");
  }
  return { role, password, host: url.hostname, database, parameters };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw badRequest("the connection string has an escape that is none");
  }
}

function object(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw badRequest("the body must be {query, params} or {queries: [...]}");
  }
  return value as Record<string, unknown>;
}

export function badRequest(message: string): StorageError {
  return clientError("08P01", "bad-request", message);
}
