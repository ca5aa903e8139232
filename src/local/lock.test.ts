import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { inSteadyTime } from "../../simulation/simulated-time.ts";
import { eventually } from "../../testing/eventually.ts";
import { sleep } from "../base/clock.ts";
import { type ForceInit, StrataHome } from "./home.ts";
import { ifUnlocked, LOCKS_DIRECTORY, withLock } from "./lock.ts";
import type { Addresses } from "./port-choice.ts";

const ADDRESSES: Addresses = {
  broker: { listenAddr: "127.0.0.1:15051" },
  pageservers: [{ id: 1, listenPgAddr: "127.0.0.1:64000", listenHttpAddr: "127.0.0.1:9898" }],
  safekeepers: [{ id: 1, listenPgAddr: "127.0.0.1:5454", listenHttpAddr: "127.0.0.1:7676" }],
};
const ROOT = mkdtempSync(join(tmpdir(), "strata locks-"));
after(() => rmSync(ROOT, { recursive: true, force: true }));
const HOME = join(ROOT, "home");
mkdirSync(HOME);
mkdirSync(`${HOME}2`);

test("withLock: one holder at a time, others in turn; other names do not wait", async () => {
  const events: string[] = [];
  const letGo = Promise.withResolvers<void>();
  const entered = Promise.withResolvers<void>();
  const first = withLock(HOME, "home", async () => {
    events.push("first in");
    entered.resolve();
    await letGo.promise;
    events.push("first out");
  });
  await entered.promise;
  const waiting = Promise.withResolvers<void>();
  const second = withLock(
    HOME,
    "home",
    async () => {
      events.push("second in");
    },
    { onWait: waiting.resolve },
  );
  // It has tried for a while, and got nowhere; somebody with another name is not held up by that.
  await Promise.race([waiting.promise, second]);
  await withLock(HOME, "other", async () => {
    events.push("other in");
  });
  await withLock(`${HOME}2`, "home", async () => {
    events.push("other home in");
  });
  letGo.resolve();
  await Promise.all([first, second]);
  assert.deepEqual(events, ["first in", "other in", "other home in", "first out", "second in"]);
});

test("withLock: of many that wait, each gets it, alone", async () => {
  let inside = 0;
  let most = 0;
  const done: number[] = [];
  await Promise.all(
    [1, 2, 3, 4].map((n) =>
      withLock(HOME, "home", async () => {
        most = Math.max(most, ++inside);
        await new Promise((resolve) => setTimeout(resolve, 20));
        inside--;
        done.push(n);
      }),
    ),
  );
  assert.equal(most, 1);
  assert.deepEqual(done.toSorted(), [1, 2, 3, 4]);
});

test("withLock: those who share it let somebody go first who wants it alone, whoever was killed over that", async (t) => {
  inSteadyTime(t);
  const locks = join(HOME, LOCKS_DIRECTORY);
  let isOver = false;
  let shared = 0;
  const share = async () => {
    while (!isOver) {
      await withLock(HOME, "home", () => sleep(30), { mode: "shared" });
      shared++;
    }
  };
  const sharers = Array.from({ length: 6 }, (_, i) => sleep(5 * i).then(share));
  try {
    await sleep(100);
    for (let i = 0; i < 3; i++) {
      await withLock(HOME, "home", async () => {}, { timeoutMs: 5000 });
      assert.ok(!readdirSync(locks).some((name) => name.endsWith("-wanted")));
      const began = shared;
      await eventually("they to go on", () => shared > began + 6);
    }
    // Of one that was killed while it waited.
    const turn = readdirSync(locks).find((name) => name.endsWith("-turn"))!;
    writeFileSync(join(locks, turn.replace("-turn", "-wanted")), "");
    const began = shared;
    await sleep(500);
    assert.ok(shared > began + 6, `${shared - began} times`);
  } finally {
    isOver = true;
    await Promise.all(sharers);
  }
});

test("withLock: who shares it already gets it once more, though somebody waits to have it alone", async () => {
  const events: string[] = [];
  const note = (event: string) => async () => void events.push(event);
  let other: Promise<void> | undefined;
  const within = async () => {
    const waits = Promise.withResolvers<void>();
    const options = { onWait: waits.resolve, timeoutMs: 10_000 };
    other = withLock(HOME, "home", note("alone"), options);
    other.catch(() => undefined);
    await waits.promise;
    await withLock(HOME, "home", note("shared"), { mode: "shared" });
  };
  await withLock(HOME, "home", within, { mode: "shared" });
  await other;
  assert.deepEqual(events, ["shared", "alone"]);
});

test("ifUnlocked: nothing is done where somebody has it", async () => {
  const done: string[] = [];
  const work = async () => done.push("done");
  await withLock(HOME, "home", async () => {
    assert.equal(await ifUnlocked(HOME, "home", work), undefined);
  });
  assert.deepEqual(done, []);
  assert.equal(await ifUnlocked(HOME, "home", work), 1);
  await assert.rejects(
    ifUnlocked(HOME, "home", () => Promise.reject(new Error("body"))),
    /body/,
  );
  assert.equal(await ifUnlocked(HOME, "home", work), 2);
});

test("withLock: gives up after the time, and is free again after a failure", async () => {
  await withLock(HOME, "home", async () => {
    await assert.rejects(
      withLock(HOME, "home", async () => {}, { timeoutMs: 60 }),
      { kind: "unavailable" },
    );
  });
  await assert.rejects(
    withLock(HOME, "home", () => Promise.reject(new Error("body"))),
    /body/,
  );
  await withLock(HOME, "home", async () => {});
});

test("withLock: a killed holder leaves nothing behind", async (t) => {
  const holder = spawn(process.execPath, [
    "--disable-warning=ExperimentalWarning",
    "--input-type=module",
    "-e",
    `const { withLock } = await import(${JSON.stringify(join(import.meta.dirname, "lock.ts"))});
     setInterval(() => {}, 1000);
     await withLock(${JSON.stringify(HOME)}, "home", () => {
       console.log("held");
       return new Promise(() => {});
     });`,
  ]);
  t.after(() => holder.kill("SIGKILL"));
  await once(holder.stdout, "data");
  await assert.rejects(
    withLock(HOME, "home", async () => {}, { timeoutMs: 100 }),
    { code: "home-locked", message: new RegExp(`strata command \\(pid ${holder.pid}\\) keeps`) },
  );
  holder.kill("SIGKILL");
  await withLock(HOME, "home", async () => {}, { timeoutMs: 60_000 });
});

test("withLock: no home is made by a lock, but by who makes one; its creation finds it empty", async () => {
  const path = join(ROOT, "none");
  await withLock(path, "home", async () => {});
  assert.equal(existsSync(path), false);
  const createHome = (force: ForceInit) => new StrataHome(path).create({}, ADDRESSES, force);
  const create = (force: ForceInit) =>
    withLock(path, "home", async () => createHome(force), { makesHome: true });
  await create("must-not-exist");
  await assert.rejects(create("must-not-exist"), { code: "home-exists" });
  // What is removed then is not the lock that is held.
  await withLock(
    path,
    "home",
    async () => {
      createHome("remove-all-contents");
      await assert.rejects(
        withLock(path, "home", async () => {}, { timeoutMs: 60 }),
        { code: "home-locked" },
      );
    },
    { makesHome: true },
  );
});
