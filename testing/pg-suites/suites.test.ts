import assert from "node:assert/strict";
import { test } from "node:test";
import { scheduleWithout } from "./suites.ts";

const SCHEDULE = "# first\ntest: test_setup\n\ntest: json  jsonb sqljson\ntest: tablespace\n";

test("scheduleWithout: the other tests stay, in their groups", () => {
  assert.equal(
    scheduleWithout(SCHEDULE, ["jsonb", "tablespace"]),
    "# first\ntest: test_setup\n\ntest: json sqljson\n\n",
  );
});

test("scheduleWithout: a test that is not there is told", () => {
  assert.throws(() => scheduleWithout(SCHEDULE, ["json", "jsonpath"]), /has no test jsonpath/);
});
