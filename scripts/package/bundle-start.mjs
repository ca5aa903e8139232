// Runs the program of a bundle: the file that each is started from is a copy of this one, beside the code.
//
// Node's own compile cache has a module as it was read: functions that are called later are compiled by each process anew. So what a
// process has compiled when it is up is kept, beside Node's cache, and the next process begins with it.
//
// - It is named after the content of the bundle, because of a source V8 compares the length only.
// - It is written beside and renamed, synced first: whole or not at all. What V8 refuses, as it is of another version, is made anew.
// - It is of a command that succeeded; of a daemon once it runs, or when it has ended in order. A warm agent that waits has compiled little.

const fs = process.getBuiltinModule("node:fs");
const { basename, dirname, join } = process.getBuiltinModule("node:path");
const { pathToFileURL } = process.getBuiltinModule("node:url");
const { enableCompileCache, getCompileCacheDir } = process.getBuiltinModule("node:module");
const { constants, Script } = process.getBuiltinModule("node:vm");

/** A daemon has started by then. */
const KEPT_AFTER_MS = 10_000;
/** Of bundles that are no more. */
const OLD_MS = 86_400_000;
/** What compiles other code than its like has a file of its own; a name that a person gave has none. */
const VERB = /^[a-z][a-z-]{1,19}$/;
const SECOND_VERB = /^(?:create|delete|info|list|ls|rm|start|stop)$/;

/** `pageserver-0123456789abcdef`, `cli-0123456789abcdef`. */
const bundle = basename(import.meta.filename, ".mjs");
const isCommand = bundle.startsWith("cli-");

/** Undefined where nothing can be kept. */
function keptFile() {
  const directory = getCompileCacheDir();
  const [, , first = "", second = ""] = process.argv;
  const verbs = [
    ...(VERB.test(first) ? [first] : []),
    ...(SECOND_VERB.test(second) ? [second] : []),
  ];
  const name = [bundle, ...(isCommand ? verbs : [])].join("-");
  return directory && join(directory, `${name}.compiled`);
}

/** Undefined where there is none of this user's. */
function readKept(path) {
  let fd;
  try {
    fd = fs.openSync(path, "r");
    return fs.fstatSync(fd).uid === process.getuid() ? fs.readFileSync(fd) : undefined;
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) {
      fs.closeSync(fd);
    }
  }
}

function keep(script, path) {
  const temporary = `${path}-${process.pid}`;
  try {
    const fd = fs.openSync(temporary, "wx", 0o600);
    try {
      fs.writeFileSync(fd, script.createCachedData());
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
    fs.renameSync(temporary, path);
    removeOld(dirname(path));
  } catch {
    // It works without. What is left of a full disk or a crash goes with the old ones.
  }
}

function removeOld(directory) {
  const program = bundle.slice(0, -16);
  for (const name of fs.readdirSync(directory)) {
    const path = join(directory, name);
    if (
      name.startsWith(program) &&
      !(name.startsWith(bundle) && name.endsWith(".compiled")) &&
      Date.now() - fs.statSync(path).mtimeMs > OLD_MS
    ) {
      fs.rmSync(path, { force: true });
    }
  }
}

const isWaiting = () => process.argv[2] === "--warm";

/** Once, when the program has compiled what it is up with. */
function keepWhenUp(script, path) {
  let isKept = false;
  const keepOnce = () => {
    if (!isKept && !isWaiting()) {
      isKept = true;
      keep(script, path);
    }
  };
  process.once("exit", (code) => {
    if (code === 0) {
      keepOnce();
    }
  });
  const later = () => {
    setTimeout(() => {
      keepOnce();
      if (!isKept) {
        later();
      }
    }, KEPT_AFTER_MS).unref();
  };
  if (!isCommand) {
    later();
  }
}

enableCompileCache();
const code = import.meta.filename.replace(/\.mjs$/, ".code.js");

/** In a function: what a module has in its scope stays in memory as long as it awaits, and that is as long as the program runs. */
function compile() {
  const kept = keptFile();
  const cachedData = kept && readKept(kept);
  const script = new Script(fs.readFileSync(code, "latin1"), {
    filename: pathToFileURL(code).href,
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    ...(cachedData && { cachedData }),
  });
  if (kept && (cachedData === undefined || script.cachedDataRejected)) {
    keepWhenUp(script, kept);
  }
  return script.runInThisContext();
}

await compile()({
  url: pathToFileURL(code).href,
  filename: code,
  dirname: dirname(code),
});
