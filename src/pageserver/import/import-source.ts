// What can be imported: looks whether a directory is a stopped server's or a base backup, and what of it stays behind.

import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { WAL_SEGMENT_SIZE, XLOG_BLCKSZ } from "../../base/lsn.ts";
import { commandWords, describeProcess } from "../../base/proc.ts";
import { type BaseBackup, openBaseBackup } from "../../data-directory/base-backup.ts";
import { Consistency } from "../../data-directory/consistency.ts";
import { WalDirectory } from "../../data-directory/wal-directory.ts";
import { WalReader } from "../../data-directory/wal-reader.ts";
import { type ControlFile, DB_SHUTDOWNED } from "../../postgres/control-file.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { RELATION_SEGMENT_BLOCKS } from "../../postgres/relation-path.ts";
import {
  type DataDirectoryImage,
  readBackupFiles,
  readDataDirectory,
} from "./data-directory-import.ts";

/** Postgres's own entries of a data directory, 14 to 18, and what tools leave in backups. */
const KNOWN_ENTRIES = new Set(
  `PG_VERSION base global pg_commit_ts pg_dynshmem pg_logical pg_multixact pg_notify pg_replslot pg_serial
   pg_snapshots pg_stat pg_stat_tmp pg_subtrans pg_tblspc pg_twophase pg_wal pg_xact postgresql.conf
   postgresql.auto.conf pg_hba.conf pg_ident.conf postmaster.opts postmaster.pid current_logfiles log
   backup_label backup_label.old backup_manifest tablespace_map tablespace_map.old standby.signal
   recovery.signal pg_internal.init postgresql.conf.sample lost+found`
    .trim()
    .split(/\s+/),
);
/** Of pg_control; 1 is a clean end. */
const STATES = [
  "starting up",
  "shut down",
  "shut down as a standby",
  "shutting down",
  "in crash recovery",
  "in archive recovery",
  "in production",
];

export interface ImportSource {
  readonly control: ControlFile;
  readonly image: DataDirectoryImage;
  /** Of a base backup: its WAL, which is to be taken in on top of the files. */
  readonly wal: { readonly reader: WalReader; readonly consistency: Consistency } | undefined;
  /** One line each: what is there and is not taken over. */
  readonly leftOut: readonly string[];
}

/**
 * Looks at everything that can be known before pages are read. Whoever has it closes `wal.reader`. StorageError
 * `not-found`, `invalid`, `unsupported` or `corrupt`, with what a person can do about it.
 */
export function openImportSource(directory: string): ImportSource {
  const base = openBase(directory);
  const { control } = base;
  refuseRunningServer(directory);
  refuseTablespaces(directory);
  refuseOtherBuild(control);
  const hasLabel = existsSync(join(directory, "backup_label"));
  if (!hasLabel && control.state !== DB_SHUTDOWNED) {
    throw refused(
      directory,
      `its server was not stopped cleanly (pg_control says '${STATES[control.state] ?? control.state}') and it is no ` +
        "base backup: start and stop the server, or use pg_basebackup",
    );
  }
  const image = hasLabel ? readBackupFiles(base) : readDataDirectory(directory, base.major);
  return {
    control,
    image,
    wal: hasLabel ? openWal(base) : undefined,
    leftOut: leftOut(directory, image),
  };
}

function refused(directory: string, why: string): StorageError {
  return new StorageError("invalid", "cannot-import", `cannot import '${directory}': ${why}`);
}

function openBase(directory: string): BaseBackup {
  try {
    return openBaseBackup(directory);
  } catch (error) {
    if (error instanceof StorageError && error.code === "missing-tablespace") {
      refuseTablespaces(directory);
    }
    throw error;
  }
}

function openWal(base: BaseBackup) {
  const wal = new WalDirectory(join(base.directory, "pg_wal"), base.control.segmentSize);
  return { reader: new WalReader(wal, base), consistency: new Consistency(base) };
}

function refuseRunningServer(directory: string): void {
  const path = join(directory, "postmaster.pid");
  const pid = existsSync(path) ? Number.parseInt(readFileSync(path, "latin1"), 10) : 0;
  if (pid > 0 && commandWords(pid)?.some((word) => /postgres|postmaster/.test(word)) === true) {
    throw refused(
      directory,
      `a server runs on it (${describeProcess(pid)}): stop it, or use pg_basebackup`,
    );
  }
}

/** As the links of a data directory, or as the list that a backup in tar format has instead. */
function refuseTablespaces(directory: string): void {
  const found = new Map<string, string>();
  const links = join(directory, "pg_tblspc");
  for (const oid of existsSync(links) ? readdirSync(links) : []) {
    let target = "a directory of its own";
    try {
      target = readlinkSync(join(links, oid));
    } catch {
      // Since 15 one can be in place.
    }
    found.set(oid, target);
  }
  const map = join(directory, "tablespace_map");
  for (const line of existsSync(map) ? readFileSync(map, "utf8").split("\n") : []) {
    const match = /^(\d+) (.+)$/.exec(line);
    if (match !== null) {
      found.set(match[1]!, match[2]!);
    }
  }
  if (found.size > 0) {
    const list = [...found].map(([oid, target]) => `${oid} (${target})`).join(", ");
    throw new StorageError(
      "unsupported",
      "user-tablespace",
      `cannot import '${directory}': it has tablespaces: ${list}; move what is in them to pg_default first`,
    );
  }
}

function refuseOtherBuild(control: ControlFile): void {
  const { version } = control;
  const wrong: string[] = [];
  const expect = (what: string, value: number, expected: number) => {
    if (value !== expected) {
      wrong.push(`${what} ${value}, not ${expected}`);
    }
  };
  expect("catalog version", control.catalogVersion, version.catalogVersion);
  expect("WAL segment size", control.segmentSize, WAL_SEGMENT_SIZE);
  expect("block size", control.blockSize, PAGE_SIZE);
  expect("relation segment size in blocks", control.relationSegmentBlocks, RELATION_SEGMENT_BLOCKS);
  expect("WAL block size", control.walBlockSize, XLOG_BLCKSZ);
  if (wrong.length > 0) {
    const message = `the cluster is not as PostgreSQL ${version.major} is built and initdb's defaults are: ${wrong.join("; ")}`;
    throw new StorageError("unsupported", "other-build", message);
  }
}

function leftOut(directory: string, image: DataDirectoryImage): string[] {
  const lines = ["settings and pg_hba.conf: endpoints have their own"];
  const slots = listNames(join(directory, "pg_replslot"));
  if (slots.length > 0) {
    lines.push(
      `replication slots, as whoever reads from them goes on at the old server: ${slots.join(", ")}`,
    );
  }
  if (image.unloggedRelations > 0) {
    lines.push(`the rows of ${image.unloggedRelations} unlogged relations, their indexes counted`);
  }
  if (listNames(join(directory, "pg_stat")).length > 0) {
    lines.push("cumulative statistics: ANALYZE gives the planner what it needs");
  }
  const others = listNames(directory).filter((name) => !KNOWN_ENTRIES.has(name));
  if (others.length > 0) {
    lines.push(`files that are not Postgres's own: ${others.sort().join(", ")}`);
  }
  return lines;
}

function listNames(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (!existsSync(directory)) {
      return [];
    }
    throw new StorageError("internal", "disk-error", `list '${directory}': ${errorMessage(error)}`);
  }
}
