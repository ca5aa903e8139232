// scripts/strata.mjs finds a Node that can be loaded: the pinned one, else the next best, else it names what is missing.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { mayReach } from "../../src/postgres/installation.ts";

const NOBODY = { uid: 65534, gid: 65534 };
const ROOT = join(import.meta.dirname, "..", "..");
const VERSION: string = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).version;
const PINNED = `node-${process.platform}-${process.arch}`;
/** What glibc's loader does with a program whose library is missing. */
const LACKS_LIBRARY = `#!/bin/sh
echo "$0: error while loading shared libraries: libatomic.so.1: cannot open it" >&2
exit 127
`;

/** A checkout whose command line prints which Node runs it, and whose pinned Node is `pinned`. */
function checkout(t: TestContext, pinned: string) {
  const base = mkdtempSync(join(tmpdir(), "strata launch-"));
  t.after(() => rmSync(base, { recursive: true, force: true }));
  const root = join(base, "checkout");
  for (const path of ["scripts", "src/base/program-files.mjs", "src/postgres/package-store.mjs"]) {
    cpSync(join(ROOT, path), join(root, path), { recursive: true });
  }
  mkdirSync(join(root, "src", "cli"));
  const program = 'console.log("ran by", process.execPath); process.exitCode = 3;';
  writeFileSync(join(root, "src", "cli", "main.ts"), program);
  const lock = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8"));
  writeFileSync(join(root, "package-lock.json"), JSON.stringify({ packages: lock.packages }));
  const node = join(root, "node_modules", PINNED, "bin", "node");
  mkdirSync(join(node, ".."), { recursive: true });
  writeFileSync(join(root, "node_modules", PINNED, "package.json"), "{}");
  writeFileSync(node, pinned);
  chmodSync(node, 0o755);
  writeFileSync(join(root, "node_modules", ".package-lock.json"), "{}");
  /** With `oldVersion`, the Node that runs the scripts believes to be of that version. */
  const strata = (options: {
    path: string;
    oldVersion?: string;
    user?: typeof NOBODY;
    args?: readonly string[];
  }) => {
    const pretend = join(base, "pretend.cjs");
    const version = JSON.stringify({ value: options.oldVersion });
    writeFileSync(
      pretend,
      `Object.defineProperty(process.versions, "node", ${version});
       Object.defineProperty(process, "version", { value: "v" + process.versions.node });`,
    );
    const flags = options.oldVersion === undefined ? [] : ["--require", pretend];
    const words = [...flags, join(root, "scripts", "strata.mjs"), ...(options.args ?? ["status"])];
    return spawnSync(process.execPath, words, {
      encoding: "utf8",
      ...options.user,
      env: {
        PATH: options.path,
        HOME: base,
        XDG_CACHE_HOME: join(base, "cache"),
        // No test of this file gets anything from outside.
        npm_config_registry: "http://127.0.0.1:9/",
      },
    });
  };
  return { base, root, node, strata };
}

test("launch: a pinned Node that lacks a library gives way to the Node that runs the script", (t) => {
  const { strata } = checkout(t, LACKS_LIBRARY);
  const { status, stdout, stderr } = strata({ path: "/usr/bin:/bin" });
  assert.equal(status, 3, stderr);
  assert.equal(stdout, `ran by ${process.execPath}\n`);
});

test("launch: so does one without its loader", (t) => {
  const { strata } = checkout(t, "#!/lib/ld-of-another-libc\n");
  const { status, stdout, stderr } = strata({ path: "/usr/bin:/bin" });
  assert.equal(status, 3, stderr);
  assert.equal(stdout, `ran by ${process.execPath}\n`);
});

test("launch: where the own Node is too old, one on PATH is taken", (t) => {
  const { base, strata } = checkout(t, LACKS_LIBRARY);
  const bin = join(base, "bin");
  mkdirSync(bin);
  cpSync(process.execPath, join(bin, "node"));
  const { status, stdout, stderr } = strata({ path: `${bin}:/bin`, oldVersion: "18.20.4" });
  assert.equal(status, 3, stderr);
  assert.equal(stdout, `ran by ${join(bin, "node")}\n`);
});

