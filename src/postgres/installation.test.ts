import assert from "node:assert/strict";
import {
  chmodSync,
  copyFileSync,
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
import { type TestContext, test } from "node:test";
import {
  findInstallation,
  mayReach,
  postgresEnvironment,
  postgresSocketDirectory,
  postgresUser,
  readableByPostgres,
  removeWorkdir,
  runPostgresTool,
  runtimeDirectory,
  socketDirectory,
} from "./installation.ts";

const PREBUILT = join(import.meta.dirname, "..", "compute", "shim", "prebuilt");
const SHIM = join(
  PREBUILT,
  readdirSync(PREBUILT).find((name) => name.includes(process.arch)) ?? "",
);

function temporaryDirectory(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "strata-installation-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  chmodSync(directory, 0o755);
  return directory;
}

test("findInstallation: the npm package runs as the Postgres user and says its version", async () => {
  const installation = findInstallation(17);
  const { stdout } = await runPostgresTool(installation, "postgres", ["--version"]);
  assert.match(stdout, /\(PostgreSQL\) 17\./);
  assert.ok(stdout.includes(installation.version), `${stdout} has ${installation.version}`);
});

test("findInstallation: refuses unknown majors and wrong directories with their names", (t) => {
  assert.throws(() => findInstallation(13), { kind: "unsupported" });
  const empty = temporaryDirectory(t);
  assert.throws(() => findInstallation(17, { pgBin: empty }), {
    kind: "invalid",
    message: /no 'p/,
  });
  const fake = temporaryDirectory(t);
  for (const tool of ["postgres", "initdb"]) {
    writeFileSync(join(fake, tool), "#!/bin/sh\necho 'postgres (PostgreSQL) 15.18'\n");
    chmodSync(join(fake, tool), 0o755);
  }
  assert.throws(() => findInstallation(17, { pgBin: fake }), {
    code: "wrong-postgres-major",
    message: /15\.18, wanted 17/,
  });
});

test("runPostgresTool: a failing program gives its last words", async () => {
  await assert.rejects(
    runPostgresTool(findInstallation(17), "initdb", ["--no-such-option"]),
    /no-such-option/,
  );
});

test("postgresEnvironment: settings for another cluster do not get in", (t) => {
  process.env["PGPORT"] = "1";
  t.after(() => delete process.env["PGPORT"]);
  const env = postgresEnvironment(findInstallation(17), { EXTRA: "yes" });
  assert.equal(env["PGPORT"], undefined);
  assert.equal(env["EXTRA"], "yes");
});

test("mayReach: goes by the mode bits of every directory on the way", (t) => {
  const directory = temporaryDirectory(t);
  const stranger = { name: "stranger", uid: 54321, gid: 54321 };
  const inner = join(directory, "inner");
  mkdirSync(inner, { mode: 0o755 });
  assert.equal(mayReach(inner, stranger), true);
  chmodSync(directory, 0o700);
  assert.equal(mayReach(inner, stranger), false);
});

test("runtimeDirectory and readableByPostgres: leave a directory that the user may not enter", (t) => {
  const directory = temporaryDirectory(t);
  const file = join(directory, "shim.so");
  writeFileSync(file, `content ${directory}`);
  assert.equal(runtimeDirectory(directory), directory);
  chmodSync(directory, 0o700);
  const outside = runtimeDirectory(directory);
  const copy = readableByPostgres(file);
  assert.equal(readFileSync(copy, "utf8"), `content ${directory}`);
  assert.equal(runtimeDirectory(directory), outside, "the same each time");
  const user = postgresUser();
  if (user === undefined) {
    assert.equal(outside, directory);
    assert.equal(copy, file);
  } else {
    t.after(() => rmSync(outside, { recursive: true }));
    t.after(() => rmSync(copy));
    assert.equal(mayReach(outside, user), true);
    assert.equal(mayReach(copy, user), true);
  }
});

test("socketDirectory: stays within a socket address", (t) => {
  const directory = temporaryDirectory(t);
  assert.equal(socketDirectory(directory, "agent.sock"), directory);
  const deep = join(directory, "d".repeat(60), "e".repeat(60));
  const short = socketDirectory(deep, "agent.sock");
  t.after(() => rmSync(short, { recursive: true, force: true }));
  assert.ok(join(short, "agent.sock").length <= 107);
  assert.equal(socketDirectory(deep, "agent.sock"), short);
  removeWorkdir(deep);
  assert.ok(!existsSync(short));
  assert.ok(!existsSync(deep));
});

test("socketDirectory: a path with a comma, which is two hosts to libpq, is not taken", (t) => {
  const directory = join(temporaryDirectory(t), "a,b");
  mkdirSync(directory, { mode: 0o755 });
  const socket = postgresSocketDirectory(directory);
  t.after(() => removeWorkdir(directory));
  assert.doesNotMatch(socket, /,/);
  assert.equal(postgresSocketDirectory(directory), socket, "the same each time");
  const before = process.env["TMPDIR"];
  t.after(() => {
    if (before === undefined) {
      delete process.env["TMPDIR"];
    } else {
      process.env["TMPDIR"] = before;
    }
  });
  process.env["TMPDIR"] = directory;
  const outside = socketDirectory(directory, "agent.sock");
  t.after(() => rmSync(outside, { recursive: true, force: true }));
  assert.match(outside, /^\/tmp\/strata-[^/]*$/);
  removeWorkdir(directory);
  assert.ok(!existsSync(outside));
});

test("runtimeDirectory: those of vanished working directories are removed with the next new one", (t) => {
  if (postgresUser() === undefined) {
    t.skip("only root has them");
    return;
  }
  const closed = (name: string) => {
    const directory = join(temporaryDirectory(t), name);
    mkdirSync(directory, { mode: 0o700 });
    return directory;
  };
  const first = closed("first");
  const abandoned = runtimeDirectory(first);
  rmSync(first, { recursive: true });
  const second = closed("second");
  const kept = runtimeDirectory(second);
  assert.equal(existsSync(abandoned), false);
  assert.equal(existsSync(kept), true);
  removeWorkdir(second);
  assert.equal(existsSync(kept), false);
});

test("postgresEnvironment: a library in a folder with spaces is preloaded; with a colon it is refused", async (t) => {
  const installation = findInstallation(17);
  const folder = join(temporaryDirectory(t), "a folder");
  mkdirSync(folder, { mode: 0o755 });
  const library = join(folder, "preloaded.so");
  copyFileSync(SHIM, library);
  chmodSync(library, 0o755);
  // That the shim complains shows that it was loaded.
  await assert.rejects(
    runPostgresTool(installation, "postgres", ["--version"], { env: { LD_PRELOAD: library } }),
    /strata shim: STRATA_SHIM_DATA_DIR.* must be set/,
  );
  assert.throws(() => postgresEnvironment(installation, { LD_PRELOAD: "/a:b/preloaded.so" }), {
    code: "bad-path",
  });
});
