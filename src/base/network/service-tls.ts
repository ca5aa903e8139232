// How this process speaks to services of ours: with TLS to whatever other machines can reach, in plain text over loopback.
//
// The address alone decides, on both sides, so that nobody can be talked down: a client never tries plain text where TLS did not
// work, and a server on such an address takes nothing else (tls-listener.ts). The other way is `--plaintext-network` only.
//
// node:tls is loaded when the first such address is called: a home that is all on loopback does without.

import type { ConnectionOptions, TLSSocket } from "node:tls";
import { monotonicMs } from "../clock.ts";
import { readFileIfExists } from "../disk.ts";
import { errnoCode, errorMessage, StorageError } from "../errors.ts";
import { isLoopback } from "./addresses.ts";

/** Whom this process believes. */
export interface ServiceTrust {
  /** The network is trusted: everything is plain text (`--plaintext-network`). */
  readonly isPlaintext: boolean;
  /** PEM files of certificate authorities (`--service-ca`). */
  readonly caFiles: readonly string[];
}

/** For a TLS connection to one host: node:tls's, and node:https's. */
export interface ClientTls {
  readonly ca: string[];
  /** Of SNI; absent for an address, which has none (RFC 6066, 3). The name that the certificate must have is the host's. */
  readonly servername?: string;
  readonly minVersion: "TLSv1.2";
  readonly rejectUnauthorized: true;
}

/** An authority that was added, or taken away, counts at the latest so long after. */
const RELOAD_MS = 60_000;
const NOBODY: ServiceTrust = { isPlaintext: false, caFiles: [] };

let trustOf: () => ServiceTrust = () => NOBODY;
let known:
  | { readonly trust: ServiceTrust; readonly ca: string[]; readonly readMs: number }
  | undefined;

/** From here on this process calls services so; `trust` is asked when it is needed, and again each minute. */
export function trustServices(trust: () => ServiceTrust): void {
  trustOf = trust;
  known = undefined;
}

/** What `trustServices` was given, as it is now: for a process that does our work. */
export function ownTrust(): ServiceTrust {
  return trustOf();
}

/**
 * With what to connect to a service at `host`; undefined: in plain text. StorageError `invalid` where other machines can
 * reach it, and nothing is known by which to tell it from another.
 */
export function clientTls(host: string): ClientTls | undefined {
  if (isLoopback(host)) {
    return undefined;
  }
  const { trust, ca } = currentTrust();
  return trust.isPlaintext ? undefined : tlsTo(host, ca);
}

/**
 * The URL of a service's HTTP port. `address`: `host:port`, or an URL: http is refused where `clientTls` asks for TLS.
 * StorageError `invalid`.
 */
export function serviceUrl(address: string): string {
  const [, scheme, authority = ""] = /^(?:(\w+):\/\/)?(.*?)\/?$/.exec(address) ?? [];
  const host = hostOf(authority);
  if (scheme === "https") {
    return `https://${authority}`;
  }
  const isEncrypted = scheme === undefined && clientTls(host) !== undefined;
  if (scheme !== undefined && !isLoopback(host) && !currentTrust().trust.isPlaintext) {
    throw new StorageError(
      "invalid",
      "plaintext-refused",
      `${address}: others can read what goes there: https://${authority}, or say that the network is trusted (--plaintext-network)`,
    );
  }
  return `${isEncrypted ? "https" : (scheme ?? "http")}://${authority}`;
}

/** For an https URL of `serviceUrl`, loopback or not. StorageError `invalid` without an authority to check it by. */
export function tlsOfUrl(url: string): ClientTls {
  return tlsTo(hostOf(new URL(url).host), currentTrust().ca);
}

/** A TLS connection; the caller hears of `secureConnect`, and of errors, which `tlsProblem` explains. */
export function connectTls(tls: ClientTls, options: ConnectionOptions): TLSSocket {
  const socket = process.getBuiltinModule("node:tls").connect({ ...options, ...tls });
  socket.once("secureConnect", () => {
    // Not before: a handle that is not connected forgets the delay.
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
  });
  return socket;
}

