// What the disk itself takes: small writes, each followed by fdatasync, into a file that is there in full.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FILE_BYTES = 16 * 1024 * 1024;

/** A file of zeros at `path`, on disk with all its blocks; the caller closes it. */
export function openFilled(path: string, bytes: number): number {
  const fd = openSync(path, "w");
  const zeros = new Uint8Array(1024 * 1024);
  for (let at = 0; at < bytes; at += zeros.length) {
    writeSync(fd, zeros, 0, Math.min(zeros.length, bytes - at), at);
  }
  fdatasyncSync(fd);
  return fd;
}

/** Mean milliseconds of fdatasync after writes of `bytes` each, by `writers` processes at once. */
export async function bareFdatasyncMs(
  writers: number,
  bytes: number,
  seconds: number,
): Promise<number> {
  const means = await Promise.all(
    Array.from({ length: writers }, async () => {
      const child = spawn(process.execPath, [import.meta.filename, `${bytes}`, `${seconds}`], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      let output = "";
      child.stdout.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
      const [code] = await once(child, "close");
      if (code !== 0) {
        throw new Error(`bare-disk ended with ${code}`);
      }
      return Number(output);
    }),
  );
  return means.reduce((sum, mean) => sum + mean, 0) / writers;
}

/** The same in this process. */
function writeForAWhile(bytes: number, seconds: number): number {
  const directory = mkdtempSync(join(tmpdir(), "strata-bare-"));
  const fd = openFilled(join(directory, "file"), FILE_BYTES);
  try {
    const piece = new Uint8Array(bytes);
    let [count, ms, at] = [0, 0, 0];
    for (const end = performance.now() + seconds * 1000; performance.now() < end; count++) {
      writeSync(fd, piece, 0, bytes, at);
      const started = performance.now();
      fdatasyncSync(fd);
      ms += performance.now() - started;
      at = at + 2 * bytes > FILE_BYTES ? 0 : at + bytes;
    }
    return ms / count;
  } finally {
    closeSync(fd);
    rmSync(directory, { recursive: true, force: true });
  }
}

if (process.argv[1] === import.meta.filename) {
  console.log(writeForAWhile(Number(process.argv[2]), Number(process.argv[3])));
}
