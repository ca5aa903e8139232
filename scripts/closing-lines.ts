// A reporter of node:test for the end of a long run: which files took longest, in seconds of their own process, and, last, as
// that is what a person or a machine that kept only the end of the output has, why each test that failed did.

import { relative } from "node:path";
import type { TestEvent } from "node:test/reporters";

const FILES_SHOWN = 20;
/** Of one failure. The whole is in the report above. */
const LINES_SHOWN = 12;
const COLUMNS_SHOWN = 200;

type Failure = Extract<TestEvent, { type: "test:fail" }>["data"];

export default async function* closingLines(
  events: AsyncIterable<TestEvent>,
): AsyncGenerator<string> {
  const files: { file: string; seconds: number }[] = [];
  const failures: string[] = [];
  for await (const { type, data } of events) {
    if (type === "test:summary" && data.file !== undefined) {
      files.push({ file: relative(process.cwd(), data.file), seconds: data.duration_ms / 1000 });
    } else if (type === "test:fail" && !isOfSubtests(data.details.error)) {
      failures.push(digest(data));
    }
  }
  files.sort((a, b) => b.seconds - a.seconds);
  const sum = files.reduce((total, { seconds }) => total + seconds, 0);
  yield `\n${files.length} files, ${sum.toFixed(0)} s of processes; the longest:\n`;
  for (const { file, seconds } of files.slice(0, FILES_SHOWN)) {
    yield `${seconds.toFixed(1).padStart(7)} s  ${file}\n`;
  }
  for (const failure of failures) {
    yield `\n${failure}`;
  }
}

/** A test that failed as one of those within it did, which tells more. */
function isOfSubtests(error: object): boolean {
  return "failureType" in error && error.failureType === "subtestsFailed";
}

/** Where it is, and how its message and those of its causes begin. */
function digest({ file = "", line, name, details }: Failure): string {
  const messages: string[] = [];
  for (
    let error: unknown = details.error.cause ?? details.error;
    error instanceof Error;
    error = error.cause
  ) {
    messages.push(error.message);
  }
  const lines = messages
    .join("\ncaused by: ")
    .split("\n")
    .filter((text) => text.trim() !== "")
    .map((text) => `  ${text.slice(0, COLUMNS_SHOWN)}\n`);
  const shown = lines.slice(0, LINES_SHOWN);
  if (lines.length > LINES_SHOWN) {
    // A command's own last words, behind the ends of logs.
    shown.push("  ...\n", ...lines.slice(-2));
  }
  return `failed: ${relative(process.cwd(), file)}:${line ?? "?"} ${name}\n${shown.join("")}`;
}
