// How long a change of who may come in is waited for, so that it holds when it is answered.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { REAL_CLOCK, replaceClock } from "../base/clock.ts";
import { AccessAnswers } from "./access-answers.ts";

/** Goes on by what is slept, and as tests say. */
let now = 0;

beforeEach(() => {
  now = 0;
  replaceClock({
    ...REAL_CLOCK,
    monotonicMs: () => now,
    setTimer: (callback, delayMs) => {
      now += delayMs;
      queueMicrotask(callback);
      return { cancel: () => undefined, restart: () => undefined };
    },
  });
});

afterEach(() => replaceClock(REAL_CLOCK));

async function waited(answers: AccessAnswers, ...names: string[]): Promise<number> {
  const beganMs = now;
  await answers.expire(names);
  return now - beganMs;
}

function older(options: { isAlone: boolean }): AccessAnswers {
  const answers = new AccessAnswers({ ...options, keepMs: 1000 });
  now = 5000;
  return answers;
}

test("AccessAnswers: as long as what was told lately of one of the names is used, and no longer", async () => {
  const answers = older({ isAlone: true });
  assert.equal(await waited(answers, "ep-a"), 0);
  answers.note("ep-a");
  now += 300;
  answers.note("ep-b");
  now += 100;
  assert.equal(await waited(answers, "ep-c"), 0);
  assert.equal(await waited(answers, "ep-a", "ep-c"), 600);
  assert.equal(await waited(answers, "ep-b", "ep-a"), 300);
  assert.equal(await waited(answers, "ep-b", "ep-a"), 0);
});

test("AccessAnswers: the last time that a name was asked for counts", async () => {
  const answers = older({ isAlone: true });
  answers.note("ep-a");
  now += 900;
  answers.note("ep-a");
  now += 200;
  assert.equal(await waited(answers, "ep-a"), 800);
});

test("AccessAnswers: what the process before this one has told is waited for", async () => {
  const answers = new AccessAnswers({ isAlone: true, keepMs: 1000 });
  now += 400;
  assert.equal(await waited(answers, "ep-a"), 600);
});

test("AccessAnswers: what another control plane has told nobody knows here", async () => {
  assert.equal(await waited(older({ isAlone: false }), "ep-a"), 1000);
});

test("AccessAnswers: names are remembered as long as they matter", () => {
  const answers = older({ isAlone: true });
  for (let i = 0; i < 1000; i++) {
    answers.note(`ep-${i}`);
    now += 100;
  }
  assert.ok(answers.size <= 11, `${answers.size}`);
});
