// How errors look over HTTP: `{msg, code, request_id}` under the status of their kind, and back.

import {
  type ErrorKind,
  errorKind,
  errorMessage,
  HTTP_STATUS,
  StorageError,
} from "../base/errors.ts";

/** Who shows no token that counts; all of kind `forbidden`. */
const UNAUTHORIZED = 401;
const UNAUTHORIZED_CODES = new Set(["no-token", "bad-token", "expired-token"]);
/** What HTTP itself, or Neon, has a status for, by the error's code; all of kind `invalid`. */
const STATUS_OF_CODE: Readonly<Record<string, number>> = {
  unauthorized: 401,
  "method-not-allowed": 405,
  "consumption-range": 406,
  "request-timeout": 408,
  "body-too-large": 413,
  "has-unarchived-children": 412,
  "ancestor-archived": 412,
  "not-json": 415,
  "operation-in-progress": 423,
  "too-many-requests": 429,
  "headers-too-large": 431,
};

export interface ErrorBody {
  readonly msg: string;
  readonly code: string;
  /** Absent where the request never got one. */
  readonly request_id?: string;
}

export function statusOfError(error: unknown): number {
  const code = error instanceof StorageError ? error.code : "";
  return (
    STATUS_OF_CODE[code] ??
    (UNAUTHORIZED_CODES.has(code) ? UNAUTHORIZED : HTTP_STATUS[errorKind(error)])
  );
}

export function errorBody(error: unknown, requestId?: string): ErrorBody {
  return {
    msg: errorMessage(error),
    code: error instanceof StorageError ? error.code : "internal",
    ...(requestId === undefined ? {} : { request_id: requestId }),
  };
}

/** The kind behind a status, and the code of whoever sent it; `internal` for one that nobody here sends. */
export function kindOfStatus(status: number, code?: string): ErrorKind {
  if (code !== undefined && STATUS_OF_CODE[code] === status) {
    return "invalid";
  }
  if (status === 500) {
    return "internal";
  }
  if (status === UNAUTHORIZED) {
    return "forbidden";
  }
  for (const [kind, each] of Object.entries(HTTP_STATUS)) {
    if (each === status) {
      return kind as ErrorKind;
    }
  }
  return status >= 400 && status < 500
    ? "invalid"
    : status === 502 || status === 504
      ? "unavailable"
      : "internal";
}
