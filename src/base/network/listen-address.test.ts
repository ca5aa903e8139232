import assert from "node:assert/strict";
import { test } from "node:test";
import { checkListenAddress } from "./listen-address.ts";

test("checkListenAddress: others reach it only with a certificate or on a trusted network, and where tokens are asked for", () => {
  const check =
    (address: string, isTrusted: boolean, asksForTokens: boolean, hasCertificate = false) =>
    () =>
      checkListenAddress("listen-pg", address, { isTrusted, hasCertificate, asksForTokens });
  assert.doesNotThrow(check("127.0.0.1:5454", false, false));
  assert.doesNotThrow(check("[::1]:5454", false, false));
  assert.doesNotThrow(check("10.0.0.1:5454", true, true));
  assert.doesNotThrow(check("10.0.0.1:5454", false, true, true));
  assert.throws(check("10.0.0.1:5454", false, false, true), /service tokens are needed/);
  assert.throws(check("10.0.0.1:5454", false, true), {
    code: "not-loopback",
    message: /^--listen-pg 10\.0\.0\.1:5454: .*nothing is encrypted.*--plaintext-network/,
  });
  assert.throws(check("0.0.0.0:5454", true, false), /service tokens are needed/);
  assert.throws(check("[::]:5454", false, false), { kind: "invalid" });
});
