// What `--help` of a script prints is the comment that it begins with: it names its command, and each option that it takes.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import packageJson from "../../package.json" with { type: "json" };
import { helpOf } from "../../scripts/run.mjs";

const ROOT = join(import.meta.dirname, "..", "..");
/** By the name of its command. */
const SCRIPTS = Object.entries(packageJson.scripts).flatMap(([name, command]) => {
  const path = /^exec node scripts\/run\.mjs (\S+)$/.exec(command)?.[1];
  return path === undefined ? [] : [[name, path] as const];
});
/** As parseArgs of node:util takes them. */
const OPTION = /^ {2,6}"?([a-z][a-z-]*)"?: \{ type: "(?:string|boolean)"/gm;
/** Between a script and the processes of it that it starts itself. */
const INTERNAL = new Set(["json"]);

test("scripts: --help prints the comment and runs nothing", () => {
  const path = "scripts/long-runs/test-cache.ts";
  const args = ["scripts/run.mjs", path, "--seed", "x", "--help"];
  const { stdout, status } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8" });
  assert.equal(status, 0);
  assert.equal(stdout, helpOf(join(ROOT, path)));
  assert.match(stdout, /^`npm run test:cache`: [^/]+\n$/);
});

test("scripts: the comment names the command and all its options", () => {
  assert.ok(SCRIPTS.length > 20);
  for (const [name, path] of SCRIPTS) {
    const help = helpOf(join(ROOT, path));
    assert.ok(help.includes(name === "test" ? "`npm test" : `\`npm run ${name}`), path);
    for (const [, option] of readFileSync(join(ROOT, path), "utf8").matchAll(OPTION)) {
      assert.ok(INTERNAL.has(option!) || help.includes(`--${option}`), `${path} --${option}`);
    }
  }
});
