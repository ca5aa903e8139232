// Runs a script of this repository with the pinned Node, installing what is missing first.
//
// Plain JavaScript that any Node from 18 on understands: this is the first thing a fresh machine
// runs. `node scripts/run.mjs scripts/check.ts --flag`.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { constants as osConstants } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const MODULES = join(ROOT, "node_modules");
const LOCK_FILE = join(ROOT, "package-lock.json");
const STAMP = join(MODULES, ".strata-lock-hash");
/** Below this, Node cannot run TypeScript files directly. */
const OLDEST_NODE_MAJOR = 24;

function lockHash() {
  return createHash("sha256").update(readFileSync(LOCK_FILE)).digest("hex");
}

/** Whether node_modules is what package-lock.json asks for. */
function isInstalled() {
  // npm writes this file last.
  const record = join(MODULES, ".package-lock.json");
  if (!existsSync(record)) {
    return false;
  }
  if (!existsSync(LOCK_FILE) || statSync(record).mtimeMs >= statSync(LOCK_FILE).mtimeMs) {
    return true;
  }
  // A checkout touches the lock file without changing it: go by its content then.
  return existsSync(STAMP) && readFileSync(STAMP, "utf8") === lockHash();
}

function isAlive(pid) {
  if (pid < 0) {
    return false;
  }
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/** The process that holds the guard file; undefined where it is gone or still being written. */
function guardHolder(guard) {
  try {
    const text = readFileSync(guard, "utf8");
    const abandoned = text === "" && Date.now() - statSync(guard).mtimeMs > 10_000;
    return abandoned ? -1 : Number(text) || undefined;
  } catch {
    return undefined;
  }
}

/** Runs `npm ci` unless another process of ours does just that, which is waited for. */
async function install() {
  const guard = join(ROOT, ".npm-ci.pid");
  for (let waited = false; ; ) {
    try {
      const fd = openSync(guard, "wx");
      writeFileSync(fd, String(process.pid));
      closeSync(fd);
      break;
    } catch (error) {
      if (error.code !== "EEXIST") {
        throw new Error(`node_modules is missing and '${ROOT}' is not writable: ${error.message}`);
      }
    }
    const holder = guardHolder(guard);
    if (holder !== undefined && !isAlive(holder)) {
      rmSync(guard, { force: true });
      continue;
    }
    if (!waited) {
      process.stderr.write(`strata: waiting for another installation\n`);
      waited = true;
    }
    await sleep(500);
  }
  try {
    if (!isInstalled()) {
      npmCi();
      writeFileSync(STAMP, lockHash());
    }
  } finally {
    rmSync(guard, { force: true });
  }
}

function npmCi() {
  process.stderr.write("strata: installing dependencies (npm ci), once\n");
  // Under `npm start`, npm names itself here; it may not be on PATH.
  const npm = process.env["npm_execpath"];
  const [command, first] =
    npm === undefined || !/npm-cli\.[cm]?js$/.test(npm) ? ["npm", []] : [process.execPath, [npm]];
  // No package of ours needs its install script; not running them is quicker and safer.
  const args = [...first, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  const env = { ...process.env };
  // `npm start` and `npm test` export these, and the inner npm must not take them for its own.
  for (const name of ["npm_command", "npm_lifecycle_event", "npm_lifecycle_script"]) {
    delete env[name];
  }
  const result = spawnSync(command, args, { cwd: ROOT, env, stdio: ["ignore", 2, 2] });
  if (result.error !== undefined) {
    throw new Error(`cannot run npm: ${result.error.message}`);
  }
  if (result.status !== 0) {
    throw new Error(`npm ci failed (exit code ${result.status ?? result.signal})`);
  }
}

/** The pinned Node, or this one where there is none for this machine. */
function findNode() {
  const pinned = join(MODULES, `node-${process.platform}-${process.arch}`, "bin", "node");
  if (existsSync(pinned)) {
    try {
      accessSync(pinned, constants.X_OK);
    } catch {
      chmodSync(pinned, 0o755);
    }
    return pinned;
  }
  return ownNode(`no pinned Node for ${process.platform}-${process.arch}`);
}

function ownNode(why) {
  if (Number(process.versions.node.split(".")[0]) >= OLDEST_NODE_MAJOR) {
    return process.execPath;
  }
  throw new Error(
    `${why}, and this Node (${process.version}) is too old: Node ${OLDEST_NODE_MAJOR} or newer is needed`,
  );
}

/** Caches compiled TypeScript: a command then starts in a third of the time. */
function environment() {
  const cache = join(MODULES, ".cache", "strata-compile");
  const env = { ...process.env };
  try {
    mkdirSync(cache, { recursive: true });
    env["NODE_COMPILE_CACHE"] ??= cache;
  } catch {
    // A read-only checkout works too, only slower.
  }
  return env;
}

function start(node, script, args) {
  const flags = ["--disable-warning=ExperimentalWarning"];
  const child = spawn(node, [...flags, join(ROOT, script), ...args], {
    stdio: "inherit",
    env: environment(),
  });
  // The terminal sends Ctrl-C to the whole group; `kill PID` reaches only us. The child
  // must get each, and takes two of the same within a moment for one.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => child.kill(signal));
  }
  child.on("error", (error) => {
    if (node !== process.execPath) {
      // For instance a system without the C library that the pinned Node was built for.
      start(ownNode(`the pinned Node does not run here (${error.message})`), script, args);
      return;
    }
    fail(error);
  });
  child.on("exit", (code, signal) => {
    process.exitCode = code ?? 128 + (osConstants.signals[signal] ?? 0);
    process.exit();
  });
}

function fail(error) {
  process.stderr.write(`strata: ${error.message}\n`);
  process.exit(1);
}

/** Installs if needed, then runs `script` (relative to the repository) and ends with its exit code. */
export async function run(script, args) {
  try {
    if (!isInstalled()) {
      await install();
    }
    start(findNode(), script, args);
  } catch (error) {
    fail(error);
  }
}

if (process.argv[1]?.endsWith("run.mjs")) {
  const [script, ...args] = process.argv.slice(2);
  if (script === undefined) {
    fail(new Error("usage: node scripts/run.mjs SCRIPT [ARGUMENT...]"));
  } else {
    await run(script, args);
  }
}
