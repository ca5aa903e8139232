// initdb of stock Postgres, once a run of tests for each version and its arguments: who comes later has a copy, as a system of its own.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { crc32c } from "../../src/base/crc32c.ts";
import { randomBytes } from "../../src/base/random.ts";
import { decodeControlFile } from "../../src/postgres/control-file.ts";
import { type Installation, runPostgresTool } from "../../src/postgres/installation.ts";
import { keepOnce } from "./keep-once.ts";

/** Of xlp_sysid in the first page of a segment (XLogLongPageHeaderData). */
const WAL_SYSTEM_ID_OFFSET = 24;

/** `dataDirectory` must not exist. `args`: without the directory; one that names a file is not shared. */
export async function initdbOnce(
  installation: Installation,
  args: readonly string[],
  dataDirectory: string,
): Promise<void> {
  const run = process.env["STRATA_TEST_TEMPLATES"];
  const shared = run !== undefined && !args.some((arg) => arg.includes("/"));
  const key = JSON.stringify([installation.binDir, ...args]);
  const name = `stock-${createHash("sha256").update(key).digest("hex").slice(0, 16)}`;
  const template = join(run ?? "", name);
  if (shared && existsSync(template)) {
    copy(join(template, "data"), dataDirectory);
    becomeAnother(dataDirectory);
    return;
  }
  await runPostgresTool(installation, "initdb", ["-D", dataDirectory, ...args]);
  if (shared) {
    keepOnce(template, (unfinished) => copy(dataDirectory, join(unfinished, "data")));
  }
}

/** With owners and modes, which Postgres insists on. */
function copy(from: string, to: string): void {
  execFileSync("cp", ["-a", from, to]);
}

/** A new system identifier, as initdb would have given: WAL of one cluster is then none of another's. */
function becomeAnother(dataDirectory: string): void {
  const systemId = Buffer.alloc(8);
  systemId.writeBigUInt64LE((randomBytes(8).readBigUInt64LE() >> 1n) | 1n);
  const controlFile = join(dataDirectory, "global", "pg_control");
  const control = readFileSync(controlFile);
  const { controlCrcOffset } = decodeControlFile(control).version;
  control.set(systemId, 0);
  control.writeUInt32LE(crc32c(control, 0, controlCrcOffset), controlCrcOffset);
  writeFileSync(controlFile, control);
  const wal = join(dataDirectory, "pg_wal");
  for (const segment of readdirSync(wal).filter((path) => /^[0-9A-F]{24}$/.test(path))) {
    const file = openSync(join(wal, segment), "r+");
    writeSync(file, systemId, 0, systemId.length, WAL_SYSTEM_ID_OFFSET);
    closeSync(file);
  }
}
