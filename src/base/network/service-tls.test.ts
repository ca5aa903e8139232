import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ServiceAuthority } from "../../../testing/services/service-authority.ts";
import { clientTls, serviceUrl, tlsProblem, trustServices } from "./service-tls.ts";

const authority = await ServiceAuthority.create();
after(() => authority.remove());
const trust = (isPlaintext: boolean, ...caFiles: string[]) =>
  trustServices(() => ({ isPlaintext, caFiles }));

test("clientTls: loopback is plain text, everything else TLS with the name of the host", () => {
  trust(false, authority.caFile);
  for (const host of ["127.0.0.1", "127.1.2.3", "localhost", "::1"]) {
    assert.equal(clientTls(host), undefined, host);
  }
  const tls = clientTls("10.0.0.1");
  assert.match(tls!.ca.join(), /BEGIN CERTIFICATE/);
  assert.equal(tls!.rejectUnauthorized, true);
  assert.equal(tls!.servername, undefined);
  assert.equal(clientTls("sk1.example.com")!.servername, "sk1.example.com");
  // What only begins like loopback.
  assert.notEqual(clientTls("127.0.0.1.example.com"), undefined);
});

test("clientTls: without an authority nothing is said to others, but on a network that is trusted", () => {
  trust(false);
  assert.throws(() => clientTls("10.0.0.1"), {
    kind: "invalid",
    code: "no-service-ca",
    message: /--service-ca FILE.*--plaintext-network/,
  });
  trust(false, "/nowhere/ca.crt");
  assert.throws(() => clientTls("10.0.0.1"), { message: /no file \/nowhere\/ca.crt/ });
  trust(true);
  assert.equal(clientTls("10.0.0.1"), undefined);
  trustServices(() => ({ isPlaintext: false, caFiles: [] }));
  assert.equal(clientTls("127.0.0.1"), undefined);
});

test("serviceUrl: the address decides, and an http URL of others is refused", () => {
  trust(false, authority.caFile);
  assert.equal(serviceUrl("127.0.0.1:1"), "http://127.0.0.1:1");
  assert.equal(serviceUrl("http://localhost:1/"), "http://localhost:1");
  assert.equal(serviceUrl("[::1]:1"), "http://[::1]:1");
  assert.equal(serviceUrl("10.0.0.1:1"), "https://10.0.0.1:1");
  assert.equal(serviceUrl("https://127.0.0.1:1"), "https://127.0.0.1:1");
  assert.throws(() => serviceUrl("http://10.0.0.1:1"), { code: "plaintext-refused" });
  trust(true);
  assert.equal(serviceUrl("10.0.0.1:1"), "http://10.0.0.1:1");
  assert.equal(serviceUrl("http://10.0.0.1:1"), "http://10.0.0.1:1");
});

test("tlsProblem: only of what is about TLS", () => {
  const of = (code: string) => tlsProblem(Object.assign(new Error("why"), { code }), "h:1");
  assert.equal(of("ECONNREFUSED"), undefined);
  assert.equal(tlsProblem(new Error("x"), "h:1"), undefined);
  assert.match(of("ERR_SSL_SOMETHING")!, /TLS with h:1 fails: why/);
  assert.match(of("CERT_NOT_YET_VALID")!, /clocks/);
});
