import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { sourceStack } from "./source-positions.ts";

test("sourceStack: a bundle's positions become those of its sources, others stay", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata positions-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  // Its third line is line 12, column 5 of the source (VLQ: column 0, source 0, line +11, column +4).
  const map = { version: 3, sources: ["../src/disk.ts"], names: [], mappings: ";;AAWI" };
  writeFileSync(join(directory, "pageserver-12ab.code.js.map"), JSON.stringify(map));
  const url = (name: string) => pathToFileURL(join(directory, name)).href;
  const stack = (...positions: string[]) =>
    ["Error: full", ...positions.map((at) => `    at write (${at})`)].join("\n");
  const source = new URL("../src/disk.ts", url("x"));
  assert.equal(
    sourceStack(stack(`${url("pageserver-12ab.code.js")}:3:1`, "node:fs:10:2")),
    stack(`${source}:12:5`, "node:fs:10:2"),
  );
  const gone = stack(`${url("pageserver-34cd.code.js")}:3:1`);
  assert.equal(sourceStack(gone), gone);
});
