// A directory in a data directory, as Postgres makes them.

import { mkdirSync } from "node:fs";
import { giveToPostgres } from "../postgres/installation.ts";

/** Its parent must be there, it must not. */
export function makeDirectory(path: string): void {
  mkdirSync(path, { mode: 0o700 });
  giveToPostgres(path);
}
