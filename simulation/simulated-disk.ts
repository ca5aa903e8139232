// A disk in memory that forgets what was not synced, tears writes, fills up, fails and rots.

import { turn } from "../src/base/clock.ts";
import type { BackgroundDisk, Disk } from "../src/base/disk.ts";
import type { SeededRandom } from "../src/base/random.ts";

/*
 * Each file has two contents: what a process sees (the page cache) and what a power cut leaves. They
 * differ in the sectors written since the last sync. Each directory likewise: entries as seen, and
 * entries as of its last fsync with a list of changes in between, of which a power cut leaves a prefix.
 * A file's entry is not made durable by syncing the file. After a failed sync the sectors count as
 * clean although they never reached the disk, as Linux has it, and each open file is told of that once, by the next
 * sync through it.
 *
 * A sync may be under way while the process goes on (`beginSync`). Until it has ended, nothing of it is sure: a power
 * cut takes any of what was written since the last sync that ended. What it brings to the disk is what was there when it began.
 */

export const SECTOR_BYTES = 512;
const SECTORS_OF_A_BLOCK = 8;

/** Thrown in the middle of whatever the process did when its end came. */
export class SimulatedCrash extends Error {}

class File {
  data = new Uint8Array(1024);
  size = 0;
  durable = new Uint8Array(0);
  durableSize = 0;
  readonly dirty = new Set<number>();
  /** Of a sync under way: the sectors that it takes to the disk, as they were when it began. */
  syncing: ReadonlyMap<number, Uint8Array> | undefined;
  /** Syncs of it that failed. */
  failures = 0;
  /** Bits that read as what was not written: position to mask, until written again. */
  readonly rot = new Map<number, number>();

  reserve(size: number): void {
    if (size > this.data.length) {
      const grown = new Uint8Array(Math.max(size, this.data.length * 2));
      grown.set(this.data.subarray(0, this.size));
      this.data = grown;
    }
  }

  touch(from: number, to: number): void {
    for (let at = Math.floor(from / SECTOR_BYTES); at * SECTOR_BYTES < to; at++) {
      this.dirty.add(at);
    }
  }

  syncSector(sector: number, bytes?: Uint8Array): void {
    if (this.durable.length < this.data.length) {
      const grown = new Uint8Array(this.data.length);
      grown.set(this.durable);
      this.durable = grown;
    }
    const from = sector * SECTOR_BYTES;
    this.durable.set(bytes ?? this.data.subarray(from, from + SECTOR_BYTES), from);
  }

  beginSync(): ReadonlyMap<number, Uint8Array> {
    this.abandonSync();
    const sectors = new Map<number, Uint8Array>();
    for (const sector of this.dirty) {
      const from = sector * SECTOR_BYTES;
      sectors.set(sector, this.data.slice(from, from + SECTOR_BYTES));
    }
    this.dirty.clear();
    this.syncing = sectors;
    return sectors;
  }

  /** Unless another sync, for which the process waited, has taken all of it meanwhile. */
  endSync(sectors: ReadonlyMap<number, Uint8Array>, size: number): void {
    if (this.syncing !== sectors) {
      return;
    }
    for (const [sector, bytes] of sectors) {
      this.syncSector(sector, bytes);
    }
    this.syncing = undefined;
    this.durableSize = size;
  }

  /** Nobody waits for it any more. */
  abandonSync(): void {
    for (const sector of this.syncing?.keys() ?? []) {
      this.dirty.add(sector);
    }
    this.syncing = undefined;
  }

  loseDirty(): void {
    this.dirty.clear();
    this.failures += 1;
  }

  sync(): void {
    this.abandonSync();
    for (const sector of this.dirty) {
      this.syncSector(sector);
    }
    this.dirty.clear();
    this.durableSize = this.size;
  }

  /** After a power cut the durable content is all there is. */
  revert(): void {
    this.data = this.durable.slice();
    this.size = this.durableSize;
    this.data.fill(0, Math.min(this.size, this.data.length));
    this.reserve(this.size);
    this.durable = this.data.slice();
    this.dirty.clear();
    this.syncing = undefined;
  }
}

interface OpenFile {
  readonly file: File;
  readonly path: string;
  /** Failed syncs that it was told of, or that were before it was opened. */
  toldFailures: number;
}

type Entry = File | Directory;

class Directory {
  entries = new Map<string, Entry>();
  durableEntries = new Map<string, Entry>();
  /** Since the last fsync, each all or nothing. */
  pending: ((entries: Map<string, Entry>) => void)[] = [];

