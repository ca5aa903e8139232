import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { nowMs } from "../clock.ts";
import {
  requireScope,
  type ServiceName,
  signToken,
  type TokenClaims,
  TokenVerifier,
} from "./service-token.ts";

const directory = mkdtempSync(join(tmpdir(), "strata-keys-"));
after(() => rmSync(directory, { recursive: true }));

function newKey(name: string, type: "ed25519" | "ed448" = "ed25519"): string {
  const { publicKey, privateKey } = generateKeyPairSync(type as "ed25519");
  writeFileSync(join(directory, `${name}.pem`), publicKey.export({ type: "spki", format: "pem" }));
  return privateKey.export({ type: "pkcs8", format: "pem" }).toString();
}

const TENANT = "a".repeat(32);
const later = () => Math.floor(nowMs() / 1000) + 60;
const key = newKey("one");
const claims: TokenClaims = { scope: "tenant", tenant_id: TENANT, exp: later() };

test("TokenVerifier: what was signed is what comes out, and only in time", () => {
  const verifier = new TokenVerifier(directory);
  for (let i = 0; i < 2; i++) {
    assert.deepEqual(verifier.verify(signToken(key, "one", claims)), claims);
  }
  const expired = signToken(key, "one", { ...claims, exp: Math.floor(nowMs() / 1000) });
  for (let i = 0; i < 2; i++) {
    assert.throws(() => verifier.verify(expired), { kind: "forbidden", code: "expired-token" });
  }
  assert.throws(() => verifier.verify(undefined), { code: "no-token" });
  assert.throws(() => verifier.verify(""), { code: "no-token" });
});

test("TokenVerifier: nothing else is a token", () => {
  const verifier = new TokenVerifier(directory);
  const good = signToken(key, "one", claims);
  const [head, body, signature] = good.split(".") as [string, string, string];
  const word = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const foreign = generateKeyPairSync("ed25519")
    .privateKey.export({ type: "pkcs8", format: "pem" })
    .toString();
  const hostile = [
    "x",
    "..",
    `${head}.${body}`,
    `${head}.${body}.`,
    `${good}.x`,
    `${head}.${word({ ...claims, tenant_id: "b".repeat(32) })}.${signature}`,
    `${word({ alg: "none", kid: "one" })}.${body}.`,
    `${word({ alg: "HS256", kid: "one" })}.${body}.${signature}`,
    `${word({ alg: "EdDSA", kid: "../one" })}.${body}.${signature}`,
    `${word({ alg: "EdDSA", kid: 1 })}.${body}.${signature}`,
    `${word(null)}.${body}.${signature}`,
    signToken(foreign, "one", claims),
    signToken(key, "two", claims),
    "a".repeat(100_000),
    ...[
      { scope: "tenant", exp: later() },
      { scope: "admin", tenant_id: TENANT, exp: later() },
      { scope: "root", exp: later() },
      { scope: "admin" },
      { scope: "admin", exp: "never" },
    ].map((wrong) => signToken(key, "one", wrong as never)),
  ];
  for (const token of hostile) {
    assert.throws(() => verifier.verify(token), { kind: "forbidden", code: "bad-token" }, token);
  }
  assert.throws(
    () => verifier.verify("secret-word"),
    (error: Error) => !/secret/.test(error.message),
  );
});

test("TokenVerifier: two keys while one takes the other's place", () => {
  const verifier = new TokenVerifier(directory);
  const old = signToken(key, "one", claims);
  verifier.verify(old);
  const next = newKey("next");
  const fresh = new TokenVerifier(directory);
  assert.deepEqual(fresh.verify(signToken(next, "next", claims)), claims);
  assert.deepEqual(fresh.verify(old), claims);
  rmSync(join(directory, "next.pem"));
  assert.throws(() => new TokenVerifier(directory).verify(signToken(next, "next", claims)));
});

test("TokenVerifier: a key of another kind is said to be one", () => {
  newKey("wrong", "ed448");
  assert.throws(() => new TokenVerifier(directory).verify(signToken(key, "one", claims)), {
    code: "bad-key",
  });
  rmSync(join(directory, "wrong.pem"));
});

test("requireScope: who may do what, where", () => {
  const services: ServiceName[] = ["pageserver", "safekeeper", "storage_broker", "compute"];
  const opens = (scope: TokenClaims["scope"], tenantId?: string) =>
    services.filter((service) => {
      try {
        requireScope(
          { scope, tenant_id: scope === "tenant" ? TENANT : undefined, exp: 0 },
          service,
          tenantId,
        );
        return true;
      } catch (error) {
        assert.equal((error as { code: string }).code, "wrong-scope");
        return false;
      }
    });
  assert.deepEqual(opens("admin"), services);
  assert.deepEqual(opens("pageserverapi"), ["pageserver", "storage_broker"]);
  assert.deepEqual(opens("safekeeperdata"), ["safekeeper", "storage_broker"]);
  assert.deepEqual(opens("tenant", TENANT), ["pageserver", "safekeeper"]);
  assert.deepEqual(opens("tenant", "b".repeat(32)), []);
  assert.deepEqual(opens("tenant"), []);
});
