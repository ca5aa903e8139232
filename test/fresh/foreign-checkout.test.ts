// A checkout that root has installed, used by an ordinary user who may change nothing in it.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { mayReach } from "../../src/postgres/installation.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const NOBODY = { name: "nobody", uid: 65534, gid: 65534 };
const PACKAGE = `postgres-17-${process.platform}-${process.arch}`;
const PROGRAM = `
import { findInstallation, runPostgresTool } from "./src/postgres/installation.ts";
const installation = findInstallation(17);
const { stdout } = await runPostgresTool(installation, "postgres", ["--version"]);
console.log(installation.binDir, stdout);
`;

test("a root-owned checkout whose Postgres has no x bits: an ordinary user runs a copy", (t) => {
  if (process.getuid?.() !== 0 || !mayReach(process.execPath, NOBODY)) {
    t.skip("needs root, and a Node that an ordinary user may run");
    return;
  }
  const base = mkdtempSync(join(tmpdir(), "strata-foreign-"));
  t.after(() => rmSync(base, { recursive: true, force: true }));
  chmodSync(base, 0o755);
  const root = join(base, "checkout");
  const parts = [
    "package.json",
    "src/base",
    "src/postgres",
    "package-lock.json",
    `node_modules/${PACKAGE}`,
  ];
  for (const part of parts) {
    cpSync(join(ROOT, part), join(root, part), { recursive: true, verbatimSymlinks: true });
  }
  writeFileSync(join(root, "program.ts"), PROGRAM);
  const bin = join(root, "node_modules", PACKAGE, "native", "bin");
  // As npm unpacks them where install scripts do not run.
  for (const tool of readdirSync(bin)) {
    chmodSync(join(bin, tool), 0o644);
  }
  const home = join(base, "home");
  mkdirSync(home);
  chownSync(home, NOBODY.uid, NOBODY.gid);
  const { status, stdout, stderr } = spawnSync(process.execPath, ["program.ts"], {
    cwd: root,
    encoding: "utf8",
    env: { HOME: home, PATH: "/usr/bin:/bin" },
    uid: NOBODY.uid,
    gid: NOBODY.gid,
  });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /\(PostgreSQL\) 17\./);
  assert.ok(stdout.startsWith(join(home, ".cache", "strata")), stdout);
  assert.equal(statSync(join(bin, "postgres")).mode & 0o111, 0, "the checkout is as it was");
});

test("a home that an ordinary user cannot write: the message names the way out", (t) => {
  if (process.getuid?.() !== 0 || !mayReach(join(ROOT, "scripts"), NOBODY)) {
    t.skip("needs root, and a checkout that an ordinary user may enter");
    return;
  }
  const base = mkdtempSync(join(tmpdir(), "strata-foreign-"));
  t.after(() => rmSync(base, { recursive: true, force: true }));
  chmodSync(base, 0o755);
  const main = join(ROOT, "src", "cli", "main.ts");
  const { status, stderr } = spawnSync(process.execPath, [main, "init"], {
    cwd: base,
    encoding: "utf8",
    env: { HOME: base, PATH: "/usr/bin:/bin" },
    uid: NOBODY.uid,
    gid: NOBODY.gid,
  });
  assert.equal(status, 1, stderr);
  assert.match(stderr, /\.strata' cannot be written \(EACCES\): \$STRATA_HOME names another place/);
});
