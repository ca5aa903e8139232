// What the parts of the control plane share.

import type { Logger } from "../base/log.ts";
import { randomBytes } from "../base/random.ts";
import type { StrataHome } from "../local/home.ts";
import type { SealedSecrets } from "./sealed-secrets.ts";
import type { Database } from "./state/database.ts";

export interface Context {
  readonly home: StrataHome;
  readonly db: Database;
  readonly secrets: SealedSecrets;
  readonly logger: Logger;
}

/** Random, RFC 9562 version 4. */
export function newUuid(): string {
  const bytes = randomBytes(16);
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** 31 random bits: what every database's integer holds. */
export function newNumber(): number {
  return randomBytes(4).readUInt32BE() >>> 1;
}
