// What is made once for a run of tests: whole or not at all, and of several that make it at once one is kept.

import { mkdtempSync, renameSync, rmSync } from "node:fs";
import { errnoCode } from "../../src/base/errors.ts";

/** `fill` puts it into a directory that then becomes `template`, unless there is one by then. */
export function keepOnce(template: string, fill: (unfinished: string) => void): void {
  const unfinished = mkdtempSync(`${template}-`);
  try {
    fill(unfinished);
    renameSync(unfinished, template);
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true });
    if (errnoCode(error) !== "ENOTEMPTY" && errnoCode(error) !== "EEXIST") {
      throw error;
    }
  }
}
