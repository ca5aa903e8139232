// A shim with one rule broken, which a test must notice, or one that stops where a test wants another process to get between.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SHIM_COMPILER_FLAGS, SHIM_SOURCE_DIRECTORY } from "../../src/compute/shim/shim-loader.ts";

/** A text that is in the shim's sources once, and what comes in its place. */
export type ShimChange = readonly [text: string, by: string];

/** Quickly rather than well; a break may leave something unused. */
const FLAGS = [
  ...SHIM_COMPILER_FLAGS.filter((flag) => !["-shared", "-Werror", "-O2"].includes(flag)),
  ...["-O0", "-w"],
];

let objects: string | undefined;

/** Of files that were compiled already, as most are the same in all broken shims of a process. */
function objectsDirectory(): string {
  if (objects === undefined) {
    const made = mkdtempSync(join(tmpdir(), "strata-objects-"));
    objects = made;
    process.once("exit", () => rmSync(made, { recursive: true, force: true }));
  }
  return objects;
}

function cc(args: readonly string[]): void {
  const { status, stderr, error } = spawnSync("cc", args, { encoding: "utf8" });
  assert.equal(status, 0, error?.message ?? stderr);
}

/** The object of one file of `sources`, whose headers are `headers` put together. */
function compiled(sources: string, name: string, headers: string): string {
  const path = join(sources, name);
  const hash = createHash("sha256").update(headers).update(readFileSync(path));
  const object = join(objectsDirectory(), `${name}-${hash.digest("hex").slice(0, 32)}.o`);
  if (!existsSync(object)) {
    cc([...FLAGS, "-c", "-o", object, path]);
  }
  return object;
}

/** Builds it in `directory`, which is the caller's; the changes are made one after the other. */
export function brokenShim(directory: string, ...changes: readonly ShimChange[]): string {
  const sources = join(directory, "sources");
  mkdirSync(sources);
  const found = changes.map(() => 0);
  let headers = "";
  for (const name of readdirSync(SHIM_SOURCE_DIRECTORY).toSorted()) {
    let source = readFileSync(join(SHIM_SOURCE_DIRECTORY, name), "utf8");
    changes.forEach(([text, by], i) => {
      found[i]! += source.split(text).length - 1;
      source = source.replace(text, () => by);
    });
    writeFileSync(join(sources, name), source);
    headers += name.endsWith(".h") ? source : "";
  }
  changes.forEach(([text], i) => {
    assert.equal(found[i], 1, `how often the text to break is there: ${text}`);
  });
  const parts = readdirSync(sources)
    .filter((name) => name.endsWith(".c"))
    .map((name) => compiled(sources, name, headers));
  const shim = join(directory, "broken.so");
  cc(["-shared", "-o", shim, ...parts]);
  return shim;
}

/** For a shim that stops somewhere: see stopAt(). */
export const CAN_STOP: ShimChange = [
  "void pause_ms(long ms) {",
  [
    "/* Of the process that comes here first once there is a file `arm`: until there is a file `go`. */",
    "void stop_here(void) {",
    "  struct stat stat;",
    '  if (syscall(SYS_unlinkat, AT_FDCWD, "arm", 0) != 0) {',
    "    return;",
    "  }",
    '  sys_close(sys_open("held", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));',
    '  while (sys_stat("go", &stat, 0) != 0) {',
    "    pause_ms(1);",
    "  }",
    "}",
    "",
    "void pause_ms(long ms) {",
  ].join("\n"),
];

/** A process stops right before `text`, a statement of the shim's, where a scene has asked for it (claim_scenes.c, arm()). */
export function stopAt(text: string): ShimChange {
  return [text, `  { void stop_here(void); int was = errno; stop_here(); errno = was; }\n${text}`];
}
