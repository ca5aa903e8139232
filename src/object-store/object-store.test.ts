import assert from "node:assert/strict";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { S3Server } from "../../testing/s3/s3-server.ts";
import { randomBytes, SeededRandom } from "../base/random.ts";
import { DirectoryObjectStore } from "./directory-object-store.ts";
import { FaultyObjectStore } from "./faulty-object-store.ts";
import { MemoryObjectStore } from "./memory-object-store.ts";
import { deleteAll, listAll, type ObjectStore, readObject } from "./object-store.ts";
import { openObjectStore } from "./open-object-store.ts";
import { s3Configuration } from "./s3/configuration.ts";
import { S3ObjectStore } from "./s3-object-store.ts";

function temporaryDirectory(context: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "strata-store-"));
  context.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

type MakeStore = (context: TestContext) => ObjectStore | Promise<ObjectStore>;

async function realS3Store(context: TestContext, location: string): Promise<ObjectStore> {
  const own = location.replace(/(?=\?|$)/, `/${randomBytes(8).toString("hex")}`);
  const store = new S3ObjectStore(s3Configuration(own, process.env));
  context.after(async () => {
    await deleteAll(store, "");
    store.close();
  });
  return store;
}

/** `s3://...`: the suite runs against that service too, below a prefix that nobody else has. */
const REAL_S3 = process.env["STRATA_TEST_S3"];

const STORES: Readonly<Record<string, MakeStore>> = {
  DirectoryObjectStore: (context) => new DirectoryObjectStore(temporaryDirectory(context)),
  MemoryObjectStore: () => new MemoryObjectStore(new SeededRandom(1)),
  "FaultyObjectStore that only delays": () =>
    new FaultyObjectStore(new MemoryObjectStore(), new SeededRandom(2), { delay: 0.5 }),
  S3ObjectStore: async (context) => {
    const server = await new S3Server({ pageLimit: 3 }).start();
    context.after(() => server.stop());
    return new S3ObjectStore(s3Configuration(server.location("some/prefix"), server.env));
  },
  ...(REAL_S3 === undefined
    ? {}
    : { "S3ObjectStore on $STRATA_TEST_S3": (context) => realS3Store(context, REAL_S3) }),
};

const bytesOf = (text: string) => Buffer.from(text);
const read = async (store: ObjectStore, key: string, range?: { start: number; end: number }) =>
  Buffer.from(await readObject(store, key, range === undefined ? {} : { range })).toString();
const keysOf = async (store: ObjectStore, prefix: string) =>
  (await Array.fromAsync(listAll(store, prefix))).map(({ key }) => key);

