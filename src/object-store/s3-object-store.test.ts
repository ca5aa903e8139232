import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { inSteadyTime } from "../../simulation/simulated-time.ts";
import { S3Server, type S3ServerOptions, SECRET_ACCESS_KEY } from "../../testing/s3/s3-server.ts";
import { sleep } from "../base/clock.ts";
import { readObject } from "./object-store.ts";
import { openObjectStore } from "./open-object-store.ts";
import type { RetrySettings } from "./s3/client.ts";
import { s3Configuration } from "./s3/configuration.ts";
import { S3ObjectStore } from "./s3-object-store.ts";

/** The waits between attempts shortened; what an attempt may take is long, as a busy machine stands still now and then. */
const QUICK: Partial<RetrySettings> = {
  attempts: 5,
  leastBackoffMs: 1,
  mostBackoffMs: 8,
  smallDeadlineMs: 60_000,
  smallInactivityMs: 30_000,
  largeDeadlineMs: 60_000,
  largeInactivityMs: 30_000,
};

/** Of who is to meet a silence, in steady time: what comes is not late then because the machine is. */
const IMPATIENT: Partial<RetrySettings> = { smallInactivityMs: 200, largeInactivityMs: 200 };

const bytesOf = (text: string) => Buffer.from(text);

async function start(
  context: TestContext,
  options: S3ServerOptions = {},
  { query = "", retry = {} as Partial<RetrySettings> } = {},
) {
  const server = await new S3Server(options).start();
  const store = new S3ObjectStore(s3Configuration(server.location("p", query), server.env), {
    ...QUICK,
    ...retry,
  });
  context.after(async () => {
    store.close();
    await server.stop();
  });
  const stored = (key: string) => server.objects.get(`p/${key}`)?.bytes.toString();
  return { server, store, stored };
}

async function text(store: S3ObjectStore, key: string): Promise<string> {
  return Buffer.from(await readObject(store, key)).toString();
}

const source = (content: Buffer, chunkBytes = 64 * 1024, opened: number[] = []) => ({
  sizeBytes: content.length,
  async *open() {
    opened.push(content.length);
    for (let i = 0; i < content.length; i += chunkBytes) {
      yield content.subarray(i, i + chunkBytes);
    }
  },
});

for (const fault of [
  { type: "refuse", status: 500, code: "InternalError" },
  { type: "refuse", status: 503, code: "SlowDown" },
  { type: "refuse", status: 429, code: "TooManyRequests" },
  { type: "refuse", status: 408, code: "RequestTimeout" },
  { type: "refuse", status: 504, code: "" },
  { type: "refuse", status: 409, code: "ConditionalRequestConflict" },
  { type: "refuse-after", status: 500, code: "InternalError" },
  { type: "reset-before" },
  { type: "lost-reply" },
  { type: "hang" },
] as const) {
  const name = "code" in fault ? `${fault.type} ${fault.status} ${fault.code}` : fault.type;
  test(`retry: every call gets through after two of: ${name}`, async (context) => {
    const retry = fault.type === "hang" ? IMPATIENT : {};
    if (fault.type === "hang") {
      inSteadyTime(context);
    }
    const { server, store, stored } = await start(context, {}, { retry });
    await store.probe();
    const twice = () => server.inject({ ...fault, times: 2 });
    twice();
    await store.put("a", bytesOf("one"), { ifAbsent: true });
    twice();
    assert.equal(await text(store, "a"), "one");
    twice();
    assert.equal((await store.head("a")).sizeBytes, 3);
    twice();
    await store.copy("a", "b");
    twice();
    assert.deepEqual(
      (await store.list({ prefix: "" })).objects.map(({ key }) => key),
      ["a", "b"],
    );
    twice();
    await store.put("c", source(Buffer.alloc(300_000, "c")));
    assert.equal(stored("c")?.length, 300_000);
    twice();
    await store.delete(["a", "b", "c"]);
    assert.equal(server.objects.size, 0);
  });
}

