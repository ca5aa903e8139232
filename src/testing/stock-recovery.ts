// The oracle: what stock Postgres itself makes of a base directory and WAL, and comparison with it.

import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../base/clock.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import { findInstallation, runPostgresTool } from "../postgres/installation.ts";
import type { RelationFork } from "../wal-decoder/record-sink.ts";
import { copyTree, makePostgresDirectory, writePostgresFile } from "./stock-cluster.ts";

const PAGE_SIZE = 8192;
const BLOCKS_PER_SEGMENT = 131072;
const DEFAULT_TABLESPACE = 1663;
const GLOBAL_TABLESPACE = 1664;
const FORK_SUFFIXES = ["", "_fsm", "_vm", "_init"];

export interface RecoverStockOptions {
  /** A cleanly stopped data directory; copied. */
  readonly baseDir: string;
  /** WAL segments from the base's last checkpoint on. */
  readonly walDir: string;
  /**
   * Every record that starts below is replayed, none from it on. Absent: all WAL. A later record
   * should exist; if none does, all WAL is replayed, which is the same.
   */
  readonly targetLsn?: Lsn;
  /** Must not exist; becomes the recovered data directory, cleanly stopped. */
  readonly outDir: string;
  readonly pgMajor?: number;
}

/**
 * Lets stock Postgres replay WAL over a copy of a base directory, and stop. It ends recovery like a
 * promotion does: with a checkpoint, so every page is in the files as redo left it.
 */
export async function recoverStock(options: RecoverStockOptions): Promise<void> {
  try {
    await recoverOnce(options, options.targetLsn);
  } catch (error) {
    const log = join(`${options.outDir}.run`, "log");
    const text = existsSync(log) ? readFileSync(log, "utf8") : "";
    if (
      options.targetLsn === undefined ||
      !text.includes("recovery ended before configured recovery target was reached")
    ) {
      throw new Error(`stock recovery: ${String(error)}\n${text.slice(-2000)}`);
    }
    rmSync(options.outDir, { recursive: true, force: true });
    await recoverOnce(options, undefined);
  } finally {
    rmSync(`${options.outDir}.run`, { recursive: true, force: true });
  }
}

async function recoverOnce(
  options: RecoverStockOptions,
  targetLsn: Lsn | undefined,
): Promise<void> {
  const installation = findInstallation(options.pgMajor);
  const { baseDir, walDir, outDir } = options;
  const runDir = `${outDir}.run`;
  copyTree(baseDir, outDir);
  rmSync(runDir, { recursive: true, force: true });
  makePostgresDirectory(runDir);
  rmSync(join(outDir, "postmaster.pid"), { force: true });
  const target =
    targetLsn === undefined
      ? ""
      : `recovery_target_lsn = '${formatLsn(targetLsn)}'\nrecovery_target_inclusive = off\n` +
        "recovery_target_action = promote\n";
  writePostgresFile(
    join(outDir, "postgresql.auto.conf"),
    `restore_command = 'cp "${walDir}/%f" "%p"'\nrecovery_target_timeline = current\n${target}` +
      // Nothing but recovery may touch a page.
      "autovacuum = off\nmax_logical_replication_workers = 0\nhot_standby = off\nfsync = off\n" +
      `listen_addresses = ''\nunix_socket_directories = '${runDir}'\nport = 5432\n` +
      "shared_preload_libraries = ''\nmax_prepared_transactions = 20\nlogging_collector = off\n",
  );
  writePostgresFile(join(outDir, "recovery.signal"), "");
  const pgCtl = (...args: string[]) =>
    runPostgresTool(installation, "pg_ctl", ["-D", outDir, "-t", "600", ...args]);
  // pg_ctl would call the server ready while it still recovers without hot standby.
  await pgCtl("-l", join(runDir, "log"), "-W", "start");
  await waitUntilReady(outDir);
  await pgCtl("-m", "fast", "stop");
}

/** Polls the eighth line of postmaster.pid; throws where the file goes, because the server ended. */
async function waitUntilReady(dataDir: string): Promise<void> {
  const path = join(dataDir, "postmaster.pid");
  const started = monotonicMs();
  let seen = false;
  for (;;) {
    const status = existsSync(path) ? readFileSync(path, "utf8").split("\n")[7]?.trim() : undefined;
    if (status === "ready") {
      return;
    }
    seen = seen || existsSync(path);
    const waited = monotonicMs() - started;
    if ((seen && !existsSync(path)) || waited > 600_000 || (!seen && waited > 10_000)) {
      throw new Error("the server ended during recovery");
    }
    await sleep(20);
  }
}

