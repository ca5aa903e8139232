// The newest major of which this machine's pg_dump can make a schema: npm's installations have no pg_dump.

import { execFileSync } from "node:child_process";
import { MAJORS } from "../../src/postgres/versions.ts";

/** Undefined where there is no pg_dump, or none that is new enough for any. */
export function dumpMajor(): number | undefined {
  try {
    const told = execFileSync("pg_dump", ["--version"], { encoding: "latin1" });
    const newest = Number(/\(PostgreSQL\) (\d+)/.exec(told)?.[1] ?? 0);
    return MAJORS.filter((major) => major <= newest).at(-1);
  } catch {
    return undefined;
  }
}
