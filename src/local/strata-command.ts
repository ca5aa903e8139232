// How to type the `strata` command where we were started, for hints that work when they are copied.

import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { IS_CHECKOUT, ROOT } from "../base/program-files.mjs";

/** What the answer depends on; a test gives its own. */
export interface Surroundings {
  /** The checkout, or the directory of the installed npm package. */
  readonly root: string;
  readonly isCheckout: boolean;
  readonly cwd: string;
  readonly uid: number;
  readonly path: string;
}

let cached: string | undefined;

/**
 * `npx strata` in a checkout or a project that has the package. Not elsewhere: of that name npx would
 * fetch somebody else's package. `npx PACKAGE` where npx started us without installing, `strata`
 * where the package is installed globally, else the script by its path.
 */
export function strataCommand(): string {
  cached ??= commandIn({
    root: ROOT,
    isCheckout: IS_CHECKOUT,
    cwd: process.cwd(),
    uid: process.getuid?.() ?? 0,
    path: process.env["PATH"] ?? "",
  });
  return cached;
}

export function commandIn(around: Surroundings): string {
  const script = join(around.root, "scripts", "strata.mjs");
  if (around.isCheckout) {
    // npx wants to change the mode of the script, which its owner alone may do.
    const isOurs = around.uid === 0 || statSync(script).uid === around.uid;
    return isOurs && isWithin(around.cwd, around.root) ? "npx strata" : shellWord(script);
  }
  const modules = dirname(around.root);
  const project = basename(modules) === "node_modules" ? dirname(modules) : undefined;
  const fetched = project === undefined ? undefined : packageGivenToNpx(project, around.cwd);
  if (fetched !== undefined) {
    return `npx ${shellWord(fetched)}`;
  }
  if (project !== undefined && isWithin(around.cwd, project)) {
    return "npx strata";
  }
  const isOnPath = around.path.split(":").some((one) => existsSync(join(one, "strata")));
  return isOnPath ? "strata" : shellWord(script);
}

/** npx keeps what it fetched in a project of its own, which says what it was asked for. */
function packageGivenToNpx(project: string, cwd: string): string | undefined {
  try {
    const text = readFileSync(join(project, "package.json"), "utf8");
    const { _npx: made, dependencies } = JSON.parse(text) as NpxProject;
    if (made === undefined) {
      return basename(dirname(project)) === "_npx"
        ? onlyDependency(project, cwd, dependencies ?? {})
        : undefined;
    }
    if (made.packages?.length !== 1) {
      return undefined;
    }
    const [asked] = made.packages;
    // A file's name counts from where it was first asked for.
    return asked!.startsWith(".") && !existsSync(resolve(cwd, asked!))
      ? resolve(project, Object.values(dependencies ?? {})[0]?.replace(/^file:/, "") ?? asked!)
      : asked;
  } catch {
    return undefined;
  }
}

/** npm 9 (of Debian 12) notes only what it resolved the argument to. */
function onlyDependency(
  project: string,
  cwd: string,
  dependencies: Readonly<Record<string, string>>,
): string | undefined {
  const [[name, spec] = [], ...others] = Object.entries(dependencies);
  if (spec?.startsWith("file:") !== true || others.length > 0) {
    return others.length > 0 ? undefined : name;
  }
  const path = resolve(project, spec.slice("file:".length));
  return isWithin(path, cwd) ? `./${relative(cwd, path)}` : path;
}

interface NpxProject {
  readonly _npx?: { readonly packages?: readonly string[] };
  readonly dependencies?: Readonly<Record<string, string>>;
}

function isWithin(path: string, directory: string): boolean {
  return `${path}${sep}`.startsWith(`${directory}${sep}`);
}

/** As a shell takes it for one word. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
