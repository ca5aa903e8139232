// Bundles: what is started is of the sources as they are, whatever happens to them, and to a build; and daemons run from either.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { commandWords } from "../../src/base/proc.ts";
import { componentStartedBy, isBundle, programOf, ROOT } from "../../src/base/program-files.mjs";
import { TestCluster } from "../../testing/cluster.ts";

const BUILDER = "scripts/package/build-bundles.ts";
const START_FILE = "scripts/package/bundle-start.mjs";

/** A small one, whose command line prints `first` from a module of its own. */
function checkout(t: TestContext) {
  const base = mkdtempSync(join(tmpdir(), "strata bundles-"));
  t.after(() => rmSync(base, { recursive: true, force: true }));
  const root = join(base, "checkout");
  for (const path of ["src/base/program-files.mjs", BUILDER, START_FILE]) {
    cpSync(join(ROOT, path), join(root, path));
  }
  for (const path of ["src/cli", "src/store", "node_modules"]) {
    mkdirSync(join(root, path));
  }
  for (const name of ["rolldown", "@rolldown", "@oxc-project"]) {
    symlinkSync(join(ROOT, "node_modules", name), join(root, "node_modules", name));
  }
  const part = join(root, "src", "store", "part.ts");
  const packages = join(root, "node_modules", ".package-lock.json");
  writeFileSync(join(root, "package.json"), '{ "type": "module" }');
  writeFileSync(packages, "{}");
  writeFileSync(
    join(root, "src", "cli", "main.ts"),
    'import { word } from "../store/part.ts"; console.log(word satisfies string);',
  );
  const write = (word: string) => writeFileSync(part, `export const word = "${word}";`);
  write("first");
  return { root, part, packages, write, dist: join(root, "dist", "bundles") };
}

function build(root: string, flags: readonly string[] = []): void {
  const { status, stderr } = spawnSync(process.execPath, [...flags, join(root, BUILDER)]);
  assert.equal(status, 0, stderr.toString());
}

/** What its command line prints, and from which of the two. */
function run(
  root: string,
  words: readonly string[] = [],
  { code = 0, flags = [] }: { code?: number; flags?: readonly string[] } = {},
): string {
  const program = `
    process.argv.splice(1, 0, "strata");
    const { isBundle, programOf } = await import(${JSON.stringify(join(root, "src/base/program-files.mjs"))});
    const path = programOf("cli/main.ts");
    console.log(isBundle(path) ? "bundle:" : "source:");
    await import(path);`;
  const args = ["--input-type=module", "--eval", program];
  const { status, stdout, stderr } = spawnSync(process.execPath, [...flags, ...args, ...words], {
    encoding: "utf8",
    env: { ...process.env, NODE_COMPILE_CACHE: join(root, "compiled") },
  });
  assert.equal(stderr, "");
  assert.equal(status, code);
  return stdout.trim().replace("\n", " ");
}

test("a bundle is run until a source or a package changes, in whatever way", (t) => {
  const { root, part, packages, write } = checkout(t);
  assert.equal(run(root), "source: first");
  utimesSync(part, 1_000_000, 1_000_000);
  build(root);
  assert.equal(run(root), "bundle: first");
  // Of the same length, as old as before.
  write("other");
  utimesSync(part, 1_000_000, 1_000_000);
  assert.equal(run(root), "source: other");
  build(root);
  assert.equal(run(root), "bundle: other");
  writeFileSync(packages, "{ }");
  assert.equal(run(root), "source: other");
  build(root);
  assert.equal(run(root), "bundle: other");
});

test("a bundle does not load what Node's modules could be asked for, too", (t) => {
  const { root } = checkout(t);
  writeFileSync(
    join(root, "src", "cli", "main.ts"),
    `import * as all from "node:http";
     import { request } from "node:http";
     import path, { join as joined, sep } from "node:path";
     const loaded = process.moduleLoadList.filter((name) => name.includes("undici"));
     console.log(request === all.request, joined("a", "b") === "a" + path.sep + "b", sep, loaded.length);`,
  );
  assert.match(run(root), /^source: true true \/ [1-9]/, "or this test proves nothing");
  build(root);
  assert.equal(run(root), "bundle: true true / 0");
});

test("a bundle loads a module of Node's when the first of its modules runs that imports it", (t) => {
  const { root } = checkout(t);
  const later = join(root, "src", "store", "later.ts");
  writeFileSync(later, 'import { connect } from "node:tls"; export const name = connect.name;');
  writeFileSync(
    join(root, "src", "cli", "main.ts"),
    `import { sep } from "node:path";
     const isLoaded = () => process.moduleLoadList.includes("NativeModule tls");
     const before = isLoaded();
     const { name } = await import("../store/later.ts");
     console.log(sep, before, name, isLoaded());`,
  );
  assert.equal(run(root), "source: / false connect true");
  build(root);
  assert.equal(run(root), "bundle: / false connect true");
});

