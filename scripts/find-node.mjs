// Chooses the Node that runs Strata: the pinned one where it is installed and can be loaded, else the next best.
//
// Plain JavaScript that any Node from 18 on understands.

import { spawnSync } from "node:child_process";
import { accessSync, chmodSync, constants, realpathSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fetchPackage, findPackageDirectory } from "../src/postgres/package-store.mjs";

/** Below this, Node cannot run TypeScript files directly. */
export const OLDEST_NODE_MAJOR = 24;
const PINNED_PACKAGE = `node-${process.platform}-${process.arch}`;
/** Where Debian keeps what a minimal system can lack of Node's libraries. */
const PACKAGE_OF_LIBRARY = {
  "libatomic.so.1": "libatomic1",
  "libstdc++.so.6": "libstdc++6",
  "libgcc_s.so.1": "libgcc-s1",
};

/** The pinned Node's executable; undefined where it is not installed. */
export function pinnedNode() {
  const directory = findPackageDirectory(PINNED_PACKAGE);
  return directory === undefined ? undefined : executable(join(directory, "bin", "node"));
}

function executable(path) {
  try {
    accessSync(path, constants.X_OK);
  } catch {
    try {
      chmodSync(path, 0o755);
    } catch {
      // Somebody else's file without x bits: as good as none.
      return undefined;
    }
  }
  return path;
}

/**
 * Nodes that may do, best first; the last one is fetched only when it is asked for.
 * `own` (this process) and `path` ($PATH) can be given by a test.
 */
export async function* candidates({
  pinned = pinnedNode,
  fetchPinned = fetchPinnedNode,
  own = { path: process.execPath, version: process.versions.node },
  path = process.env["PATH"] ?? "",
} = {}) {
  const installed = pinned();
  if (installed !== undefined) {
    yield installed;
  }
  if (isNewEnough(own.version)) {
    yield own.path;
  }
  for (const directory of path.split(delimiter)) {
    const found = realpathOf(join(directory, "node"));
    if (found !== undefined && found !== realpathOf(own.path) && found !== realpathOf(installed)) {
      const { version } = probe(found);
      if (version !== undefined && isNewEnough(version)) {
        yield found;
      }
    }
  }
  if (installed === undefined) {
    yield await fetchPinned();
  }
}

async function fetchPinnedNode() {
  const why = `Node ${OLDEST_NODE_MAJOR} or newer is needed, this is ${process.version}`;
  try {
    return executable(join(await fetchPackage(PINNED_PACKAGE), "bin", "node"));
  } catch (error) {
    throw new Error(`${why}, and another one cannot be fetched: ${error.message}`);
  }
}

/** Whether `node` can be loaded here: its version, or why not. */
export function probe(node) {
  const { error, status, stdout, stderr } = spawnSync(node, ["--version"], { encoding: "utf8" });
  if (status === 0 && /^v\d+\./.test(stdout)) {
    return { version: stdout.trim().slice(1) };
  }
  // The kernel says ENOENT of a program whose loader is missing: musl instead of glibc.
  const missingLoader = error?.code === "ENOENT" ? "it needs the GNU C library (glibc)" : undefined;
  const [, library] = /error while loading shared libraries: ([^:\s]+)/.exec(stderr ?? "") ?? [];
  const why =
    missingLoader ?? error?.message ?? (stderr.trim().split("\n").pop() || `exit code ${status}`);
  return { why, library };
}

/** One line for whom no Node is left: what the best one lacks, and the package to install. */
export function explain({ why, library }) {
  const wanted = PACKAGE_OF_LIBRARY[library] ?? library;
  const remedy =
    library === undefined ? "" : `: install ${wanted} (Debian: apt-get install ${wanted}), or`;
  return library === undefined
    ? `the pinned Node does not run here (${why}): install Node ${OLDEST_NODE_MAJOR} or newer`
    : `the pinned Node needs ${library}${remedy} Node ${OLDEST_NODE_MAJOR} or newer`;
}

/** A version as process.versions has it. */
export function isNewEnough(version) {
  return Number(version.split(".")[0]) >= OLDEST_NODE_MAJOR;
}

function realpathOf(path) {
  try {
    return path === undefined ? undefined : realpathSync(path);
  } catch {
    return undefined;
  }
}