test("retry: ends after a bounded number of attempts, as unavailable", async (context) => {
  const { server, store } = await start(context);
  server.inject({ type: "refuse", status: 503, code: "SlowDown", times: 100 });
  await assert.rejects(store.head("a"), { kind: "unavailable", message: /503.*5 attempts/ });
  assert.equal(server.requests.length, 5);
});

test("retry: ends when the call's time is over", async (context) => {
  const retry = { attempts: 1000, smallDeadlineMs: 300 };
  const { server, store } = await start(context, {}, { retry });
  server.inject({ type: "refuse", status: 503, code: "SlowDown", times: 1000 });
  await assert.rejects(store.head("a"), { kind: "unavailable" });
  // As many would take seconds.
  assert.ok(server.requests.length < retry.attempts);
});

test("retry: a refusal that stays is not tried again", async (context) => {
  const { server, store } = await start(context);
  server.inject({ type: "refuse", status: 400, code: "InvalidArgument" });
  await assert.rejects(store.put("a", bytesOf("x")), {
    kind: "invalid",
    message: /put a in s3:\/\/strata-test\/p\/: http.*400 InvalidArgument/,
  });
  assert.equal(server.requests.length, 1);
});

for (const dropsMetadata of [false, true]) {
  const kept = dropsMetadata ? "drops" : "keeps";
  test(`conditional put: meets its own object or another's, in a store that ${kept} metadata`, async (context) => {
    const { server, store, stored } = await start(context, { dropsMetadata });
    await store.probe();
    server.inject({ type: "lost-reply" });
    await store.put("own", bytesOf("mine"), { ifAbsent: true });
    server.inject({ type: "lost-reply" });
    const opened: number[] = [];
    await store.put("stream", source(bytesOf("abcdef"), 2, opened), { ifAbsent: true });
    assert.equal(opened.length, 2);
    // Another's, of the same size: the refusal got lost, and comes again.
    await store.put("others", bytesOf("his!"));
    server.inject({ type: "lost-reply" });
    const exists = { kind: "conflict", code: "object-exists" };
    await assert.rejects(store.put("others", bytesOf("mine"), { ifAbsent: true }), exists);
    server.inject({ type: "refuse-after", status: 500, code: "InternalError" });
    await assert.rejects(store.put("others", bytesOf("more"), { ifAbsent: true }), exists);
    assert.equal(stored("others"), "his!");
    assert.equal(stored("own"), "mine");
    assert.equal(stored("stream"), "abcdef");
  });
}

test("conditional put: another's of the same content is another's, by the number of the put", async (context) => {
  const { server, store } = await start(context);
  await store.put("lock", bytesOf("same"), { ifAbsent: true });
  server.inject({ type: "lost-reply", method: "PUT" });
  await assert.rejects(store.put("lock", bytesOf("same"), { ifAbsent: true }), {
    code: "object-exists",
  });
});

test("bodies: half of one, or one that stops, is unavailable and not taken for whole", async (context) => {
  inSteadyTime(context);
  const { server, store } = await start(context, {}, { retry: IMPATIENT });
  await store.put("a", Buffer.alloc(200_000, "x"));
  for (const type of ["half-body", "stuck-body"] as const) {
    server.inject({ type, method: "GET" });
    await assert.rejects(readObject(store, "a"), {
      kind: "unavailable",
      message: /get a in s3:/,
    });
  }
  assert.equal((await readObject(store, "a")).length, 200_000);
});

test("bodies: one that nobody reads, or leaves, holds no connection", async (context) => {
  inSteadyTime(context);
  const { server, store } = await start(context, {}, { retry: IMPATIENT });
  await store.put("a", Buffer.alloc(5_000_000, "x"));
  const { chunks } = await store.get("a");
  const left = await store.get("a");
  for await (const chunk of left.chunks) {
    assert.ok(chunk.length > 0);
    break;
  }
  await sleep(600);
  await assert.rejects(Array.fromAsync(chunks), { kind: "unavailable" });
  assert.equal((await store.head("a")).sizeBytes, 5_000_000);
  assert.ok(server.requests.length > 0);
});

