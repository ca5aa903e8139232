// Keys and service tokens of a home: its services know each other by them, and its owner's commands.
//
//   auth/signing-key.pem          Ed25519, private: whoever has it may do everything here
//   auth/keys/NAME.pem            public keys whose tokens count; two of them after a rotation
//   auth/admin.jwt, storage.jwt   tokens of commands and of storage daemons
//   endpoints/ID/service-token    of a compute: its tenant's only
//
// For their owner's eyes. No token is ever an argument of a process or a line in a log: arguments name files.

import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { signToken, type TokenClaims } from "../base/auth/service-token.ts";
import { nowMs } from "../base/clock.ts";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";

const DAY_SECONDS = 24 * 3600;
const YEAR_SECONDS = 365 * DAY_SECONDS;
/** Made anew, by any start, when less is left of it: what runs reads the file again. */
const RENEW_SECONDS = YEAR_SECONDS / 2;

/** The part of a home that this needs. */
interface Home {
  readonly path: string;
}

const authDirectory = ({ path }: Home) => join(path, "auth");
const keysDirectory = (home: Home) => join(authDirectory(home), "keys");
const signingKeyFile = (home: Home) => join(authDirectory(home), "signing-key.pem");
/** What the owner's commands show. */
export const adminTokenFile = (home: Home) => join(authDirectory(home), "admin.jwt");
const storageTokenFile = (home: Home) => join(authDirectory(home), "storage.jwt");

export function hasServiceKeys(home: Home): boolean {
  return existsSync(adminTokenFile(home)) && existsSync(signingKeyFile(home));
}

/** Makes what is missing, and tokens whose time is half over anew; call with the home locked. */
export function ensureServiceKeys(home: Home): void {
  mkdirSync(keysDirectory(home), { recursive: true, mode: 0o700 });
  chmodSync(authDirectory(home), 0o700);
  if (!existsSync(signingKeyFile(home))) {
    writeFileDurably(signingKeyFile(home), newKey());
  }
  // A crash may have left it out.
  publish(home);
  renewToken(home, storageTokenFile(home), { scope: "safekeeperdata" });
  // The command line's comes last: with it, all are there.
  renewToken(home, adminTokenFile(home), { scope: "admin" });
}

/**
 * Another key takes the place of the one that signs. Tokens of the old one count until `forgetOldKeys`;
 * compute's are made anew by their next start. Call with the home locked.
 */
export function rotateServiceKey(home: Home): void {
  const next = newKey();
  const pem = publicKey(next);
  writeFileDurably(join(keysDirectory(home), `${keyName(pem)}.pem`), pem);
  writeFileDurably(signingKeyFile(home), next);
  for (const file of [storageTokenFile(home), adminTokenFile(home)]) {
    rmSync(file, { force: true });
  }
  ensureServiceKeys(home);
}

/** Tokens of every key but the one that signs cease to count, within a minute. */
export function forgetOldKeys(home: Home): void {
  const current = `${keyName(publicKey(signingKey(home)))}.pem`;
  for (const name of readdirSync(keysDirectory(home))) {
    if (name !== current) {
      rmSync(join(keysDirectory(home), name));
    }
  }
}

/** Of a storage daemon: it shows its token, and asks for one where the home says so. */
export function storageAuthArguments(home: Home, asksForTokens: boolean): string[] {
  if (!hasServiceKeys(home)) {
    return [];
  }
  return [
    ...["--auth-token", storageTokenFile(home)],
    ...(asksForTokens ? ["--auth-keys", keysDirectory(home)] : []),
  ];
}

/** Of an endpoint's agent, which lives in `directory`; `endpoints` is in the home. */
export function agentAuthArguments(directory: string): string[] {
  const home = { path: dirname(dirname(directory)) };
  return hasServiceKeys(home)
    ? ["--auth-keys", keysDirectory(home), "--auth-token", agentTokenFile(directory)]
    : [];
}

function agentTokenFile(directory: string): string {
  return join(directory, "service-token");
}

/** Before its agent starts. */
export function renewAgentToken(home: Home, directory: string, tenantId: string): void {
  if (hasServiceKeys(home)) {
    renewToken(home, agentTokenFile(directory), { scope: "tenant", tenant_id: tenantId });
  }
}

/** The token of the home of an endpoint's directory; undefined in a home without keys. */
export function adminTokenOf(directory: string): string | undefined {
  const file = adminTokenFile({ path: dirname(dirname(directory)) });
  return readFileIfExists(file)?.toString("utf8").trim();
}

/** For whoever is not a daemon of the home: a standby, curl. StorageError `not-found` without keys. */
export function makeToken(home: Home, claims: Omit<TokenClaims, "exp">, days: number): string {
  const key = signingKey(home);
  const exp = Math.floor(nowMs() / 1000) + days * DAY_SECONDS;
  return signToken(key, keyName(publicKey(key)), { ...claims, exp });
}

function renewToken(home: Home, file: string, claims: Omit<TokenClaims, "exp">): void {
  const now = Math.floor(nowMs() / 1000);
  const key = signingKey(home);
  const name = keyName(publicKey(key));
  const before = readFileIfExists(file)?.toString("utf8").trim() ?? "";
  if (!isGoodFor(before, name, { ...claims, exp: now + RENEW_SECONDS })) {
    const token = signToken(key, name, { ...claims, exp: now + YEAR_SECONDS });
    writeFileDurably(file, `${token}\n`);
  }
}

/** A token of ours: only read, not checked. */
function isGoodFor(token: string, name: string, claims: TokenClaims): boolean {
  try {
    const [head, body] = token
      .split(".")
      .map((word) => JSON.parse(Buffer.from(word, "base64url").toString("utf8")) as object);
    const { kid } = head as { kid?: string };
    const { exp, scope, tenant_id: tenantId } = body as Partial<TokenClaims>;
    return (
      kid === name &&
      scope === claims.scope &&
      tenantId === claims.tenant_id &&
      (exp ?? 0) >= claims.exp
    );
  } catch {
    return false;
  }
}

function publish(home: Home): void {
  const pem = publicKey(signingKey(home));
  const file = join(keysDirectory(home), `${keyName(pem)}.pem`);
  if (!existsSync(file)) {
    writeFileDurably(file, pem);
  }
}

function signingKey(home: Home): string {
  const pem = readFileIfExists(signingKeyFile(home))?.toString("utf8");
  if (pem === undefined) {
    throw new StorageError("not-found", "no-signing-key", `no ${signingKeyFile(home)}`);
  }
  return pem;
}

function newKey(): string {
  const { privateKey } = crypto().generateKeyPairSync("ed25519");
  return privateKey.export({ type: "pkcs8", format: "pem" }).toString();
}

function publicKey(privateKey: string): string {
  return crypto().createPublicKey(privateKey).export({ type: "spki", format: "pem" }).toString();
}

/** `kid` of its tokens. */
function keyName(publicPem: string): string {
  return crypto().createHash("sha256").update(publicPem).digest("hex").slice(0, 16);
}

/** Not imported: most commands do without, and it takes 10 ms to load. */
function crypto() {
  return process.getBuiltinModule("node:crypto");
}
