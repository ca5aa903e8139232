import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { coreSuite, scheduleWithout } from "./suites.ts";

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

test("coreSuite: pg_regress is told to make the location of tablespaces where their test has one", () => {
  const directory = mkdtempSync(join(tmpdir(), "strata-suite-source-"));
  try {
    const argsOf = (version: string) =>
      coreSuite("regress", { directory, source: { directory, version } }, []).args;
    assert.ok(!argsOf("15.18").includes("--make-testtablespace-dir"));
    const input = join(directory, "src", "test", "regress", "input");
    mkdirSync(input, { recursive: true });
    writeFileSync(join(input, "tablespace.source"), "");
    assert.ok(argsOf("14.23").includes("--make-testtablespace-dir"));
  } finally {
    rmSync(directory, { recursive: true });
  }
});
