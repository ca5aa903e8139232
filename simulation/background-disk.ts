// A simulated disk's operations off the event loop: each happens at a later turn, whole or not at all.

import { turn } from "../src/base/clock.ts";
import type { BackgroundDisk, Disk } from "../src/base/disk.ts";

export type BlockingDisk = Omit<Disk, "background"> & { link(from: string, to: string): void };

/** What a process that has ended still waits for fails then: the disk is no longer its own. */
export function backgroundOf(disk: BlockingDisk): BackgroundDisk {
  const later = async <T>(operation: () => T): Promise<T> => {
    await turn();
    return operation();
  };
  return {
    open: (path, flags) => later(() => disk.open(path, flags)),
    close: (fd) => later(() => disk.close(fd)),
    write: (fd, bytes, position) => later(() => disk.write(fd, bytes, position)),
    fsync: (fd) => later(() => disk.fsync(fd)),
    rename: (from, to) => later(() => disk.rename(from, to)),
    linkOrCopy: (from, to) => later(() => disk.link(from, to)),
    removeTree: (path) => later(() => disk.removeTree(path)),
    makeDirectory: (path) => later(() => disk.makeDirectory(path)),
    fsyncDirectory: (path) => later(() => disk.fsyncDirectory(path)),
  };
}
