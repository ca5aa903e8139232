// TLS between the services of a home: a certificate for each that other machines can reach, and the arguments by which daemons know.
//
//   tls/SERVICE.key
//   tls/SERVICE.crt   for the hosts that config.json has for it, and "names" of "serviceTls"; then the CA's (certificates.ts)
//
// A home that is all on loopback has none of it. Own certificates (of "serviceTls") are named, and never written.

import { existsSync } from "node:fs";
import { isIP } from "node:net";
import { isAbsolute, join } from "node:path";
import { writeFileDurably } from "../../base/disk.ts";
import { isLoopback } from "../../base/network/addresses.ts";
import { hostOf, type ServiceTrust } from "../../base/network/service-tls.ts";
import type { CertificateFiles } from "../../base/network/tls-certificates.ts";
import type { HomeSettings } from "../config.ts";
import type { ServerNames } from "./certificate-authority.ts";
import {
  certificatePaths,
  ensureAuthority,
  hasAll,
  isFit,
  LIFE_DAYS,
  readText,
} from "./certificates.ts";

interface Home {
  readonly path: string;
}

/** What this needs of the settings. */
export type TlsSettings = Pick<
  HomeSettings,
  "broker" | "pageservers" | "safekeepers" | "controlPlane" | "plaintextNetwork" | "serviceTls"
>;

/** Names of services, as those of their files, to the addresses that they listen on. */
function servicesOf(settings: TlsSettings): Map<string, readonly string[]> {
  const { broker, pageservers, safekeepers, controlPlane } = settings;
  const services = new Map<string, readonly string[]>();
  services.set("storage_broker", [broker.listenAddr]);
  for (const { id, listenPgAddr, listenHttpAddr } of pageservers) {
    services.set(`pageserver_${id}`, [listenPgAddr, listenHttpAddr]);
  }
  for (const { id, listenPgAddr, listenHttpAddr } of safekeepers) {
    services.set(`safekeeper_${id}`, [listenPgAddr, listenHttpAddr]);
  }
  if (controlPlane !== undefined) {
    services.set("control_plane", [controlPlane.listenAddr]);
  }
  return services;
}

/** Hosts of those addresses that other machines can reach. */
function reachedHosts(addresses: readonly string[]): string[] {
  return [...new Set(addresses.map(hostOf))].filter((host) => !isLoopback(host));
}

/** Whether any service speaks TLS to the others. */
export function hasServiceTls(settings: TlsSettings): boolean {
  const addresses = [...servicesOf(settings).values()].flat();
  return settings.plaintextNetwork !== true && reachedHosts(addresses).length > 0;
}

/** Whom processes of this home believe; for who reaches the proxy, too, whose certificate is always of the home's authority. */
export function trustOf(home: Home, settings: TlsSettings): ServiceTrust {
  const own = settings.serviceTls?.ca;
  const { caCert } = certificatePaths(home);
  return {
    isPlaintext: settings.plaintextNetwork === true,
    caFiles:
      own === undefined ? [caCert] : [inHome(home, own), ...(existsSync(caCert) ? [caCert] : [])],
  };
}

/** Of a daemon that calls services: `service` listens itself; none for an agent, whose port is on loopback. */
export function serviceTlsArguments(home: Home, settings: TlsSettings, service?: string): string[] {
  if (settings.plaintextNetwork === true) {
    return ["--plaintext-network"];
  }
  if (!hasServiceTls(settings)) {
    return [];
  }
  const { ca } = settings.serviceTls ?? {};
  const trust = [
    "--service-ca",
    ca === undefined ? certificatePaths(home).caCert : inHome(home, ca),
  ];
  const addresses = service === undefined ? [] : servicesOf(settings).get(service)!;
  if (service === undefined || reachedHosts(addresses).length === 0) {
    return trust;
  }
  const { cert, key } = filesOf(home, settings, service);
  const names = settings.serviceTls?.names ?? [];
  return [
    ...trust,
    ...["--service-cert", cert, "--service-key", key],
    // Callers name them as the host too, which HTTP looks at (docs/http.md).
    ...names.flatMap((name) => ["--http-host", name]),
  ];
}

function filesOf(home: Home, { serviceTls }: TlsSettings, service: string): CertificateFiles {
  if (serviceTls?.cert !== undefined) {
    return { cert: inHome(home, serviceTls.cert), key: inHome(home, serviceTls.key!) };
  }
  const file = (ending: string) => join(home.path, "tls", `${service}.${ending}`);
  return { cert: file("crt"), key: file("key") };
}

function inHome(home: Home, path: string): string {
  return isAbsolute(path) ? path : join(home.path, path);
}

/**
 * Makes what is missing, and new ones for those that end soon or are of other names; call with the home locked. Daemons that run
 * see new files by themselves. Costs nothing where services are on loopback.
 */
export async function ensureServiceCertificates(home: Home, settings: TlsSettings): Promise<void> {
  if (!hasServiceTls(settings) || settings.serviceTls?.cert !== undefined) {
    return;
  }
  const caCert = readText(certificatePaths(home).caCert);
  const further = settings.serviceTls?.names ?? [];
  for (const [service, addresses] of servicesOf(settings)) {
    const hosts = reachedHosts(addresses);
    if (hosts.length === 0) {
      continue;
    }
    const files = filesOf(home, settings, service);
    const names = [...new Set([...hosts, ...further])];
    const cert = readText(files.cert);
    const hasBoth = cert !== undefined && readText(files.key) !== undefined;
    if (!hasBoth || caCert === undefined || !isFit(cert, caCert, (x509) => hasAll(x509, names))) {
      const authority = await ensureAuthority(home);
      const issued = await authority.issue(serverNames(names), LIFE_DAYS);
      // The key first: with the old certificate it is no pair, which readers of both see and wait.
      writeFileDurably(files.key, issued.key);
      writeFileDurably(files.cert, issued.cert);
    }
  }
}

function serverNames(names: readonly string[]): ServerNames {
  return {
    subject: names[0]!,
    dns: names.filter((name) => isIP(name) === 0),
    ip: names.filter((name) => isIP(name) !== 0),
  };
}
