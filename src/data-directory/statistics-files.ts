// The files of pg_stat, which Postgres writes when it shuts down and reads when it starts, as one value.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { deflateRawSync, inflateRawSync } from "node:zlib";
import { StorageError } from "../base/errors.ts";
import { readLeftFile } from "./left-files.ts";

/*
 * Ours, version 1: u8 version, then raw deflate of, for each file, u16 LE length of its name | name | u32 LE
 * length | content. Postgres's own: pgstat.stat, up to 14 global.stat and db_<oid>.stat; extensions leave
 * theirs beside it (pg_stat_statements.stat).
 */
const VERSION = 1;
const NAME = /^[a-z0-9_]{1,60}\.stat$/;
/** Of all files, not compressed: a hundred thousand tables or so. */
const MAX_BYTES = 64 * 1024 * 1024;

export interface StatisticsFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Of a data directory in which Postgres has shut down; undefined where there is none, or too much. What is no file of Postgres's is left out. */
export function encodeStatisticsFiles(dataDirectory: string): Uint8Array | undefined {
  const names = readdirSync(join(dataDirectory, "pg_stat")).filter((name) => NAME.test(name));
  const parts = names.flatMap((name) => {
    const content = readLeftFile(dataDirectory, `pg_stat/${name}`, MAX_BYTES);
    if (content === undefined) {
      return [];
    }
    const head = Buffer.alloc(2 + name.length + 4);
    head.writeUInt16LE(name.length, 0);
    head.write(name, 2, "latin1");
    head.writeUInt32LE(content.length, 2 + name.length);
    return [head, content];
  });
  const bytes = parts.reduce((sum, part) => sum + part.length, 0);
  return bytes === 0 || bytes > MAX_BYTES
    ? undefined
    : Buffer.concat([Buffer.of(VERSION), deflateRawSync(Buffer.concat(parts))]);
}

/** None for undefined, and for a version that is not known. StorageError `corrupt`. */
export function decodeStatisticsFiles(value: Uint8Array | undefined): StatisticsFile[] {
  if (value === undefined || value[0] !== VERSION) {
    return [];
  }
  const files: StatisticsFile[] = [];
  const bytes = inflate(value.subarray(1));
  for (let at = 0; at < bytes.length; ) {
    const nameEnd = at + 2 + (at + 2 <= bytes.length ? bytes.readUInt16LE(at) : bytes.length);
    const name = bytes.toString("latin1", at + 2, nameEnd);
    const end = nameEnd + 4 <= bytes.length ? nameEnd + 4 + bytes.readUInt32LE(nameEnd) : Infinity;
    if (!NAME.test(name) || end > bytes.length) {
      throw new StorageError("corrupt", "bad-statistics", `no file of pg_stat at byte ${at}`);
    }
    files.push({ name, bytes: bytes.subarray(nameEnd + 4, end) });
    at = end;
  }
  return files;
}

function inflate(bytes: Uint8Array): Buffer {
  try {
    return inflateRawSync(bytes, { maxOutputLength: 2 * MAX_BYTES });
  } catch (cause) {
    const message = "statistics cannot be decompressed";
    throw new StorageError("corrupt", "bad-statistics", message, { cause });
  }
}
