// Service tokens: by which our services know each other. JWTs (RFC 7519) signed with Ed25519 (RFC 8037), Neon's scopes.
//
// Header `{"alg": "EdDSA", "kid": K}`: the key is in the file K.pem of a directory of public keys, so that there can be
// two of them while one takes the other's place. Claims as Neon's (libs/utils/src/auth.rs): `scope`, `tenant_id`; and `exp`.
//
// On node:crypto, which is loaded when it is needed: with a library each endpoint would start later (docs/decisions/0030).

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, nowMs } from "../clock.ts";
import { StorageError } from "../errors.ts";

/**
 * - `admin`: everything, everywhere: the command line, the control plane;
 * - `pageserverapi`, `safekeeperdata`: everything of a pageserver, or of safekeepers and the broker;
 * - `tenant`: what belongs to `tenant_id`: computes.
 */
export type TokenScope = "admin" | "pageserverapi" | "safekeeperdata" | "tenant";

export interface TokenClaims {
  readonly scope: TokenScope;
  /** 32 hex digits; of scope `tenant`. */
  readonly tenant_id?: string | undefined;
  /** Seconds since 1970. */
  readonly exp: number;
}

export type ServiceName = "pageserver" | "safekeeper" | "storage_broker" | "compute";

const SCOPES: readonly string[] = ["admin", "pageserverapi", "safekeeperdata", "tenant"];
/** Beside `admin`: who may do everything there. A compute is nobody's but the control plane's. */
const SCOPE_OF_SERVICE: Readonly<Record<ServiceName, readonly TokenScope[]>> = {
  pageserver: ["pageserverapi"],
  safekeeper: ["safekeeperdata"],
  storage_broker: ["safekeeperdata", "pageserverapi"],
  compute: [],
};
/** Whose tenants' computes may do what belongs to the tenant. */
const FOR_TENANTS: readonly ServiceName[] = ["pageserver", "safekeeper"];

const KEY_NAME = /^[\w-]{1,64}$/;
/** Keys that were taken away cease to count, at the latest, so long after. */
const RELOAD_MS = 60_000;
/** A token of a key that is not known yet; not for each, since anybody can make those up. */
const RELOAD_UNKNOWN_MS = 1000;
const MAX_TOKEN_LENGTH = 4096;
const MAX_REMEMBERED = 1000;

/** StorageError `forbidden` where the caller may not; `tenantId`: whose it is that is asked for. */
export function requireScope(
  claims: TokenClaims,
  service: ServiceName,
  tenantId: string | undefined,
): void {
  const may =
    claims.scope === "admin" ||
    SCOPE_OF_SERVICE[service].includes(claims.scope) ||
    (claims.scope === "tenant" &&
      FOR_TENANTS.includes(service) &&
      tenantId !== undefined &&
      claims.tenant_id === tenantId);
  if (!may) {
    const whose = claims.tenant_id === undefined ? "" : ` of tenant ${claims.tenant_id}`;
    const message = `a token of scope '${claims.scope}'${whose} does not open this`;
    throw new StorageError("forbidden", "wrong-scope", message);
  }
}

/** `privateKey`: PEM (PKCS 8). */
export function signToken(privateKey: string, keyName: string, claims: TokenClaims): string {
  const { sign } = crypto();
  const words = [{ alg: "EdDSA", typ: "JWT", kid: keyName }, claims].map((part) =>
    Buffer.from(JSON.stringify(part)).toString("base64url"),
  );
  const text = words.join(".");
  return `${text}.${sign(null, Buffer.from(text), privateKey).toString("base64url")}`;
}

type PublicKey = ReturnType<ReturnType<typeof crypto>["createPublicKey"]>;

export class TokenVerifier {
  readonly #directory: string;
  #keys = new Map<string, PublicKey>();
  #loadedMs = Number.NEGATIVE_INFINITY;
  /** Those that were right once, until the keys are loaded again. */
  #known = new Map<string, TokenClaims>();

