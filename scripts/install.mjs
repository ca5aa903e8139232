// Brings node_modules of a checkout to what package-lock.json asks for: what running needs, or everything.
//
// Plain JavaScript that any Node from 18 on understands.

import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isAlive, runNpm } from "../src/postgres/package-store.mjs";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const MODULES = join(ROOT, "node_modules");
const LOCK_FILE = join(ROOT, "package-lock.json");
const STAMP = join(MODULES, ".strata-lock-hash");
/** What only `npm ci` with everything brings. */
const DEVELOPMENT_MARK = join(MODULES, "strata-development");

function lockHash() {
  return createHash("sha256").update(readFileSync(LOCK_FILE)).digest("hex");
}

/** Whether node_modules is of this package-lock.json, at least with what running needs. */
function isOfThisLock() {
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

/** Whether nothing is missing; `everything` also asks for all majors and developers' tools. */
export function isInstalled(everything) {
  return isOfThisLock() && (!everything || existsSync(DEVELOPMENT_MARK));
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

/** Runs npm unless another process of ours does just that, which is waited for. */
export async function install(everything) {
  const guard = join(ROOT, ".npm-ci.pid");
  for (let waited = false; ; ) {
    try {
      const fd = openSync(guard, "wx");
      writeFileSync(fd, String(process.pid));
      closeSync(fd);
      break;
    } catch (error) {
      if (error.code !== "EEXIST") {
        throw new Error(
          `node_modules of '${ROOT}' lacks packages and is not ours to write (${error.message}): ` +
            `let its owner run 'npm ci${everything ? "" : " --omit=dev"}' there`,
        );
      }
    }
    const holder = guardHolder(guard);
    if (holder !== undefined && (holder < 0 || !isAlive(holder))) {
      rmSync(guard, { force: true });
      continue;
    }
    if (!waited) {
      process.stderr.write("strata: waiting for another installation\n");
      waited = true;
    }
    await sleep(500);
  }
  process.on("exit", () => rmSync(guard, { force: true }));
  try {
    if (!isInstalled(everything)) {
      await runInstallation(everything);
      writeFileSync(STAMP, lockHash());
    }
  } finally {
    rmSync(guard, { force: true });
  }
}

async function runInstallation(everything) {
  if (isOfThisLock()) {
    // Only what is missing: `npm ci` would take away the packages from under a running Strata.
    process.stderr.write("strata: installing all majors and developers' tools, once\n");
    await runNpm(["install", "--no-save", "--include=dev", "--include=optional"], ROOT);
    return;
  }
  process.stderr.write("strata: installing dependencies (npm ci), once\n");
  // Who has had everything gets everything again.
  const dev = everything || existsSync(DEVELOPMENT_MARK) ? "--include=dev" : "--omit=dev";
  await runNpm(["ci", dev, "--include=optional"], ROOT);
}
