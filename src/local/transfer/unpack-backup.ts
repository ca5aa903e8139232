// Base backups in tar format, as `pg_basebackup -Ft` writes them: unpacked beside the home's data for an import.

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { errnoCode, StorageError } from "../../base/errors.ts";

const BASE_ARCHIVE = /\.(?:tar|tar\.gz|tgz)$/;
const PLAIN_OR_GZIP = /^(?:base|pg_wal)\.tar(?:\.gz)?$/;

/** Archives of one backup, or the directory that needs no unpacking. */
export type BackupSource =
  | { readonly kind: "directory"; readonly path: string }
  | { readonly kind: "archives"; readonly base: string; readonly wal: string | undefined };

/**
 * What `from` names: a directory, a directory of archives, or an archive, beside which pg_wal.tar may be. StorageError
 * `not-found`, or `unsupported` where a part is compressed otherwise than by gzip or of a tablespace.
 */
export function findBackup(from: string): BackupSource {
  const path = resolve(from);
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined) {
    throw new StorageError("not-found", "no-such-file", `there is no '${from}'`);
  }
  const directory = status.isDirectory() ? path : dirname(path);
  const names = readdirSync(directory);
  if (status.isDirectory()) {
    const base = names.find((name) => /^base\.tar/.test(name));
    return base === undefined ? { kind: "directory", path } : archives(directory, base, names);
  }
  if (!BASE_ARCHIVE.test(path)) {
    throw new StorageError(
      "unsupported",
      "unknown-archive",
      `'${from}' is neither a directory nor named .tar, .tar.gz or .tgz: decompress it first`,
    );
  }
  return archives(directory, basename(path), names);
}

function archives(directory: string, base: string, names: readonly string[]): BackupSource {
  const wal = names.find((name) => /^pg_wal\.tar/.test(name));
  const tablespaces = names.filter((name) => /^\d+\.tar/.test(name));
  if (tablespaces.length > 0) {
    const message = `cannot import '${directory}': it has tablespaces: ${tablespaces.join(", ")}`;
    throw new StorageError("unsupported", "user-tablespace", message);
  }
  for (const name of [base, wal]) {
    if (name !== undefined && !PLAIN_OR_GZIP.test(name) && !BASE_ARCHIVE.test(name)) {
      const message = `'${join(directory, name)}' is not compressed by gzip: decompress it first`;
      throw new StorageError("unsupported", "unknown-compression", message);
    }
  }
  return {
    kind: "archives",
    base: join(directory, base),
    wal: wal === undefined ? undefined : join(directory, wal),
  };
}

/**
 * Into `scratch`, which is emptied first; a half one of a process that ended may be there. Nobody else may use it. Needs as
 * much room as the backup has unpacked. StorageError `invalid` where tar finds no archive.
 */
export async function unpackBackup(
  source: Extract<BackupSource, { kind: "archives" }>,
  scratch: string,
): Promise<void> {
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true, mode: 0o700 });
  await unpack(source.base, scratch);
  if (source.wal !== undefined) {
    const wal = join(scratch, "pg_wal");
    if (!existsSync(wal)) {
      mkdirSync(wal, { mode: 0o700 });
    }
    await unpack(source.wal, wal);
  }
}

/** GNU tar, which every Linux has: it leaves out absolute names and `..`, and makes no link before all files. */
async function unpack(archive: string, directory: string): Promise<void> {
  const args = ["--extract", "--file", archive, "--directory", directory, "--no-same-owner"];
  try {
    await promisify(execFile)("tar", args, { env: { ...process.env, LC_ALL: "C" } });
  } catch (error) {
    if (errnoCode(error) === "ENOENT") {
      const message = "unpacking needs the program tar: install it, or unpack by hand";
      throw new StorageError("unavailable", "no-tar", message, { cause: error });
    }
    const { stderr } = error as { stderr?: string };
    const why = stderr?.trim().split("\n")[0] ?? String(error);
    const message = `unpack '${archive}': ${why}`;
    throw new StorageError("invalid", "bad-archive", message, { cause: error });
  }
}
