import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep } from "../../base/clock.ts";
import { type EventStream, Listeners } from "./event-stream.ts";

const INTERVAL_MS = 5;

async function textOf(stream: EventStream): Promise<string> {
  let text = "";
  for await (const chunk of stream) {
    text += Buffer.from(chunk).toString();
  }
  return text;
}

test("Listeners: one look for all, at once and over and over, never two at a time, none for nobody", async () => {
  let looks = 0;
  let underWay = 0;
  let silences = 0;
  const listeners = new Listeners<string>(
    async (all) => {
      looks++;
      assert.equal(++underWay, 1);
      await sleep(INTERVAL_MS * 4);
      underWay--;
      for (const [stream, name] of all) {
        stream.send({ name });
      }
    },
    INTERVAL_MS,
    () => silences++,
  );
  await sleep(INTERVAL_MS * 4);
  assert.equal(looks, 0);
  const [one, other] = [listeners.add("one"), listeners.add("other")];
  assert.equal(looks, 1, "the first is kept waiting");
  while (looks < 4) {
    await sleep(INTERVAL_MS);
  }
  one.end();
  assert.deepEqual([listeners.size, silences], [1, 0]);
  const heard = textOf(other);
  other.send({ name: "last" });
  await sleep(INTERVAL_MS);
  listeners.end();
  assert.match(
    await heard,
    /^: hello\n\n(data: {"name":"other"}\n\n){2,}data: {"name":"last"}\n\n/,
  );
  assert.deepEqual([listeners.size, silences], [0, 1]);
  while (underWay > 0) {
    await sleep(INTERVAL_MS);
  }
  const before = looks;
  await sleep(INTERVAL_MS * 10);
  assert.equal(looks, before, "it is looked at for nobody");
});

test("Listeners: who comes when there are too many takes the place of the oldest", async () => {
  const listeners = new Listeners(async () => {}, INTERVAL_MS);
  const streams = [1, 2, 3].map(() => listeners.add(undefined));
  listeners.endOldest(4);
  assert.equal(listeners.size, 3);
  listeners.endOldest(2);
  assert.equal(listeners.size, 1);
  assert.equal((await streams[0]!.next()).done, true);
  assert.equal((await streams[2]!.next()).done, false);
  listeners.end();
});

test("EventStream: whoever stops reading is not listened to any more, and told nothing", async () => {
  const listeners = new Listeners(async () => {}, INTERVAL_MS);
  const stream = listeners.add(undefined);
  for await (const chunk of stream) {
    assert.match(Buffer.from(chunk).toString(), /^: hello/);
    break;
  }
  assert.equal(listeners.size, 0);
  stream.send("late");
  assert.equal((await stream.next()).done, true);
});
