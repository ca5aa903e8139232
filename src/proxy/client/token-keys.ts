// Tokens of users in place of passwords: JWTs (RFC 7519), checked with the public keys that a project's JWKS URLs list.
//
// Keys of a URL are fetched when they are first needed, again after 10 minutes, and at once for a key id that is not known,
// but not more often than each 30 s. Where a URL does not answer, its tokens are refused: no old key is good for ever.

import type { JWTVerifyGetKey, RemoteJWKSetOptions } from "jose";
import { monotonicMs } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { clientError } from "./postgres-errors.ts";

/** Of public keys only: else whoever knows the public key could sign with it (HS256), or need none ("none"). */
const ALGORITHMS = [
  ...["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
  ...["ES256", "ES384", "ES512", "EdDSA", "Ed25519"],
];
const MAX_TOKEN_BYTES = 16 * 1024;
const MAX_JWKS_BYTES = 64 * 1024;
/** Whose keys are remembered. */
const MAX_URLS = 1000;
const FETCH_TIMEOUT_MS = 5000;
const KEEP_KEYS_MS = 600_000;
const UNKNOWN_KEY_PAUSE_MS = 30_000;
/** A URL that has just failed is not asked for each login. */
const FAILED_PAUSE_MS = 2000;
/** Clocks differ. */
const TOLERANCE_SECONDS = 30;

/** Whose tokens are good for which roles. */
export interface TokenRule {
  readonly jwksUrl: string;
  /** What `aud` must have in it; undefined: anything, or none. */
  readonly audience: string | undefined;
  readonly roles: readonly string[];
}

/** Whether it counts as a guess. */
export function isWrongToken(error: unknown): boolean {
  return error instanceof StorageError && error.code === "wrong-token";
}

export class TokenKeys {
  /** By URL; the one used last comes last. */
  readonly #keys = new Map<string, JWTVerifyGetKey>();
  readonly #failedAtMs = new Map<string, number>();

  /**
   * Resolves where one of `rules` lets the token in as `role`. StorageError 28000 where none does (`wrong-token`), 57P03
   * where the keys cannot be had.
   */
  async check(token: string, role: string, rules: readonly TokenRule[]): Promise<void> {
    const fitting = rules.filter(({ roles }) => roles.includes(role));
    if (fitting.length === 0) {
      throw wrongToken(role, "no JWKS of the project is for this role");
    }
    if (token.length > MAX_TOKEN_BYTES) {
      throw wrongToken(role, "it is too long");
    }
    let away: unknown;
    let why = "";
    for (const rule of fitting) {
      try {
        await this.#verify(token, rule);
        return;
      } catch (error) {
        const reason = reasonOf(error);
        if (reason === undefined) {
          away = error;
        } else {
          why = reason;
        }
      }
    }
    // Its keys might be those that were not to be had: who may be right is no guesser.
    throw away === undefined ? wrongToken(role, why) : keysAway(away);
  }

  async #verify(token: string, { jwksUrl, audience }: TokenRule): Promise<void> {
    // Loaded when the first token comes: it takes 50 ms.
    const { jwtVerify } = await import("jose");
    await jwtVerify(token, await this.#keysOf(jwksUrl), {
      algorithms: ALGORITHMS,
      clockTolerance: TOLERANCE_SECONDS,
      requiredClaims: ["exp"],
      ...(audience === undefined ? {} : { audience }),
    });
  }

  async #keysOf(url: string): Promise<JWTVerifyGetKey> {
    const { createRemoteJWKSet, customFetch } = await import("jose");
    const options: RemoteJWKSetOptions = {
      timeoutDuration: FETCH_TIMEOUT_MS,
      cacheMaxAge: KEEP_KEYS_MS,
      cooldownDuration: UNKNOWN_KEY_PAUSE_MS,
      [customFetch]: (href: string, init: unknown) => this.#fetch(href, init as RequestInit),
    };
    const keys = this.#keys.get(url) ?? createRemoteJWKSet(new URL(url), options);
    this.#keys.delete(url);
    this.#keys.set(url, keys);
    if (this.#keys.size > MAX_URLS) {
      const oldest = this.#keys.keys().next().value!;
      this.#keys.delete(oldest);
      this.#failedAtMs.delete(oldest);
    }
    return keys;
  }

  /** Nobody leads us elsewhere, and nobody's answer fills the memory. */
  async #fetch(url: string, init: RequestInit): Promise<Response> {
    if (monotonicMs() < (this.#failedAtMs.get(url) ?? -Infinity) + FAILED_PAUSE_MS) {
      throw new StorageError("unavailable", "jwks-away", "it did not answer just before");
    }
    try {
      const response = await fetch(url, { ...init, redirect: "error" });
      if (response.status !== 200) {
        throw new StorageError("unavailable", "jwks-away", `status ${response.status}`);
      }
      const body = await readAtMost(response, MAX_JWKS_BYTES);
      this.#failedAtMs.delete(url);
      return new Response(body, { status: 200 });
    } catch (error) {
      this.#failedAtMs.set(url, monotonicMs());
      throw error;
    }
  }
}

async function readAtMost(response: Response, mostBytes: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > mostBytes) {
      // Leaving the loop cancels the rest.
      const message = `it has more than ${mostBytes} bytes`;
      throw new StorageError("unavailable", "jwks-away", message);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** Undefined where the keys could not be had; else what is wrong with the token, in words that tell nothing of the keys. */
function reasonOf(error: unknown): string | undefined {
  const { code = "", claim = "" } = error as { code?: string; claim?: string };
  switch (code) {
    case "ERR_JWT_EXPIRED":
      return "it has expired";
    case "ERR_JWT_CLAIM_VALIDATION_FAILED":
      return `its claim '${claim}' is missing, or is not what it must be`;
    case "ERR_JWKS_NO_MATCHING_KEY":
    case "ERR_JWKS_MULTIPLE_MATCHING_KEYS":
    case "ERR_JWS_SIGNATURE_VERIFICATION_FAILED":
      return "no key of the project's JWKS has signed it";
    case "ERR_JOSE_ALG_NOT_ALLOWED":
    case "ERR_JOSE_NOT_SUPPORTED":
      return "its algorithm is none that is taken";
    case "ERR_JWS_INVALID":
    case "ERR_JWT_INVALID":
      return "it is no JWT";
    default:
      return undefined;
  }
}

function wrongToken(role: string, why: string): StorageError {
  const message = `token authentication failed for user "${role}": ${why}`;
  return clientError("28000", "wrong-token", message);
}

function keysAway(cause: unknown): StorageError {
  const message = `the keys of the project's JWKS cannot be had: ${errorMessage(cause)}`;
  return new StorageError("unavailable", "jwks-away", message, {
    cause,
    fields: { sqlstate: "57P03", hint: "The JWKS URL must answer the proxy, with status 200." },
  });
}
