// What initdb makes for the homes of a run of tests, made once: the first home's is kept and given to those that come after.
//
// $STRATA_TEST_TEMPLATES is the run's folder, which scripts/checks.ts makes and removes; a test file that is run by itself does
// without. Below it is a folder for each major: the layer that root timelines begin with, and the superuser's password, which
// is in that layer.

import { cpSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { keepOnce } from "./keep-once.ts";

/** Below a home. The password is read when the pageserver starts, the layer when the first tenant is made. */
const FILES = ["superuser.password", "superuser.scram", join("pageserver_1", "initdb")];

/** Where that of a home's major is or will be; undefined: there is none for it. */
function templateOf(home: string): string | undefined {
  const directory = process.env["STRATA_TEST_TEMPLATES"];
  const { pgVersion, pgBin } = JSON.parse(readFileSync(join(home, "config.json"), "utf8"));
  return directory === undefined || pgBin !== undefined
    ? undefined
    : join(directory, `${pgVersion}`);
}

/** To a home that was never started; whether there is one yet. */
export function giveTemplate(home: string): boolean {
  const template = templateOf(home);
  if (template === undefined || !existsSync(template)) {
    return false;
  }
  copyFiles(template, home);
  return true;
}

/** From a home that has just had its first tenant. Of several at once one is kept. */
export function keepTemplate(home: string): void {
  const template = templateOf(home);
  if (template === undefined || existsSync(template)) {
    return;
  }
  keepOnce(template, (unfinished) => copyFiles(home, unfinished));
}

function copyFiles(from: string, to: string): void {
  for (const path of FILES) {
    cpSync(join(from, path), join(to, path), { recursive: true });
  }
}
