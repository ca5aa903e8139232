// Names and texts as SQL has them, for statements that take no parameters.

import { StorageError } from "../../base/errors.ts";

/** NAMEDATALEN - 1: Postgres would cut a longer one down, and then it names somebody else. */
const MAX_NAME_BYTES = 63;

/** Of a role, database or extension, from outside. StorageError `invalid` where Postgres could not have it. */
export function checkName(name: unknown, what: string): string {
  if (typeof name !== "string" || name === "" || name.includes("\0") || !name.isWellFormed()) {
    throw new StorageError("invalid", "bad-name", `${what}: expected a name`);
  }
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) {
    const message = `${what}: '${name}' is longer than ${MAX_NAME_BYTES} bytes`;
    throw new StorageError("invalid", "bad-name", message);
  }
  return name;
}

export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Right whatever standard_conforming_strings says. */
export function quoteText(text: string): string {
  const quoted = text.replaceAll("\\", "\\\\").replaceAll("'", "''");
  return text.includes("\\") ? ` E'${quoted}'` : `'${quoted}'`;
}
