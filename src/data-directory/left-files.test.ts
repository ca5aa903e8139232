// Tests of what a superuser of Postgres may have put into a data directory: nothing but files of its owner is opened.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chownSync,
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { openLeftFile, openOrMakeFile, readLeftFile } from "./left-files.ts";

const IS_ROOT = process.getuid?.() === 0;
const SOMEBODY = 12_345;

let root: string;
let data: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "strata-left-"));
  data = join(root, "data");
  mkdirSync(data);
  writeFileSync(join(root, "secret"), "secret");
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Nobody opens a pipe's other end: who opens it as a file waits. */
function putOthers(): string[] {
  symlinkSync(join(root, "secret"), join(data, "link"));
  symlinkSync(join(root, "nothing"), join(data, "link to nothing"));
  linkSync(join(root, "secret"), join(data, "other name"));
  execFileSync("mkfifo", [join(data, "pipe")]);
  mkdirSync(join(data, "directory"));
  return ["link", "link to nothing", "other name", "pipe", "directory"];
}

test("openLeftFile, readLeftFile: files only, and not larger than they may be", () => {
  writeFileSync(join(data, "file"), "content");
  assert.equal(readLeftFile(data, "file", 7)?.toString(), "content");
  assert.equal(readLeftFile(data, "file", 6), undefined);
  assert.equal(readLeftFile(data, "nothing", 7), undefined);
  assert.equal(readLeftFile(data, "file/x", 7), undefined);
  for (const name of putOthers()) {
    assert.equal(openLeftFile(data, name), undefined, name);
  }
});

test("openOrMakeFile: what a link leads to is neither written nor made", () => {
  for (const name of putOthers()) {
    assert.throws(() => openOrMakeFile(data, name), { code: "EEXIST" }, name);
  }
  assert.equal(readFileSync(join(root, "secret"), "utf8"), "secret");
  assert.equal(statSync(join(root, "nothing"), { throwIfNoEntry: false }), undefined);
  for (let time = 1; time <= 2; time++) {
    closeSync(openOrMakeFile(data, "new"));
  }
  assert.equal(statSync(join(data, "new")).mode & 0o777, 0o600);
});

test("openLeftFile: files of the directory's owner, whatever directory a link leads to", {
  skip: IS_ROOT ? false : "only root has files of others",
}, () => {
  mkdirSync(join(root, "other"));
  writeFileSync(join(root, "other", "secret"), "secret");
  chownSync(data, SOMEBODY, SOMEBODY);
  symlinkSync(join(root, "other"), join(data, "directory"));
  assert.equal(openLeftFile(data, "directory/secret"), undefined);
  closeSync(openOrMakeFile(data, "new"));
  assert.equal(statSync(join(data, "new")).uid, SOMEBODY);
  closeSync(openLeftFile(data, "new")!);
});
