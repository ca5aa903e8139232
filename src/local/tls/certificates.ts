// The home's certificate authority, and the certificate that its proxy shows.
//
//   tls/ca.key       signs, and was there before the certificate: where that is missing, nobody has trusted it yet
//   tls/ca.crt       for clients to trust
//   tls/proxy.key
//   tls/proxy.crt    for *.DOMAIN, DOMAIN, localhost, the loopback addresses and the hosts that it listens on; then the CA's
//
// Those of services are beside them: service-certificates.ts.

import { X509Certificate } from "node:crypto";
import { mkdirSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import { nowMs } from "../../base/clock.ts";
import { readFileIfExists, writeFileDurably } from "../../base/disk.ts";
import { isLoopback } from "../../base/network/addresses.ts";
import { randomBytes } from "../../base/random.ts";
import type { CertificateAuthority } from "./certificate-authority.ts";

/** All names below it resolve to 127.0.0.1. */
export const DEFAULT_DOMAIN = "localtest.me";

const DAY_MS = 24 * 3600 * 1000;
/** Some systems refuse certificates that live longer. */
export const LIFE_DAYS = 397;
/** At a start that late, or later, there is a new one. */
const RENEW_BEFORE_MS = 60 * DAY_MS;

/** The part of a home that this needs. */
interface Home {
  readonly path: string;
}

export interface CertificatePaths {
  readonly caCert: string;
  readonly caKey: string;
  readonly cert: string;
  readonly key: string;
}

export function certificatePaths(home: Home): CertificatePaths {
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
 * home locked. A proxy that runs sees the new files by itself. `hosts`: those that it listens on.
 */
export async function ensureCertificates(
  home: Home,
  domain: string,
  hosts: readonly string[] = [],
): Promise<CertificatePaths> {
  const paths = certificatePaths(home);
  const caCert = readText(paths.caCert);
  const cert = readText(paths.cert);
  const isServed = cert !== undefined && readText(paths.key) !== undefined;
  const further = hosts.filter((host) => !isLoopback(host));
  const hasAuthority = caCert !== undefined && readText(paths.caKey) !== undefined;
  const isOf = (x509: X509Certificate) => hasAll(x509, [`x.${domain}`, ...further]);
  if (hasAuthority && isServed && isFit(cert, caCert, isOf)) {
    return paths;
  }
  const authority = await ensureAuthority(home);
  const names = {
    subject: `*.${domain}`,
    dns: [`*.${domain}`, domain, "localhost", ...further.filter((host) => isIP(host) === 0)],
    ip: ["127.0.0.1", "::1", ...further.filter((host) => isIP(host) !== 0)],
  };
  const issued = await authority.issue(names, LIFE_DAYS);
  writeFileDurably(paths.key, issued.key);
  writeFileDurably(paths.cert, issued.cert);
  return paths;
}

/** Makes it where it is missing; call with the home locked. */
export async function ensureAuthority(home: Home): Promise<CertificateAuthority> {
  const { caCert, caKey } = certificatePaths(home);
  const ca = { cert: readText(caCert), key: readText(caKey) };
  const { CertificateAuthority } = await import("./certificate-authority.ts");
  if (ca.cert !== undefined && ca.key !== undefined) {
    return CertificateAuthority.open({ cert: ca.cert, key: ca.key });
  }
  mkdirSync(join(home.path, "tls"), { recursive: true, mode: 0o700 });
  const name = `Strata local CA ${randomBytes(4).toString("hex")}`;
  const authority = await CertificateAuthority.create(name);
  writeFileDurably(caKey, authority.pem.key);
  writeFileDurably(caCert, authority.pem.cert);
  return authority;
}

/** Of the CA, not near its end, and for what is asked. */
export function isFit(
  cert: string,
  caCert: string,
  isOf: (x509: X509Certificate) => boolean,
): boolean {
  try {
    const x509 = new X509Certificate(cert);
    return (
      x509.validToDate.getTime() - nowMs() > RENEW_BEFORE_MS &&
      isOf(x509) &&
      x509.verify(new X509Certificate(caCert).publicKey)
    );
  } catch {
    return false;
  }
}

/** Whether it is for all of these, DNS names and addresses. */
export function hasAll(x509: X509Certificate, names: readonly string[]): boolean {
  return names.every((name) =>
    isIP(name) === 0 ? x509.checkHost(name) !== undefined : x509.checkIP(name) !== undefined,
  );
}

export function readText(path: string): string | undefined {
  return readFileIfExists(path)?.toString("latin1");
}
