// The certificates that clients see: read from files, chosen by the name that the client asks for, read again when the files change.

import { createHash, X509Certificate } from "node:crypto";
import { createSecureContext, type SecureContext } from "node:tls";
import { nowMs, setIdleRepeatingTimer, type Timer } from "../clock.ts";
import { readFileIfExists } from "../disk.ts";
import { StorageError, withContext } from "../errors.ts";
import type { Logger } from "../log.ts";

const LOOK_INTERVAL_MS = 5000;
const DAY_MS = 24 * 3600 * 1000;
const SOON_MS = 14 * DAY_MS;

export interface CertificateFiles {
  /** PEM: the certificate, then those above it. */
  readonly cert: string;
  readonly key: string;
}

export interface ServerCertificate {
  readonly context: SecureContext;
  readonly x509: X509Certificate;
  /** For channel binding tls-server-end-point; undefined where RFC 5929 names no hash. */
  readonly endPointHash: Buffer | undefined;
}

export class TlsCertificates {
  readonly #files: readonly CertificateFiles[];
  readonly #logger: Logger;
  readonly #texts: string[] = [];
  readonly #certificates: ServerCertificate[];
  /** By file: when it was last told of that its end is near. */
  readonly #toldAtMs: number[] = [];
  readonly #timer: Timer;

  /** At least one pair of files. StorageError where one cannot be used. */
  constructor(files: readonly CertificateFiles[], logger: Logger) {
    this.#files = files;
    this.#logger = logger;
    this.#certificates = files.map((pair, i) => {
      const texts = readPair(pair);
      this.#texts[i] = texts.join("");
      return this.#load(i, texts);
    });
    this.#timer = setIdleRepeatingTimer(() => this.lookAgain(), LOOK_INTERVAL_MS);
  }

  /** The first whose names fit, else the first of all. */
  find(serverName?: string): ServerCertificate {
    const fits =
      serverName === undefined
        ? undefined
        : this.#certificates.find(({ x509 }) => x509.checkHost(serverName) !== undefined);
    return fits ?? this.#certificates[0]!;
  }

  /** A pair that cannot be used, or is half written, leaves the one before in its place. */
  lookAgain(): void {
    for (const [i, pair] of this.#files.entries()) {
      try {
        const texts = readPair(pair);
        if (texts.join("") !== this.#texts[i]) {
          // Also of one that is wrong: it is told of once.
          this.#texts[i] = texts.join("");
          this.#certificates[i] = this.#load(i, texts);
          this.#logger.info({ cert: pair.cert }, "certificate read again");
        }
      } catch (error) {
        this.#logger.warn({ error, cert: pair.cert }, "new certificate cannot be used");
      }
      if (nowMs() >= (this.#toldAtMs[i] ?? 0) + DAY_MS) {
        this.#tellOfEnd(i, this.#certificates[i]!);
      }
    }
  }

  close(): void {
    this.#timer.cancel();
  }

  #load(i: number, [cert, key]: readonly [string, string]): ServerCertificate {
    try {
      const x509 = new X509Certificate(cert);
      const context = createSecureContext({ cert, key, minVersion: "TLSv1.2" });
      const loaded = { context, x509, endPointHash: endPointHash(x509) };
      this.#tellOfEnd(i, loaded);
      return loaded;
    } catch (error) {
      throw withContext(error, `certificate ${this.#files[i]!.cert}`);
    }
  }

  /** A warning where it has come, or is near. */
  #tellOfEnd(i: number, { x509 }: ServerCertificate): void {
    const now = nowMs();
    this.#toldAtMs[i] = now;
    const leftMs = x509.validToDate.getTime() - now;
    if (leftMs < SOON_MS) {
      const message = leftMs < 0 ? "certificate has expired" : "certificate expires soon";
      const validTo = x509.validToDate.toISOString();
      this.#logger.warn({ cert: this.#files[i]!.cert, validTo }, message);
    }
  }
}

function readPair({ cert, key }: CertificateFiles): readonly [string, string] {
  const [certText, keyText] = [cert, key].map((path) => {
    const bytes = readFileIfExists(path);
    if (bytes === undefined) {
      throw new StorageError("not-found", "no-certificate", `no file ${path}`);
    }
    return bytes.toString("latin1");
  });
  return [certText!, keyText!];
}

/**
 * RFC 5929, 4.1: the hash of the certificate's signature, SHA-256 in place of MD5 and SHA-1. As Postgres's
 * be_tls_get_certificate_hash, but for signatures without one hash of their own (PSS, Ed25519), where clients differ.
 */
function endPointHash(x509: X509Certificate): Buffer | undefined {
  const algorithm = /^(?:ecdsa-with-|)(sha\d+|md5)(?:WithRSAEncryption|)$/i.exec(
    x509.signatureAlgorithm ?? "",
  );
  if (algorithm === null) {
    return undefined;
  }
  const name = algorithm[1]!.toLowerCase();
  const hash = name === "md5" || name === "sha1" ? "sha256" : name;
  return createHash(hash).update(x509.raw).digest();
}
