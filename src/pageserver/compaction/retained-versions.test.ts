import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  VALUE_DELTA,
  VALUE_DELTA_INIT,
  VALUE_IMAGE,
  VALUE_TOMBSTONE,
} from "../layers/version-chain.ts";
import {
  ACTION_DROP,
  ACTION_IMAGE,
  ACTION_KEEP,
  ACTION_KEEP_WITH_IMAGE,
  MAX_CHAIN_DELTAS,
  type Retention,
  VersionPlan,
} from "./retained-versions.ts";

interface Version {
  readonly kind: number;
  readonly lsn: number;
  readonly length: number;
  /** What the key is after it, in words; undefined: not there. */
  readonly state: string | undefined;
}

interface Output extends Version {
  readonly number: number;
}

const BELOW = "below";

/** The state after each version: a list of what was done to the key. */
function history(
  versions: readonly Omit<Version, "state">[],
  below: string | undefined,
): Version[] {
  let state = below;
  return versions.map((version, i) => {
    switch (version.kind) {
      case VALUE_IMAGE:
        state = `image ${i}`;
        break;
      case VALUE_DELTA_INIT:
        state = `zero, ${i}`;
        break;
      case VALUE_DELTA:
        state = `${state ?? "zero"}, ${i}`;
        break;
      default:
        state = undefined;
    }
    return { ...version, state };
  });
}

function carryOut(
  versions: readonly Version[],
  retention: Retention,
  situation: { stateBelow: boolean; addImages: boolean; continues: boolean },
): Output[] {
  const plan = new VersionPlan();
  const columns = {
    kinds: Uint8Array.from(versions, ({ kind }) => kind),
    lsns: Float64Array.from(versions, ({ lsn }) => lsn),
    lengths: Uint32Array.from(versions, ({ length }) => length),
  };
  plan.make(columns, 0, versions.length, retention, situation);
  return versions.flatMap((version, number) => {
    const action = plan.actions[number];
    const image = { ...version, kind: VALUE_IMAGE, length: PAGE_SIZE, number };
    switch (action) {
      case ACTION_DROP:
        return [];
      case ACTION_KEEP:
        return [{ ...version, number }];
      case ACTION_IMAGE:
        return [image];
      default:
        assert.equal(action, ACTION_KEEP_WITH_IMAGE);
        return [{ ...version, number }, image];
    }
  });
}

/** What a read at `lsn` meets, newest first, and the state that it makes of that. */
function read(outputs: readonly Output[], lsn: number, below: string | undefined) {
  const met: Output[] = [];
  let state = below;
  for (const output of outputs.filter((one) => one.lsn <= lsn).toReversed()) {
    met.push(output);
    if (output.kind !== VALUE_DELTA) {
      state = output.kind === VALUE_IMAGE ? output.state : undefined;
      break;
    }
  }
  for (const { kind, number } of met.toReversed()) {
    if (kind === VALUE_DELTA_INIT) {
      state = `zero, ${number}`;
    } else if (kind === VALUE_DELTA) {
      state = `${state ?? "zero"}, ${number}`;
    }
  }
  return { met, state };
}

function stateAt(versions: readonly Version[], lsn: number, below: string | undefined) {
  const newest = versions.findLast((version) => version.lsn <= lsn);
  return newest === undefined ? below : newest.state;
}

const isDelta = ({ kind }: Output) => kind === VALUE_DELTA || kind === VALUE_DELTA_INIT;

const pageHistory = fc.array(
  fc.record({
    kind: fc.oneof(
      { weight: 20, arbitrary: fc.constant<number>(VALUE_DELTA) },
      {
        weight: 1,
        arbitrary: fc.constantFrom<number[]>(VALUE_IMAGE, VALUE_DELTA_INIT, VALUE_TOMBSTONE),
      },
    ),
    gap: fc.nat(3),
    length: fc.constantFrom<number[]>(10, 100, 300, 3000),
  }),
  { minLength: 1, maxLength: 120, size: "max" },
);
const valueHistory = fc.array(
  fc.record({
    kind: fc.constantFrom<number[]>(VALUE_IMAGE, VALUE_IMAGE, VALUE_TOMBSTONE),
    gap: fc.nat(3),
    length: fc.nat(100_000),
  }),
  { minLength: 1, maxLength: 30 },
);

const situations = fc.record({
  steps: fc.oneof(pageHistory, valueHistory),
  points: fc.uniqueArray(fc.integer({ min: 1, max: 200 }), { maxLength: 6 }),
  dropping: fc.boolean(),
  stateBelow: fc.boolean(),
  addImages: fc.boolean(),
  continues: fc.boolean(),
});

