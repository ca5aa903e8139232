// A certificate authority of our own: makes its key, and certificates of servers.

import type { webcrypto } from "node:crypto";
// x509 looks for its decorators' metadata there.
import "reflect-metadata";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { nowMs } from "../../base/clock.ts";
import { randomBytes } from "../../base/random.ts";

const DAY_MS = 24 * 3600 * 1000;
const CA_DAYS = 3650;
/** Clocks of clients may be behind. */
const BACKDATE_MS = DAY_MS;
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

export interface PemPair {
  readonly cert: string;
  readonly key: string;
}

export interface ServerNames {
  /** Its common name: for people, and for clients that know of no alternative names (libpq before 15, of addresses). */
  readonly subject: string;
  /** DNS names; `*.` stands for one label. */
  readonly dns: readonly string[];
  readonly ip: readonly string[];
}

/**
 * ECDSA P-256 with SHA-256, which every client knows, and which has a hash for channel binding (RFC 5929). Its module is
 * loaded only where something has to be made: it takes 100 ms.
 */
export class CertificateAuthority {
  readonly pem: PemPair;
  readonly #certificate: X509Certificate;
  readonly #key: webcrypto.CryptoKey;

  private constructor(pem: PemPair, certificate: X509Certificate, key: webcrypto.CryptoKey) {
    this.pem = pem;
    this.#certificate = certificate;
    this.#key = key;
  }

  /** A new one; `name` is how people find it in their lists. */
  static async create(name: string): Promise<CertificateAuthority> {
    const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
    const certificate = await X509CertificateGenerator.createSelfSigned({
      serialNumber: serialNumber(),
      name: `CN=${name}`,
      ...validity(CA_DAYS),
      keys,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new BasicConstraintsExtension(true, 0, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
        await SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    const pem = { cert: `${certificate.toString("pem")}\n`, key: await keyPem(keys.privateKey) };
    return new CertificateAuthority(pem, certificate, keys.privateKey);
  }

  /** One that was made before. Throws where `pem` is none. */
  static async open(pem: PemPair): Promise<CertificateAuthority> {
    const key = await crypto.subtle.importKey(
      "pkcs8",
      PemConverter.decodeFirst(pem.key),
      ALGORITHM,
      false,
      ["sign"],
    );
    return new CertificateAuthority(pem, new X509Certificate(pem.cert), key);
  }

  /** `cert` ends with the CA's own. Negative `days`: it has expired. */
  async issue({ subject, dns, ip }: ServerNames, days: number): Promise<PemPair> {
    const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
    const certificate = await X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: `CN=${subject}`,
      issuer: this.#certificate.subjectName,
      ...validity(days),
      publicKey: keys.publicKey,
      signingKey: this.#key,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new BasicConstraintsExtension(false, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
        new SubjectAlternativeNameExtension([
          ...dns.map((value) => ({ type: "dns" as const, value })),
          ...ip.map((value) => ({ type: "ip" as const, value })),
        ]),
      ],
    });
    const cert = `${certificate.toString("pem")}\n${this.pem.cert}`;
    return { cert, key: await keyPem(keys.privateKey) };
  }
}

/** Positive, as RFC 5280 wants it. */
function serialNumber(): string {
  return `4${randomBytes(16).toString("hex").slice(1)}`;
}

function validity(days: number): { notBefore: Date; notAfter: Date } {
  const end = nowMs() + days * DAY_MS;
  return {
    notBefore: new Date(Math.min(nowMs(), end) - BACKDATE_MS),
    notAfter: new Date(end),
  };
}

async function keyPem(key: webcrypto.CryptoKey): Promise<string> {
  return `${PemConverter.encode(await crypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY")}\n`;
}
