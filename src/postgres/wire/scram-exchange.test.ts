import assert from "node:assert/strict";
import { test } from "node:test";
import { parseScramSecret, type ScramKeys, type ScramSecret, scramSecret } from "../scram.ts";
import {
  keysOfPassword,
  mockSecret,
  SCRAM_SHA_256,
  SCRAM_SHA_256_PLUS,
  ScramClient,
  ScramServer,
} from "./scram-exchange.ts";

const SECRET = parseScramSecret(scramSecret("pencil"))!;

async function keysOf(password: string, secret = SECRET): Promise<ScramKeys> {
  return (await keysOfPassword(Buffer.from(password), secret)) ?? assert.fail("wrong password");
}

/** What both sides have of a login without channel binding. */
function login(keys: ScramKeys, secret: ScramSecret, isMock = false) {
  const server = new ScramServer({ secret, isMock });
  const client = new ScramClient(keys);
  const serverFirst = server.begin(SCRAM_SHA_256, client.clientFirst);
  const clientFinal = client.proceed(serverFirst);
  const done = clientFinal === undefined ? undefined : server.finish(clientFinal);
  return { client, clientFinal, done };
}

test("ScramServer, ScramClient: the keys that a login gives open the next one", async () => {
  const first = login(await keysOf("pencil"), SECRET);
  assert.equal(first.client.accepts(first.done!.serverFinal), true);
  const second = login(first.done!.keys, SECRET);
  assert.equal(second.client.accepts(second.done!.serverFinal), true);
  assert.equal(second.client.accepts(first.done!.serverFinal), false, "another login's signature");
});

test("keysOfPassword: the password only", async () => {
  assert.equal(await keysOfPassword(Buffer.from("pencil "), SECRET), undefined);
});

test("ScramServer: a proof with another key, and any proof for a mock, is none", async () => {
  const keys = await keysOf("pencil");
  const wrong = { ...keys, clientKey: Buffer.from(keys.clientKey).fill(1, 0, 1) };
  assert.equal(login(wrong, SECRET).done, undefined);
  assert.equal(login(keys, SECRET, true).done, undefined);
});

test("ScramClient: gives no proof to a server with another secret of the same password", async () => {
  const keys = await keysOf("pencil");
  assert.equal(login(keys, parseScramSecret(scramSecret("pencil"))!).clientFinal, undefined);
});

test("ScramClient: refuses an answer to somebody else", async () => {
  const server = new ScramServer({ secret: SECRET });
  const other = server.begin(SCRAM_SHA_256, "n,,n=,r=abcdefgh");
  const client = new ScramClient(await keysOf("pencil"));
  assert.throws(() => client.proceed(other), /malformed/);
});

test("ScramServer: channel binding is of this certificate, and nobody takes the offer away", () => {
  const offering = () => new ScramServer({ secret: SECRET, endPointHash: Buffer.alloc(32, 5) });
  assert.deepEqual(offering().mechanisms, [SCRAM_SHA_256_PLUS, SCRAM_SHA_256]);
  assert.throws(() => offering().begin(SCRAM_SHA_256, "y,,n=,r=abc"), /negotiation failed/);
  assert.throws(() => offering().begin(SCRAM_SHA_256_PLUS, "n,,n=,r=abc"), /tls-server-end-point/);
  assert.throws(() => offering().begin(SCRAM_SHA_256_PLUS, "p=tls-unique,,n=,r=abc"), /end-point/);
  const binding = "p=tls-server-end-point,,";
  assert.throws(() => offering().begin(SCRAM_SHA_256, `${binding}n=,r=abc`), /without/);
  const plain = new ScramServer({ secret: SECRET });
  assert.throws(() => plain.begin(SCRAM_SHA_256_PLUS, `${binding}n=,r=abc`), /not offered/);
  const server = offering();
  const nonce = /^r=([^,]+)/.exec(server.begin(SCRAM_SHA_256_PLUS, `${binding}n=,r=abc`))![1]!;
  const bound = Buffer.concat([Buffer.from(binding), Buffer.alloc(32, 6)]).toString("base64");
  const proof = Buffer.alloc(32).toString("base64");
  assert.throws(() => server.finish(`c=${bound},r=${nonce},p=${proof}`), /another certificate/);
});

test("ScramServer: what is no message is an error, whatever it is", () => {
  const first = [
    "",
    "n,,",
    "n,,n=,r=",
    "n,a=bob,n=,r=abc",
    "n,,m=x,n=,r=abc",
    "z,,n=,r=abc",
    "n,,n=\0,r=\x01",
  ];
  for (const text of first) {
    assert.throws(
      () => new ScramServer({ secret: SECRET }).begin(SCRAM_SHA_256, text),
      /malformed/,
      text,
    );
  }
  const server = new ScramServer({ secret: SECRET });
  const nonce = /^r=([^,]+)/.exec(server.begin(SCRAM_SHA_256, "n,,n=,r=abc"))![1]!;
  const proof = Buffer.alloc(32).toString("base64");
  for (const text of ["", `c=biws,r=${nonce}`, `c=biws,r=x${nonce},p=${proof}`, `p=${proof}`]) {
    assert.throws(() => server.finish(text), /malformed/, text);
  }
  assert.throws(() => server.finish(`c=eSws,r=${nonce},p=${proof}`), /another certificate/);
});

test("mockSecret: the same for a name, another for another", () => {
  const seed = Buffer.alloc(32, 1);
  assert.deepEqual(mockSecret(seed, "a"), mockSecret(seed, "a"));
  assert.notDeepEqual(mockSecret(seed, "a").salt, mockSecret(seed, "b").salt);
  assert.notDeepEqual(mockSecret(seed, "a").salt, mockSecret(Buffer.alloc(32, 2), "a").salt);
});
