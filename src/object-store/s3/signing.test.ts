import assert from "node:assert/strict";
import { test } from "node:test";
import { signatureProblem } from "../../../testing/s3/signature-check.ts";
import { EMPTY_SHA256, encodeUri, signRequest } from "./signing.ts";

/**
 * "Examples: Signature Calculations" of "Authenticating Requests: Using the Authorization Header" in the
 * Amazon S3 API Reference: bucket examplebucket, 24 May 2013.
 */
const CREDENTIALS = {
  accessKeyId: "AKIAIOSFODNN7EXAMPLE",
  secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};
const TIME_MS = Date.UTC(2013, 4, 24);
const HEADERS = { host: "examplebucket.s3.amazonaws.com", "x-amz-content-sha256": EMPTY_SHA256 };

const EXAMPLES = {
  "GET object with a range": {
    method: "GET",
    path: "/test.txt",
    headers: { ...HEADERS, range: "bytes=0-9" },
    signature: "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  },
  "PUT object": {
    method: "PUT",
    path: "/test%24file.text",
    headers: {
      ...HEADERS,
      date: "Fri, 24 May 2013 00:00:00 GMT",
      "x-amz-storage-class": "REDUCED_REDUNDANCY",
      "x-amz-content-sha256": "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
    },
    signature: "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
  },
  "GET bucket lifecycle": {
    method: "GET",
    path: "/?lifecycle=",
    headers: HEADERS,
    signature: "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
  },
  "GET bucket (list objects)": {
    method: "GET",
    path: "/?prefix=J&max-keys=2",
    headers: HEADERS,
    signature: "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
  },
};

for (const [name, { signature, ...request }] of Object.entries(EXAMPLES)) {
  test(`signRequest: AWS's example "${name}"`, () => {
    const { path, headers } = signRequest(request, "us-east-1", CREDENTIALS, TIME_MS);
    assert.equal(path, request.path);
    assert.equal(headers["x-amz-date"], "20130524T000000Z");
    assert.ok(
      headers["Authorization"]?.endsWith(`Signature=${signature}`),
      headers["Authorization"],
    );
    // The test's server agrees, and takes nothing that was changed afterwards.
    const sent = {
      method: request.method,
      url: path,
      headers: { ...headers, authorization: headers["Authorization"]! },
    };
    const rules = { ...CREDENTIALS, region: "us-east-1", nowMs: TIME_MS };
    assert.equal(signatureProblem(sent, rules), undefined);
    const wrong = { code: "SignatureDoesNotMatch" };
    assert.deepEqual(signatureProblem({ ...sent, url: `${path}x` }, rules), wrong);
    assert.deepEqual(signatureProblem({ ...sent, method: "DELETE" }, rules), wrong);
    assert.deepEqual(signatureProblem(sent, { ...rules, secretAccessKey: "x" }), wrong);
  });
}

test("signRequest: a session token is sent and signed", () => {
  const credentials = { ...CREDENTIALS, sessionToken: "token" };
  const request = { method: "GET", path: "/a", headers: HEADERS };
  const { headers } = signRequest(request, "eu-central-1", credentials, TIME_MS);
  assert.equal(headers["X-Amz-Security-Token"], "token");
  assert.match(headers["Authorization"]!, /SignedHeaders=[^,]*x-amz-security-token/);
  assert.match(headers["Authorization"]!, /20130524\/eu-central-1\/s3\/aws4_request/);
});

test("encodeUri: everything but letters, digits and -._~", () => {
  assert.equal(encodeUri("a-._~/+=@,!'()* é"), "a-._~%2F%2B%3D%40%2C%21%27%28%29%2A%20%C3%A9");
});
