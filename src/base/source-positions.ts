// Names sources in the stack traces of a bundle (program-files.mjs), where Node knows only the bundle's lines.
//
// Node could do so itself, but reads the map at each start then: 60 ms of CPU time for one that is needed after a failure.

import { readFileSync } from "node:fs";
import { SourceMap } from "node:module";
import { fileURLToPath } from "node:url";

const POSITION = /(file:\/\/[^\s()]+\.code\.js):(\d+):(\d+)/g;
/** Undefined: it cannot be read. */
const maps = new Map<string, SourceMap | undefined>();

/** The stack with the positions in sources that have their place in a map; others stay what they are. */
export function sourceStack(stack: string): string {
  return stack.replaceAll(
    POSITION,
    (position: string, file: string, line: string, column: string) => {
      if (!maps.has(file)) {
        maps.set(file, readMap(file));
      }
      const origin = maps.get(file)?.findOrigin(Number(line), Number(column));
      return origin !== undefined && "fileName" in origin
        ? `${new URL(origin.fileName, file)}:${origin.lineNumber}:${origin.columnNumber}`
        : position;
    },
  );
}

function readMap(file: string): SourceMap | undefined {
  try {
    return new SourceMap(JSON.parse(readFileSync(fileURLToPath(`${file}.map`), "utf8")));
  } catch {
    // Removed: by a later build.
    return undefined;
  }
}
