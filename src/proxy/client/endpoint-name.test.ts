import assert from "node:assert/strict";
import { test } from "node:test";
import {
  chooseEndpoint,
  endpointOfHost,
  parseClientOptions,
  parseEndpointName,
  splitPassword,
} from "./endpoint-name.ts";

test("parseClientOptions: takes ours out, leaves the rest as it was", () => {
  assert.deepEqual(parseClientOptions("-c a=b endpoint=ep-x  -c c='d e'"), {
    endpoint: "ep-x",
    compute: [],
    rest: "-c a=b   -c c='d e'",
  });
  assert.equal(parseClientOptions("project=ep-y").endpoint, "ep-y");
  assert.equal(parseClientOptions("endpoint%3Dep-z").endpoint, "ep-z");
  assert.equal(parseClientOptions("-c endpoint_x=1").endpoint, undefined);
  const timed = parseClientOptions("neon_lsn:0/16B3748 neon_timestamp:2026-11-28T10:00:00Z -d5");
  assert.deepEqual(timed.compute, [
    ["lsn", "0/16B3748"],
    ["timestamp", "2026-11-28T10:00:00Z"],
  ]);
  assert.equal(timed.rest, "-d5");
  assert.throws(() => parseClientOptions("neon_a:b ".repeat(11)), /11 neon_ options/);
});

test("endpointOfHost: one label below a domain of ours", () => {
  const domains = ["localtest.me", "db.example.com"];
  assert.equal(endpointOfHost("Ep-X.localtest.me", domains), "ep-x");
  assert.equal(endpointOfHost("ep-x.db.example.com.", domains), "ep-x");
  for (const other of [undefined, "", "localtest.me", "a.b.localtest.me", "ep.example.com", "x"]) {
    assert.equal(endpointOfHost(other, domains), undefined);
  }
});

test("chooseEndpoint, parseEndpointName: one name, said once or twice alike", () => {
  assert.equal(chooseEndpoint(undefined, undefined), undefined);
  assert.deepEqual(chooseEndpoint("a", "a"), { id: "a", isPooled: false });
  assert.deepEqual(chooseEndpoint("ep-x-pooler", undefined), { id: "ep-x", isPooled: true });
  assert.throws(() => chooseEndpoint("a", "b"), /host name says endpoint 'a'/);
  for (const bad of ["", "-a", "a b", "a/b", "a\n", "x".repeat(64), "é"]) {
    assert.throws(() => parseEndpointName(bad), /not the name/);
  }
});

test("splitPassword: Neon's two separators; other passwords are passwords", () => {
  const split = (text: string) => {
    const found = splitPassword(Buffer.from(text));
    return found && [found.endpoint, found.password.toString()];
  };
  assert.deepEqual(split("endpoint=ep-x;pa;ss$é"), ["ep-x", "pa;ss$é"]);
  assert.deepEqual(split("project=ep-x$pass"), ["ep-x", "pass"]);
  for (const none of ["", "pass;word", "endpoint=ep-x", "endpoint=;x", " endpoint=a;b"]) {
    assert.equal(split(none), undefined);
  }
});
