// Durable file operations: what must survive a power cut goes through here.
//
// Two flavours, because a sync can take as long as the disk likes: the plain ones block, for small
// processes and for paths where each wake-up costs latency; those of `background`, and the functions
// named `...Async`, do not, for processes that serve others meanwhile. Reads always block: the page
// cache answers most of them sooner than a wake-up would.

import {
  close,
  closeSync,
  copyFile,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  fsync,
  fsyncSync,
  ftruncateSync,
  link,
  mkdir,
  mkdirSync,
  open,
  openSync,
  read,
  readdirSync,
  readSync,
  rename,
  renameSync,
  rm,
  rmSync,
  statSync,
  unlinkSync,
  write,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { errnoCode, StorageError } from "./errors.ts";

/**
 * The file operations of code that must not lose what it acknowledged: the simulation puts a disk that
 * forgets in their place (`simulation/simulated-disk.ts`). Errors are those of node:fs.
 */
export interface Disk {
  open(path: string, flags: "r" | "r+" | "w" | "wx+"): number;
  close(fd: number): void;
  /** Bytes. */
  size(fd: number): number;
  /** Bytes read into `buffer`; 0 at the end of the file. */
  read(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number;
  /** Writes every byte at `position`. */
  write(fd: number, bytes: Uint8Array, position: number): void;
  /** Cuts, or extends by a hole of zeros. */
  truncate(fd: number, size: number): void;
  fdatasync(fd: number): void;
  fsync(fd: number): void;
  exists(path: string): boolean;
  /** False also where there is nothing. */
  isDirectory(path: string): boolean;
  rename(from: string, to: string): void;
  unlink(path: string): void;
  /** Removes a directory with all that is in it, or nothing where there is none. */
  removeTree(path: string): void;
  /** Names in a directory, in no order. */
  list(directory: string): string[];
  /** With its parents. */
  makeDirectory(path: string): void;
  /** Makes renames, creations and removals inside `path` durable. */
  fsyncDirectory(path: string): void;
  /** The same off the event loop. */
  readonly background: BackgroundDisk;
}

/** As `Disk`, settled when it is done. Descriptors are those of `Disk`. */
export interface BackgroundDisk {
  open(path: string, flags: "r" | "w" | "wx+"): Promise<number>;
  close(fd: number): Promise<void>;
  /** As `Disk`'s; for who reads much and can wait. */
  read(
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
  ): Promise<number>;
  /** The bytes must not change before it settles. */
  write(fd: number, bytes: Uint8Array, position: number): Promise<void>;
  /** Covers what was written before the call, and nothing of what is written until it settles. */
  fdatasync(fd: number): Promise<void>;
  fsync(fd: number): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** A second name for an immutable file; where the file system has no such thing, a synced copy. */
  linkOrCopy(from: string, to: string): Promise<void>;
  /** Removes a file or a directory with all that is in it, or nothing where there is none. */
  removeTree(path: string): Promise<void>;
  makeDirectory(path: string): Promise<void>;
  fsyncDirectory(path: string): Promise<void>;
}

const PRIVATE_FILE = 0o600;
const PRIVATE_DIRECTORY = 0o700;

const inBackground = {
  close: promisify(close),
  copyFile: promisify(copyFile),
  fdatasync: promisify(fdatasync),
  fsync: promisify(fsync),
  link: promisify(link),
  mkdir: promisify(mkdir),
  open: promisify(open),
  read: promisify(read),
  rename: promisify(rename),
  rm: promisify(rm),
  write: promisify(write),
};

const REAL_BACKGROUND_DISK: BackgroundDisk = {
  open: (path, flags) => inBackground.open(path, flags, PRIVATE_FILE),
  close: inBackground.close,
  read: async (fd, buffer, offset, length, position) =>
    (await inBackground.read(fd, buffer, offset, length, position)).bytesRead,
  write: async (fd, bytes, position) => {
    for (let done = 0; done < bytes.length; ) {
      const left = bytes.length - done;
      done += (await inBackground.write(fd, bytes, done, left, position + done)).bytesWritten;
    }
  },
  fdatasync: inBackground.fdatasync,
  fsync: inBackground.fsync,
  rename: inBackground.rename,
  linkOrCopy,
  removeTree: (path) => inBackground.rm(path, { recursive: true, force: true }),
  makeDirectory: async (path) => {
    await inBackground.mkdir(path, { recursive: true, mode: PRIVATE_DIRECTORY });
  },
  fsyncDirectory: fsyncDirectoryAsync,
};

export const REAL_DISK: Disk = {
  open: (path, flags) => openSync(path, flags, PRIVATE_FILE),
  close: closeSync,
  size: (fd) => fstatSync(fd).size,
  read: readSync,
  write: writeFully,
  truncate: ftruncateSync,
  fdatasync: fdatasyncSync,
  fsync: fsyncSync,
  exists: existsSync,
  isDirectory: (path) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true,
  rename: renameSync,
  unlink: unlinkSync,
  removeTree: (path) => rmSync(path, { recursive: true, force: true }),
  list: (directory) => readdirSync(directory),
  makeDirectory: (path) => {
    mkdirSync(path, { recursive: true, mode: PRIVATE_DIRECTORY });
  },
  fsyncDirectory,
  background: REAL_BACKGROUND_DISK,
};

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await inBackground.link(from, to);
  } catch (error) {
    const code = errnoCode(error);
    if (code !== "EXDEV" && code !== "EPERM" && code !== "EMLINK" && code !== "ENOTSUP") {
      throw error;
    }
    await inBackground.copyFile(from, to);
    await fsyncPath(to);
  }
}