test("bodies: damage on the way up is found and sent again", async (context) => {
  const { server, store, stored } = await start(context);
  await store.probe();
  server.inject({ type: "damage", method: "PUT" });
  await store.put("memory", bytesOf("memory"));
  // Nothing to compare with went along: by the ETag afterwards.
  for (const ifAbsent of [false, true]) {
    server.inject({ type: "damage", method: "PUT" });
    await store.put(`stream-${ifAbsent}`, source(bytesOf("stream")), { ifAbsent });
    assert.equal(stored(`stream-${ifAbsent}`), "stream");
  }
  assert.equal(stored("memory"), "memory");
  server.inject({ type: "damage", method: "PUT", times: 9 });
  await assert.rejects(store.put("x", bytesOf("xy")), {
    kind: "unavailable",
    code: "upload-damaged",
  });
});

test("sources: a wrong length makes no object, an error of its own is not tried again", async (context) => {
  const { server, store } = await start(context);
  let opened = 0;
  const wrong = (sizeBytes: number) => ({
    sizeBytes,
    async *open() {
      opened++;
      yield bytesOf("abc");
      yield bytesOf("d");
    },
  });
  for (const sizeBytes of [0, 2, 3, 5]) {
    await assert.rejects(store.put("a", wrong(sizeBytes)), { code: "bad-object-source" });
  }
  assert.equal(opened, 4);
  const failing = {
    sizeBytes: 4,
    // biome-ignore lint/correctness/useYield: it fails first
    async *open(): AsyncGenerator<Uint8Array> {
      throw new Error("disk is gone");
    },
  };
  await assert.rejects(store.put("a", failing), { message: /disk is gone/ });
  assert.equal(server.objects.size, 0);
  await store.put("empty", { sizeBytes: 0, async *open() {} });
  assert.equal(await text(store, "empty"), "");
});

test("abort: at any time, with the signal's reason", async (context) => {
  const { server, store } = await start(context);
  await store.put("a", Buffer.alloc(100_000));
  const reason = new Error("enough");
  const soon = () => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(reason), 50);
    return { signal: stop.signal };
  };
  const calls: (() => Promise<unknown>)[] = [
    () => store.put("b", bytesOf("x"), soon()),
    () => store.put("b", bytesOf("x"), { ...soon(), ifAbsent: true }),
    () => store.get("a", soon()),
    () => store.head("a", soon()),
    () => store.list({ prefix: "", ...soon() }),
    () => store.delete(["a"], soon()),
    () => store.copy("a", "b", soon()),
  ];
  for (const call of calls) {
    server.inject({ type: "hang" });
    await assert.rejects(call(), reason);
  }
  server.inject({ type: "stuck-body" });
  await assert.rejects(readObject(store, "a", soon()), reason);
});

test("list: pages of the store are put together; keys that are none of ours are passed over", async (context) => {
  const { server, store } = await start(context, { pageLimit: 2 });
  await store.put("a/1", bytesOf("x"));
  const one = server.objects.get("p/a/1")!;
  for (const key of ["a/", "a/ b", "a/ c", "a/ <&>", "b"]) {
    server.objects.set(`p/${key}`, one);
  }
  server.objects.set("other", one);
  const page = await store.list({ prefix: "", limit: 1 });
  assert.deepEqual(
    page.objects.map(({ key }) => key),
    ["a/1"],
  );
  const rest = await store.list({ prefix: "", after: page.next });
  assert.deepEqual(
    rest.objects.map(({ key }) => key),
    ["b"],
  );
  assert.equal(rest.next, undefined);
});