test("VersionPlan: every retained LSN and all above the cutoff read as before, nothing else stays", () => {
  fc.assert(
    fc.property(situations, ({ steps, points, dropping, ...situation }) => {
      let lsn = 1;
      const below = situation.stateBelow ? BELOW : undefined;
      const versions = history(
        steps.map(({ kind, gap, length }) => {
          lsn += gap;
          return { kind, lsn, length: kind === VALUE_IMAGE && length > 300 ? PAGE_SIZE : length };
        }),
        below,
      );
      const retained = dropping ? points.toSorted((a, b) => a - b) : [];
      const cutoff = retained.at(-1) ?? 0;
      const outputs = carryOut(versions, { retained, cutoff }, situation);
      const reached = new Set<Output>();
      for (const point of retained) {
        const { met, state } = read(outputs, point, below);
        assert.equal(state, stateAt(versions, point, below), `at ${point}`);
        assert.ok(met.filter(isDelta).length <= MAX_CHAIN_DELTAS, `chain at ${point}`);
        for (const output of met) {
          reached.add(output);
        }
      }
      for (let at = cutoff + 1; at <= lsn + 1; at++) {
        assert.equal(read(outputs, at, below).state, stateAt(versions, at, below), `at ${at}`);
      }
      assert.deepEqual(
        versions.filter((version) => version.lsn > cutoff).length,
        outputs.filter((one) => one.lsn > cutoff && versions[one.number]!.kind === one.kind).length,
      );
      if (situation.addImages) {
        const newest = read(outputs, lsn, below).met.filter(isDelta);
        assert.ok(newest.length <= MAX_CHAIN_DELTAS, `chain at ${lsn}`);
      }
      checkSmall(outputs, retained, reached, situation.continues ? lsn : -1);
    }),
    { numRuns: 2000 },
  );
});

/** Below the cutoff: only what reads meet, and an interval's deltas are no larger than an image. */
function checkSmall(
  outputs: readonly Output[],
  retained: readonly number[],
  reached: ReadonlySet<Output>,
  segmentEnd: number,
): void {
  retained.forEach((point, i) => {
    const from = retained[i - 1] ?? 0;
    const own = outputs.filter((one) => one.lsn > from && one.lsn <= point);
    const deltaBytes = own.filter(isDelta).reduce((sum, { length }) => sum + length, 0);
    assert.ok(deltaBytes <= PAGE_SIZE, `${deltaBytes} bytes of deltas up to ${point}`);
    for (const output of own) {
      assert.ok(
        reached.has(output) || output.lsn === segmentEnd,
        `version ${output.number} can be reached by no read`,
      );
    }
    assert.ok(own.filter((one) => one.kind === VALUE_IMAGE).length <= 1);
  });
}

const SITUATION = { stateBelow: false, addImages: true, continues: false };
const kindsOf = (outputs: readonly Output[]) => outputs.map(({ kind, lsn }) => [kind, lsn]);
const deltas = (count: number, length: number, first = 1): Omit<Version, "state">[] =>
  Array.from({ length: count }, (_, i) => ({ kind: VALUE_DELTA, lsn: first + i, length }));

test("VersionPlan: deltas that are larger than a page, or too many, become one image", () => {
  const at = { retained: [1000], cutoff: 1000 };
  const plan = (steps: Omit<Version, "state">[]) =>
    kindsOf(carryOut(history(steps, BELOW), at, { ...SITUATION, stateBelow: true }));
  assert.equal(plan(deltas(32, 256)).length, 32);
  assert.deepEqual(plan(deltas(33, 10)), [[VALUE_IMAGE, 33]]);
  assert.deepEqual(plan(deltas(2, 4097)), [[VALUE_IMAGE, 2]]);
  assert.equal(plan(deltas(2, 4096)).length, 2);
  const image = { kind: VALUE_IMAGE, lsn: 1, length: PAGE_SIZE };
  assert.deepEqual(plan([image, ...deltas(1, 10, 2)]), [[VALUE_IMAGE, 2]]);
});

test("VersionPlan: the chain is counted across retained LSNs", () => {
  const at = { retained: [20, 40], cutoff: 40 };
  const outputs = carryOut(history(deltas(40, 10), BELOW), at, { ...SITUATION, stateBelow: true });
  assert.deepEqual(kindsOf(outputs).slice(20), [[VALUE_IMAGE, 40]]);
});

test("VersionPlan: a tombstone stays only where it hides something", () => {
  const tombstone: Omit<Version, "state"> = { kind: VALUE_TOMBSTONE, lsn: 5, length: 0 };
  const image = { kind: VALUE_IMAGE, lsn: 2, length: 10 };
  const plan = (steps: Omit<Version, "state">[], retained: number[], stateBelow: boolean) =>
    kindsOf(
      carryOut(history(steps, undefined), { retained, cutoff: 9 }, { ...SITUATION, stateBelow }),
    );
  assert.deepEqual(plan([tombstone], [9], false), []);
  assert.deepEqual(plan([tombstone], [9], true), [[VALUE_TOMBSTONE, 5]]);
  assert.deepEqual(plan([image, tombstone], [9], false), []);
  assert.deepEqual(plan([image, tombstone], [3, 9], false), [
    [VALUE_IMAGE, 2],
    [VALUE_TOMBSTONE, 5],
  ]);
});

test("VersionPlan: above the cutoff images come beside the deltas, where the chain is long", () => {
  const none = { retained: [], cutoff: 0 };
  const images = (count: number, length: number) =>
    carryOut(history(deltas(count, length), BELOW), none, SITUATION)
      .filter(({ kind }) => kind === VALUE_IMAGE)
      .map(({ lsn }) => lsn);
  assert.deepEqual(images(31, 10), []);
  assert.deepEqual(images(32, 10), [32]);
  assert.deepEqual(images(3, 3000), [3]);
  assert.deepEqual(images(600, 10), [256, 512, 600]);
});
