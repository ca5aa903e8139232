// `kill -TERM` of npm itself, as Docker, systemd and CI do it, ends all that `npm start` has started.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { mayReach } from "../../src/postgres/installation.ts";
import { freeConfig } from "../../testing/cluster.ts";
import { withClient } from "../../testing/tpcb.ts";
import { pathOfShell, processesWith } from "./processes.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const NOBODY = { name: "nobody", uid: 65534, gid: 65534 };
const START_MS = 90_000;
const STOP_MS = 30_000;

async function startAndTerminate(t: TestContext, user?: { uid: number; gid: number }) {
  const directory = mkdtempSync(join(tmpdir(), "strata-npm-"));
  const home = join(directory, "home");
  t.after(() => {
    for (const line of processesWith(`STRATA_HOME=${home}`)) {
      process.kill(Number.parseInt(line, 10), "SIGKILL");
    }
    rmSync(directory, { recursive: true, force: true });
  });
  chmodSync(directory, 0o755);
  if (user !== undefined) {
    chownSync(directory, user.uid, user.gid);
  }
  const init = join(directory, "init.json");
  writeFileSync(init, JSON.stringify(await freeConfig(1)));
  const env = { PATH: pathOfShell(), HOME: directory, STRATA_HOME: home };
  const run = (...args: string[]) => {
    const child = spawn("npm", args, {
      cwd: ROOT,
      env,
      stdio: ["ignore", "pipe", "pipe"],
      ...user,
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    return {
      child,
      output: () => output,
      ended: once(child, "exit"),
      closed: once(child, "close"),
    };
  };
  const initialized = run("run", "strata", "--", "init", "--config", init);
  assert.deepEqual(await initialized.ended, [0, null], initialized.output());

  const npm = run("start");
  const deadline = performance.now() + START_MS;
  let url: string | undefined;
  while (url === undefined) {
    const goesOn = npm.child.exitCode === null && performance.now() < deadline;
    assert.ok(goesOn, `no URL in time:\n${npm.output()}`);
    await sleep(50);
    url = /postgresql:\/\/\S+/.exec(npm.output())?.[0];
  }
  await withClient(url, async (client) => {
    await client.query("create table t as select 42 as answer");
  });
  assert.ok(
    processesWith(`STRATA_HOME=${home}`).length >= 6,
    "npm, strata, storage, agent, Postgres are seen",
  );

  npm.child.kill("SIGTERM");
  await npm.ended;
  const patience = performance.now() + STOP_MS;
  while (processesWith(`STRATA_HOME=${home}`).length > 0) {
    assert.ok(
      performance.now() < patience,
      `left: ${processesWith(`STRATA_HOME=${home}`).join("\n")}`,
    );
    await sleep(100);
  }
  await npm.closed;
  assert.match(npm.output(), /Stopping/);
}

test("npm start: SIGTERM to npm stops everything", (t) => startAndTerminate(t));

test("npm start: so it does for an ordinary user", async (t) => {
  if (process.getuid?.() !== 0) {
    t.skip("this run is one already");
    return;
  }
  if (!mayReach(join(ROOT, "scripts"), NOBODY)) {
    t.skip("an ordinary user may not enter this checkout");
    return;
  }
  await startAndTerminate(t, { uid: NOBODY.uid, gid: NOBODY.gid });
});
