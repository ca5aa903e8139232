// An endpoint whose file I/O could not be caught does not start: no shim, or a Postgres with a call that it does not cover.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { findInstallation } from "../src/postgres/installation.ts";
import { TestCluster } from "../testing/cluster.ts";
import { flipByte } from "../testing/damage.ts";

const ROOT = join(import.meta.dirname, "..");

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select generate_series(1, 1000) i");
  await cluster.ok("endpoint", "stop", "main");
});
after(() => cluster?.[Symbol.asyncDispose]());

/** With everything as it should be again: nothing was lost. */
async function startsAndHasAll(): Promise<void> {
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await cluster.query("main", "select count(*)::int n from t"), [{ n: 1000 }]);
  await cluster.ok("endpoint", "stop", "main");
}

const postgresLog = () => cluster.log("endpoints/main/postgres.log");

/** The program's command line from another checkout, with tools only where `path` says. */
function runFrom(checkout: string, path: string, ...args: string[]) {
  return new Promise<{ failed: boolean; stderr: string }>((resolve) => {
    const env = { ...process.env, STRATA_HOME: cluster.home, PATH: path, CC: undefined };
    const main = join(checkout, "src", "cli", "main.ts");
    execFile(process.execPath, [main, ...args], { env }, (error, _stdout, stderr) => {
      resolve({ failed: error !== null, stderr: stderr.trim() });
    });
  });
}

test("no intact shim and no C compiler: refused, with both named; with either it starts", async () => {
  const checkout = join(dirname(cluster.home), "checkout");
  cpSync(join(ROOT, "src"), join(checkout, "src"), { recursive: true });
  cpSync(join(ROOT, "package.json"), join(checkout, "package.json"));
  symlinkSync(join(ROOT, "node_modules"), join(checkout, "node_modules"));
  const prebuilt = join(checkout, "src", "compute", "shim", "prebuilt");
  const start = (path: string) => runFrom(checkout, path, "endpoint", "start", "main");
  const stop = () => cluster.ok("endpoint", "stop", "main");
  const before = postgresLog();
  const refused =
    `command failed: start endpoint main: start the compute: there is no intact prebuilt shim for ` +
    `${process.platform}-${process.arch} in ${prebuilt}: compile the shim: no C compiler 'cc' ($CC names another)`;

  assert.deepEqual(await start("/nonexistent"), { failed: false, stderr: "" });
  await stop();
  const intact = postgresLog();
  assert.notEqual(intact, before);
  const library = readdirSync(prebuilt).find((name) => name.endsWith(`linux-${process.arch}.so`));
  const restore = flipByte(join(prebuilt, library!), 4096);
  assert.deepEqual(await start("/nonexistent"), { failed: true, stderr: refused });
  restore();
  rmSync(prebuilt, { recursive: true });
  assert.deepEqual(await start("/nonexistent"), { failed: true, stderr: refused });
  assert.equal(postgresLog(), intact, "Postgres was started");

  if (hasCompiler()) {
    assert.deepEqual(await start(process.env["PATH"]!), { failed: false, stderr: "" });
    await stop();
  }
  await startsAndHasAll();
});

function hasCompiler(): boolean {
  return (process.env["PATH"] ?? "")
    .split(delimiter)
    .some((directory) => directory !== "" && readdirSafely(directory).includes("cc"));
}

function readdirSafely(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** A copy of the Postgres in use that imports `newName` where it imported `oldName`. */
function doctoredPostgres(oldName: string, newName: string): string {
  assert.equal(oldName.length, newName.length);
  const native = join(dirname(cluster.home), newName);
  const { binDir, libDir } = findInstallation();
  cpSync(binDir, join(native, "bin"), { recursive: true, dereference: true });
  symlinkSync(libDir ?? join(dirname(binDir), "lib"), join(native, "lib"));
  const path = join(native, "bin", "postgres");
  const program = readFileSync(path);
  // The first one is that of .dynstr, the table of the dynamic linker.
  const at = program.indexOf(`\0${oldName}\0`);
  assert.ok(at > 0, `postgres does not import ${oldName}`);
  program.write(newName, at + 1, "latin1");
  writeFileSync(path, program);
  return join(native, "bin");
}

test("a Postgres that imports a call the shim does not cover is refused before anything starts", async () => {
  const spec = cluster.endpointSpec();
  const path = join(cluster.home, "endpoints", "main", "endpoint.json");
  const before = postgresLog();
  const startWith = async (pgBin: string) => {
    writeFileSync(path, JSON.stringify({ ...spec, pgBin }));
    try {
      return await cluster.fails("endpoint", "start", "main");
    } finally {
      writeFileSync(path, JSON.stringify(spec));
    }
  };
  // One that is known to pass the shim by, and one that the table does not know.
  for (const [oldName, newName] of [
    ["getpwuid", "sendfile"],
    ["waitpid", "fgetpos"],
  ] as const) {
    const pgBin = doctoredPostgres(oldName, newName);
    assert.equal(
      await startWith(pgBin),
      `command failed: start endpoint main: start the compute: ${join(pgBin, "postgres")} cannot run as a compute: it imports ${newName}, which the shim does not see`,
    );
  }
  assert.equal(
    await startWith("/nonexistent/bin"),
    "command failed: start endpoint main: start the compute: PostgreSQL binaries in '/nonexistent/bin': no 'postgres' there",
  );
  assert.equal(postgresLog(), before, "Postgres was started");
  await startsAndHasAll();
});
