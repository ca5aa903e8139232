import assert from "node:assert/strict";
import { test } from "node:test";
import { checkHost, checkJson, checkOrigin, parseTarget } from "./request-guard.ts";

test("parseTarget: decoded segments and query", () => {
  const { segments, query } = parseTarget("/v1/tenant/a%20b?x=1&y=%2F");
  assert.deepEqual(segments, ["v1", "tenant", "a b"]);
  assert.deepEqual({ ...query }, { x: "1", y: "/" });
  assert.deepEqual(parseTarget("/").segments, [""]);
  assert.deepEqual(Object.keys(parseTarget("/?__proto__=1").query), ["__proto__"]);
});

test("parseTarget: whatever is no path is invalid, never another error", () => {
  const targets = [
    ...["//[", "//%", "///", "//", "/a//b", "/%", "/%zz", "/%c3", "/a b", "/é", "/[", "/\0", "/\\"],
    ...["", "*", "a", "http://evil.example/status", "http://[", "?x", "/a?x=1&x=2", "/a#b"],
    ...[`/${"/".repeat(10_000)}`, "/a?%", "//evil.example/"],
  ];
  for (const target of [...targets, undefined]) {
    if (target === "/a?%") {
      parseTarget(target);
    } else {
      assert.throws(() => parseTarget(target), { kind: "invalid", code: "bad-target" }, target);
    }
  }
});

const host = (authority: string | undefined, allowedHosts: string[] = []) =>
  checkHost({ authority, listenHost: "0.0.0.0", localAddress: "::ffff:10.1.2.3", allowedHosts });

test("checkHost: loopback, the address that was reached, and configured names", () => {
  for (const known of [
    ...["localhost", "LocalHost:9898", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:80"],
    ...["10.1.2.3:9898", "[::ffff:10.1.2.3]:1", "0.0.0.0:9898"],
  ]) {
    host(known);
  }
  host("Pageserver-1:9898", ["pageserver-1"]);
});

test("checkHost: names of others are forbidden, no name is invalid", () => {
  for (const other of [
    ...["evil.example", "evil.example:9898", "127.0.0.1.evil.example", "localhost.evil.example"],
    ...["10.1.2.4", "pageserver-1", "[::2]", "127.0.0.1.5", "0x7f.1", "1127.0.0.1"],
  ]) {
    assert.throws(() => host(other), { kind: "forbidden", code: "wrong-host" }, other);
  }
  for (const wrong of [undefined, "", ":80", "a@127.0.0.1", "127.0.0.1/", "[::1", "a b", "::1"]) {
    assert.throws(() => host(wrong), { kind: "invalid", code: "bad-host" }, wrong);
  }
});

test("checkOrigin: pages of this server only, and links that are followed", () => {
  const authority = "localhost:9898";
  checkOrigin({}, authority);
  checkOrigin({ origin: "http://localhost:9898", "sec-fetch-site": "same-origin" }, authority);
  checkOrigin({ "sec-fetch-site": "none" }, authority);
  checkOrigin({ "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate" }, authority);
  for (const headers of [
    { origin: "http://evil.example" },
    { origin: "null" },
    { origin: "http://localhost:3000" },
    { "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" },
    { "sec-fetch-site": "same-site" },
    { origin: "http://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate" },
  ]) {
    assert.throws(() => checkOrigin(headers, authority), { kind: "forbidden" });
  }
});

test("checkJson: no type that a form or a blind fetch may send", () => {
  checkJson({ "content-type": "application/json" });
  checkJson({ "content-type": "Application/JSON; charset=utf-8" });
  for (const type of [
    ...[undefined, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"],
    ...["text/plain; application/json", "application/jsonp", "text/plain, application/json"],
  ]) {
    const headers = type === undefined ? {} : { "content-type": type };
    assert.throws(() => checkJson(headers), { code: "not-json" }, type);
    assert.throws(() => checkJson({ ...headers, authorization: "Basic eA==" }), {
      code: "not-json",
    });
    checkJson({ ...headers, authorization: "Bearer x" });
  }
});
