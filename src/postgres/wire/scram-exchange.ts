// SCRAM-SHA-256 and -PLUS, both sides, from the keys that a secret holds: the server needs no password, and the client none either.
//
// Source: RFC 5802, 7677; libpq/auth-scram.c, fe-auth-scram.c (14-18). The messages:
//   client-first  gs2-header "n=" user ",r=" nonce          gs2-header: "n,,", "y,," or "p=tls-server-end-point,,"
//   server-first  "r=" nonce ",s=" salt ",i=" count
//   client-final  "c=" base64(gs2-header, binding) ",r=" nonce ",p=" proof
//   server-final  "v=" signature
// The user in client-first is not looked at, as in Postgres: the start-up packet names it.

import { StorageError } from "../../base/errors.ts";
import { randomBytes } from "../../base/random.ts";
import type { ScramKeys, ScramSecret } from "../scram.ts";

export const SCRAM_SHA_256 = "SCRAM-SHA-256";
export const SCRAM_SHA_256_PLUS = "SCRAM-SHA-256-PLUS";

const BINDING_TYPE = "tls-server-end-point";
const NONCE_BYTES = 18;
/** Postgres's PG_MAX_SASL_MESSAGE_LENGTH. */
export const MAX_SASL_MESSAGE_BYTES = 1024;
const KEY_BYTES = 32;

function crypto() {
  return process.getBuiltinModule("node:crypto");
}

export function hmac(key: Uint8Array, text: string | Uint8Array): Buffer {
  return crypto().createHmac("sha256", key).update(text).digest();
}

function sha256(bytes: Uint8Array): Buffer {
  return crypto().createHash("sha256").update(bytes).digest();
}

function xor(one: Uint8Array, other: Uint8Array): Buffer {
  return Buffer.from(one.map((byte, i) => byte ^ other[i]!));
}

/** StorageError `invalid` with SQLSTATE 08P01, as Postgres has it for malformed messages. */
function malformed(what: string): StorageError {
  return new StorageError("invalid", "bad-scram-message", `malformed SCRAM message: ${what}`, {
    fields: { sqlstate: "08P01" },
  });
}

/** Who may log in: a password that fits is known, or pretended to be. */
export interface ScramServerOptions {
  readonly secret: ScramSecret;
  /** Nobody has such a password; the exchange goes its way, so that names cannot be told from it. */
  readonly isMock?: boolean;
  /** Hash of the server's certificate (RFC 5929): -PLUS is offered. */
  readonly endPointHash?: Uint8Array | undefined;
}

/** The server's side of one login. Each step throws StorageError `invalid` where the client's message is wrong. */
export class ScramServer {
  readonly #options: ScramServerOptions;
  #gs2Header = "";
  #clientFirstBare = "";
  #serverFirst = "";
  #nonce = "";

  constructor(options: ScramServerOptions) {
    this.#options = options;
  }

  /** What to offer, in the order of preference. */
  get mechanisms(): readonly string[] {
    return this.#options.endPointHash === undefined
      ? [SCRAM_SHA_256]
      : [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
  }

  /** Takes client-first of the mechanism that the client chose; gives server-first. */
  begin(mechanism: string, clientFirst: string): string {
    if (!this.mechanisms.includes(mechanism)) {
      throw malformed("the client chose a mechanism that was not offered");
    }
    const match = /^((?:p=([A-Za-z0-9.-]+)|[ny]),,)((n=[^,]*),r=([\x21-\x2b\x2d-\x7e]+))/.exec(
      clientFirst,
    );
    // Extensions that we would have to know begin with m=, and an identity to act for is in the header.
    if (match === null) {
      throw malformed("client-first-message");
    }
    const [, gs2Header = "", binding, bare = "", , nonce = ""] = match;
    this.#checkBinding(mechanism, gs2Header, binding);
    this.#gs2Header = gs2Header;
    this.#clientFirstBare = bare + clientFirst.slice(match[0].length);
    this.#nonce = nonce + randomBytes(NONCE_BYTES).toString("base64");
    const { salt, iterations } = this.#options.secret;
    this.#serverFirst = `r=${this.#nonce},s=${salt.toString("base64")},i=${iterations}`;
    return this.#serverFirst;
  }

  #checkBinding(mechanism: string, gs2Header: string, binding: string | undefined): void {
    if (mechanism === SCRAM_SHA_256_PLUS) {
      if (binding !== BINDING_TYPE) {
        throw malformed("SCRAM-SHA-256-PLUS needs channel binding tls-server-end-point");
      }
    } else if (binding !== undefined) {
      throw malformed("channel binding without SCRAM-SHA-256-PLUS");
    } else if (gs2Header.startsWith("y") && this.#options.endPointHash !== undefined) {
      // Somebody between us took our offer away.
      throw new StorageError(
        "forbidden",
        "channel-binding-negotiation",
        "SCRAM channel binding negotiation failed: the client supports it, but was told that the server does not",
        { fields: { sqlstate: "28000" } },
      );
    }
  }

