// What a client is told when it cannot be served: ErrorResponse, and the errors that more than one place gives.

import { errorKind, errorMessage, SQLSTATE, StorageError } from "../../base/errors.ts";
import { cstring, encodeMessage } from "../../postgres/wire/wire-messages.ts";

export interface ClientErrorOptions {
  readonly hint?: string | undefined;
  readonly detail?: string | undefined;
  readonly cause?: unknown;
}

/** StorageError `forbidden` that says to the client what to do about it. */
export function clientError(
  sqlstate: string,
  code: string,
  message: string,
  { hint, detail, cause }: ClientErrorOptions = {},
): StorageError {
  return new StorageError("forbidden", code, message, {
    cause,
    fields: { sqlstate, ...(hint && { hint }), ...(detail && { detail }) },
  });
}

/** As Postgres says it, with what to do about it; the same whether the role is there or not. */
export function wrongPassword(role: string): StorageError {
  const message = `password authentication failed for user "${role}"`;
  return clientError("28P01", "wrong-password", message, {
    hint:
      "'strata connection-string BRANCH --role ROLE' shows the password that is kept for a role, " +
      "'strata roles reset-password ROLE --branch BRANCH' gives it a new one.",
  });
}

/** StorageError `invalid` for bytes that are not what the protocol has there. */
export function protocolViolation(message: string): StorageError {
  return new StorageError("invalid", "protocol-violation", message, {
    fields: { sqlstate: "08P01" },
  });
}

/** Whoever closes, or breaks off, has nothing to be told. */
export function clientGone(): StorageError {
  return new StorageError("unavailable", "client-gone", "the client has closed the connection");
}

/** An error that Postgres gave is sent as it came (`fields.response`). */
export function errorResponse(error: unknown, severity: "FATAL" | "ERROR" = "FATAL"): Buffer {
  const fields = error instanceof StorageError ? error.fields : {};
  if (fields["response"] instanceof Uint8Array) {
    return Buffer.from(fields["response"]);
  }
  const kind = errorKind(error);
  const sqlstate = typeof fields["sqlstate"] === "string" ? fields["sqlstate"] : SQLSTATE[kind];
  const message = kind === "internal" ? "internal error of the proxy" : errorMessage(error);
  const parts = [`S${severity}`, `V${severity}`, `C${sqlstate}`, `M${message}`];
  for (const [letter, name] of [
    ["D", "detail"],
    ["H", "hint"],
  ] as const) {
    if (typeof fields[name] === "string") {
      parts.push(`${letter}${fields[name]}`);
    }
  }
  return encodeMessage("E", ...parts.map(cstring), Buffer.from([0]));
}
