import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { StrataHome } from "../home.ts";
import { withHomeShared } from "../lock.ts";
import { nameBranch } from "./home-state.ts";

// testing/homes/local-1 is a home as the last version before home.db made it: all of its state is in config.json.

const LOCAL_1 = join(import.meta.dirname, "../../../testing/homes/local-1");
const HOME_TS = join(import.meta.dirname, "../home.ts");

/** Changes the home in argv[1]; dies, as by kill -9, before the step argv[2] that it takes on files or in SQLite. */
const CHILD = `
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { DatabaseSync } from "node:sqlite";
const [home, at] = [process.argv[1], Number(process.argv[2])];
let step = 0;
const counted = (of, names) => {
  for (const name of names) {
    const real = of[name];
    of[name] = function (...args) {
      if (++step === at) process.kill(process.pid, "SIGKILL");
      return real.apply(this, args);
    };
  }
};
const { StrataHome } = await import(${JSON.stringify(HOME_TS)});
const writes = ["openSync", "writeSync", "writeFileSync", "fsyncSync", "fdatasyncSync", "renameSync"];
counted(fs, writes.filter((name) => name in fs));
syncBuiltinESMExports();
counted(DatabaseSync.prototype, ["exec"]);
new StrataHome(home).update((draft) => { draft.unfinishedTenants.add("f".repeat(32)); });
`;

function copyOfLocal1(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "strata-take-over-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  cpSync(LOCAL_1, join(directory, "home"), { recursive: true });
  return join(directory, "home");
}

test("StrataHome: a home of format 1 is read as it is, and its first change takes it over whole", (t) => {
  const path = copyOfLocal1(t);
  const text = () => readFileSync(join(path, "config.json"), "utf8");
  const before = new StrataHome(path).config();
  const tenant = before.defaultTenantId!;
  assert.deepEqual(
    [...before.branchNameMappings.get(tenant)!.keys()],
    ["main", "b1", "b2", "b3", "__proto__", "größe/1"],
  );
  assert.ok(before.branchSwitches.get(tenant)?.get("b1")?.moved);
  assert.equal(before.memberships.get(tenant)?.size, 1);
  assert.equal(before.unfinishedTenants.size + before.unfinishedTimelines.size, 2);
  assert.match(text(), /"formatVersion": 1/);
  new StrataHome(path).update((draft) => nameBranch(draft, tenant, "new", "9".repeat(32)));
  assert.match(text(), /"formatVersion": 2/);
  assert.doesNotMatch(text(), /main|defaultTenantId|[0-9a-f]{32}/);
  const after = new StrataHome(path).config();
  const names = new Map(before.branchNameMappings.get(tenant)).set("new", "9".repeat(32));
  assert.deepEqual(after, { ...before, branchNameMappings: new Map([[tenant, names]]) });
});

test("withHomeShared: a home of format 1 is taken over before its lock is shared", async (t) => {
  const home = new StrataHome(copyOfLocal1(t));
  assert.ok(!home.isTakenOver);
  const seen = await Promise.all(
    [1, 2].map(() => withHomeShared(home, async () => home.isTakenOver)),
  );
  assert.deepEqual(seen, [true, true]);
});

test("StrataHome: a home that a newer version has used is refused by its number", (t) => {
  const home = new StrataHome(copyOfLocal1(t));
  const path = join(home.path, "config.json");
  const text = readFileSync(path, "utf8").replace(
    '"formatVersion": 1',
    '"formatVersion": 3, "x": 1',
  );
  writeFileSync(path, text);
  for (const attempt of [() => home.config(), () => home.update(() => {})]) {
    assert.throws(attempt, { kind: "invalid", message: /formatVersion 3 .*newer/ });
  }
});

test("StrataHome: kill -9 at any step of the takeover loses nothing, and the next change ends it", (t) => {
  const expected = new StrataHome(LOCAL_1).config();
  const dead = "f".repeat(32);
  const cache = mkdtempSync(join(tmpdir(), "strata-compile-cache-"));
  t.after(() => rmSync(cache, { recursive: true, force: true }));
  let deaths = 0;
  for (let step = 1; ; step++) {
    const path = copyOfLocal1(t);
    const args = ["--input-type=module", "--eval", CHILD, path, String(step)];
    const env = { ...process.env, NODE_COMPILE_CACHE: cache };
    const options = { encoding: "utf8", env } as const;
    const { signal, status, stderr } = spawnSync(process.execPath, args, options);
    assert.ok(signal === "SIGKILL" || status === 0, stderr);
    const found = new StrataHome(path).config();
    const tenants = new Set(found.unfinishedTenants);
    const isChanged = tenants.delete(dead);
    assert.deepEqual({ ...found, unfinishedTenants: tenants }, expected, `step ${step}`);
    new StrataHome(path).update((draft) => draft.unfinishedTenants.add(dead));
    assert.match(readFileSync(join(path, "config.json"), "utf8"), /"formatVersion": 2/);
    const after = new StrataHome(path).config();
    assert.deepEqual(after.unfinishedTenants, new Set([...expected.unfinishedTenants, dead]));
    assert.deepEqual(after.branchNameMappings, expected.branchNameMappings);
    if (status === 0) {
      assert.ok(isChanged);
      break;
    }
    deaths++;
  }
  assert.ok(deaths >= 10, `it died at ${deaths} steps only`);
});