/** Where compared pages come from: our replay, a pageserver. */
export interface PageSource {
  /** Blocks of a fork; undefined where it does not exist. */
  blocks(rel: RelationFork): number | undefined | Promise<number | undefined>;
  /** Undefined means a page of zeros. */
  readPage(
    rel: RelationFork,
    blkno: number,
  ): Uint8Array | undefined | Promise<Uint8Array | undefined>;
  /** Every fork it has, to find those that should not be there; absent: not checked. */
  forks?(): Iterable<RelationFork>;
}

export interface Mismatch {
  readonly rel: RelationFork;
  readonly blkno: number;
  /** First byte that differs; -1 where sizes differ. */
  readonly offset: number;
  readonly what: string;
}

export interface CompareResult {
  readonly forks: number;
  readonly pages: number;
  readonly mismatches: Mismatch[];
}

export interface CompareOptions {
  /** Stock data directory, stopped. */
  readonly directory: string;
  readonly source: PageSource;
  /** Default main and visibility map: the free space map is not WAL-logged. */
  readonly forks?: readonly number[];
  readonly only?: (rel: RelationFork) => boolean;
  /** Default 100. */
  readonly maxMismatches?: number;
  /** The directory's pages have checksums, which redo does not write. */
  readonly ignoreChecksum?: boolean;
}

/**
 * Compares relation files byte for byte, nothing masked. Main forks of unlogged relations are left
 * out (recovery resets them), temporary ones too.
 */
export async function compareRelationFiles(options: CompareOptions): Promise<CompareResult> {
  const forks = options.forks ?? [0, 2];
  const limit = options.maxMismatches ?? 100;
  const mismatches: Mismatch[] = [];
  const files = listRelationFiles(options.directory);
  const unlogged = new Set(files.filter((f) => f.fork === 3).map((f) => relationName(f)));
  const seen = new Set<string>();
  let pages = 0;
  let compared = 0;
  for (const file of files) {
    if (
      !forks.includes(file.fork) ||
      options.only?.(file) === false ||
      (file.fork !== 3 && unlogged.has(relationName(file)))
    ) {
      continue;
    }
    seen.add(forkName(file));
    compared++;
    const have = await options.source.blocks(file);
    if (have !== file.blocks) {
      const what = `${file.blocks} blocks recovered, ${have ?? "no fork"} here`;
      mismatches.push({ rel: plain(file), blkno: 0, offset: -1, what });
    }
    pages += await compareFork(options, file, Math.min(have ?? 0, file.blocks), limit, mismatches);
    if (mismatches.length >= limit) {
      return { forks: compared, pages, mismatches };
    }
  }
  for (const rel of options.source.forks?.() ?? []) {
    const relevant =
      forks.includes(rel.fork) &&
      options.only?.(rel) !== false &&
      !unlogged.has(relationName(rel)) &&
      !seen.has(forkName(rel));
    if (relevant && mismatches.length < limit) {
      mismatches.push({ rel: plain(rel), blkno: 0, offset: -1, what: "no such file recovered" });
    }
  }
  return { forks: compared, pages, mismatches };
}

function plain(rel: RelationFork): RelationFork {
  const { spcOid, dbOid, relNumber, fork } = rel;
  return { spcOid, dbOid, relNumber, fork };
}

function relationName(rel: RelationFork): string {
  return `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}`;
}

function forkName(rel: RelationFork): string {
  return `${relationName(rel)}/${rel.fork}`;
}

async function compareFork(
  options: CompareOptions,
  file: RelationFile,
  blocks: number,
  limit: number,
  mismatches: Mismatch[],
): Promise<number> {
  const reader = new RelationFileReader(file);
  try {
    for (let blkno = 0; blkno < blocks && mismatches.length < limit; blkno++) {
      const expected = reader.read(blkno);
      const actual = (await options.source.readPage(file, blkno)) ?? ZERO_PAGE;
      const offset = firstDifference(expected, actual, options.ignoreChecksum ?? false);
      if (offset >= 0) {
        mismatches.push({
          rel: plain(file),
          blkno,
          offset,
          what: describe(expected, actual, offset),
        });
      }
    }
  } finally {
    reader.close();
  }
  return blocks;
}

const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