for (const [name, make] of Object.entries(STORES)) {
  describe(`${name}:`, () => {
    test("an object is what was put last, whole or in ranges", async (context) => {
      const store = await make(context);
      await store.put("a/b/one", bytesOf("first"));
      await store.put("a/b/one", bytesOf("hello world"));
      assert.equal(await read(store, "a/b/one"), "hello world");
      assert.equal(await read(store, "a/b/one", { start: 6, end: 9 }), "wor");
      assert.equal(await read(store, "a/b/one", { start: 6, end: 900 }), "world");
      await store.put("empty", new Uint8Array(0));
      assert.equal(await read(store, "empty"), "");
      await assert.rejects(readObject(store, "a/b/one", { range: { start: 11, end: 12 } }), {
        code: "bad-range",
      });
      await assert.rejects(readObject(store, "a/b/one", { range: { start: 2, end: 2 } }), {
        code: "bad-range",
      });
      await assert.rejects(readObject(store, "a/b/one", { maxBytes: 10 }), {
        code: "object-too-large",
      });
    });

    test("a source is read again for each attempt, and must be as long as it says", async (context) => {
      const store = await make(context);
      let opened = 0;
      const source = (sizeBytes: number) => ({
        sizeBytes,
        async *open() {
          opened++;
          yield bytesOf("ab");
          yield bytesOf("c");
        },
      });
      await store.put("key", source(3));
      assert.equal(await read(store, "key"), "abc");
      await assert.rejects(store.put("key2", source(4)), { code: "bad-object-source" });
      await assert.rejects(store.head("key2"), { kind: "not-found" });
      assert.equal(opened, 2);
    });

    test("head tells size and another etag for another content", async (context) => {
      const store = await make(context);
      await store.put("key", bytesOf("12345"));
      const first = await store.head("key");
      assert.equal(first.sizeBytes, 5);
      await store.put("key", bytesOf("54321"));
      assert.notEqual((await store.head("key")).etag, first.etag);
      const { info } = await store.get("key");
      assert.equal(info.etag, (await store.head("key")).etag);
    });

    test("what is not there is not-found", async (context) => {
      const store = await make(context);
      await store.put("a/b", bytesOf("1"));
      for (const key of ["nothing", "a", "a/c", "a/b/c"]) {
        await assert.rejects(store.get(key), { kind: "not-found", code: "object-not-found" }, key);
        await assert.rejects(store.head(key), { kind: "not-found" }, key);
        await assert.rejects(store.copy(key, "to"), { kind: "not-found" }, key);
      }
      await store.delete(["nothing", "a/c", "a/b/c"]);
      assert.equal(await read(store, "a/b"), "1");
    });

    test("ifAbsent: of many that put one key at once exactly one succeeds", async (context) => {
      const store = await make(context);
      const results = await Promise.allSettled(
        Array.from({ length: 8 }, (_, i) =>
          store.put("d/key", bytesOf(`writer ${i}`), { ifAbsent: true }),
        ),
      );
      const winners = results.flatMap((result, i) => (result.status === "fulfilled" ? [i] : []));
      assert.equal(winners.length, 1);
      for (const result of results) {
        if (result.status === "rejected") {
          assert.equal(result.reason.code, "object-exists");
        }
      }
      assert.equal(await read(store, "d/key"), `writer ${winners[0]}`);
    });

    test("list: every key with the prefix once, in order of bytes, in pages", async (context) => {
      const store = await make(context);
      const keys = [
        "a-b/x",
        "a/b/1",
        "a/b/10",
        "a/b/2",
        "a/c",
        "a.b",
        "ab",
        "b/z",
        "a/b1/y",
      ].sort();
      for (const key of keys) {
        await store.put(key, bytesOf(key));
      }
      assert.deepEqual(await keysOf(store, ""), keys);
      for (const prefix of ["a", "a/", "a/b", "a/b/", "a/b/1", "x", "a/b/10", "a/b/100"]) {
        const expected = keys.filter((key) => key.startsWith(prefix));
        assert.deepEqual(await keysOf(store, prefix), expected, prefix);
        for (const limit of [1, 2, 3]) {
          const found: string[] = [];
          let after: string | undefined;
          do {
            const page = await store.list({ prefix, after, limit });
            assert.ok(page.objects.length <= limit);
            found.push(...page.objects.map(({ key }) => key));
            after = page.next;
          } while (after !== undefined);
          assert.deepEqual(found, expected, `${prefix} by ${limit}`);
        }
      }
      const page = await store.list({ prefix: "a/", after: "a/b/2" });
      assert.deepEqual(
        page.objects.map(({ key, sizeBytes }) => [key, sizeBytes]),
        [
          ["a/b1/y", 6],
          ["a/c", 3],
        ],
      );
    });

    test("delete and copy", async (context) => {
      const store = await make(context);
      await store.put("from/a", bytesOf("1"));
      await store.copy("from/a", "to/deep/b");
      await store.put("from/a", bytesOf("2"));
      assert.equal(await read(store, "to/deep/b"), "1");
      await store.delete(["from/a", "never/was"]);
      assert.deepEqual(await keysOf(store, ""), ["to/deep/b"]);
      await store.put("to/deep/c", bytesOf("3"));
      await store.put("top", bytesOf("4"));
      await deleteAll(store, "to/");
      assert.deepEqual(await keysOf(store, ""), ["top"]);
      await store.put("to/deep/d", bytesOf("5"));
      assert.equal(await read(store, "to/deep/d"), "5");
      const many = Array.from({ length: 1001 }, (_, i) => `k${i}`);
      await assert.rejects(store.delete(many), { code: "too-many-keys" });
    });

    test("keys that leave the store or that no store takes are refused by every call", async (context) => {
      const store = await make(context);
      const bad = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        ".tmp/x",
        "a\0b",
        "a\\b",
        "a b",
        "é",
        "x".repeat(241),
        `${"y/".repeat(500)}y`,
      ];
      for (const key of bad) {
        const refusal = { kind: "invalid", code: "bad-object-key" };
        await assert.rejects(store.put(key, bytesOf("x")), refusal, key);
        await assert.rejects(store.get(key), refusal, key);
        await assert.rejects(store.head(key), refusal, key);
        await assert.rejects(store.delete([key]), refusal, key);
        await assert.rejects(store.copy(key, "a"), refusal, key);
        await assert.rejects(store.copy("a", key), refusal, key);
      }
      assert.deepEqual(await keysOf(store, ""), []);
    });

    test("an aborted call fails with the signal's reason and leaves nothing", async (context) => {
      const store = await make(context);
      const reason = new Error("enough");
      const signal = AbortSignal.abort(reason);
      await assert.rejects(store.put("a", bytesOf("x"), { signal }), reason);
      await assert.rejects(store.get("a", { signal }), reason);
      await assert.rejects(store.list({ prefix: "", signal }), reason);
      const stop = new AbortController();
      const source = {
        sizeBytes: 2,
        async *open() {
          yield bytesOf("1");
          stop.abort(reason);
          yield bytesOf("2");
        },
      };
      await assert.rejects(store.put("a", source, { signal: stop.signal }), reason);
      assert.deepEqual(await keysOf(store, ""), []);
    });
  });
}