  change(change: (entries: Map<string, Entry>) => void): void {
    change(this.entries);
    this.pending.push(change);
  }

  sync(): void {
    this.durableEntries = new Map(this.entries);
    this.pending = [];
  }
}

/** What of the unsynced sectors a power cut lets through. */
export type Tear = "nothing" | "everything" | "sectors" | "blocks";

function fileError(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}

/** What the kernel knows of failed syncs, each open file hears once. */
function tellFailures(open: OpenFile): void {
  if (open.file.failures > open.toldFailures) {
    open.toldFailures = open.file.failures;
    throw fileError("EIO", "fsync");
  }
}

/** One that changes what is on the disk. */
export interface DiskOperation {
  readonly name:
    | "create"
    | "write"
    | "truncate"
    | "fsync"
    | "rename"
    | "link"
    | "remove"
    | "mkdir"
    | "fsyncDirectory";
  /** A rename's and a link's is the new name. */
  readonly path: string;
}

/** What an operation that fails throws; `crash`: the process ends there. */
export function diskFault(failure: "ENOSPC" | "EIO" | "crash", where: string): Error {
  return failure === "crash" ? new SimulatedCrash(where) : fileError(failure, where);
}

/** What an operation throws that fails without being the end of the process. */
export function failureOf(operation: () => void): unknown {
  try {
    operation();
    return undefined;
  } catch (error) {
    if (error instanceof SimulatedCrash) {
      throw error;
    }
    return error;
  }
}

