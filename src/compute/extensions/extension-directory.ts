// An installation of Postgres with the extensions of a user's own directory, which stays as it is, as does the installation.
//
// Postgres looks for extensions and libraries relative to its program. So a copy of the program is put into a
// directory of the endpoint's, beside directories of links to what the installation has and what the user has. That is so for
// every major: extension_control_path, which is there from 18 on, is not needed (docs/decisions/0045).

import {
  chmodSync,
  constants,
  copyFileSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { errnoCode } from "../../base/errors.ts";
import {
  CONTROL_FILES,
  checkExtensionDirectory,
  LIBRARIES,
} from "../../postgres/extension-directory.ts";
import type { Installation } from "../../postgres/installation.ts";
import { installationLayout } from "./installation-layout.ts";

const DICTIONARIES = "share/tsearch_data";

/**
 * Makes `target` anew, in which no Postgres runs; its parent is where Postgres's user may enter. What both have is the user's.
 * StorageError `invalid` as `checkExtensionDirectory`, `unsupported` as `installationLayout`.
 */
export function withExtensionDirectory(
  installation: Installation,
  extensionDirectory: string,
  target: string,
): Installation {
  const own = checkExtensionDirectory(extensionDirectory);
  const { prefix, bin, share, lib } = installationLayout(installation);
  const program = join(target, bin, "postgres");
  for (const part of [share, lib]) {
    rmSync(join(target, part), { recursive: true, force: true });
  }
  makeDirectory(target, bin);
  placeProgram(join(installation.binDir, "postgres"), program);
  linkAll(target, share, [join(prefix, share)], ["extension", "tsearch_data"]);
  linkAll(target, join(share, "extension"), [
    join(own, CONTROL_FILES),
    join(prefix, share, "extension"),
  ]);
  linkAll(target, join(share, "tsearch_data"), [
    join(own, DICTIONARIES),
    join(prefix, share, "tsearch_data"),
  ]);
  linkAll(target, lib, [join(own, LIBRARIES), join(prefix, lib)]);
  return { ...installation, binDir: join(target, bin) };
}

/** Links to all that the first of `sources` has, then to what the next has beside it. One that is not there has nothing. */
function linkAll(
  target: string,
  directory: string,
  sources: readonly string[],
  except: readonly string[] = [],
): void {
  makeDirectory(target, directory);
  const taken = new Set(except);
  for (const source of sources) {
    for (const name of namesIn(source)) {
      if (!taken.has(name)) {
        symlinkSync(join(source, name), join(target, directory, name));
        taken.add(name);
      }
    }
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (errnoCode(error) === "ENOENT") {
      return [];
    }
    throw error;
  }
}

/** Everyone may enter, whatever our umask is. */
function makeDirectory(target: string, below: string): void {
  mkdirSync(join(target, below), { recursive: true });
  for (let at = join(target, below); at !== dirname(target); at = dirname(at)) {
    chmodSync(at, 0o755);
  }
}

/**
 * A copy: Postgres would follow a symbolic link to where it comes from, and a hard link changes what all other endpoints know
 * the program by (pages/lazy-files.ts: stamp).
 */
function placeProgram(program: string, at: string): void {
  const { size, mtimeMs } = statSync(program);
  const there = statSync(at, { throwIfNoEntry: false });
  // To the second: not every disk keeps more.
  if (there?.size === size && Math.trunc(there.mtimeMs / 1000) === Math.trunc(mtimeMs / 1000)) {
    return;
  }
  rmSync(at, { force: true });
  copyFileSync(program, `${at}.new`, constants.COPYFILE_FICLONE);
  chmodSync(`${at}.new`, 0o755);
  utimesSync(`${at}.new`, mtimeMs / 1000, mtimeMs / 1000);
  renameSync(`${at}.new`, at);
}
