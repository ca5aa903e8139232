import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { test } from "node:test";
import { withLock } from "./lock.ts";

const HOME = `/no/such/home/${process.pid}`;

test("withLock: one holder at a time, others in turn; other names do not wait", async () => {
  let inside = 0;
  const results = await Promise.all(
    [1, 2, 3].map((n) =>
      withLock(HOME, "home", async () => {
        assert.equal(++inside, 1);
        await new Promise((resolve) => setTimeout(resolve, 20));
        inside--;
        return n;
      }),
    ),
  );
  assert.deepEqual(results, [1, 2, 3]);
  await withLock(HOME, "home", () => withLock(HOME, "other", async () => {}));
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

test("withLock: a killed holder leaves nothing behind", async () => {
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
  await once(holder.stdout, "data");
  await assert.rejects(
    withLock(HOME, "home", async () => {}, { timeoutMs: 100 }),
    { code: "home-locked" },
  );
  holder.kill("SIGKILL");
  await withLock(HOME, "home", async () => {}, { timeoutMs: 5000 });
});
