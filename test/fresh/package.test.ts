// The npm package: packed, run by npx in an empty folder without the repository, used, stopped.
//
// As an ordinary user with an empty npm cache and an empty cache of its own: what a first `npx` fetches
// is fetched.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { mayReach } from "../../src/postgres/installation.ts";
import { withClient } from "../../testing/tpcb.ts";
import { pathOfShell, processesWith } from "./processes.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const NOBODY = { name: "nobody", uid: 65534, gid: 65534 };
/** Through a registry and a disk that others use too. */
const START_MS = 300_000;
const STOP_MS = 30_000;
const MOST_BYTES = 300e6;

/** Packs the checkout into an empty folder of an ordinary user. */
function packedFolder(t: TestContext) {
  const base = mkdtempSync(join(tmpdir(), "strata package-"));
  t.after(() => {
    for (const line of processesWith(`HOME=${join(base, "home")}`)) {
      process.kill(Number.parseInt(line, 10), "SIGKILL");
    }
    rmSync(base, { recursive: true, force: true });
  });
  const folder = join(base, "my app");
  const home = join(base, "home");
  mkdirSync(folder);
  mkdirSync(home);
  const packed = spawnSync("npm", ["pack", "--silent", "--pack-destination", folder], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.equal(packed.status, 0, packed.stderr);
  const [tarball] = readdirSync(folder);
  assert.equal(tarball, packed.stdout.trim().split("\n").pop(), "one file");
  const user = process.getuid?.() === 0 ? { uid: NOBODY.uid, gid: NOBODY.gid } : undefined;
  chmodSync(base, 0o755);
  if (user !== undefined) {
    chownSync(folder, user.uid, user.gid);
    chownSync(home, user.uid, user.gid);
  }
  const env = { PATH: pathOfShell(), HOME: home };
  /** `shell` is what a user types in the folder. */
  const type = (shell: string, extra: Readonly<Record<string, string>> = {}) => {
    const options = { cwd: folder, env: { ...env, ...extra }, ...user };
    const child = spawn("sh", ["-c", `exec ${shell}`], options);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    return { child, output: () => output, ended: once(child, "close") };
  };
  return { folder, home, tarball, type };
}

function sizeOf(path: string): number {
  const status = lstatSync(path);
  return status.isDirectory()
    ? readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
    : status.size;
}

test("npm package: npx runs it in any folder; another major is fetched when it is asked for", async (t) => {
  if (process.getuid?.() === 0 && !mayReach(process.execPath, NOBODY)) {
    t.skip("an ordinary user may not run this Node");
    return;
  }
  const { folder, home, tarball, type } = packedFolder(t);
  const up = type(`npx --yes ./${tarball} up`);
  const deadline = performance.now() + START_MS;
  let url: string | undefined;
  let hint: string | undefined;
  while (url === undefined || hint === undefined) {
    assert.ok(up.child.exitCode === null && performance.now() < deadline, up.output());
    await sleep(50);
    url = /postgresql:\/\/\S+/.exec(up.output())?.[0];
    hint = /See all +(npx .+? status),/.exec(up.output())?.[1];
  }
  await withClient(url, async (client) => {
    const { rows } = await client.query("select 40 + 2 as answer");
    assert.equal(rows[0].answer, 42);
  });
  assert.ok(existsSync(join(folder, ".strata", "config.json")), "the home is that folder's");

  // What is printed works when it is typed.
  assert.equal(hint, `npx ./${tarball} status`);
  const status = type(hint);
  assert.deepEqual(await status.ended, [0, null], status.output());
  assert.match(status.output(), /pageserver .* running/);

  const installed = sizeOf(join(home, ".npm", "_npx")) + sizeOf(join(home, ".cache"));
  assert.ok(installed <= MOST_BYTES, `${installed} bytes are installed`);

  up.child.kill("SIGTERM");
  const patience = performance.now() + STOP_MS;
  while (processesWith(`HOME=${home}`).length > 0) {
    assert.ok(performance.now() < patience, `left: ${processesWith(`HOME=${home}`).join("\n")}`);
    await sleep(100);
  }
  await up.ended;
  assert.match(up.output(), /Stopped/);

  const nowhere = { npm_config_registry: "http://127.0.0.1:9/", STRATA_HOME: join(home, "other") };
  const offline = type(`npx ./${tarball} init --pg-version 16`, nowhere);
  assert.deepEqual(await offline.ended, [1, null], offline.output());
  assert.match(offline.output(), /no PostgreSQL 16 is installed: .*npm.*--pg-bin/);
  const online = type(`npx ./${tarball} init --pg-version 16`, {
    STRATA_HOME: join(home, "other"),
  });
  assert.deepEqual(await online.ended, [0, null], online.output());
  assert.match(
    online.output(),
    /fetching PostgreSQL 16\.\d+ .*\n.*PostgreSQL 16\.\d+ is here: \d+ MB/,
  );
  const fetched = readdirSync(join(home, ".cache", "strata", "packages")).filter((name) =>
    name.startsWith("postgres-16-"),
  );
  assert.equal(fetched.length, 1);
  const postgres = join(
    home,
    ".cache",
    "strata",
    "packages",
    fetched[0]!,
    "native",
    "bin",
    "postgres",
  );
  assert.equal(lstatSync(postgres).mode & 0o111, 0o111);
  assert.match(readFileSync(join(home, "other", "config.json"), "utf8"), /"pgVersion": 16/);
});
