import assert from "node:assert/strict";
import { test } from "node:test";
import { Histogram, histogramHead } from "./histogram.ts";

test("Histogram: counts are cumulative, a bound belongs to its bucket", () => {
  const histogram = new Histogram([1, 2.5]);
  for (const value of [0.5, 1, 2, 2.5, 2.75, 100]) {
    histogram.observe(value);
  }
  assert.deepEqual(histogram.lines("a", 'x="y"'), [
    'a_bucket{x="y",le="1"} 2',
    'a_bucket{x="y",le="2.5"} 4',
    'a_bucket{x="y",le="+Inf"} 6',
    'a_sum{x="y"} 108.75',
    'a_count{x="y"} 6',
  ]);
  assert.deepEqual(new Histogram([1]).lines("b", ""), [
    'b_bucket{le="1"} 0',
    'b_bucket{le="+Inf"} 0',
    "b_sum 0",
    "b_count 0",
  ]);
  assert.deepEqual(histogramHead("b", "what"), ["# HELP b what", "# TYPE b histogram"]);
});
