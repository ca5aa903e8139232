// From passwords in the clear to the keys that open a role, for clients that cannot do SCRAM: /sql, /v2, password prefixes.
//
// Each costs milliseconds of CPU (PBKDF2), which whoever knows a host name could have us spend. So few run at once, endpoints take
// turns, and a password that fitted is remembered for as long as the role's secret stays.

import { randomBytes } from "../../base/random.ts";
import type { ScramKeys, ScramSecret } from "../../postgres/scram.ts";
import { hmac, keysOfPassword } from "../../postgres/wire/scram-exchange.ts";
import { clientError } from "./postgres-errors.ts";

/** node's thread pool has four threads, which files need too. */
const MAX_RUNNING = 2;
const MAX_WAITING_PER_ENDPOINT = 100;
const MAX_REMEMBERED = 1000;

interface Remembered {
  readonly keys: ScramKeys;
  /** Of the password, with a key of this process: it is of no use elsewhere. */
  readonly fingerprint: Buffer;
}

export class PasswordKeys {
  readonly #fingerprintKey = randomBytes(32);
  /** The oldest first. */
  readonly #remembered = new Map<string, Remembered>();
  /** Endpoint to who waits for a turn; the endpoint whose turn is next first. */
  readonly #waiting = new Map<string, (() => void)[]>();
  #running = 0;

  /** Undefined where the password is another one. StorageError 53300 where too many of the endpoint wait. */
  async keysOf(
    endpoint: string,
    role: string,
    password: Uint8Array,
    secret: ScramSecret,
  ): Promise<ScramKeys | undefined> {
    const { timingSafeEqual } = process.getBuiltinModule("node:crypto");
    const name = `${endpoint}\n${role}`;
    const fingerprint = hmac(this.#fingerprintKey, password);
    const known = this.#remembered.get(name);
    if (
      known?.keys.storedKey.equals(secret.storedKey) === true &&
      timingSafeEqual(known.fingerprint, fingerprint)
    ) {
      return known.keys;
    }
    await this.#turn(endpoint);
    try {
      const keys = await keysOfPassword(password, secret);
      if (keys !== undefined) {
        this.#remember(name, { keys, fingerprint });
      }
      return keys;
    } finally {
      this.#running--;
      this.#next();
    }
  }

  #remember(name: string, entry: Remembered): void {
    this.#remembered.delete(name);
    this.#remembered.set(name, entry);
    if (this.#remembered.size > MAX_REMEMBERED) {
      this.#remembered.delete(this.#remembered.keys().next().value!);
    }
  }

  #turn(endpoint: string): Promise<void> {
    if (this.#running < MAX_RUNNING) {
      this.#running++;
      return Promise.resolve();
    }
    const queue = this.#waiting.get(endpoint) ?? [];
    if (queue.length >= MAX_WAITING_PER_ENDPOINT) {
      throw clientError("53300", "too-many-logins", "too many logins to this endpoint at once");
    }
    this.#waiting.set(endpoint, queue);
    return new Promise((resolve) => queue.push(resolve));
  }

  #next(): void {
    const first = this.#waiting.entries().next().value;
    if (first === undefined || this.#running >= MAX_RUNNING) {
      return;
    }
    const [endpoint, queue] = first;
    const resolve = queue.shift()!;
    // To the end of the line, where it has more.
    this.#waiting.delete(endpoint);
    if (queue.length > 0) {
      this.#waiting.set(endpoint, queue);
    }
    this.#running++;
    resolve();
  }
}
