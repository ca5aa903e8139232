// A reporter of node:test for the end of a long run: which files took longest, in seconds of their own process.

import { relative } from "node:path";
import type { TestEvent } from "node:test/reporters";

const SHOWN = 40;

export default async function* slowestFiles(
  events: AsyncIterable<TestEvent>,
): AsyncGenerator<string> {
  const files: { file: string; seconds: number }[] = [];
  for await (const { type, data } of events) {
    if (type === "test:summary" && data.file !== undefined) {
      files.push({
        file: relative(process.cwd(), data.file),
        seconds: data.duration_ms / 1000,
      });
    }
  }
  files.sort((a, b) => b.seconds - a.seconds);
  const sum = files.reduce((total, { seconds }) => total + seconds, 0);
  yield `\n${files.length} files, ${sum.toFixed(0)} s of processes; the longest:\n`;
  for (const { file, seconds } of files.slice(0, SHOWN)) {
    yield `${seconds.toFixed(1).padStart(7)} s  ${file}\n`;
  }
}
