import assert from "node:assert/strict";
import { test } from "node:test";
import { turn } from "../../base/clock.ts";
import { Turns } from "./turns.ts";

test("Turns: so many at once, in order, also after one that fails", async () => {
  const turns = new Turns(3);
  const begun: number[] = [];
  let running = 0;
  let most = 0;
  const works = Array.from({ length: 20 }, (_, number) =>
    turns.run(async () => {
      begun.push(number);
      running++;
      most = Math.max(most, running);
      await turn();
      running--;
      if (number % 4 === 0) {
        throw new Error("no");
      }
      return number;
    }),
  );
  const ends = await Promise.allSettled(works);
  assert.equal(most, 3);
  assert.deepEqual(
    begun,
    Array.from({ length: 20 }, (_, number) => number),
  );
  assert.equal(ends.filter(({ status }) => status === "rejected").length, 5);
  assert.equal(await turns.run(async () => 1), 1);
});
