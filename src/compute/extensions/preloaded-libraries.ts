// Refuses libraries with a WAL resource manager of their own before Postgres loads them: storage could not replay what they write.
//
// RegisterCustomRmgr (15 and later) works in libraries of shared_preload_libraries only, so there is no other way in. A library
// that calls it imports it.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { PRELOAD_SETTINGS } from "../api.ts";
import { readElfImports } from "../shim/elf-imports.ts";

const SEARCH_PATH = "dynamic_library_path";
const REGISTER = "RegisterCustomRmgr";

/**
 * StorageError `unsupported` names the setting and the library. What is no library at all is left to Postgres, which says so.
 * `libraryDirectory`: what `$libdir` means.
 */
export function refuseResourceManagers(
  settings: Readonly<Record<string, string>>,
  libraryDirectory: string,
): void {
  const lower = new Map(
    Object.entries(settings).map(([name, value]) => [name.toLowerCase(), value]),
  );
  const searchPath = (lower.get(SEARCH_PATH) ?? "$libdir").split(":");
  for (const setting of PRELOAD_SETTINGS) {
    for (const name of libraryNames(lower.get(setting) ?? "")) {
      const path = findLibrary(name, { libraryDirectory, searchPath, setting });
      if (path !== undefined && registersResourceManager(path)) {
        throw new StorageError(
          "unsupported",
          "custom-resource-manager",
          `${setting}: library '${name}' has a WAL resource manager of its own (${REGISTER}), whose records storage ` +
            "cannot replay: extensions with one are not supported",
        );
      }
    }
  }
}

/** As SplitDirectoriesString has them (utils/adt/varlena.c): at commas, what is in double quotes as it stands. */
export function libraryNames(list: string): string[] {
  const names: string[] = [];
  for (const [, quoted, plain] of list.matchAll(/\s*(?:"((?:[^"]|"")*)"|([^,]*))\s*(?:,|$)/g)) {
    const name = quoted?.replaceAll('""', '"') ?? plain!.trim();
    if (name !== "") {
      names.push(name);
    }
  }
  return names;
}

/** As expand_dynamic_library_name (utils/fmgr/dfmgr.c); undefined where there is none. */
function findLibrary(
  name: string,
  where: { libraryDirectory: string; searchPath: readonly string[]; setting: string },
): string | undefined {
  const { libraryDirectory, searchPath, setting } = where;
  const inLibdir = (path: string) => path.replace(/^\$libdir(?=\/|$)/, libraryDirectory);
  // load_libraries (utils/init/miscinit.c) puts that in front of names without a directory.
  const full =
    setting === "local_preload_libraries" && !name.includes("/") ? `$libdir/plugins/${name}` : name;
  const candidates = full.includes("/")
    ? [inLibdir(full)]
    : searchPath.map((directory) => join(inLibdir(directory.trim()), full));
  return candidates
    .flatMap((path) => [path, `${path}.so`])
    .find((path) => path.startsWith("/") && existsSync(path));
}

function registersResourceManager(path: string): boolean {
  try {
    return readElfImports(path).functions.some(({ name }) => name === REGISTER);
  } catch {
    // Not a library, or not to be read by us.
    return false;
  }
}
