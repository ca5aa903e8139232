// Loaded before a daemon (`node --import`): counts what it does to files, and ends it, or fills its disk, at one of these steps.

/*
 * Nothing of the daemon knows of it: the functions of node:fs themselves are replaced, so that what goes past `Disk` counts as
 * well. A step is one system call that changes what a crash leaves: create, write, sync, rename, link, unlink, mkdir, rmdir.
 * A tree is removed entry by entry, each a step. Steps are counted over all threads, of files below $STRATA_FAILPOINT_ROOT.
 *
 * What is to happen: `kill N` ends the process by SIGKILL right before step N, `full N` lets each step that needs space fail with
 * ENOSPC from the Nth of these on, `none` ends that; `kill N PATTERN` has numbers for steps like `rename disk/tenants` only. It is taken from
 * $STRATA_FAILPOINT at the start, and over the IPC channel later, where the count begins anew; `status` changes nothing. The answer says how many
 * steps of any kind there were. With $STRATA_FAILPOINT_HELD the daemon has loaded its code, and begins when the first command has come. Each step that has a number while something is armed has a line in $STRATA_FAILPOINT_TRACE, with a mark at its end
 * where it was not taken.
 */

import fs, { type PathLike } from "node:fs";
import { enableCompileCache, syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import { getEnvironmentData, setEnvironmentData } from "node:worker_threads";
import { componentStartedBy } from "../../src/base/program-files.mjs";

const STATE = "strata-failpoints";
const [COUNT, NUMBER, AT, MODE] = [0, 1, 2, 3] as const;
const [NONE, KILL, FULL] = [0, 1, 2] as const;
const MODES: Readonly<Record<string, number>> = {
  none: NONE,
  kill: KILL,
  full: FULL,
};

const inherited = getEnvironmentData(STATE) as Int32Array<SharedArrayBuffer> | undefined;
const state = inherited ?? new Int32Array(new SharedArrayBuffer(16));
const root = process.env["STRATA_FAILPOINT_ROOT"];
/** Other steps do not count. Of the main thread only. */
let counted = /(?:)/;

/** The functions as they were. */
const real = { ...fs };
const realPromises = { ...fs.promises };
/** Of descriptors that are open below the root. */
const paths = new Map<number, string>();
let traceFd: number | undefined;

function trace(line: string): void {
  const path = process.env["STRATA_FAILPOINT_TRACE"];
  if (path !== undefined) {
    traceFd ??= real.openSync(path, "a");
    real.writeSync(traceFd, `${line}\n`);
  }
}

function arm(command: string): void {
  const [, mode, at, pattern] = /^(\w+)(?: (\d+))?(?: (.*))?$/.exec(command)!;
  counted = new RegExp(pattern ?? "");
  if (traceFd !== undefined) {
    real.closeSync(traceFd);
    traceFd = undefined;
  }
  state[COUNT] = 0;
  state[NUMBER] = 0;
  state[AT] = Number(at ?? 0);
  Atomics.store(state, MODE, MODES[mode!]!);
}

/** Before the step is taken; throws what the system call would. */
function step(name: string, path: string, needsSpace: boolean): void {
  const mode = Atomics.load(state, MODE);
  const line = `${name} ${path.slice(root!.length + 1)}`;
  Atomics.add(state, COUNT, 1);
  if (mode === NONE || (mode === FULL && !needsSpace) || !counted.test(line)) {
    return;
  }
  const number = Atomics.add(state, NUMBER, 1) + 1;
  const isHit = number >= state[AT]!;
  trace(`${number} ${line}${isHit ? " !" : ""}`);
  if (!isHit) {
    return;
  }
  if (mode === KILL) {
    process.kill(process.pid, "SIGKILL");
    // Nothing more is done, by this thread at least, until the signal arrives.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  }
  const message = `ENOSPC: no space left on device, ${name} '${path}'`;
  throw Object.assign(new Error(message), { code: "ENOSPC", errno: -28, syscall: name, path });
}

const inRoot = (path: unknown): path is string =>
  typeof path === "string" && root !== undefined && path.startsWith(`${root}/`);

interface Call {
  readonly name: string;
  readonly needsSpace: boolean;
  /** What it is done to; undefined: nothing that counts. */
  target(args: readonly unknown[]): string | undefined;
}

const ofFd = (fd: unknown) => paths.get(fd as number);
const ofPath = (at: number) => (args: readonly unknown[]) =>
  inRoot(args[at]) ? args[at] : undefined;
const ofDescriptor = ([fd]: readonly unknown[]) => ofFd(fd);

/** One that makes a file or empties one. */
function created([path, flags]: readonly unknown[]): string | undefined {
  if (!inRoot(path) || typeof flags !== "string" || /^r/.test(flags)) {
    return undefined;
  }
  const exists = real.existsSync(path);
  return (exists ? /^a|x/.test(flags) : false) ? undefined : path;
}

/** A directory that is there already is no change. */
const madeDirectory = ([path]: readonly unknown[]) =>
  inRoot(path) && !real.existsSync(path) ? path : undefined;

const CALLS: readonly (Call & { readonly functions: readonly string[] })[] = [
  { name: "create", needsSpace: true, target: created, functions: ["open"] },
  { name: "mkdir", needsSpace: true, target: madeDirectory, functions: ["mkdir"] },
  { name: "rename", needsSpace: true, target: ofPath(1), functions: ["rename"] },
  { name: "link", needsSpace: true, target: ofPath(1), functions: ["link"] },
  { name: "copy", needsSpace: true, target: ofPath(1), functions: ["copyFile"] },
  { name: "write", needsSpace: true, target: ofPath(0), functions: ["writeFile", "appendFile"] },
  { name: "unlink", needsSpace: false, target: ofPath(0), functions: ["unlink"] },
  { name: "rmdir", needsSpace: false, target: ofPath(0), functions: ["rmdir"] },
  { name: "write", needsSpace: true, target: ofDescriptor, functions: ["write", "writev"] },
  { name: "fsync", needsSpace: true, target: ofDescriptor, functions: ["fsync", "fdatasync"] },
  { name: "truncate", needsSpace: false, target: ofDescriptor, functions: ["ftruncate"] },
];

type AnyFunction = (this: unknown, ...args: unknown[]) => unknown;

function replace(where: object, name: string, make: (original: AnyFunction) => AnyFunction): void {
  const functions = where as Record<string, AnyFunction | undefined>;
  const original = functions[name];
  if (original !== undefined) {
    const replaced = make(original);
    // What util.promisify looks for is among the properties.
    Object.defineProperties(replaced, Object.getOwnPropertyDescriptors(original));
    functions[name] = replaced;
  }
}

function note(fd: unknown, path: unknown): void {
  if (typeof fd === "number") {
    if (inRoot(path)) {
      paths.set(fd, path);
    } else {
      paths.delete(fd);
    }
  }
}

function passed(call: Call, args: readonly unknown[]): void {
  const target = call.target(args);
  if (target !== undefined) {
    step(call.name, target, call.needsSpace);
  }
}

function replaceCalls(): void {
  for (const { functions, ...call } of CALLS) {
    for (const name of functions) {
      const isOpen = name === "open";
      replace(fs, `${name}Sync`, (original) => (...args) => {
        passed(call, args);
        const result = original(...args);
        if (isOpen) {
          note(result, args[0]);
        }
        return result;
      });
      replace(fs, name, (original) => (...args) => {
        const done = args.pop() as AnyFunction;
        try {
          passed(call, args);
        } catch (error) {
          process.nextTick(done, error);
          return;
        }
        original(...args, (...answer: unknown[]) => {
          if (isOpen) {
            note(answer[1], args[0]);
          }
          done(...answer);
        });
      });
      replace(fs.promises, name, (original) => async (...args) => {
        passed(call, args);
        const result = await original(...args);
        if (isOpen) {
          note((result as fs.promises.FileHandle).fd, args[0]);
        }
        return result;
      });
    }
  }
}

function replaceHandles(prototype: object): void {
  const methods: Readonly<Record<string, { name: string; needsSpace: boolean }>> = {
    write: { name: "write", needsSpace: true },
    writev: { name: "write", needsSpace: true },
    writeFile: { name: "write", needsSpace: true },
    sync: { name: "fsync", needsSpace: true },
    datasync: { name: "fsync", needsSpace: true },
    truncate: { name: "truncate", needsSpace: false },
  };
  for (const [method, { name, needsSpace }] of Object.entries(methods)) {
    replace(
      prototype,
      method,
      (original) =>
        async function (...args) {
          const path = ofFd((this as fs.promises.FileHandle).fd);
          if (path !== undefined) {
            step(name, path, needsSpace);
          }
          return original.apply(this, args);
        },
    );
  }
}

/** As rm -r does it. */
function removeTree(path: string): void {
  const stat = real.lstatSync(path, { throwIfNoEntry: false });
  if (stat?.isDirectory() === true) {
    for (const name of real.readdirSync(path)) {
      removeTree(join(path, name));
    }
    fs.rmdirSync(path);
  } else if (stat !== undefined) {
    fs.unlinkSync(path);
  }
}

function replaceRemoval(): void {
  const mine = (path: PathLike, options: fs.RmOptions | undefined) =>
    inRoot(path) && (options?.recursive === true || options?.force === true);
  replace(
    fs,
    "rmSync",
    (original) => (path, options) =>
      mine(path as PathLike, options as fs.RmOptions)
        ? removeTree(path as string)
        : original(path, options),
  );
  replace(fs, "rm", (original) => (path, options, done) => {
    if (!mine(path as PathLike, options as fs.RmOptions)) {
      original(path, options, done);
      return;
    }
    let failure: unknown = null;
    try {
      removeTree(path as string);
    } catch (error) {
      failure = error;
    }
    process.nextTick(done as AnyFunction, failure);
  });
  replace(fs.promises, "rm", () => async (path, options) => {
    if (mine(path as PathLike, options as fs.RmOptions)) {
      removeTree(path as string);
      return;
    }
    await realPromises.rm(path as PathLike, options as fs.RmOptions);
  });
}

const HURRIED_FOLD = 50;

/** So that what a daemon puts off for seconds is among its steps. */
function hurry(delaysMs: readonly number[]): void {
  const setRealTimeout = globalThis.setTimeout;
  const hurried = (callback: () => void, delayMs = 0) =>
    setRealTimeout(callback, delaysMs.includes(delayMs) ? delayMs / HURRIED_FOLD : delayMs);
  globalThis.setTimeout = Object.assign(hurried, setRealTimeout) as typeof setTimeout;
}

async function install(): Promise<void> {
  replaceCalls();
  replaceRemoval();
  const handle = await realPromises.open("/dev/null");
  replaceHandles(Object.getPrototypeOf(handle) as object);
  await handle.close();
  syncBuiltinESMExports();
  const hurried = process.env["STRATA_FAILPOINT_HURRY"] ?? "";
  if (hurried !== "") {
    hurry(hurried.split(" ").map(Number));
  }
  if (inherited !== undefined) {
    return;
  }
  setEnvironmentData(STATE, state);
  arm(process.env["STRATA_FAILPOINT"] ?? "none");
  const isHeld = process.env["STRATA_FAILPOINT_HELD"] === "1";
  const told = new Promise((resolve) => process.once("message", resolve));
  process.on("message", (command: unknown) => {
    if (typeof command !== "string") {
      return;
    }
    // Any answer says how far it was.
    const status = { count: state[COUNT] };
    if (command !== "status") {
      arm(command);
    }
    process.send?.(status);
  });
  // Whoever started it is gone.
  process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
  if (isHeld) {
    enableCompileCache();
    await import("../../src/pageserver/pageserver.ts");
    await told;
  }
  process.channel?.unref();
}

// Not in the command line that starts the daemon, nor in a tool that it starts.
const program = process.argv[1] ?? "";
const isDaemon =
  componentStartedBy(program) === "pageserver" || program.endsWith("/testing/failpoints/lives.ts");
if (root !== undefined && (isDaemon || inherited !== undefined)) {
  await install();
}