test("of a module that a command does not run nothing is compiled", (t) => {
  const { root } = checkout(t);
  const lines = Array.from({ length: 2000 }, (_, i) => `list.push([${i}].map(String));`);
  const large = ["export const list: string[][] = [];", ...lines].join("\n");
  writeFileSync(join(root, "src", "store", "large.ts"), large);
  writeFileSync(
    join(root, "src", "cli", "main.ts"),
    `if (process.argv[2] === "large") console.log((await import("../store/large.ts")).list[7]![0]);
     console.log("small");`,
  );
  build(root);
  const sizes = [["large"], []].map((words) => {
    assert.equal(run(root, words), `bundle: ${words.length === 0 ? "" : "7\n"}small`);
    const names = readdirSync(join(root, "compiled"), { recursive: true, encoding: "utf8" });
    const name = names.find((one) => one.endsWith(".compiled"))!;
    const { size } = statSync(join(root, "compiled", name));
    rmSync(join(root, "compiled", name));
    return size;
  });
  assert.ok(sizes[0]! > 100_000, "or this test proves nothing");
  assert.ok(sizes[1]! < sizes[0]! / 5, `${sizes}`);
});

test("what a command has compiled is kept for its like, when it succeeded, and made anew where it is damaged", (t) => {
  const { root, dist, write } = checkout(t);
  writeFileSync(
    join(root, "src", "cli", "main.ts"),
    `import { word } from "../store/part.ts";
     console.log(word, "\u2022");
     if (process.argv[2] === "fails") process.exitCode = 3;`,
  );
  build(root);
  /** Contents by name, without the bundle's hash. */
  const kept = () => {
    const names = readdirSync(join(root, "compiled"), { recursive: true, encoding: "utf8" });
    const paths = names.filter((name) => /\.compiled/.test(name));
    return new Map(
      paths.map((path) => {
        const name = path.replace(/.*\/cli-[0-9a-f]{16}-?/, "");
        return [name, join(root, "compiled", path)] as const;
      }),
    );
  };
  assert.equal(run(root, ["fails"], { code: 3 }), "bundle: first \u2022");
  assert.deepEqual([...kept().keys()], []);
  for (const words of [
    ["branch", "create", "list"],
    ["branch", "mine"],
    ["branch", "../x"],
    ["/x"],
  ]) {
    assert.equal(run(root, words), "bundle: first \u2022");
  }
  assert.deepEqual([...kept().keys()].toSorted(), [
    ".compiled",
    "branch-create.compiled",
    "branch.compiled",
  ]);
  const path = kept().get("branch-create.compiled")!;
  const whole = readFileSync(path);
  const { ino } = statSync(path);
  run(root, ["branch", "create"]);
  assert.equal(statSync(path).ino, ino, "it was taken, or it would have been written again");
  for (const damaged of [
    whole.subarray(0, whole.length >> 1),
    Buffer.alloc(whole.length),
    whole.subarray(0, 0),
  ]) {
    writeFileSync(path, damaged);
    assert.equal(run(root, ["branch", "create"]), "bundle: first \u2022");
    assert.equal(readFileSync(path).length, whole.length);
  }
  // Of the same length: V8 alone would take it for the same.
  write("other");
  build(root);
  assert.notEqual(readdirSync(dist).filter((name) => name.endsWith(".code.js")).length, 1);
  assert.equal(run(root, ["branch", "create"]), "bundle: other \u2022");
  assert.equal(run(root, ["branch", "create"]), "bundle: other \u2022");
});

test("what a program is made of leaves its memory once it runs", (t) => {
  const { root } = checkout(t);
  writeFileSync(
    join(root, "src", "cli", "main.ts"),
    `(globalThis as any).text = "${"kept ".repeat(1_000_000)}";
     // Buffers that nobody has are counted until another thread has swept them.
     const end = Date.now() + 10_000;
     let mb;
     do {
       await new Promise((resolve) => setTimeout(resolve, 10));
       (globalThis as any).gc();
       mb = process.memoryUsage().arrayBuffers / 1_000_000;
     } while (mb >= 4 && Date.now() < end);
     console.log((globalThis as any).text.length, mb < 4 ? "free" : mb);`,
  );
  build(root);
  const flags = ["--expose-gc"];
  // What is compiled already, with its texts, is read by the second one.
  for (const _ of ["compiles", "reads"]) {
    assert.equal(run(root, [], { flags }), "bundle: 5000000 free");
  }
});

