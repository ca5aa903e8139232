// Names of roles and databases, and the passwords that roles get.

import { StorageError } from "../../base/errors.ts";
import { randomBytes } from "../../base/random.ts";
import { scramSecret } from "../../postgres/scram.ts";
import { isSystemDatabase, isSystemRole } from "../computes/postgres-objects.ts";
import type { Context } from "../context.ts";

/** NAMEDATALEN - 1: Postgres would cut longer ones. */
const MAX_NAME_BYTES = 63;

/** StorageError `invalid` for what Postgres would not take, or has for itself. */
export function checkName(what: "role" | "database", name: string): string {
  const refuse = (why: string) =>
    new StorageError("invalid", `bad-${what}-name`, `${what} name '${name.slice(0, 100)}': ${why}`);
  if (name === "" || name.includes("\0") || name.trim() !== name) {
    throw refuse("it must not be empty, nor begin or end with spaces");
  }
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) {
    throw refuse(`longer than ${MAX_NAME_BYTES} bytes`);
  }
  const isSystem =
    what === "role"
      ? isSystemRole(name) || name === "public" || name === "none"
      : isSystemDatabase(name);
  if (isSystem) {
    throw refuse("this name is the system's");
  }
  return name;
}

/** In letters that a URL takes as they are: 144 bits. */
export function newPassword(): string {
  return `npg_${randomBytes(18).toString("base64url")}`;
}

/** What is kept of a password: for who may see it again, and for Postgres. */
export function sealed(
  { secrets }: Pick<Context, "secrets">,
  role: string,
  password: string,
): { readonly sealedPassword: string; readonly verifier: string } {
  return { sealedPassword: secrets.seal(password, ownerOf(role)), verifier: scramSecret(password) };
}

/** The password that was sealed for the role. */
export function opened(
  { secrets }: Pick<Context, "secrets">,
  row: { readonly name: string; readonly sealed_password: string | null },
): string | undefined {
  return row.sealed_password === null
    ? undefined
    : secrets.open(row.sealed_password, ownerOf(row.name));
}

/** Branches take over their parents' roles, so it is not of one branch. */
function ownerOf(role: string): string {
  return `role ${role}`;
}
