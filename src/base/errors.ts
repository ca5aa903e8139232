// The one error type for everything that is not our own bug, sorted by what the caller does about it.

/**
 * - `invalid`: the request is wrong; repeating it is pointless.
 * - `forbidden`: this caller may not; another one may.
 * - `not-found`, `conflict`: as in HTTP 404 and 409.
 * - `unavailable`: may work later; retry.
 * - `fenced`: a newer term or generation exists; stop.
 * - `corrupt`: stored or received bytes are wrong; never retry, an operator looks.
 * - `unsupported`: valid, but this version cannot do it.
 * - `internal`: anything else.
 */
export type ErrorKind =
  | "invalid"
  | "forbidden"
  | "not-found"
  | "conflict"
  | "unavailable"
  | "fenced"
  | "corrupt"
  | "unsupported"
  | "internal";

export class StorageError extends Error {
  override readonly name = "StorageError";
  readonly kind: ErrorKind;
  /** Stable and machine-readable, kebab-case. */
  readonly code: string;
  readonly fields: Readonly<Record<string, unknown>>;

  constructor(
    kind: ErrorKind,
    code: string,
    message: string,
    options: { cause?: unknown; fields?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.code = code;
    this.fields = options.fields ?? {};
  }
}

export const HTTP_STATUS: Readonly<Record<ErrorKind, number>> = {
  invalid: 400,
  forbidden: 403,
  "not-found": 404,
  conflict: 409,
  unavailable: 503,
  fenced: 412,
  corrupt: 500,
  unsupported: 501,
  internal: 500,
};

export const SQLSTATE: Readonly<Record<ErrorKind, string>> = {
  invalid: "22023",
  forbidden: "42501",
  "not-found": "58P01",
  conflict: "55006",
  unavailable: "57P03",
  fenced: "55000",
  corrupt: "XX001",
  unsupported: "0A000",
  internal: "XX000",
};

export function errorKind(error: unknown): ErrorKind {
  return error instanceof StorageError ? error.kind : "internal";
}

/** Puts what was being done in front of why it failed, keeping the kind: "load index: bad checksum". */
export function withContext(error: unknown, doing: string): StorageError {
  const message = `${doing}: ${errorMessage(error)}`;
  if (error instanceof StorageError) {
    return new StorageError(error.kind, error.code, message, {
      cause: error,
      fields: { ...error.fields },
    });
  }
  return new StorageError("internal", "internal", message, { cause: error });
}

export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The `code` of a Node system error such as ENOENT, else undefined. */
export function errnoCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string"
    ? error.code
    : undefined;
}
