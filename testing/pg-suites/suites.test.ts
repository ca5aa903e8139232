import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { coreSuite, extensionSuite, scheduleWithout } from "./suites.ts";

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

test("extensionSuite: the tests of a PGXS source tree that have an expected output, there or below test", () => {
  const directory = mkdtempSync(join(tmpdir(), "strata-suite-extension-"));
  try {
    assert.throws(() => extensionSuite("vector", directory, []), /has no tests$/);
    for (const below of ["", "test"]) {
      for (const [folder, name] of Object.entries({ sql: "b.sql", expected: "b.out" })) {
        mkdirSync(join(directory, below, folder), { recursive: true });
        writeFileSync(join(directory, below, folder, name), "");
        writeFileSync(join(directory, below, folder, name.replace("b", "a")), "");
      }
      writeFileSync(join(directory, below, "sql", "unfinished.sql"), "");
      const suite = extensionSuite("vector", directory, []);
      assert.equal(suite.folder, join(directory, below));
      assert.deepEqual(suite.args.slice(1), ["--load-extension=vector", "a", "b"]);
    }
    assert.deepEqual(extensionSuite("vector", directory, ["b"]).args.slice(2), ["b"]);
    assert.deepEqual(extensionSuite("vector", directory, [], ["b"]).args.slice(2), ["a"]);
    assert.throws(
      () => extensionSuite("vector", directory, ["unfinished"]),
      /has no tests unfinished$/,
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});
