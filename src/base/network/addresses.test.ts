import assert from "node:assert/strict";
import { test } from "node:test";
import { isAllowEntry, isAllowed, isLoopback, plainAddress } from "./addresses.ts";

test("isAllowed: addresses, networks, ranges, both families; what is none lets nobody in", () => {
  const bad: string[] = [];
  const check = (address: string, ...list: string[]) =>
    isAllowed(address, list, (entry) => bad.push(entry));
  assert.equal(check("1.2.3.4"), true);
  assert.equal(check("1.2.3.4", "1.2.3.4"), true);
  assert.equal(check("1.2.3.5", "1.2.3.4"), false);
  assert.equal(check("1.2.3.5", "9.9.9.9", "1.2.3.0/24"), true);
  assert.equal(check("1.2.3.5", "1.2.3.4 - 1.2.3.6"), true);
  assert.equal(check("1.2.3.7", "1.2.3.4-1.2.3.6"), false);
  assert.equal(check("2001:db8::1", "2001:db8::/32"), true);
  assert.equal(check("2001:db9::1", "2001:db8::/32"), false);
  assert.deepEqual(bad, []);
  assert.equal(check("1.2.3.4", "x", "1.2.3.4/99", "1.2.3.4/", "::1-1.2.3.4"), false);
  assert.equal(bad.length, 4);
  assert.equal(check("", "0.0.0.0/0"), false);
  assert.ok(isAllowEntry("1.2.3.4 - 1.2.3.6"));
  assert.ok(!isAllowEntry("1.2.3.4/99"));
});

test("isLoopback: what only this machine can reach, and IPv4 in IPv6 is IPv4", () => {
  assert.equal(plainAddress("::ffff:127.0.0.1"), "127.0.0.1");
  const own = ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"];
  for (const host of own) {
    assert.ok(isLoopback(host), host);
  }
  const others = ["0.0.0.0", "::", "::2", "", "10.127.0.0", "128.0.0.1", "127.1"];
  for (const host of [...others, "127.0.0.1.example.com", "localhost.me"]) {
    assert.ok(!isLoopback(host), host);
  }
});