test("launch: where none is left, one line names the package to install", (t) => {
  const { strata } = checkout(t, LACKS_LIBRARY);
  const { status, stderr } = strata({ path: "/nowhere", oldVersion: "18.20.4" });
  assert.equal(status, 1);
  const lines = stderr.trim().split("\n");
  assert.match(lines.pop() ?? "", /^strata: .*libatomic1.* or Node 24 or newer$/);
  // The loader's own line.
  assert.ok(lines.length <= 1, stderr);
});

test("launch: an exit code of 127 by Strata itself is handed on", (t) => {
  const { root, strata } = checkout(t, `#!/bin/sh\nexec ${process.execPath} "$@"\n`);
  writeFileSync(
    join(root, "src", "cli", "main.ts"),
    "console.log('once'); process.exitCode = 127;",
  );
  const { status, stdout } = strata({ path: "/bin" });
  assert.equal(status, 127);
  assert.equal(stdout, "once\n");
});

test("launch: the Node that runs the script becomes Strata, where it is the pinned one", (t) => {
  const { root, node, strata } = checkout(t, "");
  rmSync(node);
  symlinkSync(process.execPath, node);
  const main = join(root, "src", "cli", "main.ts");
  writeFileSync(
    main,
    `import "node:sqlite";
     process.emitWarning("x", "ExperimentalWarning");
     process.emitWarning("y", { type: "ExperimentalWarning" });
     process.emitWarning("another");
     console.log(JSON.stringify([process.pid, process.argv.slice(1), process.env.NODE_COMPILE_CACHE.slice(-15)]));
     process.on("SIGTERM", () => process.exit(7));
     setInterval(() => process.kill(process.pid, "SIGTERM"), 1);`,
  );
  const { status, stdout, stderr, pid } = strata({ path: "/bin" });
  assert.equal(status, 7, "the program's own handler ends it");
  assert.deepEqual(JSON.parse(stdout), [pid, [main, "status"], "/strata-compile"]);
  assert.match(stderr, /^\(node:\d+\) Warning: another\n\([^\n]*\n$/);
  writeFileSync(main, "process.exitCode = 127;");
  assert.equal(strata({ path: "/bin" }).status, 127);
  writeFileSync(main, 'throw new Error("as it is");');
  const failed = strata({ path: "/bin" });
  assert.equal(failed.status, 1);
  assert.match(failed.stderr, /Error: as it is\n +at .*main\.ts:1/);
});

test("launch: the version is told by whatever Node, and nothing is installed for it", (t) => {
  const { root, strata } = checkout(t, LACKS_LIBRARY);
  rmSync(join(root, "node_modules"), { recursive: true });
  cpSync(join(ROOT, "package.json"), join(root, "package.json"));
  for (const flag of ["--version", "-V"]) {
    const { status, stdout } = strata({ path: "/nowhere", oldVersion: "18.20.4", args: [flag] });
    assert.equal(status, 0);
    assert.equal(stdout, `${VERSION}\n`);
  }
});

test("launch: offline with an old Node and no pinned one, the error says what is needed", (t) => {
  const { base, root, strata } = checkout(t, LACKS_LIBRARY);
  rmSync(join(root, "node_modules", PINNED), { recursive: true });
  // Root's store is the machine's own, and can have it.
  const user = process.getuid?.() === 0 ? NOBODY : undefined;
  if (user !== undefined) {
    if (!mayReach(process.execPath, { ...user, name: "nobody" })) {
      t.skip("an ordinary user may not run this Node");
      return;
    }
    chmodSync(base, 0o755);
    mkdirSync(join(base, "cache"));
    chownSync(join(base, "cache"), user.uid, user.gid);
  }
  // npm, and no `node` beside it.
  const bin = join(base, "bin");
  mkdirSync(bin);
  writeFileSync(join(bin, "npm"), "#!/bin/sh\necho 'npm error network ENOTFOUND' >&2; exit 1\n");
  chmodSync(join(bin, "npm"), 0o755);
  const { status, stderr } = strata({
    path: `${bin}:/nowhere`,
    oldVersion: "18.20.4",
    ...(user && { user }),
  });
  assert.equal(status, 1, stderr);
  assert.match(stderr, /Node 24 or newer is needed, this is v18\.20\.4, and another one cannot be/);
  assert.match(stderr, /ENOTFOUND/);
});
