import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SealedSecrets } from "./sealed-secrets.ts";

test("SealedSecrets: opens with the same key for the same owner only, and nothing that was changed", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-seal-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const file = join(directory, "secret.key");
  const secrets = SealedSecrets.open(file);
  assert.equal(statSync(file).mode & 0o077, 0);
  const sealed = secrets.seal("pässword", "role a");
  assert.ok(!sealed.includes("ssword"));
  assert.notEqual(secrets.seal("pässword", "role a"), sealed);
  assert.equal(SealedSecrets.open(file).open(sealed, "role a"), "pässword");
  const refuse = (text: string, owner = "role a") =>
    assert.throws(() => secrets.open(text, owner), { code: "bad-sealed-secret" });
  refuse(sealed, "role b");
  const parts = sealed.split(":");
  refuse([...parts.slice(0, 3), Buffer.from("another").toString("base64")].join(":"));
  refuse([parts[0], parts[1], parts[2]!.slice(0, 8), parts[3]].join(":"));
  refuse("v1::::");
  const other = SealedSecrets.open(join(directory, "other.key"));
  assert.throws(() => other.open(sealed, "role a"), { code: "bad-sealed-secret" });
  writeFileSync(file, "not a key");
  assert.throws(() => SealedSecrets.open(file), { code: "bad-key-file" });
});