function describe(expected: Uint8Array, actual: Uint8Array, offset: number): string {
  const hex = (page: Uint8Array) => Buffer.from(page.subarray(offset, offset + 16)).toString("hex");
  return `byte ${offset}: recovered ${hex(expected)}, here ${hex(actual)}`;
}

/** Index of the first byte that differs, or -1. */
export function firstDifference(a: Uint8Array, b: Uint8Array, ignoreChecksum = false): number {
  if (Buffer.compare(a, b) === 0) {
    return -1;
  }
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i] && !(ignoreChecksum && (i === 8 || i === 9))) {
      return i;
    }
  }
  return a.length === b.length ? -1 : a.length;
}

/** One fork on disk: its first segment's path; the others are at `path.N`. */
export interface RelationFile extends RelationFork {
  readonly path: string;
  readonly blocks: number;
}

/** Every relation fork of a data directory (tablespaces in pg_tblspc are not followed). */
export function listRelationFiles(directory: string): RelationFile[] {
  const files = listFolder(join(directory, "global"), GLOBAL_TABLESPACE, 0);
  for (const name of readdirSync(join(directory, "base"))) {
    if (/^\d+$/.test(name)) {
      files.push(...listFolder(join(directory, "base", name), DEFAULT_TABLESPACE, Number(name)));
    }
  }
  return files;
}

function listFolder(folder: string, spcOid: number, dbOid: number): RelationFile[] {
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

function countBlocks(path: string): number {
  let blocks = 0;
  for (let segment = 0; ; segment++) {
    const file = segment === 0 ? path : `${path}.${segment}`;
    if (!existsSync(file)) {
      return blocks;
    }
    blocks += Math.floor(statSync(file).size / PAGE_SIZE);
  }
}

/** Reads the blocks of one fork. */
export class RelationFileReader {
  readonly #path: string;
  readonly #segments = new Map<number, number>();

  constructor(file: { readonly path: string }) {
    this.#path = file.path;
  }

  /** Fresh memory; zeros past the end. */
  read(blkno: number): Uint8Array {
    const page = new Uint8Array(PAGE_SIZE);
    const segment = Math.floor(blkno / BLOCKS_PER_SEGMENT);
    let fd = this.#segments.get(segment);
    if (fd === undefined) {
      const path = segment === 0 ? this.#path : `${this.#path}.${segment}`;
      if (!existsSync(path)) {
        return page;
      }
      fd = openSync(path, "r");
      this.#segments.set(segment, fd);
    }
    readSync(fd, page, 0, PAGE_SIZE, (blkno % BLOCKS_PER_SEGMENT) * PAGE_SIZE);
    return page;
  }

  close(): void {
    for (const fd of this.#segments.values()) {
      closeSync(fd);
    }
    this.#segments.clear();
  }
}

/** SLRU directories in Neon's numbering of kinds: pg_xact, members, offsets. */
export const SLRU_DIRECTORIES = [
  "pg_xact",
  "pg_multixact/members",
  "pg_multixact/offsets",
] as const;

/** Every page of an SLRU's files, with its number in the whole SLRU. */
export function* readSlruPages(
  directory: string,
  kind: number,
): Generator<{ pageno: number; page: Uint8Array }> {
  const folder = join(directory, SLRU_DIRECTORIES[kind]!);
  for (const name of readdirSync(folder).sort()) {
    const bytes = new Uint8Array(readFileSync(join(folder, name)));
    const first = Number.parseInt(name, 16) * 32;
    for (let i = 0; (i + 1) * PAGE_SIZE <= bytes.length; i++) {
      yield { pageno: first + i, page: bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE) };
    }
  }
}

/** Compares all SLRU pages that the directory has; a page that `readPage` lacks counts as zeros. */
export function compareSlruPages(
  directory: string,
  readPage: (kind: number, pageno: number) => Uint8Array | undefined,
): { pages: number; mismatches: string[] } {
  const mismatches: string[] = [];
  let pages = 0;
  for (let kind = 0; kind < SLRU_DIRECTORIES.length; kind++) {
    for (const { pageno, page } of readSlruPages(directory, kind)) {
      const actual = readPage(kind, pageno) ?? ZERO_PAGE;
      const offset = firstDifference(page, actual);
      pages++;
      if (offset >= 0) {
        const where = `${SLRU_DIRECTORIES[kind]} page ${pageno}`;
        mismatches.push(`${where}: ${describe(page, actual, offset)}`);
      }
    }
  }
  return { pages, mismatches };
}
