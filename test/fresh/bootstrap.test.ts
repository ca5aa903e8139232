// `strata up` on a bare machine: no psql, pgbench or C compiler; as whoever runs this and, for root, as an ordinary user.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { mayReach } from "../../src/postgres/installation.ts";
import { freeConfig } from "../../testing/cluster.ts";
import { withClient } from "../../testing/tpcb.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const NOBODY = { name: "nobody", uid: 65534, gid: 65534 };

interface Machine extends AsyncDisposable {
  readonly home: string;
  /** Runs scripts/strata.mjs, as `npm start` and `npx strata` do. */
  strata(...args: string[]): Promise<{ code: number | null; output: string }>;
  /** The same in the background; the promise of its end, and a way to press Ctrl-C. */
  background(...args: string[]): { output(): string; interrupt(): Promise<number | null> };
}

/** A PATH on which there is nothing but node and what every Debian has in coreutils. */
async function bareMachine(user: { uid: number; gid: number } | undefined): Promise<Machine> {
  const directory = mkdtempSync(join(tmpdir(), "strata-bare-"));
  const bin = join(directory, "bin");
  mkdirSync(bin);
  symlinkSync(process.execPath, join(bin, "node"));
  for (const tool of ["sh", "cp", "mkdir", "rm", "uname"]) {
    symlinkSync(existsSync(`/bin/${tool}`) ? `/bin/${tool}` : `/usr/bin/${tool}`, join(bin, tool));
  }
  const home = join(directory, "strata");
  writeFileSync(join(directory, "init.json"), JSON.stringify(await freeConfig(1)));
  chmodSync(directory, 0o755);
  if (user !== undefined) {
    chownSync(directory, user.uid, user.gid);
  }
  const start = (args: string[]) => {
    const child = spawn(join(bin, "node"), [join(ROOT, "scripts", "strata.mjs"), ...args], {
      env: { PATH: bin, HOME: directory, STRATA_HOME: home },
      cwd: directory,
      stdio: ["ignore", "pipe", "pipe"],
      ...user,
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    return { child, output: () => output, ended: once(child, "close") as Promise<[number | null]> };
  };
  const strata = async (...args: string[]) => {
    const { output, ended } = start(args);
    const [code] = await ended;
    return { code, output: output() };
  };
  return {
    home,
    strata,
    background: (...args) => {
      const { child, output, ended } = start(args);
      return {
        output,
        interrupt: async () => {
          child.kill("SIGINT");
          return (await ended)[0];
        },
      };
    },
    [Symbol.asyncDispose]: async () => {
      if (existsSync(home)) {
        await strata("stop", "--mode", "immediate");
      }
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function useIt(machine: Machine): Promise<void> {
  const initialized = await machine.strata(
    "init",
    "--config",
    join(machine.home, "..", "init.json"),
  );
  assert.equal(initialized.code, 0, initialized.output);
  const up = machine.background("up");
  const deadline = performance.now() + 90_000;
  let url: string | undefined;
  while (url === undefined) {
    assert.ok(performance.now() < deadline, `no URL in time:\n${up.output()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    url = /postgresql:\/\/cloud_admin:\S+@127\.0\.0\.1:\d+\/postgres/.exec(up.output())?.[0];
  }
  await withClient(url, async (client) => {
    await client.query("create table t as select 42 as answer");
  });
  assert.match(up.output(), /branch/, "it says how to make a branch");
  const psql = await machine.strata("psql", "main");
  assert.match(psql.output, new RegExp(`psql was not found.*${url}`));
  const rows = await machine.strata("psql", "--", "-c", "select answer from t", "-c", "select x");
  assert.match(rows.output, /^ answer\n-+\n +42\n\(1 row\)\n/, "-c works without psql");
  assert.match(rows.output, /ERROR: {2}column "x" does not exist/);
  assert.equal(rows.code, 1);

  assert.equal(await up.interrupt(), 0, up.output());
  assert.deepEqual(processesOf(machine.home), [], "Ctrl-C leaves nothing running");

  const again = await machine.strata("up", "--detach");
  assert.equal(again.code, 0, again.output);
  const twice = await machine.strata("up", "--detach");
  assert.equal(twice.code, 0, twice.output);
  await withClient(url, async (client) => {
    assert.equal((await client.query("select answer from t")).rows[0].answer, 42);
  });
  const stopped = await machine.strata("stop");
  assert.equal(stopped.code, 0, stopped.output);
  assert.deepEqual(processesOf(machine.home), []);
}

function processesOf(home: string): string[] {
  const found: string[] = [];
  for (const name of readdirSync("/proc")) {
    if (/^\d+$/.test(name)) {
      try {
        const command = readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " ");
        if (command.includes(home)) {
          found.push(`${name} ${command}`);
        }
      } catch {
        // Gone meanwhile.
      }
    }
  }
  return found;
}

test("strata up, without psql and compiler: URL, Ctrl-C, up again with the data, stop", async () => {
  await using machine = await bareMachine(undefined);
  await useIt(machine);
});

test("the same as an ordinary user", async (t) => {
  if (process.getuid?.() !== 0) {
    t.skip("this run is one already");
    return;
  }
  if (!mayReach(join(ROOT, "scripts"), NOBODY)) {
    t.skip("an ordinary user may not enter this checkout");
    return;
  }
  await using machine = await bareMachine({ uid: NOBODY.uid, gid: NOBODY.gid });
  await useIt(machine);
});
