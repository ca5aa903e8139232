// A RecordSink that writes down each call as a line, for transcripts and fuzzers.

import { crc32c } from "../../src/base/crc32c.ts";
import type { RecordSink, RelationFork } from "../../src/wal-decoder/record-sink.ts";

function relation(rel: RelationFork): string {
  return `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}.${rel.fork}`;
}

/** Long values by length and checksum. */
function bytesOf(value: Uint8Array): string {
  return `[${value.length} bytes, crc ${crc32c(value).toString(16)}]`;
}

function show(value: unknown): string {
  if (value instanceof Uint8Array) {
    return bytesOf(value);
  }
  if (typeof value === "object" && value !== null && "relNumber" in value) {
    return relation(value as RelationFork);
  }
  return JSON.stringify(value, (_, part: unknown) =>
    typeof part === "bigint" ? `${part}n` : part,
  );
}

/** Appends `name argument argument ...` to `lines` for each call. */
export function recordingSink(lines: string[]): RecordSink {
  return new Proxy({} as RecordSink, {
    get:
      (_, name) =>
      (...args: unknown[]) => {
        lines.push([String(name), ...args.map(show)].join(" "));
      },
  });
}
