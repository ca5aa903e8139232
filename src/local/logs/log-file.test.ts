// The end of a log, and what comes to it: with levels, rotated, cut, very long.

import assert from "node:assert/strict";
import {
  appendFileSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createLogger } from "../../base/log.ts";
import { boundLog } from "../../base/logs/log-rotation.ts";
import { type LogChoice, readLogTail, readLogText } from "./log-file.ts";

const AT = "2026-11-29 14:30:29.409 UTC [7]";
const ALL: LogChoice = { source: "postgres", level: "trace" };

class LogWorld implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), "strata-log-"));
  readonly path = join(this.directory, "postgres.log");

  write(...messages: string[]): void {
    appendFileSync(this.path, messages.map((message) => `${AT} ${message}\n`).join(""));
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true });
  }
}

const texts = (entries: readonly { text: string }[]) =>
  entries.map(({ text }) => text.replace(/^\[7\] \w+: {2}/, ""));

test("readLogTail: the last entries, those of a level from further back", async () => {
  using world = new LogWorld();
  assert.deepEqual((await readLogTail(world.path, ALL, 5)).entries, []);
  world.write("ERROR:  early", ...Array.from({ length: 20_000 }, (_, i) => `LOG:  line ${i}`));
  const tail = await readLogTail(world.path, ALL, 2);
  assert.deepEqual(texts(tail.entries), ["line 19998", "line 19999"]);
  assert.equal(tail.isAll, false);
  const errors = await readLogTail(world.path, { ...ALL, level: "error" }, 2);
  assert.deepEqual(texts(errors.entries), ["early"]);
  assert.equal(errors.isAll, true);
});

test("readLogTail: no pipe, no link to elsewhere, a line without an end", async () => {
  using world = new LogWorld();
  symlinkSync("/etc/passwd", world.path);
  assert.deepEqual((await readLogTail(world.path, ALL, 5)).entries, []);
  rmSync(world.path);
  world.write("LOG:  one");
  appendFileSync(world.path, `${AT} LOG:  tw`);
  const { entries, follower } = await readLogTail(world.path, ALL, 5);
  assert.deepEqual(texts(entries), ["one"]);
  assert.deepEqual(await follower.poll(), []);
  appendFileSync(world.path, "o\n");
  assert.deepEqual(texts(await follower.poll()), ["two"]);
});

test("LogFollower: what comes, of a level; a log that begins anew; one that is far ahead", async () => {
  using world = new LogWorld();
  const early = (await readLogTail(world.path, ALL, 5)).follower;
  world.write("LOG:  one", "ERROR:  two\n\tmore");
  assert.deepEqual(texts(await early.poll()), ["one", "two\n\tmore"]);
  const { follower } = await readLogTail(world.path, { ...ALL, level: "error" }, 0);
  world.write("LOG:  three", "ERROR:  four");
  assert.deepEqual(texts(await follower.poll()), ["four"]);
  truncateSync(world.path);
  world.write("ERROR:  five");
  assert.deepEqual(texts(await follower.poll()), ["(the log begins anew)", "five"]);
  rmSync(world.path);
  assert.deepEqual(await follower.poll(), []);
  writeFileSync(world.path, `${AT} ERROR:  six of another file\n`.repeat(2));
  assert.ok(texts(await follower.poll()).includes("six of another file"));
  const line = `LOG:  ${"x".repeat(1000)}`;
  world.write(...Array.from({ length: 6000 }, () => line), "ERROR:  last");
  const late = await follower.poll();
  assert.match(texts(late)[0]!, /^\(about 5\d{6} bytes left out\)$/);
  assert.equal(texts(late).at(-1), "last");
  appendFileSync(world.path, "\n".repeat(200_000) + "y\n".repeat(100_000));
  const many = await early.poll();
  assert.ok(many.length <= 1001);
});

test("readLogText: all of the end as it is, without secrets", async () => {
  using world = new LogWorld();
  world.write("LOG:  one", "ERROR:  a\n\talter role x password 'hunter2'", "LOG:  three");
  const read = async (maxBytes?: number) => {
    let text = "";
    for await (const bytes of readLogText(world.path, "postgres", maxBytes)) {
      text += Buffer.from(bytes).toString();
    }
    return text;
  };
  assert.equal(
    await read(),
    `${AT} LOG:  one\n${AT} ERROR:  a\n\talter role x password '***'\n${AT} LOG:  three\n`,
  );
  assert.equal(await read(60), `${AT} LOG:  three\n`);
});

test("readLogTail, readLogText: a log that has begun anew goes on from what was put away", async () => {
  using world = new LogWorld();
  world.write("LOG:  one", "ERROR:  two", "LOG:  three");
  renameSync(world.path, `${world.path}.2`);
  world.write("LOG:  four", "LOG:  five");
  renameSync(world.path, `${world.path}.1`);
  world.write("LOG:  six");
  const { entries, isAll, follower } = await readLogTail(world.path, ALL, 4);
  assert.deepEqual(texts(entries), ["three", "four", "five", "six"]);
  assert.equal(isAll, false);
  world.write("LOG:  seven");
  assert.deepEqual(texts(await follower.poll()), ["seven"]);
  const errors = await readLogTail(world.path, { ...ALL, level: "error" }, 4);
  assert.deepEqual(texts(errors.entries), ["two"]);
  assert.equal(errors.isAll, true);
  let text = "";
  for await (const bytes of readLogText(world.path, "postgres", 140)) {
    text += Buffer.from(bytes).toString();
  }
  assert.equal(text, `${AT} LOG:  five\n${AT} LOG:  six\n${AT} LOG:  seven\n`);
});

test("LogFollower: nothing is lost where a log is put away", async () => {
  using world = new LogWorld();
  world.write("LOG:  one".padEnd(500, "."));
  const { follower } = await readLogTail(world.path, ALL, 5);
  world.write("LOG:  two", "ERROR:  three\n\tmore");
  await boundLog(world.path, createLogger("test", "silent"), 400);
  world.write("LOG:  four");
  assert.deepEqual(texts(await follower.poll()), ["two", "three\n\tmore", "four"]);
  world.write("LOG:  five");
  assert.deepEqual(texts(await follower.poll()), ["five"]);
});