/** Paths are absolute, `/a/b`. */
export class SimulatedDisk implements Disk {
  readonly #random: SeededRandom;
  #root = new Directory();
  readonly #open = new Map<number, OpenFile>();
  readonly background: BackgroundDisk = backgroundOf(this);
  /** Called before each; what it throws is that operation's failure, a SimulatedCrash the process's end. */
  onOperation: ((operation: DiskOperation) => void) | undefined;
  /** Called when the process has had its last operation. */
  onCrash: (() => void) | undefined;
  #nextFd = 3;
  /** Virtual time that one sync takes. */
  syncMs = 0.2;
  /** Time spent in syncs since this was last taken. */
  elapsedMs = 0;
  /** No room for anything new. */
  full = false;
  /** So many syncs fail, after `goodSyncs` others. */
  failingSyncs = 0;
  goodSyncs = 0;
  /** The operation after so many more is the process's last. */
  operationsLeft = Number.POSITIVE_INFINITY;
  /** Changing operations so far. */
  operations = 0;
  crashed = false;
  readonly counts = { syncs: 0, tornSectors: 0 };

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  open(path: string, flags: "r" | "r+" | "w" | "wx+"): number {
    const [directory, name] = this.#parent(path);
    let file = directory.entries.get(name);
    if (file instanceof Directory) {
      throw fileError("EISDIR", path);
    }
    if (file !== undefined && flags === "wx+") {
      throw fileError("EEXIST", path);
    }
    if (file === undefined) {
      if (flags === "r" || flags === "r+") {
        this.#alive();
        throw fileError("ENOENT", path);
      }
      const created = new File();
      file = created;
      this.#operation({ name: "create", path }, () => {
        if (this.full) {
          throw fileError("ENOSPC", path);
        }
        directory.change((entries) => entries.set(name, created));
      });
    } else if (flags === "w") {
      const old = file;
      this.#operation({ name: "truncate", path }, () => this.#resize(old, 0));
    }
    this.#alive();
    const fd = this.#nextFd++;
    this.#open.set(fd, { file, path, toldFailures: file.failures });
    return fd;
  }

  close(fd: number): void {
    this.#open.delete(fd);
  }

  size(fd: number): number {
    return this.#file(fd).size;
  }

  read(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number {
    const file = this.#file(fd);
    const count = Math.max(0, Math.min(length, file.size - position));
    buffer.set(file.data.subarray(position, position + count), offset);
    for (const [at, mask] of file.rot) {
      if (at >= position && at < position + count) {
        buffer[offset + at - position]! ^= mask;
      }
    }
    return count;
  }

  write(fd: number, bytes: Uint8Array, position: number): void {
    const file = this.#file(fd);
    const put = (length: number) => {
      const end = position + length;
      file.reserve(end);
      file.data.set(bytes.subarray(0, length), position);
      for (const at of file.rot.keys()) {
        if (at >= position && at < end) {
          file.rot.delete(at);
        }
      }
      file.size = Math.max(file.size, end);
      file.touch(position, end);
    };
    this.#operation(
      { name: "write", path: this.#pathOf(fd) },
      () => {
        if (this.full) {
          put(this.#random.int(bytes.length + 1));
          throw fileError("ENOSPC", "write");
        }
        put(bytes.length);
        if (file.dirty.size > 4 && this.#random.bool(0.05)) {
          this.#writeBack(file);
        }
      },
      () => put(this.#random.int(bytes.length + 1)),
    );
  }

  truncate(fd: number, size: number): void {
    const file = this.#file(fd);
    this.#operation({ name: "truncate", path: this.#pathOf(fd) }, () => this.#resize(file, size));
  }

  fdatasync(fd: number): void {
    this.fsync(fd);
  }

  fsync(fd: number): void {
    const file = this.#file(fd);
    const open = this.#open.get(fd)!;
    this.#operation(
      { name: "fsync", path: open.path },
      () => {
        if (this.#syncFails(this.syncMs)) {
          file.loseDirty();
        } else {
          file.sync();
        }
        tellFailures(open);
      },
      () => this.#writeBack(file),
    );
  }

  /**
   * Begins a sync of what is written by now, for which the process does not wait. What is returned ends it, and throws where it failed;
   * descriptor and disk must be there still.
   */
  beginSync(fd: number): () => void {
    const file = this.#file(fd);
    const open = this.#open.get(fd)!;
    let sectors: ReadonlyMap<number, Uint8Array> | undefined;
    const { size } = file;
    this.#operation(
      { name: "fsync", path: open.path },
      () => {
        if (this.#syncFails(0)) {
          file.loseDirty();
        } else {
          sectors = file.beginSync();
        }
      },
      () => this.#writeBack(file),
    );
    return () => {
      this.#file(fd);
      if (sectors !== undefined) {
        file.endSync(sectors, size);
      }
      tellFailures(open);
    };
  }

  exists(path: string): boolean {
    this.#alive();
    return this.#lookUp(path) !== undefined;
  }

  isDirectory(path: string): boolean {
    this.#alive();
    return this.#lookUp(path) instanceof Directory;
  }

  rename(from: string, to: string): void {
    const [directory, name] = this.#parent(from);
    const [target, newName] = this.#parent(to);
    const entry = directory.entries.get(name);
    if (entry === undefined || target !== directory) {
      throw fileError(entry === undefined ? "ENOENT" : "EXDEV", from);
    }
    const replaced = target.entries.get(newName);
    if (replaced instanceof Directory && replaced.entries.size > 0) {
      throw fileError("ENOTEMPTY", to);
    }
    this.#operation({ name: "rename", path: to }, () => {
      directory.change((entries) => {
        entries.delete(name);
        entries.set(newName, entry);
      });
    });
  }

  /** A second name for a file. */
  link(from: string, to: string): void {
    const [directory, name] = this.#parent(from);
    const [target, newName] = this.#parent(to);
    const entry = directory.entries.get(name);
    if (!(entry instanceof File) || target.entries.has(newName)) {
      throw fileError(entry === undefined ? "ENOENT" : "EEXIST", to);
    }
    this.#operation({ name: "link", path: to }, () => {
      target.change((entries) => entries.set(newName, entry));
    });
  }

  unlink(path: string): void {
    const [directory, name] = this.#parent(path);
    if (!(directory.entries.get(name) instanceof File)) {
      throw fileError("ENOENT", path);
    }
    this.#operation({ name: "remove", path }, () =>
      directory.change((entries) => entries.delete(name)),
    );
  }

  removeTree(path: string): void {
    if (this.#lookUp(path) !== undefined) {
      const [directory, name] = this.#parent(path);
      this.#operation({ name: "remove", path }, () =>
        directory.change((entries) => entries.delete(name)),
      );
    }
  }

  list(directory: string): string[] {
    this.#alive();
    return [...this.#directory(directory).entries.keys()];
  }

  makeDirectory(path: string): void {
    let directory = this.#root;
    for (const name of parts(path)) {
      let next = directory.entries.get(name);
      if (next === undefined) {
        const created = new Directory();
        const parent = directory;
        const operation = { name: "mkdir", path } as const;
        this.#operation(operation, () => parent.change((entries) => entries.set(name, created)));
        next = created;
      }
      if (!(next instanceof Directory)) {
        throw fileError("ENOTDIR", path);
      }
      directory = next;
    }
  }

  fsyncDirectory(path: string): void {
    const directory = this.#directory(path);
    this.#operation({ name: "fsyncDirectory", path }, () => {
      if (this.#syncFails(this.syncMs)) {
        throw fileError("EIO", "fsync");
      }
      directory.sync();
    });
  }

  /** The process ended; the machine did not: everything written is still seen. */
  processEnded(): void {
    this.#closeAll();
    this.crashed = false;
    this.operationsLeft = Number.POSITIVE_INFINITY;
    this.failingSyncs = 0;
    this.goodSyncs = 0;
    this.elapsedMs = 0;
  }

  /** The power went. */
  powerCut(tear: Tear = this.pickTear()): void {
    this.processEnded();
    this.#cutDirectory(this.#root, tear);
  }

  /** A new disk in the place of this one. */
  wipe(): void {
    this.processEnded();
    this.#root = new Directory();
  }

  /** A disk with what this one would hold after a power cut now that lets through nothing. */
  afterPowerCut(): SimulatedDisk {
    const copy = new SimulatedDisk(this.#random);
    copy.#root = copyDurable(this.#root);
    return copy;
  }

  /**
   * What the next process finds, after a power cut where there is a `tear`. This disk has crashed for good:
   * whatever the process that had it still does gets a SimulatedCrash.
   */
  nextLife(tear?: Tear): SimulatedDisk {
    const next = new SimulatedDisk(this.#random);
    next.#root = this.#root;
    this.#root = new Directory();
    this.#closeAll();
    this.crashed = true;
    if (tear !== undefined) {
      next.powerCut(tear);
    }
    return next;
  }

  /** Makes one bit of a file read wrong. False where there is no such byte. */
  rot(path: string, position: number, bit: number): boolean {
    const file = this.#lookUp(path);
    if (!(file instanceof File) || position >= file.size) {
      return false;
    }
    file.rot.set(position, 1 << bit);
    return true;
  }

  /** A file's bytes as they were written, without rot; lent until the next change. */
  peek(path: string): Uint8Array | undefined {
    const file = this.#lookUp(path);
    return file instanceof File ? file.data.subarray(0, file.size) : undefined;
  }

  pickTear(): Tear {
    return this.#random.pick(["nothing", "everything", "sectors", "sectors", "blocks"] as const);
  }

  #cutDirectory(directory: Directory, tear: Tear): void {
    const { pending } = directory;
    if (pending.length > 0) {
      const kept =
        tear === "nothing"
          ? 0
          : tear === "everything"
            ? pending.length
            : this.#random.int(pending.length + 1);
      for (const change of pending.slice(0, kept)) {
        change(directory.durableEntries);
      }
      directory.pending = [];
    }
    directory.entries = new Map(directory.durableEntries);
    for (const entry of directory.entries.values()) {
      if (entry instanceof Directory) {
        this.#cutDirectory(entry, tear);
      } else {
        this.#cutFile(entry, tear);
      }
    }
  }

  #cutFile(file: File, tear: Tear): void {
    if (tear === "everything") {
      file.sync();
    } else if (tear !== "nothing") {
      const unit = tear === "sectors" ? 1 : SECTORS_OF_A_BLOCK;
      const share = this.#random.next();
      const fates = new Map<number, boolean>();
      for (const sector of file.dirty) {
        const block = Math.floor(sector / unit);
        const reached = fates.get(block) ?? this.#random.bool(share);
        fates.set(block, reached);
        if (reached) {
          file.syncSector(sector);
        } else {
          this.counts.tornSectors += 1;
        }
      }
      if (this.#random.bool()) {
        file.durableSize = file.size;
      }
    }
    file.revert();
  }

  #closeAll(): void {
    for (const { file } of this.#open.values()) {
      file.abandonSync();
    }
    this.#open.clear();
  }

  /** The kernel writes some dirty pages whenever it likes. */
  #writeBack(file: File): void {
    for (const sector of file.dirty) {
      if (this.#random.bool(0.3)) {
        file.syncSector(sector);
      }
    }
  }

  #resize(file: File, size: number): void {
    if (size < file.size) {
      file.data.fill(0, size, file.size);
      file.touch(size, file.size);
    } else {
      file.reserve(size);
      file.touch(file.size, size);
    }
    file.size = size;
  }

  /** It takes its time in either case: the process's, so much of it as that waits. */
  #syncFails(waitsMs: number): boolean {
    this.counts.syncs += 1;
    this.elapsedMs += waitsMs;
    if (this.failingSyncs === 0) {
      return false;
    }
    if (this.goodSyncs > 0) {
      this.goodSyncs -= 1;
      return false;
    }
    this.failingSyncs -= 1;
    return true;
  }

  /** `partly`: what may be left of it where it is the last thing that happens. */
  #operation(operation: DiskOperation, perform: () => void, partly: () => void = perform): void {
    this.#alive();
    this.operations += 1;
    if (this.operationsLeft > 0 && !this.#endsHere(operation)) {
      this.operationsLeft -= 1;
      perform();
      return;
    }
    this.crashed = true;
    if (this.#random.bool()) {
      partly();
    }
    this.onCrash?.();
    throw new SimulatedCrash("crash in the middle of a disk operation");
  }

  #endsHere(operation: DiskOperation): boolean {
    try {
      this.onOperation?.(operation);
      return false;
    } catch (error) {
      if (error instanceof SimulatedCrash) {
        return true;
      }
      throw error;
    }
  }

  #alive(): void {
    if (this.crashed) {
      throw new SimulatedCrash("the process has ended");
    }
  }

  #file(fd: number): File {
    this.#alive();
    const open = this.#open.get(fd);
    if (open === undefined) {
      throw fileError("EBADF", String(fd));
    }
    return open.file;
  }

  #pathOf(fd: number): string {
    return this.#open.get(fd)?.path ?? "";
  }

  #parent(path: string): [Directory, string] {
    const end = path.lastIndexOf("/");
    return [this.#directory(path.slice(0, end)), path.slice(end + 1)];
  }

  #directory(path: string): Directory {
    const directory = this.#lookUp(path);
    if (!(directory instanceof Directory)) {
      throw fileError(directory === undefined ? "ENOENT" : "ENOTDIR", path);
    }
    return directory;
  }

  #lookUp(path: string): Entry | undefined {
    let entry: Entry | undefined = this.#root;
    for (const name of parts(path)) {
      entry = entry instanceof Directory ? entry.entries.get(name) : undefined;
    }
    return entry;
  }
}

