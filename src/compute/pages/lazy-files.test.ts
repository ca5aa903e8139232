import assert from "node:assert/strict";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { findInstallation } from "../../postgres/installation.ts";
import { CHECKED_POSTGRES_NAME } from "../api.ts";
import { prepareShim } from "./lazy-files.ts";

test("prepareShim: goes by what another endpoint has found out, but for a library in that one's directory", async (t) => {
  const endpoints = mkdtempSync(join(tmpdir(), "strata-prepare-shim-"));
  t.after(() => rmSync(endpoints, { recursive: true }));
  const installation = findInstallation(17);
  const [first, second] = ["first", "second"].map((id) => join(endpoints, id)) as [string, string];
  mkdirSync(first);
  mkdirSync(second);
  const shim = await prepareShim(installation, first);
  const [ofFirst, record] = [first, second].map((at) => join(at, CHECKED_POSTGRES_NAME)) as [
    string,
    string,
  ];
  // Not written again: nothing was looked at again.
  copyFileSync(ofFirst, record);
  const before = statSync(record).mtimeMs;
  assert.equal(await prepareShim(installation, second), shim);
  assert.equal(statSync(record).mtimeMs, before);
  const built = join(first, "strata_shim-of-its-own.so");
  copyFileSync(shim, built);
  const { ino, size, ctimeMs } = statSync(built);
  const [, , ...stamps] = readFileSync(ofFirst, "utf8").split("\n");
  const own = [built, `${ino} ${size} ${ctimeMs}`, ...stamps].join("\n");
  writeFileSync(ofFirst, own);
  assert.equal(await prepareShim(installation, first), built);
  writeFileSync(record, own);
  assert.equal(await prepareShim(installation, second), shim);
});
