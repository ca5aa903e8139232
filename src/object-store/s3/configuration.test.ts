import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { s3Configuration } from "./configuration.ts";
import { parseIni } from "./credentials.ts";

const KEYS = { AWS_ACCESS_KEY_ID: "AK", AWS_SECRET_ACCESS_KEY: "SK" };

/** A home without anything of the user's, with these two files. */
function home(context: TestContext, credentials = "", config = ""): Record<string, string> {
  const directory = mkdtempSync(join(tmpdir(), "strata-aws-"));
  context.after(() => rmSync(directory, { recursive: true, force: true }));
  const env = {
    HOME: directory,
    AWS_SHARED_CREDENTIALS_FILE: join(directory, "keys"),
    AWS_CONFIG_FILE: join(directory, "settings"),
  };
  writeFileSync(env.AWS_SHARED_CREDENTIALS_FILE, credentials);
  writeFileSync(env.AWS_CONFIG_FILE, config);
  return env;
}

test("s3Configuration: AWS by default, paths for other endpoints", (context) => {
  const env = { ...home(context), ...KEYS };
  const aws = s3Configuration("s3://bucket/a/b/", { ...env, AWS_DEFAULT_REGION: "eu-west-1" });
  assert.equal(aws.endpoint.href, "https://s3.eu-west-1.amazonaws.com/");
  assert.deepEqual([aws.bucket, aws.prefix, aws.pathStyle], ["bucket", "a/b/", false]);
  assert.equal(aws.conditionalWrites, "required");
  const own = s3Configuration("s3://b.u_cket?endpoint=http://h:9/s3/&region=auto", env);
  assert.deepEqual(
    [own.endpoint.href, own.region, own.pathStyle],
    ["http://h:9/s3/", "auto", true],
  );
  assert.equal(own.prefix, "");
  const host = "s3://bucket?endpoint=http://h:9&path-style=false&conditional-writes=head-first";
  assert.equal(s3Configuration(host, env).pathStyle, false);
  assert.equal(s3Configuration(host, env).conditionalWrites, "head-first");
  // A location wins over the environment, there the variable for S3 alone.
  const both = { ...env, AWS_ENDPOINT_URL: "http://one", AWS_ENDPOINT_URL_S3: "http://two" };
  assert.equal(s3Configuration("s3://bucket", both).endpoint.host, "two");
  assert.equal(s3Configuration("s3://bucket", both).region, "us-east-1");
  assert.equal(s3Configuration("s3://bucket?endpoint=http://h", both).endpoint.host, "h");
  assert.equal(s3Configuration("s3://bucket?region=x", { ...env, AWS_REGION: "y" }).region, "x");
  assert.equal(s3Configuration("s3://b.c.d?region=x", env).pathStyle, true);
});

test("s3Configuration: what is wrong or missing is named, without secrets", (context) => {
  const env = { ...home(context), ...KEYS };
  const cases: readonly [string, RegExp][] = [
    ["s3://bucket", /AWS_REGION/],
    ["s3://", /bucket/],
    ["s3://a", /bucket/],
    ["s3://bucket?region=a%20b", /region/],
    ["s3://bucket?regoin=x", /regoin.*endpoint, region/],
    ["s3://bucket?region=x&region=y", /twice/],
    ["s3://bucket?endpoint=ftp://x", /http/],
    ["s3://bucket?endpoint=http://u:hush@x", /more than/],
    ["s3://bucket?region=x&path-style=maybe", /true or false/],
    ["s3://bucket/a/../../b?region=x", /^/],
    ["s3://u:hush@bucket?region=x", /AWS_ACCESS_KEY_ID/],
    ["s3://bucket/a%20b?region=x", /object key/],
  ];
  for (const [location, message] of cases) {
    try {
      s3Configuration(location, env);
      assert.match(location, /\.\./, location);
    } catch (error) {
      const { kind, message: said } = error as { kind: string; message: string };
      assert.equal(kind, "invalid", location);
      assert.match(said, message);
      assert.doesNotMatch(said, /hush/);
    }
  }
});

test("findCredentials: environment, then the profile, then what to set", (context) => {
  const files = home(
    context,
    "# keys\n[default]\naws_access_key_id = D\naws_secret_access_key=d=/+ # mine\n\n[other]\naws_access_key_id=O\naws_secret_access_key=o\naws_session_token=t\n",
    "[default]\nregion = from-file\ns3 =\n  max_concurrent_requests = 1\n[profile other]\nregion=other-region\nendpoint_url=http://o:1\n[profile sso]\nsso_session = x\n",
  );
  const find = (env: Record<string, string>, query = "") =>
    s3Configuration(`s3://bucket${query}`, { ...files, ...env });
  const fromFile = find({});
  assert.deepEqual(fromFile.credentials, {
    accessKeyId: "D",
    secretAccessKey: "d=/+",
    sessionToken: undefined,
  });
  assert.equal(fromFile.region, "from-file");
  const env = find({ ...KEYS, AWS_SESSION_TOKEN: "T" });
  assert.deepEqual(env.credentials, {
    accessKeyId: "AK",
    secretAccessKey: "SK",
    sessionToken: "T",
  });
  const other = find({ AWS_PROFILE: "other" });
  assert.deepEqual(other.credentials.sessionToken, "t");
  assert.equal(other.region, "other-region");
  assert.equal(other.endpoint.host, "o:1");
  assert.equal(find(KEYS, "?profile=other").credentials.accessKeyId, "O");
  const missing = { kind: "invalid", code: "no-credentials" };
  const region = { AWS_REGION: "x" };
  assert.throws(() => find({ ...region, AWS_PROFILE: "no" }), { ...missing, message: /'no'/ });
  assert.throws(() => find({ ...region, AWS_PROFILE: "sso" }), { message: /sso_session/ });
  assert.throws(() => find({ ...region, AWS_ACCESS_KEY_ID: "x" }), {
    ...missing,
    message: /AWS_SECRET_ACCESS_KEY is not/,
  });
  const nothing = { ...home(context), ...region };
  assert.throws(() => s3Configuration("s3://bucket", nothing), {
    ...missing,
    message: /AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY/,
  });
});

test("parseIni: sections once, comments and indented lines apart", () => {
  const sections = parseIni("x=0\n[a]\r\nk = v ; c\n#k=w\n sub=1\n[ b  c ]\nk=\n[a]\nl=1\n");
  assert.deepEqual(
    [...sections],
    [
      ["a", { k: "v", l: "1" }],
      ["b c", { k: "" }],
    ],
  );
});
