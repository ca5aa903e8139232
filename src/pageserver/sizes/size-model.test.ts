import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type SizePoint, smallestSize } from "./size-model.ts";

const point = (
  parent: number | undefined,
  walBytes: number,
  logicalBytes: number,
  isNeeded = false,
): SizePoint => ({ parent, walBytes, logicalBytes, isNeeded });

test("smallestSize: cases by hand", () => {
  const cases: [string, SizePoint[], number][] = [
    ["nothing is needed", [point(undefined, 0, 100)], 0],
    ["one state", [point(undefined, 0, 100), point(0, 0, 100, true)], 100],
    [
      "a window: the state where it begins, and its WAL",
      [point(undefined, 0, 100), point(0, 7, 500, true)],
      107,
    ],
    [
      "two states, little WAL between them: one snapshot and WAL",
      [point(undefined, 0, 100), point(0, 0, 100, true), point(0, 30, 120), point(2, 0, 120, true)],
      130,
    ],
    [
      "two states, much WAL between them: two snapshots",
      [
        point(undefined, 0, 100),
        point(0, 0, 100, true),
        point(0, 300, 120),
        point(2, 0, 120, true),
      ],
      220,
    ],
    [
      "what lies before all that is needed costs nothing",
      [point(undefined, 0, 100), point(0, 300, 120), point(1, 9, 130, true)],
      129,
    ],
    [
      "three branches at one point share it, each with its window",
      [
        point(undefined, 0, 100),
        point(0, 1, 100, true),
        point(0, 2, 100, true),
        point(0, 3, 100, true),
      ],
      106,
    ],
    [
      "an old branch point far below the window has a snapshot of its own",
      [
        point(undefined, 0, 100),
        point(0, 5, 100, true),
        point(0, 1000, 200),
        point(2, 10, 200, true),
      ],
      315,
    ],
  ];
  for (const [what, points, size] of cases) {
    assert.equal(smallestSize(points), size, what);
  }
});

const trees = (maxLength: number) =>
  fc
    .array(
      fc.record({
        seed: fc.nat(1000),
        walBytes: fc.nat(50),
        logicalBytes: fc.nat(60),
        isNeeded: fc.boolean(),
      }),
      { minLength: 1, maxLength },
    )
    .map((drawn) =>
      drawn.map(({ seed, walBytes, logicalBytes, isNeeded }, i): SizePoint => {
        // Sometimes another root.
        const parent = i === 0 || seed % 10 === 0 ? undefined : seed % i;
        return parent === undefined
          ? point(undefined, 0, logicalBytes)
          : point(parent, walBytes, logicalBytes, isNeeded);
      }),
    );

/** All ways to keep snapshots and WAL. */
function bruteForce(points: readonly SizePoint[]): number {
  const n = points.length;
  let best = Number.POSITIVE_INFINITY;
  for (let choice = 0; choice < 4 ** n; choice++) {
    const hasSnapshot = (i: number) => ((choice >> i) & 1) === 1;
    const hasWal = (i: number) => ((choice >> (n + i)) & 1) === 1;
    const isThere: boolean[] = [];
    let cost = 0;
    let isEnough = true;
    for (const [i, { parent, walBytes, logicalBytes, isNeeded }] of points.entries()) {
      const before = parent !== undefined && isThere[parent]!;
      isThere.push(hasSnapshot(i) || (hasWal(i) && before));
      isEnough &&= !isNeeded || (hasWal(i) && before);
      cost += (hasSnapshot(i) ? logicalBytes : 0) + (hasWal(i) ? walBytes : 0);
    }
    best = isEnough ? Math.min(best, cost) : best;
  }
  return best;
}

test("smallestSize: nothing is cheaper, of all ways there are", () => {
  fc.assert(
    fc.property(trees(5), (points) => {
      assert.equal(smallestSize(points), bruteForce(points));
    }),
    { numRuns: 200 },
  );
});

test("smallestSize: never above all snapshots and all WAL, and more is needed where more is read", () => {
  fc.assert(
    fc.property(trees(200), fc.nat(1000), (points, seed) => {
      const size = smallestSize(points);
      const all = points.reduce((sum, one) => sum + one.logicalBytes + one.walBytes, 0);
      assert.ok(size <= all, `${size} of ${all}`);
      const index = seed % points.length;
      const wider = points.map((one, i) =>
        i === index && one.parent !== undefined ? { ...one, isNeeded: true } : one,
      );
      assert.ok(smallestSize(wider) >= size);
    }),
  );
});

test("smallestSize: a longer window is never cheaper, where a database grows no faster than its WAL", () => {
  const steps = fc.array(fc.record({ wal: fc.nat(50), growth: fc.nat(50) }), { minLength: 2 });
  fc.assert(
    fc.property(steps, fc.nat(1000), fc.nat(1000), (drawn, a, b) => {
      const sizeWith = (windowStart: number) => {
        let logicalBytes = 100;
        // Only where the window begins, and at the head, a snapshot may be: as tenant-size.ts has it.
        let wal = 0;
        const points: SizePoint[] = [];
        for (const [i, step] of drawn.entries()) {
          if (i === windowStart) {
            points.push(point(undefined, 0, logicalBytes));
            wal = 0;
          }
          logicalBytes += Math.min(step.growth, step.wal);
          wal += step.wal;
        }
        return smallestSize([...points, point(0, wal, logicalBytes, true)]);
      };
      const [early, late] = [a % drawn.length, b % drawn.length].toSorted((x, y) => x - y);
      assert.ok(sizeWith(early!) >= sizeWith(late!));
    }),
  );
});