  /** Takes client-final. Undefined: it is another password. */
  finish(clientFinal: string): { serverFinal: string; keys: ScramKeys } | undefined {
    const match = /^c=([A-Za-z0-9+/=]+),r=([^,]+)(?:,[^p][^,]*)*,p=([A-Za-z0-9+/]{43}=)$/.exec(
      clientFinal,
    );
    if (match === null || match[2] !== this.#nonce) {
      throw malformed("client-final-message");
    }
    const bound = this.#gs2Header.startsWith("p") ? this.#options.endPointHash! : Buffer.alloc(0);
    const expected = Buffer.concat([Buffer.from(this.#gs2Header), bound]).toString("base64");
    if (match[1] !== expected) {
      throw new StorageError(
        "forbidden",
        "channel-binding-failed",
        "SCRAM channel binding check failed: the client sees another certificate than this server's",
        { fields: { sqlstate: "28000" } },
      );
    }
    const withoutProof = clientFinal.slice(0, clientFinal.lastIndexOf(",p="));
    const message = `${this.#clientFirstBare},${this.#serverFirst},${withoutProof}`;
    const { storedKey, serverKey } = this.#options.secret;
    const clientKey = xor(Buffer.from(match[3]!, "base64"), hmac(storedKey, message));
    const fits = crypto().timingSafeEqual(sha256(clientKey), storedKey);
    if (!fits || this.#options.isMock === true) {
      return undefined;
    }
    const signature = hmac(serverKey, message).toString("base64");
    return { serverFinal: `v=${signature}`, keys: { ...this.#options.secret, clientKey } };
  }
}

/** The client's side of one login, without channel binding: for connections that need no TLS. */
export class ScramClient {
  readonly #keys: ScramKeys;
  readonly #nonce = randomBytes(NONCE_BYTES).toString("base64");
  #signature = "";

  constructor(keys: ScramKeys) {
    this.#keys = keys;
  }

  get clientFirst(): string {
    return `n,,${this.#bare}`;
  }

  get #bare(): string {
    return `n=,r=${this.#nonce}`;
  }

  /**
   * Takes server-first, gives client-final. Undefined: the server has another secret by now, so these keys
   * do not open it.
   */
  proceed(serverFirst: string): string | undefined {
    const match = /^r=([^,]+),s=([A-Za-z0-9+/=]+),i=(\d{1,8})$/.exec(serverFirst);
    if (match === null || !match[1]!.startsWith(this.#nonce)) {
      throw malformed("server-first-message");
    }
    const { salt, iterations, storedKey, serverKey, clientKey } = this.#keys;
    if (!Buffer.from(match[2]!, "base64").equals(salt) || Number(match[3]) !== iterations) {
      return undefined;
    }
    const withoutProof = `c=biws,r=${match[1]}`;
    const message = `${this.#bare},${serverFirst},${withoutProof}`;
    this.#signature = hmac(serverKey, message).toString("base64");
    const proof = xor(clientKey, hmac(storedKey, message)).toString("base64");
    return `${withoutProof},p=${proof}`;
  }

  /** Whether server-final shows that the server has the secret, too. */
  accepts(serverFinal: string): boolean {
    return this.#signature !== "" && serverFinal === `v=${this.#signature}`;
  }
}

/** The keys that a password opens the secret with; undefined where it does not. In the thread pool: it takes milliseconds. */
export async function keysOfPassword(
  password: Uint8Array,
  secret: ScramSecret,
): Promise<ScramKeys | undefined> {
  const salted = await new Promise<Buffer>((resolve, reject) => {
    const { salt, iterations } = secret;
    crypto().pbkdf2(password, salt, iterations, KEY_BYTES, "sha256", (error, key) =>
      error === null ? resolve(key) : reject(error),
    );
  });
  const clientKey = hmac(salted, "Client Key");
  return crypto().timingSafeEqual(sha256(clientKey), secret.storedKey)
    ? { ...secret, clientKey }
    : undefined;
}

/** A secret that no password opens, the same for the same `name` and `seed`. */
export function mockSecret(seed: Uint8Array, name: string): ScramSecret {
  return {
    iterations: 4096,
    salt: hmac(seed, name).subarray(0, 16),
    storedKey: hmac(seed, `stored ${name}`),
    serverKey: hmac(seed, `server ${name}`),
  };
}
