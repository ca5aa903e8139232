import assert from "node:assert/strict";
import { test } from "node:test";
import { forgetFrugalMalloc, withFrugalMalloc } from "./malloc.ts";

test("withFrugalMalloc: what the user has set stays, for the process and for what it starts", () => {
  const own = { PATH: "/bin", MALLOC_ARENA_MAX: "4", MALLOC_CHECK_: "1" };
  const environment = withFrugalMalloc(own);
  assert.deepEqual(environment, {
    ...own,
    MALLOC_MMAP_THRESHOLD_: "131072",
    MALLOC_TRIM_THRESHOLD_: "131072",
  });
  forgetFrugalMalloc(environment);
  assert.deepEqual(environment, own);
});

test("forgetFrugalMalloc: where nothing was set nothing is left", () => {
  const environment = withFrugalMalloc({});
  assert.equal(Object.keys(environment).length, 3);
  forgetFrugalMalloc(environment);
  assert.deepEqual(environment, {});
});
