// What a user's own directory of extensions must be: where its files are, and that Postgres may read them.

import { realpathSync, statSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import { mayReach, postgresUser } from "./installation.ts";

/** Below it, as `make install prefix=DIR` of 18 makes it: NAME.control and NAME--VERSION.sql. */
export const CONTROL_FILES = "share/extension";
/** Below it: NAME.so. */
export const LIBRARIES = "lib";

/**
 * StorageError `invalid` where `path` has no `share/extension`, or Postgres's user may not enter it. The path without links.
 */
export function checkExtensionDirectory(path: string): string {
  const fail = (why: string) =>
    new StorageError("invalid", "bad-extension-directory", `extension directory '${path}': ${why}`);
  let real: string;
  try {
    real = realpathSync(path);
  } catch {
    throw fail("there is no such directory");
  }
  const controlFiles = join(real, CONTROL_FILES);
  if (statSync(controlFiles, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw fail(
      `it has no ${CONTROL_FILES}, where NAME.control and NAME--VERSION.sql belong; NAME.so belongs into ${LIBRARIES}`,
    );
  }
  const user = postgresUser();
  if (user !== undefined && !mayReach(controlFiles, user)) {
    throw fail(`user '${user.name}', who runs Postgres here, may not read it`);
  }
  return real;
}
