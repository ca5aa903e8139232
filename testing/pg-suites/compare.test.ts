import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { compareOutputs, type Outputs, parseSummary, readOutputs } from "./compare.ts";

function outputs(files: Record<string, string>): Outputs {
  return new Map(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)]));
}

function verdicts(...[stock, ours, again]: Record<string, string>[]): Record<string, string> {
  const compared = compareOutputs(
    outputs(stock!),
    outputs(ours!),
    again === undefined ? undefined : outputs(again),
  );
  return Object.fromEntries(compared.map(({ name, verdict }) => [name, verdict]));
}

test("compareOutputs: a file is equal by its bytes only", () => {
  const [same, other] = compareOutputs(
    outputs({ "a.out": "1\n", "b.out": "1\n2\n" }),
    outputs({ "a.out": "1\n", "b.out": "1\n3\n" }),
  );
  assert.deepEqual(same, { name: "a.out", verdict: "equal", diff: "" });
  assert.equal(other?.verdict, "different");
  assert.match(other?.diff ?? "", /--- stock\/b\.out[\s\S]*\+\+\+ strata\/b\.out[\s\S]*-2\n\+3/);
});

test("compareOutputs: a file that one side lacks is different, an empty one too", () => {
  const compared = compareOutputs(outputs({ "a.out": "" }), outputs({ "b.out": "" }));
  assert.deepEqual(compared, [
    { name: "a.out", verdict: "different", diff: "only on stock: a.out\n" },
    { name: "b.out", verdict: "different", diff: "only on Strata: b.out\n" },
  ]);
});

test("compareOutputs: unstable is only what stock itself writes in two ways", () => {
  assert.deepEqual(
    verdicts(
      { "same.out": "1", "wrong.out": "1", "loose.out": "1", "gone.out": "1" },
      { "same.out": "1", "wrong.out": "2", "loose.out": "2" },
      { "same.out": "3", "wrong.out": "1", "loose.out": "3", "gone.out": "1" },
    ),
    {
      "same.out": "equal",
      "wrong.out": "different",
      "loose.out": "unstable",
      "gone.out": "different",
    },
  );
});

test("readOutputs: files in folders too, and bytes that are no UTF-8", () => {
  const directory = mkdtempSync(join(tmpdir(), "strata-outputs-"));
  try {
    mkdirSync(join(directory, "inner"));
    writeFileSync(join(directory, "inner", "a.out"), Buffer.from([0xff, 0xfe]));
    writeFileSync(join(directory, "b.out"), "");
    const read = readOutputs(directory);
    assert.deepEqual([...read.keys()].toSorted(), ["b.out", join("inner", "a.out")]);
    const ours = new Map(read).set(join("inner", "a.out"), Buffer.from([0xff, 0xfd]));
    assert.deepEqual(
      compareOutputs(read, ours).map(({ verdict }) => verdict),
      ["equal", "different"],
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("parseSummary: both of pg_regress's ways to say it; none where it broke off", () => {
  assert.deepEqual(parseSummary("=====\n All 215 tests passed. \n====="), {
    tests: 215,
    unexpected: 0,
  });
  assert.deepEqual(parseSummary("\n 3 of 215 tests failed. \n"), { tests: 215, unexpected: 3 });
  assert.deepEqual(parseSummary("1..222\n# 12 of 222 tests failed.\n"), {
    tests: 222,
    unexpected: 12,
  });
  assert.equal(parseSummary("test boolean ... ok 12 ms\npsql: error: no connection"), undefined);
});
