import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { coverage, coverageText } from "../../testing/control-plane/api-coverage.ts";

test("API v2: every operation that Neon publishes is done, or says that it is not", () => {
  assert.deepEqual(
    coverage().filter(({ how }) => how === undefined),
    [],
  );
});

test("docs/api-coverage.md tells it; UPDATE=1 writes it", () => {
  const path = join(import.meta.dirname, "..", "..", "docs", "api-coverage.md");
  if (process.env["UPDATE"] === "1") {
    writeFileSync(path, coverageText());
  }
  assert.equal(readFileSync(path, "utf8"), coverageText());
});
