// Runs a program of Strata with the right Node, installing what is missing first.
//
// Plain JavaScript that any Node from 18 on understands: this is the first thing a fresh machine
// runs. `node scripts/run.mjs scripts/check.ts --flag` in a checkout.

import { spawn } from "node:child_process";
import { accessSync, constants, mkdirSync } from "node:fs";
import { constants as osConstants } from "node:os";
import { join, resolve } from "node:path";
import { IS_CHECKOUT, programOf, ROOT } from "../src/base/program-files.mjs";
import { runningChildren, storeDirectory } from "../src/postgres/package-store.mjs";
import { candidates, explain, probe } from "./find-node.mjs";

/** What the dynamic loader makes of a program that lacks a library; also a shell's "not found". */
const CANNOT_LOAD = 127;
/** How often it is looked whether npx is still there. */
const PARENT_INTERVAL_MS = 250;

/** Caches compiled code: a command then starts in a third of the time. */
function environment() {
  const env = { ...process.env };
  // A checkout can be somebody else's; what npm installed is not for us to write at all.
  for (const parent of IS_CHECKOUT
    ? [join(ROOT, "node_modules", ".cache"), undefined]
    : [undefined]) {
    try {
      const cache = join(parent ?? storeDirectory(), "strata-compile");
      mkdirSync(cache, { recursive: true });
      accessSync(cache, constants.W_OK);
      env["NODE_COMPILE_CACHE"] ??= cache;
      break;
    } catch {
      // It works without, only slower.
    }
  }
  return env;
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

/** The signal that asks us to end. */
let stopping;

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
  // npm hands a signal to its shell. The scripts of package.json leave none, that of npx dies of
  // it without telling us.
  const shell = process.ppid;
  if (process.env["npm_lifecycle_event"] === "npx") {
    const timer = setInterval(() => {
      if (process.ppid !== shell) {
        clearInterval(timer);
        stop("SIGTERM");
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

/** Tries Nodes until one can be loaded; the exit code of what it ran. */
async function runWithBestNode(path, args) {
  let firstRefusal;
  for await (const node of candidates()) {
    endIfStopping();
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
 * majors and developers' tools installed; else with what running Strata needs.
 */
export async function run(program, args, { everything }) {
  forwardSignals();
  try {
    if (IS_CHECKOUT) {
      await installCheckout(everything);
    }
    process.exit(await runWithBestNode(programOf(program), args));
  } catch (error) {
    // Of two installations, one may go on.
    signalChildren("SIGTERM");
    endIfStopping();
    process.stderr.write(`strata: ${error.message}\n`);
    process.exit(stopping === undefined ? 1 : 128 + osConstants.signals[stopping]);
  }
}

if (process.argv[1]?.endsWith("run.mjs")) {
  const [script, ...args] = process.argv.slice(2);
  if (script === undefined) {
    process.stderr.write("usage: node scripts/run.mjs SCRIPT [ARGUMENT...]\n");
    process.exit(1);
  }
  await run(resolve(ROOT, script), args, { everything: true });
}
