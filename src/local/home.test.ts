import assert from "node:assert/strict";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { nowMs, sleep } from "../base/clock.ts";
import { parseInitSettings } from "./config.ts";
import { StrataHome } from "./home.ts";
import type { Addresses } from "./port-choice.ts";

function homeIn(t: TestContext): StrataHome {
  const directory = mkdtempSync(join(tmpdir(), "strata-home-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return new StrataHome(join(directory, "home"));
}

const ADDRESSES: Addresses = {
  broker: { listenAddr: "127.0.0.1:15051" },
  pageservers: [{ id: 1, listenPgAddr: "127.0.0.1:64000", listenHttpAddr: "127.0.0.1:9898" }],
  safekeepers: [
    { id: 1, listenPgAddr: "127.0.0.1:5454", listenHttpAddr: "127.0.0.1:7676" },
    { id: 2, listenPgAddr: "127.0.0.1:5455", listenHttpAddr: "127.0.0.1:7677" },
    { id: 3, listenPgAddr: "127.0.0.1:5456", listenHttpAddr: "127.0.0.1:7678" },
  ],
};

test("StrataHome.create: config() reads back what it wrote", (t) => {
  const home = homeIn(t);
  assert.throws(() => home.config(), { kind: "not-found", message: /strata init/ });
  home.create({}, ADDRESSES, "must-not-exist");
  const config = home.config();
  assert.deepEqual(
    config.safekeepers.map((node) => [node.id, node.listenPgAddr, node.listenHttpAddr]),
    [
      [1, "127.0.0.1:5454", "127.0.0.1:7676"],
      [2, "127.0.0.1:5455", "127.0.0.1:7677"],
      [3, "127.0.0.1:5456", "127.0.0.1:7678"],
    ],
  );
  assert.equal(config.pageservers[0]?.listenPgAddr, "127.0.0.1:64000");
  assert.equal(config.broker.listenAddr, "127.0.0.1:15051");
});

test("StrataHome.create: what --force allows", (t) => {
  const home = homeIn(t);
  mkdirSync(home.path);
  assert.throws(() => home.create({}, ADDRESSES, "must-not-exist"), { kind: "conflict" });
  home.create({}, ADDRESSES, "empty-dir-ok");
  writeFileSync(join(home.path, "data"), "");
  assert.throws(() => home.create({}, ADDRESSES, "empty-dir-ok"), /already initialized/);
  home.create({}, ADDRESSES, "remove-all-contents");
  assert.throws(() => readFileSync(join(home.path, "data")), /ENOENT/);
});

test("StrataHome: a wrong configuration names the field, also in --config", (t) => {
  const home = homeIn(t);
  home.create({}, ADDRESSES, "must-not-exist");
  const path = join(home.path, "config.json");
  writeFileSync(path, readFileSync(path, "utf8").replace("127.0.0.1:15051", "nowhere"));
  assert.throws(() => home.config(), { kind: "invalid", message: /broker\.listenAddr/ });
  writeFileSync(path, "{");
  assert.throws(() => home.config(), /not JSON/);
  assert.throws(() => parseInitSettings('{"safekeepers": []}', "f.json"), /f\.json: safekeepers/);
  assert.throws(() => parseInitSettings('{"typo": 1}', "f.json"), /typo/);
  for (const port of [0, 65_536, 99_999]) {
    const text = JSON.stringify({ broker: { listenAddr: `127.0.0.1:${port}` } });
    assert.throws(() => parseInitSettings(text, "f.json"), /f\.json: broker\.listenAddr/);
  }
});

test("StrataHome: what a membership record has is a list of ids or not there", (t) => {
  const home = homeIn(t);
  const path = join(home.path, "config.json");
  const [tenant, timeline] = ["a".repeat(32), "b".repeat(32)];
  home.create({}, ADDRESSES, "must-not-exist");
  const written = JSON.parse(readFileSync(path, "utf8"));
  for (const wrong of [null, 0, "", false, {}]) {
    for (const field of ["newMembers", "excluding"]) {
      const record = { generation: 1, members: [1], [field]: wrong };
      const memberships = { [tenant]: { [timeline]: record } };
      writeFileSync(path, JSON.stringify({ ...written, formatVersion: 1, memberships }));
      assert.throws(() => home.config(), new RegExp(`${timeline}\\.${field} expected`));
    }
  }
});

test("StrataHome.create: an address given twice is refused before anything is written", (t) => {
  const home = homeIn(t);
  const node = { id: 1, listenPgAddr: "127.0.0.1:1", listenHttpAddr: "127.0.0.1:1" };
  assert.throws(
    () => home.create({}, { ...ADDRESSES, safekeepers: [node] }, "must-not-exist"),
    /used twice/,
  );
  assert.equal(home.isInitialized(), false);
});

test("StrataHome: the object store lies in the home, elsewhere, or is a URL; older homes have none", (t) => {
  const home = homeIn(t);
  const config = home.create({}, ADDRESSES, "must-not-exist");
  assert.equal(home.remoteStorage(home.config()), join(home.path, "object_store"));
  assert.equal(home.remoteStorage({ ...config, remoteStorage: "/data/wal" }), "/data/wal");
  assert.equal(home.remoteStorage({ ...config, remoteStorage: "file:///wal" }), "file:///wal");
  assert.equal(home.remoteStorage({ ...config, remoteStorage: undefined }), undefined);
  const options = (text: string) => parseInitSettings(`{"safekeeperOptions": ${text}}`, "f.json");
  assert.deepEqual(options('{"eviction-min-resident-ms": "5"}').safekeeperOptions, {
    "eviction-min-resident-ms": "5",
  });
  assert.throws(() => options('{"--id": "5"}'), /safekeeperOptions names/);
  assert.throws(() => options('{"id": 5}'), /safekeeperOptions\.id/);
});

test("StrataHome.update: all or nothing", (t) => {
  const home = homeIn(t);
  home.create({}, ADDRESSES, "must-not-exist");
  const before = home.config();
  assert.throws(() =>
    home.update((config) => {
      config.defaultTenantId = "0".repeat(32);
      throw new Error("no");
    }),
  );
  assert.deepEqual(home.config(), before);
});

test("StrataHome.settings: what anybody has written is read at the next call, also right after another change", async (t) => {
  const home = homeIn(t);
  home.create({}, ADDRESSES, "must-not-exist");
  const file = join(home.path, "config.json");
  const write = (major: number) => {
    const text = readFileSync(file, "utf8").replace(/"pgVersion": \d+/, `"pgVersion": ${major}`);
    writeFileSync(file, text);
  };
  // Of the same length each, and faster than the file system's clock.
  for (let i = 0; i < 50; i++) {
    write(14 + (i % 5));
    assert.equal(home.settings().pgVersion, 14 + (i % 5));
  }
  // Where the file system's clock is slow, what is written next may have the time of this.
  for (let isEarly = false; !isEarly; ) {
    const began = nowMs();
    write(18);
    const [first, second] = [home.settings(), home.settings()];
    isEarly = nowMs() - began < 90;
    assert.ok(!isEarly || first !== second, "what was written just now is read again");
  }
  await sleep(150);
  const settled = home.settings();
  assert.equal(home.settings(), settled);
  assert.throws(() => settled.pageservers.pop(), TypeError);
  write(17);
  assert.equal(home.settings().pgVersion, 17);
  new StrataHome(home.path).updateSettings((draft) => {
    draft.pgVersion = 16;
  });
  assert.equal(home.settings().pgVersion, 16);
});

test("StrataHome: one name for a place, before and after it exists, whatever leads there", (t) => {
  const parent = realpathSync(mkdtempSync(join(tmpdir(), "strata-paths-")));
  t.after(() => rmSync(parent, { recursive: true, force: true }));
  mkdirSync(join(parent, "real"));
  symlinkSync("real", join(parent, "link"));
  symlinkSync("real/later", join(parent, "nowhere-yet"));
  const before = process.cwd();
  t.after(() => process.chdir(before));
  process.chdir(join(parent, "link"));
  const names: Record<string, string[]> = {
    "real/a b/ü\n'\"": ["link/a b/ü\n'\"", "link//a b/../a b/ü\n'\"/"],
    "real/later": ["nowhere-yet", "link/later", "link/x/../later/"],
    real: ["link", "link/.", "real/"],
  };
  for (const [place, ways] of Object.entries(names)) {
    const expected = join(parent, place);
    const paths = () => ways.map((way) => new StrataHome(`${parent}/${way}`).path);
    assert.deepEqual(new Set(paths()), new Set([expected]));
    new StrataHome(`${parent}/${ways[0]}`).create({}, ADDRESSES, "remove-all-contents");
    assert.deepEqual(new Set(paths()), new Set([expected]));
  }
  assert.equal(new StrataHome("later").path, join(parent, "real", "later"));
});

test("StrataHome: a place that can be none is an error that names it", (t) => {
  const parent = mkdtempSync(join(tmpdir(), "strata-paths-"));
  t.after(() => rmSync(parent, { recursive: true, force: true }));
  writeFileSync(join(parent, "file"), "");
  symlinkSync("loop", join(parent, "loop"));
  for (const [path, why] of [
    ["file/home", /ENOTDIR/],
    ["loop/home", /ELOOP/],
  ] as const) {
    assert.throws(
      () => new StrataHome(join(parent, path)),
      (error: Error) => {
        assert.match(error.message, why);
        return error.message.startsWith(`find the home '${parent}`);
      },
    );
  }
});