test("DirectoryObjectStore: puts beside deletes of the last neighbour, and nothing left in .tmp", async (context) => {
  const root = temporaryDirectory(context);
  const stores = [new DirectoryObjectStore(root), new DirectoryObjectStore(root)];
  for (let round = 0; round < 30; round++) {
    await Promise.all([
      stores[0]!.put(`a/b/c${round}`, bytesOf("x")),
      stores[1]!.delete([`a/b/c${round - 1}`]),
    ]);
  }
  assert.deepEqual(await keysOf(stores[0]!, ""), ["a/b/c29"]);
  assert.deepEqual(readdirSync(join(root, ".tmp")), []);
});

test("DirectoryObjectStore: old temporary files go when it is opened, fresh ones stay", (context) => {
  const root = temporaryDirectory(context);
  mkdirSync(join(root, ".tmp"));
  for (const [name, ageDays] of [
    ["old", 2],
    ["fresh", 0.5],
  ] as const) {
    const path = join(root, ".tmp", name);
    writeFileSync(path, "x");
    const at = Date.now() / 1000 - ageDays * 86_400;
    utimesSync(path, at, at);
  }
  new DirectoryObjectStore(root);
  assert.deepEqual(readdirSync(join(root, ".tmp")), ["fresh"]);
});

test("DirectoryObjectStore: directories that a killed delete left go when they are listed, also under puts", async (context) => {
  const root = temporaryDirectory(context);
  const store = new DirectoryObjectStore(root);
  mkdirSync(join(root, "a", "b", "c"), { recursive: true });
  await store.put("kept/x", bytesOf("x"));
  assert.deepEqual(await keysOf(store, ""), ["kept/x"]);
  assert.deepEqual(readdirSync(root).toSorted(), [".tmp", "kept"]);
  const puts = Array.from({ length: 50 }, (_, i) => store.put(`d/${i}/x`, bytesOf("x")));
  const lists = Array.from({ length: 50 }, () => keysOf(store, "d/"));
  await Promise.all([...puts, ...lists]);
  assert.equal((await keysOf(store, "d/")).length, 50);
});

test("DirectoryObjectStore: a root that is away is unavailable, not empty", async (context) => {
  const root = join(temporaryDirectory(context), "store");
  const store = new DirectoryObjectStore(root);
  await store.put("a/b", bytesOf("x"));
  renameSync(root, `${root}.away`);
  await assert.rejects(store.get("a/b"), { kind: "unavailable" });
  await assert.rejects(store.head("a/b"), { kind: "unavailable" });
  await assert.rejects(store.put("a/b", bytesOf("y")), { kind: "unavailable" });
  await assert.rejects(store.list({ prefix: "" }), { kind: "unavailable" });
  renameSync(`${root}.away`, root);
  assert.equal(await read(store, "a/b"), "x");
  await assert.rejects(store.put("a", bytesOf("x")), { code: "key-is-directory" });
});

test("FaultyObjectStore: every kind of fault shows as one, and a retry gets through", async () => {
  const inner = new MemoryObjectStore();
  const store = new FaultyObjectStore(inner, new SeededRandom(7));
  const content = bytesOf("0123456789".repeat(100));
  store.rates = { lostReply: 1 };
  await assert.rejects(store.put("key", content, { ifAbsent: true }), { kind: "unavailable" });
  store.rates = {};
  // It did happen.
  await assert.rejects(store.put("key", content, { ifAbsent: true }), { code: "object-exists" });
  store.rates = { partialRead: 1 };
  for (let i = 0; i < 20; i++) {
    await assert.rejects(readObject(store, "key"), { kind: "unavailable" });
  }
  store.rates = { error: 1 };
  await assert.rejects(store.put("other", content), { kind: "unavailable" });
  assert.deepEqual(inner.keys, ["key"]);
  store.rates = {};
  store.down = true;
  await assert.rejects(store.list({ prefix: "" }), { kind: "unavailable" });
  store.down = false;
  assert.deepEqual(Buffer.from(await readObject(store, "key")), content);
  assert.ok(store.faults >= 22);
});

test("openObjectStore: directories as path or URL, S3, nothing else", async (context) => {
  const root = temporaryDirectory(context);
  const server = await new S3Server().start();
  context.after(() => server.stop());
  const open = (location: string) =>
    openObjectStore(location, { env: server.env, onAway: () => assert.fail() });
  await (await open(join(root, "a b"))).put("x", bytesOf("1"));
  assert.equal(await read(await open(`file://${root}/a%20b`), "x"), "1");
  const store = await open(server.location());
  await store.put("x", bytesOf("2"), { ifAbsent: true });
  assert.equal(await read(store, "x"), "2");
  assert.deepEqual([...server.objects.keys()], ["x"]);
  await assert.rejects(open("relative"), { kind: "invalid" });
  await assert.rejects(open("gs://bucket"), { kind: "unsupported" });
  await assert.rejects(open("file://host/path"), { kind: "unsupported" });
});
