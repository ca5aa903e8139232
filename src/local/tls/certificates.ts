// The home's certificate authority, and the certificate that its proxy shows.
//
//   tls/ca.key       signs, and was there before the certificate: where that is missing, nobody has trusted it yet
//   tls/ca.crt       for clients to trust
//   tls/proxy.key
//   tls/proxy.crt    for *.DOMAIN, DOMAIN, localhost and the loopback addresses; then the CA's

import { X509Certificate } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { nowMs } from "../../base/clock.ts";
import { readFileIfExists, writeFileDurably } from "../../base/disk.ts";
import { randomBytes } from "../../base/random.ts";
import type { StrataHome } from "../home.ts";

/** All names below it resolve to 127.0.0.1. */
export const DEFAULT_DOMAIN = "localtest.me";

const DAY_MS = 24 * 3600 * 1000;
/** Some systems refuse certificates that live longer. */
const LIFE_DAYS = 397;
/** At a start that late, or later, there is a new one. */
const RENEW_BEFORE_MS = 60 * DAY_MS;

export interface CertificatePaths {
  readonly caCert: string;
  readonly caKey: string;
  readonly cert: string;
  readonly key: string;
}

export function certificatePaths(home: Pick<StrataHome, "path">): CertificatePaths {
  const file = (name: string) => join(home.path, "tls", name);
  return {
    caCert: file("ca.crt"),
    caKey: file("ca.key"),
    cert: file("proxy.crt"),
    key: file("proxy.key"),
  };
}

/**
 * Makes what is missing, and a new certificate where the one that is there ends soon or is of another domain; call with the
 * home locked. A proxy that runs sees the new files by itself.
 */
export async function ensureCertificates(
  home: Pick<StrataHome, "path">,
  domain: string,
): Promise<CertificatePaths> {
  const paths = certificatePaths(home);
  const ca = { cert: readText(paths.caCert), key: readText(paths.caKey) };
  const cert = readText(paths.cert);
  const hasAuthority = ca.cert !== undefined && ca.key !== undefined;
  const isServed = cert !== undefined && readText(paths.key) !== undefined;
  if (hasAuthority && isServed && isFit(cert, ca.cert!, domain)) {
    return paths;
  }
  const { CertificateAuthority } = await import("./certificate-authority.ts");
  mkdirSync(join(home.path, "tls"), { recursive: true, mode: 0o700 });
  const authority = hasAuthority
    ? await CertificateAuthority.open({ cert: ca.cert!, key: ca.key! })
    : await CertificateAuthority.create(`Strata local CA ${randomBytes(4).toString("hex")}`);
  if (!hasAuthority) {
    writeFileDurably(paths.caKey, authority.pem.key);
    writeFileDurably(paths.caCert, authority.pem.cert);
  }
  const names = { dns: [`*.${domain}`, domain, "localhost"], ip: ["127.0.0.1", "::1"] };
  const issued = await authority.issue(names, LIFE_DAYS);
  writeFileDurably(paths.key, issued.key);
  writeFileDurably(paths.cert, issued.cert);
  return paths;
}

function isFit(cert: string, caCert: string, domain: string): boolean {
  try {
    const x509 = new X509Certificate(cert);
    return (
      x509.validToDate.getTime() - nowMs() > RENEW_BEFORE_MS &&
      x509.checkHost(`x.${domain}`) !== undefined &&
      x509.verify(new X509Certificate(caCert).publicKey)
    );
  } catch {
    return false;
  }
}

function readText(path: string): string | undefined {
  return readFileIfExists(path)?.toString("latin1");
}