/** Makes a rename, creation or removal inside `path` durable. */
export function fsyncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** As `fsyncDirectory`, without blocking the event loop. */
export async function fsyncDirectoryAsync(path: string): Promise<void> {
  await fsyncPath(path);
}

async function fsyncPath(path: string): Promise<void> {
  const fd = await inBackground.open(path, "r");
  try {
    await inBackground.fsync(fd);
  } finally {
    await inBackground.close(fd);
  }
}

/**
 * Replaces `path` by `bytes`, all or nothing, durable when it returns: temporary file, fsync,
 * rename, fsync of the directory (without the last, the rename itself can vanish).
 * StorageError `unavailable` where the disk is full.
 */
export function writeFileDurably(
  path: string,
  bytes: Uint8Array | string,
  disk: Disk = REAL_DISK,
): void {
  const temporary = `${path}.tmp`;
  const data = typeof bytes === "string" ? Buffer.from(bytes) : bytes;
  try {
    const fd = disk.open(temporary, "w");
    try {
      disk.write(fd, data, 0);
      disk.fsync(fd);
    } finally {
      disk.close(fd);
    }
    disk.rename(temporary, path);
    disk.fsyncDirectory(dirname(path));
  } catch (error) {
    throw diskError(error, `write ${path}`);
  }
}

/**
 * As `writeFileDurably`, without blocking the event loop; durable when it resolves. One caller a path
 * at a time.
 */
export async function writeFileDurablyAsync(
  path: string,
  bytes: Uint8Array | string,
  { background }: Disk = REAL_DISK,
  temporary = `${path}.tmp`,
): Promise<void> {
  const data = typeof bytes === "string" ? Buffer.from(bytes) : bytes;
  try {
    const fd = await background.open(temporary, "w");
    try {
      await background.write(fd, data, 0);
      await background.fsync(fd);
    } finally {
      await background.close(fd);
    }
    await background.rename(temporary, path);
    await background.fsyncDirectory(dirname(path));
  } catch (error) {
    throw diskError(error, `write ${path}`);
  }
}

/** Writes every byte at `position`; a short write is continued. */
export function writeFully(fd: number, bytes: Uint8Array, position: number): void {
  let done = 0;
  while (done < bytes.length) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
}

/** The file's bytes, or undefined where there is no such file. */
export function readFileIfExists(path: string, disk: Disk = REAL_DISK): Buffer | undefined {
  let fd: number;
  try {
    fd = disk.open(path, "r");
  } catch (error) {
    if (errnoCode(error) === "ENOENT") {
      return undefined;
    }
    throw error;
  }
  try {
    const bytes = Buffer.alloc(disk.size(fd));
    let done = 0;
    while (done < bytes.length) {
      const count = disk.read(fd, bytes, done, bytes.length - done, done);
      if (count === 0) {
        break;
      }
      done += count;
    }
    return bytes.subarray(0, done);
  } finally {
    disk.close(fd);
  }
}

/** Of a StorageError: there is no space. */
export const DISK_FULL = "disk-full";

/** Of a Node file-system error, or what was made of one. */
export function isDiskFull(error: unknown): boolean {
  const code = errnoCode(error);
  return code === "ENOSPC" || code === "EDQUOT" || code === DISK_FULL;
}

/** Turns a Node file-system error into one that says what to do: a full disk is worth a retry. */
export function diskError(error: unknown, doing: string): StorageError {
  if (error instanceof StorageError) {
    return error;
  }
  if (isDiskFull(error)) {
    return new StorageError("unavailable", DISK_FULL, `${doing}: no space left on device`, {
      cause: error,
    });
  }
  const message = error instanceof Error ? error.message : String(error);
  return new StorageError("internal", "disk-error", `${doing}: ${message}`, { cause: error });
}
