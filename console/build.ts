// Builds the console into console/dist, with packages of its own that it installs where they are missing.
//
// Run by `npm run build`, before `npm pack`, and by a checkout's control plane when a browser first asks for the page.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errorMessage } from "../src/base/errors.ts";
import {
  BUILD_DIRECTORY,
  CONSOLE_DIRECTORY,
  readBuild,
  STAMP_FILE,
  sourcesHash,
} from "../src/control-plane/console/console-build.ts";
import { withLock } from "../src/local/lock.ts";
import { runNpm } from "../src/postgres/package-store.mjs";

const MODULES = join(CONSOLE_DIRECTORY, "node_modules");
const LOCK_STAMP = join(MODULES, ".strata-lock-hash");
/** Somebody else may be installing and building. */
const PATIENCE_MS = 10 * 60_000;

const cache = join(CONSOLE_DIRECTORY, ".build");
mkdirSync(cache, { recursive: true });
try {
  await withLock(cache, "build", build, { timeoutMs: PATIENCE_MS });
} catch (error) {
  process.stderr.write(`the console cannot be built: ${errorMessage(error)}\n`);
  process.exitCode = 1;
}

async function build(): Promise<void> {
  await installPackages();
  if (readBuild() === undefined && !process.argv.includes("--packages-only")) {
    runVite();
  }
}

async function installPackages(): Promise<void> {
  const lock = readFileSync(join(CONSOLE_DIRECTORY, "package-lock.json"));
  const hash = createHash("sha256").update(lock).digest("hex");
  if (!existsSync(LOCK_STAMP) || readFileSync(LOCK_STAMP, "utf8") !== hash) {
    await runNpm(["ci", "--include=dev", "--include=optional"], CONSOLE_DIRECTORY);
    writeFileSync(LOCK_STAMP, hash);
  }
}

/** Beside the old build, which counts until the new one is whole. */
function runVite(): void {
  const hash = sourcesHash();
  const fresh = join(cache, "dist");
  rmSync(fresh, { recursive: true, force: true });
  const vite = join(MODULES, "vite", "bin", "vite.js");
  const args = [vite, "build", "--outDir", fresh, "--emptyOutDir", "--logLevel", "warn"];
  const { status } = spawnSync(process.execPath, args, {
    cwd: CONSOLE_DIRECTORY,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, NODE_ENV: "production" },
  });
  if (status !== 0) {
    process.exitCode = 1;
    return;
  }
  writeFileSync(join(fresh, STAMP_FILE), `${hash}\n`);
  rmSync(BUILD_DIRECTORY, { recursive: true, force: true });
  renameSync(fresh, BUILD_DIRECTORY);
}
