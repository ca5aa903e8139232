// What Postgres has left in its data directory, opened by whoever may read more than Postgres's user.
//
// An agent of root reads and writes there, and that user's superuser can put there what he likes: a link to what only root may
// read, a pipe at which whoever opens it waits for ever. So only what is a file, under one name, and belongs to whom the
// directory belongs is opened.

import {
  closeSync,
  constants,
  fchownSync,
  fstatSync,
  openSync,
  readFileSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { errnoCode } from "../base/errors.ts";

const NOT_A_FILE = ["ENOENT", "ENOTDIR", "ELOOP", "EACCES", "ENXIO", "EISDIR"];

/**
 * A descriptor of `name`, relative to `directory`, which is the caller's; `flags` are open's. Undefined where there is no file of
 * the directory's owner: nothing, or a link, a pipe, another name of a file that is elsewhere too.
 */
export function openLeftFile(
  directory: string,
  name: string,
  flags: number = constants.O_RDONLY,
): number | undefined {
  const { O_NOFOLLOW, O_NONBLOCK } = constants;
  let fd: number;
  try {
    fd = openSync(join(directory, name), flags | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    if (NOT_A_FILE.includes(errnoCode(error) ?? "")) {
      return undefined;
    }
    throw error;
  }
  const status = fstatSync(fd);
  // A directory on the way may be a link, too.
  if (status.isFile() && status.nlink === 1 && status.uid === statSync(directory).uid) {
    return fd;
  }
  closeSync(fd);
  return undefined;
}

/** As openLeftFile, to read and write; a file that is not there is made. Throws EEXIST where something else is. */
export function openOrMakeFile(directory: string, name: string): number {
  const { O_RDWR, O_CREAT, O_EXCL } = constants;
  const there = openLeftFile(directory, name, O_RDWR);
  if (there !== undefined) {
    return there;
  }
  const fd = openSync(join(directory, name), O_RDWR | O_CREAT | O_EXCL, 0o600);
  const { uid, gid } = statSync(directory);
  fchownSync(fd, uid, gid);
  return fd;
}

/** All of it; undefined as openLeftFile, and for more than `maxBytes`. */
export function readLeftFile(
  directory: string,
  name: string,
  maxBytes: number,
): Buffer | undefined {
  const fd = openLeftFile(directory, name);
  if (fd === undefined) {
    return undefined;
  }
  try {
    return fstatSync(fd).size > maxBytes ? undefined : readFileSync(fd);
  } finally {
    closeSync(fd);
  }
}
