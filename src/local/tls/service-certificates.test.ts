import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import { parseInitSettings } from "../config.ts";
import { CertificateAuthority } from "./certificate-authority.ts";
import { renewDaily } from "./renewal.ts";
import {
  ensureServiceCertificates,
  serviceTlsArguments,
  type TlsSettings,
  trustOf,
} from "./service-certificates.ts";

const LOCAL: TlsSettings = {
  broker: { listenAddr: "127.0.0.1:1" },
  pageservers: [{ id: 1, listenPgAddr: "127.0.0.1:2", listenHttpAddr: "127.0.0.1:3" }],
  safekeepers: [{ id: 7, listenPgAddr: "127.0.0.1:4", listenHttpAddr: "127.0.0.1:5" }],
  controlPlane: { listenAddr: "127.0.0.1:6" },
};
/** One safekeeper that others can reach. */
const REACHED: TlsSettings = {
  ...LOCAL,
  safekeepers: [{ id: 7, listenPgAddr: "10.0.0.7:4", listenHttpAddr: "sk7.example.com:5" }],
};

function newHome(t: TestContext): { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), "strata-service-tls-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return { path };
}

const filesOf = (home: { readonly path: string }) => readdirSync(join(home.path, "tls")).sort();
const read = (home: { readonly path: string }, name: string) =>
  readFileSync(join(home.path, "tls", name), "latin1");

test("ensureServiceCertificates: none on loopback or in plain text, and the arguments of daemons say so", async (t) => {
  const home = newHome(t);
  await ensureServiceCertificates(home, LOCAL);
  assert.deepEqual(serviceTlsArguments(home, LOCAL, "safekeeper_7"), []);
  const plain = { ...REACHED, plaintextNetwork: true };
  await ensureServiceCertificates(home, plain);
  assert.deepEqual(serviceTlsArguments(home, plain, "safekeeper_7"), ["--plaintext-network"]);
  assert.equal(trustOf(home, plain).isPlaintext, true);
  assert.deepEqual(readdirSync(home.path), []);
});

test("ensureServiceCertificates: one for who is reached, for its hosts, known by the home's authority", async (t) => {
  const home = newHome(t);
  await ensureServiceCertificates(home, REACHED);
  assert.deepEqual(filesOf(home), ["ca.crt", "ca.key", "safekeeper_7.crt", "safekeeper_7.key"]);
  assert.equal(statSync(join(home.path, "tls", "safekeeper_7.key")).mode & 0o777, 0o600);
  const x509 = new X509Certificate(read(home, "safekeeper_7.crt"));
  assert.equal(x509.checkIP("10.0.0.7"), "10.0.0.7");
  assert.equal(x509.checkHost("sk7.example.com"), "sk7.example.com");
  assert.equal(x509.checkIP("127.0.0.1"), undefined);
  assert.equal(x509.verify(new X509Certificate(read(home, "ca.crt")).publicKey), true);
  const file = (name: string) => join(home.path, "tls", name);
  assert.deepEqual(serviceTlsArguments(home, REACHED, "safekeeper_7"), [
    ...["--service-ca", file("ca.crt")],
    ...["--service-cert", file("safekeeper_7.crt"), "--service-key", file("safekeeper_7.key")],
  ]);
  // Those that only call others.
  for (const service of [undefined, "pageserver_1"]) {
    assert.deepEqual(serviceTlsArguments(home, REACHED, service), ["--service-ca", file("ca.crt")]);
  }
  assert.deepEqual(trustOf(home, REACHED), { isPlaintext: false, caFiles: [file("ca.crt")] });
});

test("ensureServiceCertificates: made again for another name, or near the end; else kept", async (t) => {
  const home = newHome(t);
  await ensureServiceCertificates(home, REACHED);
  const first = read(home, "safekeeper_7.crt");
  await ensureServiceCertificates(home, REACHED);
  assert.equal(read(home, "safekeeper_7.crt"), first);
  const named = { ...REACHED, serviceTls: { names: ["wal.example.com", "10.9.9.9"] } };
  await ensureServiceCertificates(home, named);
  const hosts = ["--http-host", "wal.example.com", "--http-host", "10.9.9.9"];
  assert.deepEqual(serviceTlsArguments(home, named, "safekeeper_7").slice(-4), hosts);
  const second = new X509Certificate(read(home, "safekeeper_7.crt"));
  assert.equal(second.checkHost("wal.example.com"), "wal.example.com");
  assert.equal(second.checkIP("10.9.9.9"), "10.9.9.9");
  const authority = await CertificateAuthority.open({
    cert: read(home, "ca.crt"),
    key: read(home, "ca.key"),
  });
  const names = { subject: "old", dns: ["sk7.example.com"], ip: ["10.0.0.7"] };
  const old = await authority.issue(names, 59);
  writeFileSync(join(home.path, "tls", "safekeeper_7.crt"), old.cert);
  writeFileSync(join(home.path, "tls", "safekeeper_7.key"), old.key);
  const config = () => ({ ...REACHED, pgVersion: 17, endpointBasePort: 1 });
  const renewal = renewDaily({ path: home.path, config }, createLogger("test", "silent"), 50);
  t.after(() => renewal.cancel());
  while (read(home, "safekeeper_7.crt") === old.cert) {
    await sleep(20);
  }
  renewal.cancel();
});

test("serviceTls: own certificates are named and never written; what does not fit together is refused", async (t) => {
  const home = newHome(t);
  const own = { cert: "/etc/strata.crt", key: "/etc/strata.key", ca: "pki/ca.crt" };
  const settings = { ...REACHED, serviceTls: own };
  await ensureServiceCertificates(home, settings);
  assert.deepEqual(readdirSync(home.path), []);
  assert.deepEqual(serviceTlsArguments(home, settings, "safekeeper_7"), [
    ...["--service-ca", join(home.path, "pki/ca.crt")],
    ...["--service-cert", "/etc/strata.crt", "--service-key", "/etc/strata.key"],
  ]);
  assert.deepEqual(trustOf(home, settings).caFiles, [join(home.path, "pki/ca.crt")]);
  const parse = (serviceTls: unknown) =>
    parseInitSettings(JSON.stringify({ serviceTls }), "init.json").serviceTls;
  assert.deepEqual(parse(own), own);
  assert.deepEqual(parse({ names: ["a.example.com"] }), { names: ["a.example.com"] });
  for (const wrong of [
    { cert: "a" },
    { ...own, names: [] },
    { names: ["no name"] },
    { names: "a" },
    { certs: 1 },
  ]) {
    assert.throws(() => parse(wrong), { kind: "invalid", message: /serviceTls/ });
  }
});