test("a process is known by what it was started from, a bundle or sources", (t) => {
  const { root, dist } = checkout(t);
  build(root);
  const { start } = JSON.parse(readFileSync(join(dist, "cli.json"), "utf8")) as { start: string };
  assert.equal(componentStartedBy(join(dist, start)), "cli");
  assert.equal(componentStartedBy(join(root, "src", "cli", "main.ts")), "cli");
  for (const other of ["main.ts", join(dist, "cli.json"), join(root, "cli", "part.ts"), start]) {
    assert.equal(componentStartedBy(other), undefined, other);
  }
});

test("what is left of an old build, or cut off, is not run", (t) => {
  const { root, dist } = checkout(t);
  build(root);
  const record = join(dist, "cli.json");
  const text = readFileSync(record, "utf8");
  truncateSync(record, text.length >> 1);
  assert.equal(run(root), "source: first");
  writeFileSync(record, text);
  assert.equal(run(root), "bundle: first");
  rmSync(join(dist, (JSON.parse(text) as { start: string }).start));
  assert.equal(run(root), "source: first");
  build(root);
  assert.equal(run(root), "bundle: first");
});

test("a copy of a checkout, with its bundles, runs its own sources", (t) => {
  const { root, write } = checkout(t);
  build(root);
  write("other");
  const copy = `${root} copy`;
  cpSync(root, copy, { recursive: true, preserveTimestamps: true });
  assert.equal(run(copy), "source: other");
  build(copy);
  assert.equal(run(copy), "bundle: other");
});

test("a source that changes while it is built is built again", (t) => {
  const { root, part } = checkout(t);
  const hook = join(root, "change.mjs");
  // It has been read when its stamp is asked for.
  writeFileSync(
    hook,
    `import fs from "node:fs";
     import { syncBuiltinESMExports } from "node:module";
     const part = ${JSON.stringify(part)};
     const { statSync } = fs;
     let changed = false;
     fs.statSync = (path, options) => {
       if (path === part && !changed) {
         changed = true;
         fs.writeFileSync(part, 'export const word = "other";');
       }
       return statSync(path, options);
     };
     syncBuiltinESMExports();`,
  );
  build(root, ["--import", hook]);
  assert.equal(run(root), "bundle: other");
});

test("builds at once, some of them killed, and edits: what runs is of today", async (t) => {
  const { root, dist, write } = checkout(t);
  for (const [round, word] of ["one", "two", "three"].entries()) {
    write(word);
    const builders = [1, 2, 3].map(() => spawn(process.execPath, [join(root, BUILDER)]));
    const ended = builders.map((child) => once(child, "exit"));
    await sleep(60 * round);
    builders[0]!.kill("SIGKILL");
    assert.match(run(root), new RegExp(` ${word}$`));
    const codes = await Promise.all(ended);
    assert.deepEqual(codes.slice(1), [
      [0, null],
      [0, null],
    ]);
    assert.equal(run(root), `bundle: ${word}`);
  }
  // What the killed one may have left goes with time.
  for (const name of readdirSync(dist)) {
    utimesSync(join(dist, name), 1, 1);
  }
  build(root);
  assert.equal(readdirSync(dist).length, 4, readdirSync(dist).join());
  assert.equal(run(root), "bundle: three");
});

const VICTIMS = ["broker", "pageserver", "safekeeper-1", "control_plane", "proxy", "agent-main"];

for (const from of ["bundles", "sources"] as const) {
  test(`every daemon and command runs from ${from}`, async () => {
    build(ROOT);
    assert.ok(isBundle(programOf("cli/main.ts")));
    if (from === "sources") {
      process.env["STRATA_FROM_SOURCES"] = "1";
    }
    try {
      await using cluster = await TestCluster.create();
      await cluster.startEndpoint();
      assert.deepEqual(await cluster.query("main", "select 40 + 2 as answer"), [{ answer: 42 }]);
      const programs = VICTIMS.map((name) =>
        commandWords(cluster.pid(name as "pageserver"))!.find((word) => /\.m?[jt]s$/.test(word)),
      );
      assert.deepEqual(
        programs.filter((path) => isBundle(path!) !== (from === "bundles")),
        [],
      );
      // What an agent is started with for itself, Postgres does not hear of (base/memory/malloc.ts).
      const frugal = (name: "agent-main" | "postgres-main") =>
        readFileSync(`/proc/${cluster.pid(name)}/environ`, "utf8").includes("MALLOC_ARENA_MAX=1");
      assert.deepEqual([frugal("agent-main"), frugal("postgres-main")], [true, false]);
      await cluster.ok("stop");
    } finally {
      delete process.env["STRATA_FROM_SOURCES"];
    }
  });
}
