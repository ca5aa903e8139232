import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { giveTemplate, keepTemplate } from "./initdb-templates.ts";

test("templates: the first home of a run and a major gives its own to those that come after", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-templates-test-"));
  const before = process.env["STRATA_TEST_TEMPLATES"];
  t.after(() => {
    delete process.env["STRATA_TEST_TEMPLATES"];
    Object.assign(process.env, before === undefined ? {} : { STRATA_TEST_TEMPLATES: before });
    rmSync(directory, { recursive: true });
  });
  const makeHome = (name: string, settings: object) => {
    const home = join(directory, name);
    mkdirSync(home);
    writeFileSync(join(home, "config.json"), JSON.stringify(settings));
    return home;
  };
  const startedHome = (name: string, settings: object) => {
    const home = makeHome(name, settings);
    mkdirSync(join(home, "pageserver_1", "initdb", "17.1-p"), { recursive: true });
    for (const file of ["superuser.password", "superuser.scram"]) {
      writeFileSync(join(home, file), name);
    }
    writeFileSync(join(home, "pageserver_1", "initdb", "17.1-p", "template.json"), name);
    return home;
  };
  const first = startedHome("first", { pgVersion: 17 });
  delete process.env["STRATA_TEST_TEMPLATES"];
  keepTemplate(first);
  assert.equal(giveTemplate(makeHome("no-run", { pgVersion: 17 })), false);

  const run = join(directory, "run");
  mkdirSync(run);
  process.env["STRATA_TEST_TEMPLATES"] = run;
  const later = makeHome("later", { pgVersion: 17 });
  assert.equal(giveTemplate(later), false);
  keepTemplate(first);
  keepTemplate(startedHome("second", { pgVersion: 17 }));
  assert.deepEqual(readdirSync(run), ["17"]);
  assert.equal(giveTemplate(later), true);
  for (const path of ["superuser.password", "pageserver_1/initdb/17.1-p/template.json"]) {
    assert.equal(readFileSync(join(later, path), "utf8"), "first");
  }
  // Another major, and binaries of somebody's own.
  assert.equal(giveTemplate(makeHome("other", { pgVersion: 16 })), false);
  assert.equal(giveTemplate(makeHome("own", { pgVersion: 17, pgBin: "/opt/pg" })), false);
});
