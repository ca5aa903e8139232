import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, realpathSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { daemonsBelow } from "./left-over.ts";
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
    const workdir = join(parent, name);
    mkdirSync(workdir);
    const pid = await daemonLike(t, workdir);
    assert.ok(isDaemonOf(pid, workdir), JSON.stringify(name));
    assert.ok(!isDaemonOf(pid, parent));
    assert.ok(!isDaemonOf(pid, `${workdir}x`));
    assert.deepEqual(
      daemonsBelow(workdir).map((daemon) => daemon.pid),
      [pid],
    );
  }
});

test("isDaemonOf: through a link, and after the folder was moved", async (t) => {
  const parent = temporary(t);
  const [real, link, moved] = ["real", "link", "moved"].map((name) => join(parent, name));
  mkdirSync(real!);
  symlinkSync(real!, link!);
  const pid = await daemonLike(t, link!);
  assert.ok(isDaemonOf(pid, real!));
  assert.ok(isDaemonOf(pid, link!));
  renameSync(real!, moved!);
  assert.ok(isDaemonOf(pid, moved!));
  assert.ok(!isDaemonOf(process.pid, moved!), "this process works elsewhere");
  assert.ok(daemonsBelow(moved!).some((daemon) => daemon.pid === pid));
});

test("daemonsBelow: finds those of a folder that is gone, in the order of a stop; ended ones no more", async (t) => {
  const parent = temporary(t);
  const home = join(parent, "home");
  mkdirSync(join(home, "pageserver_1"), { recursive: true });
  mkdirSync(join(parent, "home2"));
  const pid = await daemonLike(t, join(home, "pageserver_1"));
  const other = await daemonLike(t, join(parent, "home2"));
  rmSync(home, { recursive: true });
  assert.deepEqual(daemonsBelow(home), [
    { pid, component: "pageserver", workdir: join(home, "pageserver_1") },
  ]);
  assert.equal(daemonsBelow(parent).length, 2);
  process.kill(pid, "SIGKILL");
  assert.ok(await waitForExit(pid, 5000));
  assert.deepEqual(daemonsBelow(home), []);
  assert.ok(isDaemonOf(other, join(parent, "home2")));
});
