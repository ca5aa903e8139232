// SCRAM-SHA-256 secrets: what Postgres keeps in pg_authid of a password, and cannot turn back into it.
//
// Source: common/scram-common.c (scram_build_secret), 14-18; RFC 5802, 7677. The text:
//   SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>     all but the count in base64

import { randomBytes } from "../base/random.ts";

/** What a secret holds: enough to check a password, not enough to know it. */
export interface ScramSecret {
  readonly iterations: number;
  readonly salt: Buffer;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
}

/**
 * With the key that only who knows the password has: enough to log in. As good as the password for that
 * secret, so it stays in memory and out of logs.
 */
export interface ScramKeys extends ScramSecret {
  readonly clientKey: Buffer;
}

const ITERATIONS = 4096;
const SALT_BYTES = 16;
const KEY_BYTES = 32;

/** What a password in this form must look like; nothing in it needs quoting in SQL. */
export const SCRAM_SECRET =
  /^SCRAM-SHA-256\$\d{1,10}:[A-Za-z0-9+/]{4,}={0,2}\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$/;

/** `password`: printable ASCII, which SASLprep leaves as it is. */
export function scramSecret(password: string, salt: Buffer = randomBytes(SALT_BYTES)): string {
  // Not imported, because most commands do without, and it takes 10 ms to load.
  const { createHash, createHmac, pbkdf2Sync } = process.getBuiltinModule("node:crypto");
  const salted = pbkdf2Sync(password, salt, ITERATIONS, KEY_BYTES, "sha256");
  const keyed = (name: string) => createHmac("sha256", salted).update(name).digest();
  const storedKey = createHash("sha256").update(keyed("Client Key")).digest("base64");
  const serverKey = keyed("Server Key").toString("base64");
  return `SCRAM-SHA-256$${ITERATIONS}:${salt.toString("base64")}$${storedKey}:${serverKey}`;
}

/** Undefined where `text` is none: another kind of password, or no password. */
export function parseScramSecret(text: string): ScramSecret | undefined {
  if (!SCRAM_SECRET.test(text)) {
    return undefined;
  }
  const [, iterations = "", salt = "", storedKey = "", serverKey = ""] = text.split(/[$:]/);
  const bytes = (base64: string) => Buffer.from(base64, "base64");
  return {
    iterations: Number(iterations),
    salt: bytes(salt),
    storedKey: bytes(storedKey),
    serverKey: bytes(serverKey),
  };
}