  /** `directory`: of public keys, `NAME.pem` (SPKI). Read when it is needed. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** StorageError `forbidden`, without a word of the token, where there is none, or it is not good now. */
  verify(token: string | undefined): TokenClaims {
    if (token === undefined || token === "") {
      throw new StorageError(
        "forbidden",
        "no-token",
        "a service token is needed: as bearer over HTTP, as password over Postgres's protocol",
      );
    }
    if (monotonicMs() - this.#loadedMs > RELOAD_MS) {
      this.#load();
    }
    const claims = this.#known.get(token) ?? this.#check(token);
    if (claims.exp * 1000 <= nowMs()) {
      throw new StorageError("forbidden", "expired-token", "the service token has expired");
    }
    return claims;
  }

  #check(token: string): TokenClaims {
    const [head, body, signature, ...rest] = token.split(".");
    if (token.length > MAX_TOKEN_LENGTH || signature === undefined || rest.length > 0) {
      throw badToken();
    }
    const { alg, kid } = jsonOf(head!);
    if (alg !== "EdDSA" || typeof kid !== "string") {
      throw badToken();
    }
    if (!this.#keys.has(kid) && monotonicMs() - this.#loadedMs > RELOAD_UNKNOWN_MS) {
      this.#load();
    }
    const key = this.#keys.get(kid);
    const signed = Buffer.from(`${head}.${body}`);
    if (
      key === undefined ||
      !crypto().verify(null, signed, key, Buffer.from(signature, "base64url"))
    ) {
      throw badToken();
    }
    const claims = claimsOf(jsonOf(body!));
    if (this.#known.size >= MAX_REMEMBERED) {
      this.#known.clear();
    }
    this.#known.set(token, claims);
    return claims;
  }

  #load(): void {
    const { createPublicKey } = crypto();
    this.#loadedMs = monotonicMs();
    this.#known = new Map();
    this.#keys = new Map(
      readdirSync(this.#directory)
        .filter((name) => name.endsWith(".pem") && KEY_NAME.test(name.slice(0, -4)))
        .map((name) => {
          const key = createPublicKey(readFileSync(join(this.#directory, name)));
          if (key.asymmetricKeyType !== "ed25519") {
            throw new StorageError("invalid", "bad-key", `${name}: expected an Ed25519 key`);
          }
          return [name.slice(0, -4), key];
        }),
    );
  }
}

function claimsOf(body: Record<string, unknown>): TokenClaims {
  const { scope, tenant_id: tenantId, exp } = body;
  const isTenant = scope === "tenant";
  if (
    typeof scope !== "string" ||
    !SCOPES.includes(scope) ||
    typeof exp !== "number" ||
    (isTenant ? typeof tenantId !== "string" : tenantId !== undefined)
  ) {
    throw badToken();
  }
  return { scope: scope as TokenScope, tenant_id: tenantId as string | undefined, exp };
}

function jsonOf(word: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(word, "base64url").toString("utf8"));
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    throw badToken();
  }
}

function badToken(): StorageError {
  return new StorageError(
    "forbidden",
    "bad-token",
    "the service token is not one of ours, or of a key that is gone",
  );
}

function crypto() {
  return process.getBuiltinModule("node:crypto");
}

/** Read again so often: whoever made the token makes the next one in time. */
const OWN_TOKEN_MS = 60_000;
let ownFile: string | undefined;
let own: { readonly token: string; readonly readMs: number } | undefined;

/** From here on this process shows the token in `file` to every service of ours that it calls. */
export function identifyBy(file: string | undefined): void {
  ownFile = file;
  own = undefined;
}

/** What `identifyBy` was given. */
export function ownTokenFile(): string | undefined {
  return ownFile;
}

/** Undefined where this process has none. */
export function ownToken(): string | undefined {
  if (ownFile === undefined) {
    return undefined;
  }
  if (own === undefined || monotonicMs() - own.readMs > OWN_TOKEN_MS) {
    own = { token: readFileSync(ownFile, "utf8").trim(), readMs: monotonicMs() };
  }
  return own.token;
}
