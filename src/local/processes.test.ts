import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, realpathSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { daemonsIn, daemonsOfHome } from "./left-over.ts";
import { isDaemonOf, waitForExit } from "./processes.ts";

/** A process that looks like a daemon of `workdir`, as startDaemon() starts them. */
async function daemonLike(t: TestContext, workdir: string): Promise<number> {
  const script = "console.log('up'); setInterval(() => {}, 1000)";
  const words = ["-e", script, "/x/pageserver/main.ts", "--workdir", workdir, "--id", "1"];
  const child = spawn(process.execPath, words, { cwd: workdir });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout, "data");
  return child.pid!;
}

function temporary(t: TestContext): string {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), "strata-processes-")));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

const ODD_NAMES = ["a b", " ", "x\ny", 'it\'s "so"', "größe 🐘", "--workdir", "trailing "];

test("isDaemonOf: whatever is in the path, and not for a neighbour's whose name begins alike", async (t) => {
  const parent = temporary(t);
  for (const name of ODD_NAMES) {
    const home = join(parent, name);
    const workdir = join(home, "pageserver_1");
    mkdirSync(workdir, { recursive: true });
    const pid = await daemonLike(t, workdir);
    assert.ok(isDaemonOf(pid, workdir), JSON.stringify(name));
    assert.ok(!isDaemonOf(pid, parent));
    assert.ok(!isDaemonOf(pid, `${workdir}x`));
    assert.deepEqual(
      daemonsOfHome(home).map((daemon) => daemon.pid),
      [pid],
    );
    assert.deepEqual(daemonsIn(workdir), daemonsOfHome(home));
    assert.deepEqual([...daemonsOfHome(`${home}x`), ...daemonsIn(home)], []);
  }
});

test("isDaemonOf: through a link, and after the folder was moved", async (t) => {
  const parent = temporary(t);
  const at = (home: string) => join(parent, home, "pageserver_1");
  mkdirSync(at("real"), { recursive: true });
  symlinkSync("real", join(parent, "link"));
  const pid = await daemonLike(t, at("link"));
  assert.ok(isDaemonOf(pid, at("real")));
  assert.ok(isDaemonOf(pid, at("link")));
  renameSync(join(parent, "real"), join(parent, "moved"));
  assert.ok(isDaemonOf(pid, at("moved")));
  assert.ok(!isDaemonOf(process.pid, at("moved")), "this process works elsewhere");
  assert.ok(daemonsOfHome(join(parent, "moved")).some((daemon) => daemon.pid === pid));
});

test("daemonsOfHome: finds those of a folder that is gone, not those of a home inside of it; ended ones no more", async (t) => {
  const parent = temporary(t);
  const home = join(parent, "home");
  const inner = join(home, "project", ".strata");
  for (const one of [home, inner]) {
    mkdirSync(join(one, "pageserver_1"), { recursive: true });
  }
  const pid = await daemonLike(t, join(home, "pageserver_1"));
  const innerPid = await daemonLike(t, join(inner, "pageserver_1"));
  rmSync(join(home, "pageserver_1"), { recursive: true });
  assert.deepEqual(daemonsOfHome(home), [
    { pid, component: "pageserver", workdir: join(home, "pageserver_1") },
  ]);
  assert.deepEqual(
    daemonsOfHome(inner).map((daemon) => daemon.pid),
    [innerPid],
  );
  process.kill(pid, "SIGKILL");
  assert.ok(await waitForExit(pid, 60_000));
  assert.deepEqual(daemonsOfHome(home), []);
  assert.ok(isDaemonOf(innerPid, join(inner, "pageserver_1")));
});