const KEEP_ALIVE_MS = 10_000;

/**
 * What is wrong between this process and the service at `address` (`host:port`), and what to do about it; undefined where it is
 * not about TLS.
 */
export function tlsProblem(error: unknown, address: string): string | undefined {
  const code = errnoCode(error) ?? "";
  const files = known?.trust.caFiles.join(", ") ?? "";
  if (code === "CERT_HAS_EXPIRED") {
    return `the certificate of ${address} has expired, or the authority in ${files} has: ${RENEWAL}`;
  }
  if (code === "CERT_NOT_YET_VALID") {
    return `the certificate of ${address} is not valid yet: compare the clocks of both machines`;
  }
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    return `the certificate of ${address} is for ${namesOf(error)}, and not for that address: ${RENEWAL}`;
  }
  if (UNKNOWN_AUTHORITY.test(code)) {
    return `the certificate of ${address} is of no authority in ${files}: another home's service, or an own certificate whose authority is to be named there (--service-ca; "serviceTls" in config.json)`;
  }
  const isTls = /^(?:ERR_SSL_|ERR_TLS_|EPROTO$)/.test(code);
  const message = isTls ? errorMessage(error) : "";
  if (NOT_TLS.test(message)) {
    return `${address} answers in plain text, and only TLS is spoken to it: whatever it is, it was started without a certificate (--service-cert)`;
  }
  if (/no application protocol/i.test(message)) {
    return `${address} speaks TLS, but of another protocol: is that the right port?`;
  }
  return isTls ? `TLS with ${address} fails: ${message}` : undefined;
}

/** What to do about a certificate that does not fit any more. */
const RENEWAL =
  "'strata start' makes those of the home anew, an own one is to be replaced; what runs reads it again by itself";
const UNKNOWN_AUTHORITY =
  /^(?:SELF_SIGNED_CERT_IN_CHAIN|DEPTH_ZERO_SELF_SIGNED_CERT|UNABLE_TO_GET_ISSUER_CERT(?:_LOCALLY)?|UNABLE_TO_VERIFY_LEAF_SIGNATURE|CERT_SIGNATURE_FAILURE|CERT_UNTRUSTED|INVALID_CA)$/;
/** OpenSSL's words: the code is EPROTO where it was writing. */
const NOT_TLS = /wrong version number|packet length too long|http request/i;

function namesOf(error: unknown): string {
  const { cert } = error as { cert?: { subjectaltname?: string } };
  return cert?.subjectaltname?.replaceAll("IP Address:", "").replaceAll("DNS:", "") || "no address";
}

function currentTrust(): NonNullable<typeof known> {
  if (known === undefined || monotonicMs() - known.readMs > RELOAD_MS) {
    const trust = trustOf();
    const ca = trust.isPlaintext ? [] : trust.caFiles.map(readAuthority);
    known = { trust, ca, readMs: monotonicMs() };
  }
  return known;
}

function readAuthority(file: string): string {
  const text = readFileIfExists(file)?.toString("latin1");
  if (text === undefined) {
    const message = `no file ${file}: the authority by which services are known`;
    throw new StorageError("not-found", "no-service-ca", message);
  }
  return text;
}

function tlsTo(host: string, ca: string[]): ClientTls {
  if (ca.length === 0) {
    throw new StorageError(
      "invalid",
      "no-service-ca",
      `${host}: others can reach it, and there is no authority by which to know it: --service-ca FILE, or say that the network is trusted (--plaintext-network)`,
    );
  }
  const isAddress = process.getBuiltinModule("node:net").isIP(host) !== 0;
  return {
    ca,
    ...(isAddress ? {} : { servername: host }),
    minVersion: "TLSv1.2",
    rejectUnauthorized: true,
  };
}

/** Of `host:port` or `[host]:port`. */
export function hostOf(authority: string): string {
  return authority.replace(/:\d*$/, "").replace(/^\[(.*)\]$/, "$1");
}
