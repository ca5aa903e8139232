import assert from "node:assert/strict";
import { createHash, X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { CertificateAuthority } from "../../local/tls/certificate-authority.ts";
import { certificatePaths, ensureCertificates } from "../../local/tls/certificates.ts";
import { nowMs, REAL_CLOCK, replaceClock } from "../clock.ts";
import { createLogger, type Logger } from "../log.ts";
import { TlsCertificates } from "./tls-certificates.ts";

const directory = mkdtempSync(join(tmpdir(), "strata-certificates-"));
after(() => rmSync(directory, { recursive: true }));

const authority = await CertificateAuthority.create("test");

async function write(name: string, dns: string[], days = 100) {
  const { cert, key } = await authority.issue({ subject: dns[0]!, dns, ip: [] }, days);
  const files = { cert: join(directory, `${name}.crt`), key: join(directory, `${name}.key`) };
  writeFileSync(files.cert, cert);
  writeFileSync(files.key, key);
  return files;
}

/** A logger that keeps what it is told. */
function listening() {
  const lines: string[] = [];
  const fields: { readonly cert?: string; readonly validTo?: string }[] = [];
  const hear = (first: object | string, message?: string) => {
    lines.push(message ?? String(first));
    fields.push(typeof first === "object" ? first : {});
  };
  const logger = { ...createLogger("test", "silent"), info: hear, warn: hear };
  return { logger: logger as unknown as Logger, lines, fields };
}

test("TlsCertificates: the one whose name is asked for, else the first; its hash is for channel binding", async () => {
  const files = [await write("a", ["*.a.test"]), await write("b", ["*.b.test"])];
  const certificates = new TlsCertificates(files, createLogger("test", "silent"));
  const subject = (name?: string) => certificates.find(name).x509.subject;
  assert.equal(subject("x.b.test"), "CN=*.b.test");
  assert.equal(subject("x.a.test"), "CN=*.a.test");
  assert.equal(subject("elsewhere"), "CN=*.a.test");
  assert.equal(subject(), "CN=*.a.test");
  const { raw } = new X509Certificate(readFileSync(files[0]!.cert));
  const expected = createHash("sha256").update(raw).digest();
  assert.deepEqual(certificates.find().endPointHash, expected);
  certificates.close();
});

test("TlsCertificates: files that change are read again, those that do not fit are not", async () => {
  const { logger, lines } = listening();
  const files = await write("c", ["*.old.test"]);
  const certificates = new TlsCertificates([files], logger);
  writeFileSync(files.key, "half a key");
  certificates.lookAgain();
  certificates.lookAgain();
  assert.equal(certificates.find().x509.subject, "CN=*.old.test");
  await write("c", ["*.new.test"]);
  certificates.lookAgain();
  assert.equal(certificates.find().x509.subject, "CN=*.new.test");
  rmSync(files.cert);
  certificates.lookAgain();
  assert.equal(certificates.find().x509.subject, "CN=*.new.test");
  assert.deepEqual(lines, [
    "new certificate cannot be used",
    "certificate read again",
    "new certificate cannot be used",
  ]);
  certificates.close();
  assert.throws(() => new TlsCertificates([files], logger), /no file/);
});

test("TlsCertificates: the end of one is told of at the start and each day, with its file and its date", async () => {
  const { logger, lines, fields } = listening();
  new TlsCertificates([await write("d", ["d.test"], -1)], logger).close();
  const certificates = new TlsCertificates(
    [await write("e", ["e.test"], 16), await write("f", ["f.test"], 400)],
    logger,
  );
  const start = nowMs();
  let now = start;
  replaceClock({ ...REAL_CLOCK, nowMs: () => now });
  try {
    // In two days fourteen are left; what was told that day is not told again.
    for (const days of [0, 1, 2.01, 2.5, 3.02, 17]) {
      now = start + days * 24 * 3600 * 1000;
      certificates.lookAgain();
    }
  } finally {
    replaceClock(REAL_CLOCK);
    certificates.close();
  }
  assert.deepEqual(lines, [
    "certificate has expired",
    "certificate expires soon",
    "certificate expires soon",
    "certificate has expired",
  ]);
  assert.equal(fields[1]!.cert, join(directory, "e.crt"));
  const inDays = (Date.parse(fields[1]!.validTo ?? "") - start) / 24 / 3600 / 1000;
  assert.ok(inDays > 15 && inDays < 17, fields[1]!.validTo);
});

test("ensureCertificates: made once, for the owner only; again for another domain, or near the end", async () => {
  const home = { path: join(directory, "home") };
  const paths = await ensureCertificates(home, "localtest.me");
  const read = () => Object.values(paths).map((path) => readFileSync(path, "latin1"));
  const first = read();
  for (const path of Object.values(paths)) {
    assert.equal(statSync(path).mode & 0o777, 0o600);
  }
  assert.deepEqual(await ensureCertificates(home, "localtest.me"), certificatePaths(home));
  assert.deepEqual(read(), first);
  await ensureCertificates(home, "example.com");
  const [caCert, caKey, cert, key] = read();
  assert.deepEqual([caCert, caKey], first.slice(0, 2), "the CA stays");
  assert.notEqual(key, first[3]);
  const x509 = new X509Certificate(cert!);
  assert.equal(x509.checkHost("ep-x.example.com"), "*.example.com");
  assert.equal(x509.checkHost("localhost"), "localhost");
  assert.equal(x509.checkIP("127.0.0.1"), "127.0.0.1");
  assert.equal(x509.verify(new X509Certificate(caCert!).publicKey), true);
  // One that ends within two months.
  const old = await (await CertificateAuthority.open({ cert: caCert!, key: caKey! })).issue(
    { subject: "test", dns: ["*.example.com"], ip: [] },
    59,
  );
  writeFileSync(paths.cert, old.cert);
  writeFileSync(paths.key, old.key);
  await ensureCertificates(home, "example.com");
  assert.notEqual(readFileSync(paths.cert, "latin1"), old.cert);
});
