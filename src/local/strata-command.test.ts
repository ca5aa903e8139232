import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { commandIn } from "./strata-command.ts";

const MY_UID = process.getuid?.() ?? 0;

function temporaryDirectory(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "strata command-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function installedIn(parent: string): string {
  const root = join(parent, "strata-postgres");
  mkdirSync(join(root, "scripts"), { recursive: true });
  writeFileSync(join(root, "scripts", "strata.mjs"), "");
  return root;
}

test("strataCommand: npx in a checkout of ours, the script by its path elsewhere and in another's", (t) => {
  const root = installedIn(temporaryDirectory(t));
  const script = `'${root}/scripts/strata.mjs'`;
  const around = { root, isCheckout: true, uid: MY_UID, path: "" };
  assert.equal(commandIn({ ...around, cwd: root }), "npx strata");
  assert.equal(commandIn({ ...around, cwd: join(root, "scripts") }), "npx strata");
  // There, npx would fetch the package of that name, which is not ours.
  assert.equal(commandIn({ ...around, cwd: `${root}-2` }), script);
  assert.equal(commandIn({ ...around, cwd: root, uid: MY_UID + 54321 }), script);
});

test("strataCommand: by npx as npx was asked, in a project npx strata, globally installed strata", (t) => {
  const project = temporaryDirectory(t);
  const root = installedIn(join(project, "node_modules"));
  const around = { root, isCheckout: false, uid: MY_UID, path: "", cwd: "/" };
  assert.equal(commandIn({ ...around, cwd: project }), "npx strata");
  assert.equal(commandIn(around), `'${root}/scripts/strata.mjs'`);
  writeFileSync(join(project, "strata"), "");
  assert.equal(commandIn({ ...around, path: `/nowhere:${project}` }), "strata");
  const asked = (packages: string[]) => {
    const dependencies = { "strata-postgres": "file:../a b/strata-postgres-0.1.0.tgz" };
    const made = JSON.stringify({ dependencies, _npx: { packages } });
    writeFileSync(join(project, "package.json"), made);
  };
  asked(["strata-postgres@0.1.0"]);
  assert.equal(commandIn(around), "npx strata-postgres@0.1.0");
  asked(["/a b/strata-postgres-0.1.0.tgz"]);
  assert.equal(commandIn(around), "npx '/a b/strata-postgres-0.1.0.tgz'");
  asked(["./strata"]);
  assert.equal(commandIn({ ...around, cwd: project }), "npx ./strata");
  // Asked for in another folder than we are in now.
  const file = join(project, "..", "a b", "strata-postgres-0.1.0.tgz");
  assert.equal(commandIn({ ...around, cwd: "/" }), `npx '${file}'`);
});

test("strataCommand: npm 9 does not note what npx was asked for, but what it took it for", (t) => {
  const root = mkdtempSync(join(tmpdir(), "strata-command-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const project = join(root, "_npx", "0123456789abcdef");
  const installed = join(project, "node_modules", "strata-postgres");
  const folder = join(root, "my app");
  mkdirSync(installed, { recursive: true });
  const around = { root: installed, isCheckout: false, cwd: folder, uid: 1000, path: "" };
  const tookItFor = (dependencies: Record<string, string>) =>
    writeFileSync(join(project, "package.json"), JSON.stringify({ dependencies }));
  tookItFor({ "strata-postgres": "file:../../my app/strata-postgres-0.1.0.tgz" });
  assert.equal(commandIn(around), "npx ./strata-postgres-0.1.0.tgz");
  const elsewhere = { ...around, cwd: "/" };
  assert.equal(commandIn(elsewhere), `npx '${join(folder, "strata-postgres-0.1.0.tgz")}'`);
  assert.match(
    commandIn({ ...around, cwd: installed }),
    /^npx '\/.*\/strata-postgres-0\.1\.0\.tgz'$/,
  );
  tookItFor({ "strata-postgres": "^0.1.0" });
  assert.equal(commandIn(around), "npx strata-postgres");
  tookItFor({ "strata-postgres": "^0.1.0", other: "1" });
  assert.doesNotMatch(commandIn(around), /^npx/);
});
