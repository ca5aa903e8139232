// The page files of a data directory: relation forks in every tablespace, SLRU segments, and reading them.
//
// Source: common/relpath.c, storage/smgr/md.c, access/transam/slru.c, 14-18. A relation in another
// tablespace is pg_tblspc/<spcOid>/PG_<major>_<catalog version>/<dbOid>/<relNumber>, where the first
// part is a link. Temporary relations (t<backend>_<n>) are left out.

import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { PAGE_SIZE } from "../postgres/page.ts";
import {
  DEFAULT_TABLESPACE_OID,
  GLOBAL_TABLESPACE_OID,
  RELATION_SEGMENT_BLOCKS,
} from "../postgres/relation-path.ts";
import { SLRU_PAGES_PER_SEGMENT } from "../postgres/slru.ts";
import type { RelationFork, SlruKind } from "../wal-decoder/record-sink.ts";

const FORK_SUFFIXES = ["", "_fsm", "_vm", "_init"];
/** Open files that one reader keeps. */
const OPEN_FILES_LIMIT = 128;

/** One fork on disk: its first segment's path; the others are at `path.N`. */
export interface RelationFile extends RelationFork {
  readonly path: string;
  readonly blocks: number;
}

/** A directory of one database's files. */
export interface DatabaseFolder {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly path: string;
}

/** The folders that hold relation files: global, each database's, and those in tablespaces. */
export function listDatabaseFolders(directory: string): DatabaseFolder[] {
  const folders: DatabaseFolder[] = [
    { spcOid: GLOBAL_TABLESPACE_OID, dbOid: 0, path: join(directory, "global") },
  ];
  const add = (spcOid: number, folder: string) => {
    for (const name of readdirSync(folder)) {
      if (/^[1-9]\d*$/.test(name)) {
        folders.push({ spcOid, dbOid: Number(name), path: join(folder, name) });
      }
    }
  };
  add(DEFAULT_TABLESPACE_OID, join(directory, "base"));
  const tablespaces = join(directory, "pg_tblspc");
  for (const name of existsSync(tablespaces) ? readdirSync(tablespaces) : []) {
    if (/^[1-9]\d*$/.test(name)) {
      for (const version of readdirSync(join(tablespaces, name))) {
        if (/^PG_\d+_\d+$/.test(version)) {
          add(Number(name), join(tablespaces, name, version));
        }
      }
    }
  }
  return folders;
}

/** Every relation fork of a data directory. */
export function listRelationFiles(directory: string): RelationFile[] {
  return listDatabaseFolders(directory).flatMap(listFolder);
}

function listFolder({ spcOid, dbOid, path: folder }: DatabaseFolder): RelationFile[] {
  const files: RelationFile[] = [];
  for (const name of readdirSync(folder)) {
    const match = /^(\d+)(_fsm|_vm|_init)?$/.exec(name);
    if (match !== null) {
      const path = join(folder, name);
      const fork = FORK_SUFFIXES.indexOf(match[2] ?? "");
      const blocks = countBlocks(path);
      files.push({ spcOid, dbOid, relNumber: Number(match[1]), fork, path, blocks });
    }
  }
  return files;
}

/** As mdnblocks counts: a segment that is not full is the last, a partial page is none. */
function countBlocks(path: string): number {
  for (let segment = 0; ; segment++) {
    const file = segment === 0 ? path : `${path}.${segment}`;
    const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
    const blocks = Math.floor(size / PAGE_SIZE);
    if (blocks < RELATION_SEGMENT_BLOCKS) {
      return segment * RELATION_SEGMENT_BLOCKS + blocks;
    }
  }
}

/** Reads blocks of any number of forks, with a bounded number of files open. */
export class RelationFileReader {
  /** By path, the one used longest ago first. */
  readonly #open = new Map<string, number>();

  /** Fills `page` (8192 bytes); with zeros past the file's end. */
  read(file: { readonly path: string }, blkno: number, page: Uint8Array): void {
    const segment = Math.floor(blkno / RELATION_SEGMENT_BLOCKS);
    const path = segment === 0 ? file.path : `${file.path}.${segment}`;
    const fd = this.#descriptor(path);
    const at = (blkno % RELATION_SEGMENT_BLOCKS) * PAGE_SIZE;
    const got = fd === undefined ? 0 : readSync(fd, page, 0, PAGE_SIZE, at);
    if (got < PAGE_SIZE) {
      page.fill(0);
    }
  }

  #descriptor(path: string): number | undefined {
    let fd = this.#open.get(path);
    if (fd !== undefined) {
      this.#open.delete(path);
    } else {
      if (!existsSync(path)) {
        return undefined;
      }
      if (this.#open.size >= OPEN_FILES_LIMIT) {
        const [oldest, oldestFd] = this.#open.entries().next().value!;
        this.#open.delete(oldest);
        closeSync(oldestFd);
      }
      fd = openSync(path, "r");
    }
    this.#open.set(path, fd);
    return fd;
  }

  close(): void {
    for (const fd of this.#open.values()) {
      closeSync(fd);
    }
    this.#open.clear();
  }
}

/** SLRU directories by kind (record-sink.ts). */
export const SLRU_DIRECTORIES = [
  "pg_xact",
  "pg_multixact/members",
  "pg_multixact/offsets",
  "pg_commit_ts",
] as const;

/**
 * Every page of an SLRU's files, with its number in the whole SLRU, in the order of segment names. The
 * page is lent until the next one.
 */
export function* readSlruPages(
  directory: string,
  kind: SlruKind,
): Generator<{ pageno: number; page: Uint8Array }> {
  const folder = join(directory, SLRU_DIRECTORIES[kind]!);
  const page = new Uint8Array(PAGE_SIZE);
  for (const name of existsSync(folder) ? readdirSync(folder).sort() : []) {
    if (!/^[0-9A-F]{4,15}$/.test(name)) {
      continue;
    }
    const first = Number.parseInt(name, 16) * SLRU_PAGES_PER_SEGMENT;
    const fd = openSync(join(folder, name), "r");
    try {
      for (let i = 0; readSync(fd, page, 0, PAGE_SIZE, i * PAGE_SIZE) === PAGE_SIZE; i++) {
        yield { pageno: first + i, page };
      }
    } finally {
      closeSync(fd);
    }
  }
}

/** The prepared transactions of a data directory: 32-bit xid, and the file without its CRC-32C. */
export function readTwoPhaseFiles(directory: string): { xid: number; payload: Uint8Array }[] {
  const folder = join(directory, "pg_twophase");
  return (existsSync(folder) ? readdirSync(folder) : [])
    .filter((name) => /^[0-9A-F]{8}([0-9A-F]{8})?$/.test(name))
    .map((name) => {
      const bytes = new Uint8Array(readFileSync(join(folder, name)));
      // From 17 on the name is the full transaction id.
      const xid = Number.parseInt(name.slice(-8), 16);
      return { xid, payload: bytes.subarray(0, Math.max(bytes.length - 4, 0)) };
    });
}
