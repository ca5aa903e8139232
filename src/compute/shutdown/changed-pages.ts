// What a clean shutdown has written to the files of a data directory and WAL does not say.
//
// Sources: commands/sequence.c (nextval_internal), storage/freespace/README, 14-18.
// - A sequence's WAL is 32 values ahead (SEQ_LOG_VALS); log_cnt says how many of them are left. The first
//   nextval after a checkpoint writes WAL, so a page with an LSN from before our start is as it was there.
//   Unlogged ones never get an LSN.
// - Free space maps are hardly in WAL. One may name blocks at the end of its table that are empty and in no WAL
//   either; then the table's last block has to come along, or who takes the map's word would read past the end.

import { closeSync, existsSync, fstatSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";
import { INVALID_LSN, type Lsn } from "../../base/lsn.ts";
import { openLeftFile } from "../../data-directory/left-files.ts";
import {
  PAGE_SIZE,
  PD_LOWER,
  PD_SPECIAL,
  PD_UPPER,
  pageLsn,
  SIZE_OF_PAGE_HEADER,
} from "../../postgres/page.ts";
import {
  FSM_FORK,
  INIT_FORK,
  MAIN_FORK,
  parseRelationPath,
  RELATION_SEGMENT_BLOCKS,
  type RelationPath,
  storagePath,
} from "../../postgres/relation-path.ts";
import type { ServedFiles } from "./served-files.ts";

const SEQUENCE_MAGIC = 0x1717;
const SEQUENCE_SPECIAL_BYTES = 8;
/** Of the tuple: behind its header come last_value and log_cnt, 8 bytes each. */
const SEQUENCE_LOG_COUNT = 8;
const TUPLE_HEADER_SIZE_OFFSET = 22;
/** 32 MB of WAL at most; maps are advisory. */
const MAX_MAP_PAGES = 4096;

export interface ChangedPage {
  readonly file: RelationPath;
  /** In the segment. */
  readonly blkno: number;
  readonly page: Uint8Array;
}

export interface ShutDownDirectory {
  readonly path: string;
  /** Where its Postgres began. */
  readonly startLsn: Lsn;
  /** Of the user's tablespaces. */
  readonly versionDirectory: string;
  readonly served: ServedFiles;
}

/** No Postgres runs in it any more, and the last one has shut down. */
export function changedPages(directory: ShutDownDirectory): ChangedPage[] {
  const changed: ChangedPage[] = [];
  let mapPages = 0;
  for (const folder of folders(directory)) {
    for (const name of readdirSync(join(directory.path, folder))) {
      const file = parseRelationPath(`${folder}/${name}`);
      if (file?.kind !== "relation") {
        continue;
      }
      if (file.fork === MAIN_FORK && file.segment === 0) {
        changed.push(...changedSequence(directory, file));
      } else if (file.fork === FSM_FORK && mapPages < MAX_MAP_PAGES) {
        const pages = changedMap(directory, file);
        mapPages += pages.length;
        changed.push(...pages);
      }
    }
  }
  return changed;
}

/** Those that hold relations, relative to the data directory. */
function folders({ path, versionDirectory }: ShutDownDirectory): string[] {
  const inside = (folder: string) =>
    readdirSync(join(path, folder))
      .filter((name) => /^[1-9]\d*$/.test(name))
      .map((name) => `${folder}/${name}`);
  const tablespaces = inside("pg_tblspc").map((one) => `${one}/${versionDirectory}`);
  return ["global", ...inside("base"), ...tablespaces.flatMap(inside)];
}

function changedSequence(directory: ShutDownDirectory, file: RelationPath): ChangedPage[] {
  return withFile(directory, file, (fd, bytes) => {
    if (bytes !== PAGE_SIZE) {
      return [];
    }
    const page = readPage(fd, 0);
    const view = new DataView(page.buffer);
    const isSequence =
      view.getUint16(PD_SPECIAL, true) === PAGE_SIZE - SEQUENCE_SPECIAL_BYTES &&
      view.getUint32(PAGE_SIZE - SEQUENCE_SPECIAL_BYTES, true) === SEQUENCE_MAGIC;
    if (!isSequence || pageLsn(view) <= directory.startLsn) {
      return [];
    }
    const tuple = view.getUint32(SIZE_OF_PAGE_HEADER, true) & 0x7fff;
    const header = tuple + TUPLE_HEADER_SIZE_OFFSET;
    const logCount = header < PAGE_SIZE ? tuple + page[header]! + SEQUENCE_LOG_COUNT : PAGE_SIZE;
    const isAhead = logCount + 8 <= PAGE_SIZE && view.getBigInt64(logCount, true) > 0n;
    return isAhead ? [{ file, blkno: 0, page }] : [];
  });
}

function changedMap(directory: ShutDownDirectory, map: RelationPath): ChangedPage[] {
  const init = storagePath({ ...map, fork: INIT_FORK, segment: 0 }, directory.versionDirectory);
  if (existsSync(join(directory.path, init))) {
    // Of an unlogged relation: it begins empty anyway.
    return [];
  }
  const pages = withFile(directory, map, (fd, bytes) => {
    const found: ChangedPage[] = [];
    for (let blkno = 0; blkno < bytes / PAGE_SIZE; blkno++) {
      const page = readPage(fd, blkno);
      // One of zeros was never read, or says nothing.
      const isNew = new DataView(page.buffer).getUint16(PD_UPPER, true) === 0;
      if (!isNew && !directory.served.has(map, blkno, page)) {
        found.push({ file: map, blkno, page });
      }
    }
    return found;
  });
  const end = pages.length === 0 ? undefined : endOfTable(directory, map);
  return end === undefined ? [] : [...pages, ...end];
}

/**
 * The last block of a map's table, where it has come into being without WAL; nothing where storage has it. Undefined
 * where nobody can say: the table was cut below what storage had and has grown again.
 */
function endOfTable(directory: ShutDownDirectory, map: RelationPath): ChangedPage[] | undefined {
  let last: ChangedPage | undefined;
  for (let segment = 0, full = true; full; segment++) {
    const file: RelationPath = { ...map, fork: MAIN_FORK, segment };
    full = false;
    const found = withFile(directory, file, (fd, bytes) => {
      full = bytes === RELATION_SEGMENT_BLOCKS * PAGE_SIZE;
      const blkno = Math.floor(bytes / PAGE_SIZE) - 1;
      return blkno < 0 ? [] : [{ file, blkno, page: readPage(fd, blkno) }];
    });
    last = found[0] ?? last;
  }
  if (last === undefined || !isInNoWal(last.page)) {
    return [];
  }
  // Zeros are also what a block looks like that nobody has read, or that was given back: there they say nothing.
  if (directory.served.mayHaveHoles(last.file)) {
    return undefined;
  }
  const stored = directory.served.sizeOf(last.file) ?? 0;
  const bytes = (last.blkno + 1) * PAGE_SIZE;
  return bytes > stored ? [last] : bytes === stored ? [] : undefined;
}

/** New, or made without a row; and never named by WAL. */
function isInNoWal(page: Uint8Array): boolean {
  const view = new DataView(page.buffer);
  return pageLsn(view) === INVALID_LSN && view.getUint16(PD_LOWER, true) <= SIZE_OF_PAGE_HEADER;
}

/** None for a file that is not here, or of which nothing was read or written. */
function withFile(
  { path, versionDirectory }: ShutDownDirectory,
  file: RelationPath,
  body: (fd: number, bytes: number) => ChangedPage[],
): ChangedPage[] {
  const fd = openLeftFile(path, storagePath(file, versionDirectory));
  if (fd === undefined) {
    return [];
  }
  try {
    const { size, blocks } = fstatSync(fd);
    return blocks === 0 && file.fork !== MAIN_FORK ? [] : body(fd, size);
  } finally {
    closeSync(fd);
  }
}

function readPage(fd: number, blkno: number): Uint8Array {
  const page = new Uint8Array(PAGE_SIZE);
  readSync(fd, page, 0, PAGE_SIZE, blkno * PAGE_SIZE);
  return page;
}
