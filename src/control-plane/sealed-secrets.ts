// Passwords at rest: AES-256-GCM under a key that lies in a file of its own in the home.
//
//   v1:<nonce, 12 bytes>:<tag, 16 bytes>:<ciphertext>     each in base64; what it belongs to is authenticated with it

import { createCipheriv, createDecipheriv, createHmac } from "node:crypto";
import { readFileIfExists, writeFileDurably } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import { randomBytes } from "../base/random.ts";

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const CIPHER = "aes-256-gcm";

export class SealedSecrets {
  readonly #key: Buffer;

  private constructor(key: Buffer) {
    this.#key = key;
  }

  /** Makes the key where there is none. StorageError `corrupt` where the file holds none. */
  static open(keyFile: string): SealedSecrets {
    const text = readFileIfExists(keyFile)?.toString("utf8").trim();
    if (text === undefined) {
      const key = randomBytes(KEY_BYTES);
      writeFileDurably(keyFile, `${key.toString("hex")}\n`);
      return new SealedSecrets(key);
    }
    if (!/^[0-9a-f]{64}$/.test(text)) {
      throw new StorageError("corrupt", "bad-key-file", `${keyFile} holds no key of 64 hex digits`);
    }
    return new SealedSecrets(Buffer.from(text, "hex"));
  }

  /** Tells keys apart, and nothing of them. */
  fingerprint(): string {
    return createHmac("sha256", this.#key).update("fingerprint").digest("hex").slice(0, 32);
  }

  /** `owner`: what the secret is of; it opens under the same one only. */
  seal(secret: string, owner: string): string {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, this.#key, nonce).setAAD(Buffer.from(owner));
    const text = Buffer.concat([cipher.update(secret, "utf8"), cipher.final()]);
    return `v1:${[nonce, cipher.getAuthTag(), text].map((part) => part.toString("base64")).join(":")}`;
  }

  /** StorageError `corrupt` where it was sealed with another key, for another owner, or changed. */
  open(sealed: string, owner: string): string {
    const [version, nonce, tag, text] = sealed.split(":");
    try {
      if (version !== "v1" || nonce === undefined || tag === undefined || text === undefined) {
        throw new Error("no sealed secret");
      }
      const decipher = createDecipheriv(CIPHER, this.#key, Buffer.from(nonce, "base64"), {
        authTagLength: 16,
      })
        .setAAD(Buffer.from(owner))
        .setAuthTag(Buffer.from(tag, "base64"));
      return (
        decipher.update(Buffer.from(text, "base64"), undefined, "utf8") + decipher.final("utf8")
      );
    } catch (cause) {
      const message = "a stored password cannot be opened with this home's key";
      throw new StorageError("corrupt", "bad-sealed-secret", message, { cause });
    }
  }
}
