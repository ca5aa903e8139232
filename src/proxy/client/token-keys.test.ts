import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import {
  exportJWK,
  exportSPKI,
  type GenerateKeyPairResult,
  generateKeyPair,
  type JWK,
  SignJWT,
  UnsecuredJWT,
} from "jose";
import { TokenKeys, type TokenRule } from "./token-keys.ts";

// Which tokens let in, and which do not: each of these would be somebody's way in.

let server: Server;
/** What the JWKS URL answers. */
let answer: { status: number; body: string; location?: string };
let asked = 0;
/** What is there where a redirect leads. */
let elsewhere = "";
let rule: TokenRule;
const keys = new Map<string, GenerateKeyPairResult>();

before(async () => {
  server = createServer((request, response) => {
    asked++;
    if (request.url === "/elsewhere") {
      response.end(elsewhere);
      return;
    }
    const headers = answer.location === undefined ? {} : { location: answer.location };
    response.writeHead(answer.status, { "content-type": "application/json", ...headers });
    response.end(answer.body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  rule = { jwksUrl: `http://127.0.0.1:${port}/jwks`, audience: undefined, roles: ["anna"] };
  for (const algorithm of ["RS256", "ES256", "EdDSA"]) {
    keys.set(algorithm, await generateKeyPair(algorithm, { extractable: true }));
  }
  await publish(...keys.keys());
});

after(() => server.close());

async function jwkOf(id: string): Promise<JWK> {
  return { ...(await exportJWK(keys.get(id)!.publicKey)), kid: id };
}

async function publish(...ids: string[]): Promise<void> {
  answer = { status: 200, body: JSON.stringify({ keys: await Promise.all(ids.map(jwkOf)) }) };
}

interface Claims {
  readonly algorithm?: string;
  /** Of the key; default that of the algorithm. */
  readonly kid?: string;
  readonly audience?: string;
  /** Seconds from now; null: no such claim. */
  readonly expires?: number | null;
  readonly notBefore?: number;
}

function token({ algorithm = "ES256", kid = algorithm, ...claims }: Claims = {}): Promise<string> {
  const now = Math.floor(Date.now() / 1000);
  const { expires = 300, notBefore, audience } = claims;
  const jwt = new SignJWT({ sub: "user" }).setProtectedHeader({ alg: algorithm, kid });
  if (expires !== null) {
    jwt.setExpirationTime(now + expires);
  }
  if (notBefore !== undefined) {
    jwt.setNotBefore(now + notBefore);
  }
  if (audience !== undefined) {
    jwt.setAudience(audience);
  }
  return jwt.sign((keys.get(kid) ?? keys.get(algorithm)!).privateKey);
}

const refused = (work: Promise<void>, why: RegExp, code = "wrong-token") =>
  assert.rejects(work, (error: { code: string; message: string }) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, why);
    return true;
  });

test("TokenKeys: RS256, ES256 and EdDSA let in, for the roles of the rule only; keys are fetched once", async () => {
  const tokens = new TokenKeys();
  asked = 0;
  for (const algorithm of keys.keys()) {
    await tokens.check(await token({ algorithm }), "anna", [rule]);
  }
  assert.equal(asked, 1);
  await refused(
    tokens.check(await token(), "bob", [rule]),
    /no JWKS of the project is for this role/,
  );
  await refused(tokens.check(await token(), "anna", []), /no JWKS/);
});

test("TokenKeys: expired, not yet, for ever, for others: refused", async () => {
  const tokens = new TokenKeys();
  const check = async (claims: Claims, audience?: string) =>
    tokens.check(await token(claims), "anna", [{ ...rule, audience }]);
  await refused(check({ expires: -60 }), /has expired/);
  await refused(check({ expires: null }), /claim 'exp'/);
  await refused(check({ notBefore: 120 }), /claim 'nbf'/);
  await refused(check({}, "mine"), /claim 'aud'/);
  await refused(check({ audience: "theirs" }, "mine"), /claim 'aud'/);
  await check({ audience: "mine" }, "mine");
  // Clocks differ by some seconds.
  await check({ expires: -10, notBefore: 10 });
});

test("TokenKeys: no signature, one with the public key as a secret, one by another's key: refused", async () => {
  const tokens = new TokenKeys();
  const check = (text: string) => tokens.check(text, "anna", [rule]);
  const expires = Math.floor(Date.now() / 1000) + 300;
  await refused(check(new UnsecuredJWT({}).setExpirationTime(expires).encode()), /algorithm/);
  const publicKey = Buffer.from(await exportSPKI(keys.get("RS256")!.publicKey));
  const forged = await new SignJWT({})
    .setProtectedHeader({ alg: "HS256", kid: "RS256" })
    .setExpirationTime(expires)
    .sign(publicKey);
  await refused(check(forged), /algorithm/);
  const { privateKey } = await generateKeyPair("ES256");
  const others = await new SignJWT({})
    .setProtectedHeader({ alg: "ES256", kid: "ES256" })
    .setExpirationTime(expires)
    .sign(privateKey);
  await refused(check(others), /no key of the project's JWKS has signed it/);
  const [head, , signature] = (await token()).split(".");
  const body = Buffer.from(JSON.stringify({ exp: expires, sub: "root" })).toString("base64url");
  await refused(check(`${head}.${body}.${signature}`), /has signed it/);
  await refused(check("no.jwt.here"), /no JWT/);
  await refused(check("x".repeat(20_000)), /too long/);
});

test("TokenKeys: a new key is fetched when its first token comes, and a key that went lets nobody in", async (context) => {
  const tokens = new TokenKeys();
  context.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  try {
    await publish("ES256");
    await tokens.check(await token(), "anna", [rule]);
    await publish("RS256");
    asked = 0;
    // Not more often than each 30 s: or each token with a made-up key id would be a request.
    await refused(
      tokens.check(await token({ algorithm: "RS256" }), "anna", [rule]),
      /has signed it/,
    );
    assert.equal(asked, 0);
    context.mock.timers.tick(31_000);
    await tokens.check(await token({ algorithm: "RS256" }), "anna", [rule]);
    assert.equal(asked, 1);
    await refused(tokens.check(await token(), "anna", [rule]), /has signed it/);
  } finally {
    await publish(...keys.keys());
  }
});

test("TokenKeys: a URL that does not answer lets nobody in, and is not asked for each login", async () => {
  const good = answer;
  elsewhere = good.body;
  const check = async (tokens: TokenKeys) => tokens.check(await token(), "anna", [rule]);
  try {
    for (const bad of [
      { status: 500, body: good.body },
      { status: 302, body: "", location: "/elsewhere" },
      { status: 200, body: "no JSON" },
      { status: 200, body: JSON.stringify({ keys: [], more: "x".repeat(70_000) }) },
    ]) {
      answer = bad;
      await refused(
        check(new TokenKeys()),
        /keys of the project's JWKS cannot be had/,
        "jwks-away",
      );
    }
    const tokens = new TokenKeys();
    answer = { status: 503, body: "" };
    asked = 0;
    for (let i = 0; i < 5; i++) {
      await refused(check(tokens), /cannot be had/, "jwks-away");
    }
    assert.equal(asked, 1);
    // Another one of the project may know the key.
    answer = good;
    const dead = { ...rule, jwksUrl: "http://127.0.0.1:1/jwks" };
    await new TokenKeys().check(await token(), "anna", [dead, rule]);
  } finally {
    answer = good;
  }
});