test("answers: XML and headers that S3 would not send are refused", async (context) => {
  const { server, store } = await start(context);
  await store.put("a", bytesOf("0123456789"));
  const contents = (...keys: string[]) =>
    keys.map((key) => `<Contents><Key>p/${key}</Key><Size>1</Size></Contents>`).join("");
  for (const body of [
    "",
    "<html>",
    "<Other/>",
    "<ListBucketResult/>",
    "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken></ListBucketResult>",
    `<ListBucketResult><IsTruncated>false</IsTruncated>${contents("b", "a")}</ListBucketResult>`,
    `<ListBucketResult><IsTruncated>false</IsTruncated>${contents("a", "a")}</ListBucketResult>`,
    "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>z</Key><Size>1</Size></Contents></ListBucketResult>",
    "x".repeat(9_000_000),
  ]) {
    server.inject({ type: "say", status: 200, body });
    await assert.rejects(
      store.list({ prefix: "" }),
      { kind: "unavailable", code: "bad-answer" },
      body.slice(0, 99),
    );
  }
  const range = { start: 2, end: 4 };
  const etag = { etag: '"x"' };
  for (const fault of [
    { status: 200, body: "0123456789", headers: etag },
    { status: 206, body: "01", headers: { ...etag, "content-range": "bytes 0-1/10" } },
    { status: 206, body: "0", headers: { ...etag, "content-range": "bytes 2-3/10" } },
    { status: 206, body: "23", headers: etag },
    { status: 206, body: "23", headers: { "content-range": "bytes 2-3/10" } },
  ]) {
    server.inject({ type: "say", ...fault });
    await assert.rejects(readObject(store, "a", { range }), { code: "bad-answer" });
  }
  server.inject({ type: "say", status: 200, body: "<Error><Code>SlowDown</Code></Error>" });
  await store.copy("a", "b");
  server.inject({ type: "say", status: 200, body: "<Error><Code>NoSuchKey</Code></Error>" });
  await assert.rejects(store.copy("a", "b"), { kind: "not-found" });
  server.inject({ type: "say", status: 200, body: "<Error><Code>AccessDenied</Code></Error>" });
  await assert.rejects(store.copy("a", "b"), { message: /AccessDenied/ });
  const long = `<Error><Code>${"x".repeat(1e6)}</Code></Error>`;
  server.inject({ type: "say", status: 418, body: long });
  await assert.rejects(store.list({ prefix: "" }), { kind: "invalid", message: /418$/ });
});

test("delete: errors of single keys count; single deletes where there is no other way", async (context) => {
  const { server, store } = await start(context, {
    undeletable: { "p/a": "AccessDenied", "p/n": "NoSuchKey" },
  });
  await store.put("a", bytesOf("x"));
  await store.put("b", bytesOf("x"));
  await assert.rejects(store.delete(["a", "b", "n"]), { kind: "forbidden", message: /delete a/ });
  assert.deepEqual([...server.objects.keys()], ["p/a"]);
  server.options = { undeletable: { "p/a": "InternalError" } };
  await assert.rejects(store.delete(["a"]), { kind: "unavailable", message: /5 attempts/ });
  server.options = { hasNoDeleteObjects: true };
  await store.put("b", bytesOf("x"));
  await store.delete(["a", "b", "never"]);
  assert.equal(server.objects.size, 0);
  server.requests.length = 0;
  await store.delete(["a", "b"]);
  assert.deepEqual(server.requests, ["DELETE p/a", "DELETE p/b"]);
  await store.delete([]);
});

