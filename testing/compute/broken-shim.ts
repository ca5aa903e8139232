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

/** The shim's sources in `directory`, which is the caller's, with changes made one after the other. */
function changedSources(
  directory: string,
  changes: readonly ShimChange[],
): { readonly sources: string; readonly names: readonly string[]; readonly headers: string } {
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
  const names = readdirSync(sources).filter((name) => name.endsWith(".c"));
  return { sources, names, headers };
}

/** Builds it in `directory`. */
export function brokenShim(directory: string, ...changes: readonly ShimChange[]): string {
  const { sources, names, headers } = changedSources(directory, changes);
  const parts = names.map((name) => compiled(sources, name, headers));
  const shim = join(directory, "broken.so");
  cc(["-shared", "-o", shim, ...parts]);
  return shim;
}

/** A shim to be preloaded, or a program that has its sources in it. */
export type ShimSubject = string | { readonly program: string };

/** A sanitizer keeps books on all memory. */
const LESS_MEMORY: readonly ShimChange[] = [
  ["arena_size = 16ull << 30", "arena_size = 256u << 20"],
  ["#define SLOTS (1u << 24)", "#define SLOTS (1u << 10)"],
  ["#define ABSENT_PATHS (1u << 20)", "#define ABSENT_PATHS (1u << 10)"],
];

/** A thread in place of the process that compares. */
const OF_THREADS: ShimChange = [
  "  long pid = syscall(SYS_clone, 0, 0, 0, 0, 0);",
  "  long start_thread(void (*function)(void));\n  long pid = start_thread(compare_for_ever);",
];

/**
 * `source` with the shim's sources in one program, built in `directory` with sanitizers such as `thread`, by which its processes
 * are threads: the sanitizer sees no memory that processes share.
 */
export function sanitizedProgram(
  directory: string,
  source: string,
  sanitizers: string,
  options: { readonly asThreads: boolean; readonly changes?: readonly ShimChange[] },
): { readonly program: string } {
  const { asThreads, changes = [] } = options;
  const ofThreads = asThreads ? [OF_THREADS] : [];
  const { sources, names } = changedSources(directory, [...LESS_MEMORY, ...ofThreads, ...changes]);
  const program = join(directory, "sanitized");
  cc([
    ...["-std=gnu11", "-O1", "-g", "-w", `-fsanitize=${sanitizers}`, "-fno-sanitize-recover=all"],
    ...(asThreads ? ["-DPER_PROCESS=__thread", "-DAS_THREADS"] : []),
    ...["-rdynamic", "-o", program, ...names.map((name) => join(sources, name))],
    ...[source, "-ldl", "-lpthread"],
  ]);
  return { program };
}

/** The first fault ends a sanitized program; what a process has for all of its life is no leak, nor is the thread that compares. */
export const SANITIZER_ENVIRONMENT: Readonly<Record<string, string>> = {
  LD_PRELOAD: "",
  TSAN_OPTIONS: "halt_on_error=1 exitcode=66 report_thread_leaks=0",
  ASAN_OPTIONS: "detect_leaks=0 exitcode=66",
  UBSAN_OPTIONS: "print_stacktrace=1 exitcode=66",
};

/** Why programs cannot be built with `sanitizers` here, or run; undefined where they can. */
export function lacksSanitizers(sanitizers: string): string | undefined {
  const directory = mkdtempSync(join(tmpdir(), "strata-sanitizer-"));
  try {
    const [source, program] = [join(directory, "none.c"), join(directory, "none")];
    writeFileSync(source, "int main(void) { return 0; }\n");
    const built = spawnSync("cc", [`-fsanitize=${sanitizers}`, "-o", program, source]);
    if (built.status !== 0) {
      return `cc has no -fsanitize=${sanitizers}`;
    }
    const { status, stderr } = spawnSync(program, { encoding: "utf8" });
    return status === 0
      ? undefined
      : `-fsanitize=${sanitizers} does not work here: ${stderr.trim()}`;
  } finally {
    rmSync(directory, { recursive: true });
  }
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

/** A process stops right before `text`, a statement of the shim's, where a scene has asked for it (scenes.h, arm()). */
export function stopAt(text: string): ShimChange {
  return [text, `  { void stop_here(void); int was = errno; stop_here(); errno = was; }\n${text}`];
}
