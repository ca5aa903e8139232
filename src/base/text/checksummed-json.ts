// JSON files that carry their own checksum: one object, whose first field is the CRC-32C of the rest.
//
// Ours. `checksum`: 8 hex digits, CRC-32C of the JSON text, without white space, of the object without that field,
// fields in the order in which they stand. What the other fields are, and their version, is each file's to say.

import type { z } from "zod";
import { crc32c } from "../crc32c.ts";
import { errorMessage, type StorageError } from "../errors.ts";

/** `indent`: 1 for files that people look into. */
export function encodeChecksummedJson(body: object, indent = 0): string {
  return `${JSON.stringify({ checksum: checksumOf(body), ...body }, null, indent)}\n`;
}

function checksumOf(body: object): string {
  return crc32c(Buffer.from(JSON.stringify(body)))
    .toString(16)
    .padStart(8, "0");
}

/** What `encodeChecksummedJson` wrote, as the schema makes it. `corrupt` makes the error of whatever is not that. */
export function decodeChecksummedJson<T>(
  text: string,
  schema: z.ZodType<T>,
  corrupt: (what: string, cause?: unknown) => StorageError,
): T {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw corrupt(`not JSON: ${errorMessage(error)}`, error);
  }
  if (typeof parsed !== "object" || parsed === null || !("checksum" in parsed)) {
    throw corrupt("no checksum");
  }
  const { checksum, ...body } = parsed;
  if (checksum !== checksumOf(body)) {
    throw corrupt("the checksum is wrong");
  }
  const result = schema.safeParse(body);
  if (!result.success) {
    throw corrupt(result.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`).join("; "));
  }
  return result.data;
}
