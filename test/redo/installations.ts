// The Postgres binaries that the conformance test runs on.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { findInstallation } from "../../src/postgres/installation.ts";
import { MAJORS } from "../../src/postgres/versions.ts";

export interface TestedInstallation {
  readonly major: number;
  /** As `postgres --version` says, for example `17.10`. */
  readonly version: string;
  /** Undefined for the npm package. */
  readonly pgBin: string | undefined;
  /** For people: where it comes from. */
  readonly origin: string;
}

/**
 * The npm packages, Debian's binaries where there are any, and the directories `given`; of `majors` only,
 * where there are some. With `given` directories and no majors, those alone.
 */
export function testedInstallations(
  majors: readonly number[],
  given: readonly string[],
): TestedInstallation[] {
  const found: TestedInstallation[] = [];
  const add = (major: number, pgBin: string | undefined, origin: string) => {
    const { version } = findInstallation(major, { pgBin });
    found.push({ major, version, pgBin, origin });
  };
  if (given.length === 0 || majors.length > 0) {
    for (const major of MAJORS) {
      if (majors.length === 0 || majors.includes(major)) {
        add(major, undefined, "npm");
        const debian = `/usr/lib/postgresql/${major}/bin`;
        if (existsSync(join(debian, "postgres"))) {
          add(major, debian, "Debian");
        }
      }
    }
  }
  for (const directory of given) {
    add(majorOf(resolve(directory)), resolve(directory), "built from source");
  }
  return found;
}

function majorOf(binDir: string): number {
  const asked = spawnSync(join(binDir, "postgres"), ["--version"], { encoding: "utf8" });
  const match = /\(PostgreSQL\) (\d+)/.exec(asked.stdout ?? "");
  if (match === null) {
    throw new Error(`no Postgres in '${binDir}'`);
  }
  return Number(match[1]);
}
