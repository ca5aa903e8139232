// The superuser's password of a home: made once, for whoever connects over TCP; the unix socket needs none.
//
//   superuser.password  the password, in its only copy
//   superuser.scram     what Postgres keeps of it; initdb gives it to every new root
//   superuser.older     ids of tenants that are older than these two, or have a cluster that was imported, one a line
//
// Both for their owner's eyes. Neither is ever an argument of a process or a line in a log.

import { join } from "node:path";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { randomBytes } from "../base/random.ts";
import { SCRAM_SECRET, scramSecret } from "../postgres/scram.ts";
import type { StrataHome } from "./home.ts";

/** As many bits as a UUID has, and some; in letters that a URL takes as they are. */
const PASSWORD_BYTES = 18;

/** Undefined in a home of an earlier version that was not started since. */
export function superuserPassword(home: StrataHome): string | undefined {
  return firstLine(passwordFile(home));
}

export function superuserSecret(home: StrataHome): string | undefined {
  const secret = firstLine(superuserSecretFile(home));
  return secret !== undefined && SCRAM_SECRET.test(secret) ? secret : undefined;
}

export function superuserSecretFile(home: StrataHome): string {
  return join(home.path, "superuser.scram");
}

/** What an endpoint of the tenant has to see to at its start; undefined: initdb did. */
export function secretToSet(home: StrataHome, tenantId: string): string | undefined {
  const older = readFileIfExists(olderTenantsFile(home))?.toString("utf8").split("\n");
  return older?.includes(tenantId) === true ? superuserSecret(home) : undefined;
}

/** Its endpoints set the password at each start: initdb of its cluster had another. Call with the home locked. */
export function setAtEachStart(home: StrataHome, tenantId: string): void {
  const older = readFileIfExists(olderTenantsFile(home))?.toString("utf8") ?? "";
  if (!older.split("\n").includes(tenantId)) {
    writeFileDurably(olderTenantsFile(home), `${older}${tenantId}\n`);
  }
}

function olderTenantsFile(home: StrataHome): string {
  return join(home.path, "superuser.older");
}

function passwordFile(home: StrataHome): string {
  return join(home.path, "superuser.password");
}

export function hasCredentials(home: StrataHome): boolean {
  return superuserPassword(home) !== undefined && superuserSecret(home) !== undefined;
}

/**
 * Makes what is missing; call with the home locked. Tenants that are there already have no password or
 * another one, so their endpoints set it at each start. A password that somebody wrote into its file stays.
 * Whether something was made.
 */
export function ensureCredentials(home: StrataHome): boolean {
  if (hasCredentials(home)) {
    return false;
  }
  const older = [...home.config().branchNameMappings.keys()];
  writeFileDurably(olderTenantsFile(home), older.map((id) => `${id}\n`).join(""));
  const password = superuserPassword(home) ?? randomBytes(PASSWORD_BYTES).toString("base64url");
  // The password comes last: with it, both are there.
  writeFileDurably(superuserSecretFile(home), `${scramSecret(password)}\n`);
  writeFileDurably(passwordFile(home), `${password}\n`);
  return true;
}

function firstLine(path: string): string | undefined {
  return readFileIfExists(path)?.toString("utf8").split("\n")[0] || undefined;
}
