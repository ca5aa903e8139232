// Runs a program of Strata with the right Node, installing what is missing first.
//
// Plain JavaScript that any Node from 18 on understands: this is the first thing a fresh machine
// runs. `node scripts/run.mjs scripts/check.ts --flag` in a checkout; `--help` prints what a script begins with.

import { spawn } from "node:child_process";
import { accessSync, constants, mkdirSync, readFileSync, realpathSync } from "node:fs";
import * as nodeModule from "node:module";
import { constants as osConstants } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { IS_CHECKOUT, programOf, ROOT } from "../src/base/program-files.mjs";
import { runningChildren, storeDirectory } from "../src/postgres/package-store.mjs";
import { candidates, explain, isNewEnough, probe } from "./find-node.mjs";

/** What the dynamic loader makes of a program that lacks a library; also a shell's "not found". */
const CANNOT_LOAD = 127;
/** How often it is looked whether npx is still there. */
const PARENT_INTERVAL_MS = 250;

/** Where compiled code is cached: a command then starts in a third of the time. Undefined where nothing can be written. */
function compileCache() {
  // A checkout can be somebody else's; what npm installed is not for us to write at all.
  for (const parent of IS_CHECKOUT
    ? [join(ROOT, "node_modules", ".cache"), undefined]
    : [undefined]) {
    try {
      const cache = join(parent ?? storeDirectory(), "strata-compile");
      mkdirSync(cache, { recursive: true });
      accessSync(cache, constants.W_OK);
      return cache;
    } catch {
      // It works without, only slower.
    }
  }
  return undefined;
}

/** For the program, and for all that it starts. */
function environment() {
  const cache = process.env["NODE_COMPILE_CACHE"] ?? compileCache();
  return cache === undefined ? process.env : { ...process.env, NODE_COMPILE_CACHE: cache };
}

/** Its exit code, or that it never began because the system cannot load `node`. */
function start(node, path, args) {
  const flags = ["--disable-warning=ExperimentalWarning"];
  return new Promise((resolve) => {
    const child = spawn(node, [...flags, path, ...args], {
      stdio: "inherit",
      env: environment(),
    });
    runningChildren.add(child);
    const end = (result) => {
      runningChildren.delete(child);
      resolve(result);
    };
    child.on("error", () => end({ refused: probe(node) }));
    child.on("exit", (code, signal) => {
      const probed = code === CANNOT_LOAD ? probe(node) : {};
      end(
        probed.why === undefined
          ? { code: code ?? 128 + osConstants.signals[signal] }
          : { refused: probed },
      );
    });
  });
}

/** Whether `node` is what runs this script: then a program of ours needs no other process. */
function isOurs(node) {
  try {
    return (
      isNewEnough(process.versions.node) && realpathSync(node) === realpathSync(process.execPath)
    );
  } catch {
    return false;
  }
}

/** Becomes the program: as if Node had been started with it, the way `start` does. */
async function become(path, args) {
  const { NODE_COMPILE_CACHE: cache } = environment();
  if (cache !== undefined) {
    process.env["NODE_COMPILE_CACHE"] = cache;
    nodeModule.enableCompileCache(cache);
  }
  const emitWarning = process.emitWarning;
  process.emitWarning = (warning, ...rest) => {
    if (rest[0] !== "ExperimentalWarning" && rest[0]?.type !== "ExperimentalWarning") {
      emitWarning.call(process, warning, ...rest);
    }
  };
  process.argv.splice(1, process.argv.length, path, ...args);
  // What the program does with signals is its own business from here on.
  process.removeAllListeners("SIGINT").removeAllListeners("SIGTERM").removeAllListeners("SIGHUP");
  onLostShell = (signal) => process.kill(process.pid, signal);
  await import(pathToFileURL(path).href);
}

/** The signal that asks us to end. */
let stopping;
/** What to do when whoever npx started us for has gone. */
let onLostShell;

/**
 * The terminal sends Ctrl-C to the whole group; `kill PID` reaches only us. The children must get
 * each; Strata takes two of the same within a moment for one.
 */
function forwardSignals() {
  const stop = (signal) => {
    stopping = signal;
    endIfStopping();
    signalChildren(signal);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => stop(signal));
  }
  onLostShell = stop;
  // npm hands a signal to its shell. The scripts of package.json leave none, that of npx dies of
  // it without telling us.
  const shell = process.ppid;
  if (process.env["npm_lifecycle_event"] === "npx") {
    const timer = setInterval(() => {
      if (process.ppid !== shell) {
        clearInterval(timer);
        onLostShell("SIGTERM");
      }
    }, PARENT_INTERVAL_MS);
    timer.unref();
  }
}

function signalChildren(signal) {
  for (const child of runningChildren) {
    child.kill(signal);
  }
}

function endIfStopping() {
  if (stopping !== undefined && runningChildren.size === 0) {
    process.exit(128 + osConstants.signals[stopping]);
  }
}

/** Brings what is missing in a checkout. A Node that must be fetched comes at the same time. */
async function installCheckout(everything) {
  const { install, isInstalled } = await import("./install.mjs");
  if (!isInstalled(everything)) {
    await Promise.all([everything ? undefined : candidates().next(), install(everything)]);
  }
}

/** Tries Nodes until one can be loaded; the exit code of what it ran, undefined where this process is to run it. */
async function runWithBestNode(path, args, hereIfPossible) {
  let firstRefusal;
  for await (const node of candidates()) {
    endIfStopping();
    if (hereIfPossible && isOurs(node)) {
      return undefined;
    }
    const { code, refused } = await start(node, path, args);
    if (refused === undefined) {
      return code;
    }
    firstRefusal ??= refused;
  }
  throw new Error(explain(firstRefusal));
}

/**
 * Runs a program, as programOf() takes it, and ends with its exit code. `everything`: with all
 * majors and developers' tools installed; else with what running Strata needs. `hereIfPossible`: in
 * this process, where it runs on the Node that is chosen.
 */
export async function run(program, args, { everything, hereIfPossible = false }) {
  forwardSignals();
  let path;
  try {
    if (IS_CHECKOUT) {
      await installCheckout(everything);
    }
    path = programOf(program);
    const code = await runWithBestNode(path, args, hereIfPossible);
    if (code !== undefined) {
      process.exit(code);
    }
  } catch (error) {
    // Of two installations, one may go on.
    signalChildren("SIGTERM");
    endIfStopping();
    process.stderr.write(`strata: ${error.message}\n`);
    process.exit(stopping === undefined ? 1 : 128 + osConstants.signals[stopping]);
  }
  endIfStopping();
  await become(path, args);
}

/** The comment that a script begins with: what it does, and its options. */
export function helpOf(path) {
  const lines = readFileSync(path, "utf8").split("\n");
  const end = lines.findIndex((line) => !line.startsWith("//"));
  return lines
    .slice(0, end)
    .map((line) => `${line.replace(/^\/\/ ?/, "")}\n`)
    .join("");
}

if (process.argv[1]?.endsWith("run.mjs")) {
  const [script, ...args] = process.argv.slice(2);
  if (script === undefined) {
    process.stderr.write("usage: node scripts/run.mjs SCRIPT [ARGUMENT...]\n");
    process.exit(1);
  }
  const path = resolve(ROOT, script);
  if (args.includes("--help")) {
    process.stdout.write(helpOf(path));
    process.exit(0);
  }
  await run(path, args, { everything: true });
}
