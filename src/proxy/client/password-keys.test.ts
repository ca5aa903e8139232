import assert from "node:assert/strict";
import { test } from "node:test";
import { parseScramSecret, type ScramSecret, scramSecret } from "../../postgres/scram.ts";
import { PasswordKeys } from "./password-keys.ts";

const SECRET = parseScramSecret(scramSecret("pencil"))!;
const PASSWORD = Buffer.from("pencil");

test("PasswordKeys: the password opens, another one does not, whatever was remembered", async () => {
  const passwords = new PasswordKeys();
  const keysOf = (password: string, secret = SECRET) =>
    passwords.keysOf("ep", "ann", Buffer.from(password), secret);
  for (let i = 0; i < 3; i++) {
    assert.notEqual(await keysOf("pencil"), undefined);
    assert.equal(await keysOf("pen"), undefined);
    // The role has a new password.
    assert.equal(await keysOf("pencil", parseScramSecret(scramSecret("new"))!), undefined);
  }
});

test("PasswordKeys: one that fitted costs nothing the next time", async () => {
  const passwords = new PasswordKeys();
  const slow: ScramSecret = { ...SECRET, iterations: 2_000_000 };
  const { storedKey } = await storedKeyOf(slow);
  const secret = { ...slow, storedKey };
  // Of the processor, and not of the clock: others have it, too.
  const cost = async () => {
    const start = process.cpuUsage();
    assert.notEqual(await passwords.keysOf("ep", "ann", PASSWORD, secret), undefined);
    return process.cpuUsage(start).user;
  };
  const first = await cost();
  assert.ok((await cost()) < first / 10);
});

/** As a secret of so many iterations has it. */
async function storedKeyOf({ salt, iterations }: ScramSecret): Promise<{ storedKey: Buffer }> {
  const { createHash, createHmac, pbkdf2Sync } = await import("node:crypto");
  const salted = pbkdf2Sync(PASSWORD, salt, iterations, 32, "sha256");
  const clientKey = createHmac("sha256", salted).update("Client Key").digest();
  return { storedKey: createHash("sha256").update(clientKey).digest() };
}

test("PasswordKeys: whoever floods one endpoint does not keep another waiting, nor fill the memory", async () => {
  const passwords = new PasswordKeys();
  const ended: string[] = [];
  const ask = (endpoint: string, i: number) =>
    passwords
      .keysOf(endpoint, "ann", Buffer.from(`guess ${i}`), SECRET)
      .then(() => ended.push(endpoint));
  const flood = Array.from({ length: 150 }, (_, i) => ask("flooded", i));
  const refused = Promise.allSettled(flood);
  await ask("quiet", 0);
  assert.ok(ended.length < 10, `${ended.length} were before`);
  const rejected = (await refused).filter(({ status }) => status === "rejected");
  assert.equal(rejected.length, 48, "two run, a hundred wait");
});
