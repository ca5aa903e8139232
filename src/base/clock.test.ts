import assert from "node:assert/strict";
import { test } from "node:test";
import { inSimulatedTime } from "../../simulation/simulated-time.ts";
import {
  abortAfter,
  monotonicMs,
  setIdleTimer,
  setRepeatingTimer,
  setTimer,
  sleep,
  turn,
} from "./clock.ts";

/** What happened, and at which time of the clock. */
function story() {
  const began = monotonicMs();
  const lines: string[] = [];
  return {
    lines,
    note: (what: string) => lines.push(`${Math.round(monotonicMs() - began)} ${what}`),
  };
}

async function timers(): Promise<string[]> {
  const { lines, note } = story();
  const cancelled = setTimer(() => note("cancelled"), 50);
  const restarted = setTimer(() => note("restarted"), 50);
  const repeating = setRepeatingTimer(() => note("again"), 40);
  setIdleTimer(() => note("idle"), 30);
  await sleep(35);
  cancelled.cancel();
  restarted.restart();
  await sleep(65);
  repeating.cancel();
  repeating.cancel();
  await turn();
  await sleep(100);
  note("end");
  return lines;
}

test("clock: timers, in virtual time", async () => {
  assert.deepEqual(await inSimulatedTime(timers), [
    "30 idle",
    "40 again",
    "80 again",
    "85 restarted",
    "200 end",
  ]);
});

test("clock: timers, in real time: the same things in the same order", async () => {
  const words = (await timers()).map((line) => line.split(" ")[1]);
  // How often it repeats within a time is up to the machine.
  assert.deepEqual(
    words.filter((word) => word !== "again"),
    ["idle", "restarted", "end"],
  );
  assert.ok(words.includes("again"));
});

async function sleeps(): Promise<string[]> {
  const { lines, note } = story();
  const controller = new AbortController();
  const aborted = assert.rejects(sleep(1000, controller.signal), { name: "AbortError" });
  setTimer(() => controller.abort(), 20);
  await aborted;
  note("aborted");
  await assert.rejects(sleep(1000, controller.signal), { name: "AbortError" });
  await sleep(10, new AbortController().signal);
  note("slept");
  // Nothing in real time keeps the process alive for it.
  const waiting = sleep(2000, abortAfter(30));
  await assert.rejects(waiting, { name: "TimeoutError", message: "timeout after 30 ms" });
  note("timed out");
  return lines;
}

test("clock: a sleep ends with its signal, and leaves no timer behind", async () => {
  assert.deepEqual(await inSimulatedTime(sleeps), ["20 aborted", "30 slept", "60 timed out"]);
  assert.equal((await sleeps()).length, 3);
  await assert.rejects(
    inSimulatedTime(() => new Promise(() => {})),
    /nothing is left to happen/,
  );
});
