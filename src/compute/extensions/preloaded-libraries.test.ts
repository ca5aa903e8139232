import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { NO_COMPILER } from "../../../testing/compute/shim-program.ts";
import { findInstallation } from "../../postgres/installation.ts";
import { libraryDirectory } from "./installation-layout.ts";
import { libraryNames, refuseResourceManagers } from "./preloaded-libraries.ts";

let root: string;

before(() => {
  root = mkdtempSync(join(tmpdir(), "strata-preload-"));
  mkdirSync(join(root, "plugins"));
  mkdirSync(join(root, "elsewhere"));
});

after(() => rmSync(root, { recursive: true, force: true }));

function compile(path: string, source: string): void {
  const c = join(root, "source.c");
  writeFileSync(c, source);
  const { status, stderr } = spawnSync("cc", ["-shared", "-fPIC", "-o", path, c], {
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
}

test("libraryNames: at commas, and what is in quotes as it stands", () => {
  assert.deepEqual(libraryNames(' a ,"b, ""c""" ,$libdir/d,,'), ["a", 'b, "c"', "$libdir/d"]);
  assert.deepEqual(libraryNames(""), []);
});

test("refuseResourceManagers: by setting and name, wherever Postgres would find the library", {
  skip: NO_COMPILER,
}, () => {
  const own =
    "extern int RegisterCustomRmgr(int, void *); int _PG_init(void) { return RegisterCustomRmgr(200, 0); }";
  for (const path of ["own.so", "plugins/local.so", "elsewhere/far.so"]) {
    compile(join(root, path), own);
  }
  compile(join(root, "plain.so"), "int _PG_init(void) { return 0; }");
  writeFileSync(join(root, "text.so"), "no library");
  const refuse = (settings: Record<string, string>) => refuseResourceManagers(settings, root);
  const preload = "shared_preload_libraries";
  refuse({});
  refuse({ [preload]: "plain, text, not_there, far" });
  const refused: [Record<string, string>, string][] = [
    [{ [preload]: "plain, own" }, `${preload}: library 'own'`],
    [{ Shared_Preload_Libraries: '"own"' }, `${preload}: library 'own'`],
    [{ [preload]: "own.so" }, `${preload}: library 'own.so'`],
    [{ [preload]: "$libdir/own" }, `${preload}: library '$libdir/own'`],
    [{ [preload]: join(root, "elsewhere", "far") }, `${preload}: library '${root}/elsewhere/far'`],
    [
      { [preload]: "far", dynamic_library_path: `$libdir:${root}/elsewhere` },
      `${preload}: library 'far'`,
    ],
    [{ session_preload_libraries: "own" }, "session_preload_libraries: library 'own'"],
    [{ local_preload_libraries: "local" }, "local_preload_libraries: library 'local'"],
  ];
  for (const [settings, words] of refused) {
    assert.throws(
      () => refuse(settings),
      (error: Error) => {
        assert.equal((error as { kind?: string }).kind, "unsupported");
        assert.ok(error.message.startsWith(`${words} has a WAL resource manager of its own`));
        return true;
      },
    );
  }
});

test("libraryDirectory: of the installation that is shipped; nothing of it is refused", () => {
  const directory = libraryDirectory(findInstallation());
  refuseResourceManagers(
    { shared_preload_libraries: "pg_stat_statements, auto_explain" },
    directory,
  );
  assert.match(directory, /\/lib\/postgresql$/);
});
