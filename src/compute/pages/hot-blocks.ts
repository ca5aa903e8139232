// Which blocks Postgres had in its buffers, kept for the next start of the endpoint, which reads them ahead of its users.
//
// Both the list and the reading are contrib/pg_prewarm's (autoprewarm.c): a worker writes the file `autoprewarm.blocks` in the data
// directory every five minutes and at a shutdown, and at a start reads what it finds there, until no buffer is free. The data
// directory is made anew by every start, so we carry the file over. It names blocks and holds nothing of them: one that is old,
// or a parent's, costs time only.

import {
  closeSync,
  constants,
  fchownSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Logger } from "../../base/log.ts";
import { readLeftFile } from "../../data-directory/left-files.ts";
import { postgresUser } from "../../postgres/installation.ts";
import { HOT_BLOCKS_NAME } from "../api.ts";

/** A million blocks, so 8 GB. */
const MAX_BYTES = 32 * 2 ** 20;
/** `<<count>>`, then a line each: database, tablespace, file, fork, block. */
const HEAD = /^<<\d{1,9}>>\n/;
const MAX_HEAD_BYTES = 14;
const LAST_FIELD = 4;
/** One digit; of the others up to ten. */
const FORK_FIELD = 3;
const MAX_DIGITS = 10;
const [NEWLINE, COMMA, ZERO, NINE] = [0x0a, 0x2c, 0x30, 0x39];

/** After the end of a Postgres: its list is the next start's. Where it has left none, the one before stays. */
export function keepHotBlocks(dataDirectory: string, workdir: string): void {
  const list = readList(dataDirectory);
  if (list === undefined) {
    return;
  }
  const kept = join(workdir, HOT_BLOCKS_NAME);
  try {
    writeFileSync(`${kept}.new`, list, { mode: 0o600 });
    renameSync(`${kept}.new`, kept);
  } catch (error) {
    // On a full disk, of which the part that was written takes still more.
    rmSync(`${kept}.new`, { force: true });
    throw error;
  }
}

/** Before the start of a Postgres over a new data directory, which can be without: on a full disk there is no list in it, and the log says so. */
export function placeHotBlocks(workdir: string, dataDirectory: string, logger: Logger): void {
  const path = join(dataDirectory, HOT_BLOCKS_NAME);
  try {
    const list = readList(workdir);
    if (list !== undefined) {
      writeForPostgres(path, list);
    }
  } catch (error) {
    // Half of a list is none to Postgres, which would warn of it.
    rmSync(path, { force: true });
    logger.warn({ error }, "this start has no list of hot blocks");
  }
}

function writeForPostgres(path: string, list: string): void {
  rmSync(path, { force: true });
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  const fd = openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    writeFileSync(fd, list);
    const user = postgresUser();
    if (user !== undefined) {
      fchownSync(fd, user.uid, user.gid);
    }
  } finally {
    closeSync(fd);
  }
}

/** Blocks `[first, first + count)` of a fork, numbers as Postgres's; `database` 0: of what all share. */
export interface BlockRun {
  readonly database: number;
  readonly tablespace: number;
  readonly fileNumber: number;
  /** As SQL names it. */
  readonly fork: string;
  readonly first: number;
  readonly count: number;
}

const FORKS = ["main", "fsm", "vm", "init"];

/** Of a list's text, in its order, which is that of databases, files and blocks. A fork that there is not is left out. */
export function blockRuns(list: string): BlockRun[] {
  const runs: (BlockRun & { count: number })[] = [];
  let at = list.indexOf("\n") + 1;
  const number = () => {
    let value = 0;
    for (let code = list.charCodeAt(at++); code >= ZERO; code = list.charCodeAt(at++)) {
      value = value * 10 + code - ZERO;
    }
    return value;
  };
  while (at < list.length) {
    const [database, tablespace, fileNumber] = [number(), number(), number()];
    const fork = FORKS[number()];
    const first = number();
    const last = runs.at(-1);
    if (
      last !== undefined &&
      last.database === database &&
      last.tablespace === tablespace &&
      last.fileNumber === fileNumber &&
      last.fork === fork &&
      last.first + last.count === first
    ) {
      last.count++;
    } else if (fork !== undefined) {
      runs.push({ database, tablespace, fileNumber, fork, first, count: 1 });
    }
  }
  return runs;
}

/** By hand: a regular expression for all of it takes V8's stack for each line, which half a million use up. */
function isList(bytes: Buffer): boolean {
  const head = HEAD.exec(bytes.toString("latin1", 0, MAX_HEAD_BYTES));
  let [field, digits] = [0, 0];
  for (let at = head?.[0].length ?? 0; at < bytes.length; at++) {
    const byte = bytes[at]!;
    if (byte >= ZERO && byte <= NINE) {
      digits++;
    } else if (
      byte === (field === LAST_FIELD ? NEWLINE : COMMA) &&
      digits > 0 &&
      digits <= (field === FORK_FIELD ? 1 : MAX_DIGITS)
    ) {
      field = field === LAST_FIELD ? 0 : field + 1;
      digits = 0;
    } else {
      return false;
    }
  }
  return head !== null && field === 0 && digits === 0;
}

/** Undefined where the directory has no such list. */
export function readList(directory: string): string | undefined {
  const bytes = readLeftFile(directory, HOT_BLOCKS_NAME, MAX_BYTES);
  return bytes !== undefined && isList(bytes) ? bytes.toString("latin1") : undefined;
}