test("refusals: each says what to change, and no secret", async (context) => {
  const { server, store } = await start(context, { sessionToken: "hush-hush" });
  const rejects = async (expected: { kind: string; code: string; message: RegExp }) => {
    for (const call of [
      () => store.head("a"),
      () => store.get("a"),
      () => store.put("a", bytesOf("x")),
      () => store.list({ prefix: "" }),
    ]) {
      await assert.rejects(call(), (error: Error) => {
        assert.doesNotMatch(error.message, /hush|secret\/test/);
        assert.doesNotMatch(error.message, new RegExp(SECRET_ACCESS_KEY.replace("+", ".")));
        return true;
      });
      await assert.rejects(call(), expected);
    }
  };
  server.options = { ...server.options, region: "eu-north-1" };
  await rejects({ kind: "invalid", code: "wrong-region", message: /region=eu-north-1/ });
  server.options = { ...server.options, region: "us-east-1", sessionToken: "another" };
  await rejects({ kind: "forbidden", code: "bad-credentials", message: /AWS_SECRET_ACCESS_KEY/ });
  server.options = { sessionToken: "hush-hush", clockOffsetMs: 3_600_000 };
  await rejects({
    kind: "unavailable",
    code: "clock-skew",
    message: /it is \d{4}-[^ ]+Z here and \d{4}-[^ ]+Z at http/,
  });
  server.options = { sessionToken: "hush-hush" };
  const say = {
    type: "say",
    status: 301,
    body: "<Error><Code>PermanentRedirect</Code><Message>hush-hush</Message></Error>",
  } as const;
  server.inject({ ...say, times: 16, headers: { "x-amz-bucket-region": "ap-south-1" } });
  await rejects({ kind: "invalid", code: "wrong-region", message: /region=ap-south-1/ });
});

test("refusals: a bucket that is missing is not an object that is", async (context) => {
  const server = await new S3Server().start();
  context.after(() => server.stop());
  const location = server.location().replace("strata-test", "no-such");
  const store = new S3ObjectStore(s3Configuration(location, server.env), QUICK);
  const missing = { kind: "invalid", code: "no-such-bucket", message: /no bucket no-such/ };
  await assert.rejects(store.head("a"), missing);
  await assert.rejects(store.get("a"), missing);
  await assert.rejects(store.put("a", bytesOf("x"), { ifAbsent: true }), missing);
  await assert.rejects(store.delete(["a"]), missing);
  await assert.rejects(store.list({ prefix: "" }), missing);
  const wrong = { ...server.env, AWS_ACCESS_KEY_ID: "AKOTHER" };
  const stranger = new S3ObjectStore(s3Configuration(server.location(), wrong), QUICK);
  await assert.rejects(stranger.probe(), { code: "bad-credentials", message: /AWS_ACCESS_KEY_ID/ });
});

test("probe: a store that ignores or refuses conditions is refused, but where that is asked for", async (context) => {
  const ignoring = await start(context, { ignoresConditions: true });
  const refusal = { kind: "unsupported", code: "no-conditional-put" };
  const ignores = { ...refusal, message: /this store ignores If-None-Match/ };
  await assert.rejects(ignoring.store.probe(), ignores);
  await assert.rejects(ignoring.store.put("a", bytesOf("x"), { ifAbsent: true }), ignores);
  assert.equal(ignoring.server.objects.size, 0);
  const refusing = await start(context, { refusesConditions: true });
  await assert.rejects(refusing.store.probe(), { ...refusal, message: /refuses If-None-Match/ });
  const query = "&conditional-writes=head-first";
  const taken = await start(context, { ignoresConditions: true }, { query });
  assert.deepEqual(await taken.store.probe(), { conditionalPut: "ignored" });
  await taken.store.put("a", bytesOf("x"), { ifAbsent: true });
  const exists = { code: "object-exists" };
  await assert.rejects(taken.store.put("a", bytesOf("y"), { ifAbsent: true }), exists);
  assert.equal(taken.stored("a"), "x");
  const good = await start(context);
  assert.deepEqual(await good.store.probe(), { conditionalPut: "honoured" });
  assert.equal(good.server.objects.size, 0);
});

test("openObjectStore: a store that is away is told and opened, and tried before the first such put", async (context) => {
  const server = await new S3Server({ ignoresConditions: true }).start();
  context.after(() => server.stop());
  server.inject({ type: "refuse", status: 503, code: "SlowDown", times: 1000 });
  const told: unknown[] = [];
  const options = { env: server.env, onAway: (error: unknown) => told.push(error) };
  const store = await openObjectStore(server.location(), options);
  assert.equal(told.length, 1);
  const healthy = await new S3Server({ ignoresConditions: true }).start();
  context.after(() => healthy.stop());
  await assert.rejects(openObjectStore(healthy.location(), options), {
    code: "no-conditional-put",
  });
  assert.match(store.location, /^s3:/);
});