/** Of directories, of which there are few, and each is asked for again and again. */
const partsOf = new Map<string, readonly string[]>();
const MAX_PARTS = 10_000;

function parts(path: string): readonly string[] {
  const known = partsOf.get(path);
  if (known !== undefined) {
    return known;
  }
  if (partsOf.size === MAX_PARTS) {
    partsOf.clear();
  }
  const names = path.split("/").filter((name) => name !== "");
  partsOf.set(path, names);
  return names;
}

function copyDurable(directory: Directory): Directory {
  const copy = new Directory();
  for (const [name, entry] of directory.durableEntries) {
    if (entry instanceof Directory) {
      copy.entries.set(name, copyDurable(entry));
    } else {
      const file = new File();
      file.durable = entry.durable;
      file.durableSize = entry.durableSize;
      file.revert();
      for (const [at, mask] of entry.rot) {
        file.rot.set(at, mask);
      }
      copy.entries.set(name, file);
    }
  }
  copy.sync();
  return copy;
}

/**
 * Its operations off the event loop: each happens at a later turn, whole or not at all. What a process that
 * has ended still waits for fails then: the disk is no longer its own.
 */
function backgroundOf(disk: SimulatedDisk): BackgroundDisk {
  const later = async <T>(operation: () => T): Promise<T> => {
    await turn();
    return operation();
  };
  return {
    open: (path, flags) => later(() => disk.open(path, flags)),
    close: (fd) => later(() => disk.close(fd)),
    read: (fd, buffer, offset, length, position) =>
      later(() => disk.read(fd, buffer, offset, length, position)),
    write: (fd, bytes, position) => later(() => disk.write(fd, bytes, position)),
    fdatasync: async (fd) => {
      const end = disk.beginSync(fd);
      await turn();
      end();
    },
    fsync: (fd) => later(() => disk.fsync(fd)),
    rename: (from, to) => later(() => disk.rename(from, to)),
    linkOrCopy: (from, to) => later(() => disk.link(from, to)),
    removeTree: (path) => later(() => disk.removeTree(path)),
    makeDirectory: (path) => later(() => disk.makeDirectory(path)),
    fsyncDirectory: (path) => later(() => disk.fsyncDirectory(path)),
  };
}
