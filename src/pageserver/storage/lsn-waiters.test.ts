import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../base/lsn.ts";
import { LsnWaiters } from "./lsn-waiters.ts";

const NEVER = Number.POSITIVE_INFINITY;

test("LsnWaiters: the LSN itself is enough, and those who wait for more go on waiting", async () => {
  const waiters = new LsnWaiters();
  const woken: string[] = [];
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const wait = (name: string, lsn: number) =>
    waiters.wait(toLsn(lsn), NEVER).then(() => void woken.push(name));
  const all = [wait("first", 100), wait("second", 200), wait("third", 101)];
  waiters.reached(toLsn(99));
  waiters.reached(toLsn(100));
  await turn();
  assert.deepEqual(woken, ["first"]);
  waiters.reached(toLsn(150));
  await turn();
  assert.deepEqual(woken, ["first", "third"]);
  waiters.reached(toLsn(200));
  await turn();
  assert.deepEqual(woken, ["first", "third", "second"]);
  await Promise.all(all);
});

test("LsnWaiters: false after the time, rejected by fail, and both leave nothing behind", async () => {
  const waiters = new LsnWaiters();
  assert.equal(await waiters.wait(toLsn(100), 1), false);
  const failed = assert.rejects(waiters.wait(toLsn(100), NEVER), /closing/);
  waiters.fail(new Error("closing"));
  await failed;
  const next = waiters.wait(toLsn(100), NEVER);
  waiters.reached(toLsn(100));
  assert.equal(await next, true);
});
