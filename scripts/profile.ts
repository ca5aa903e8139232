// `npm run profile -- FILE.cpuprofile...`: the functions in which the time of CPU profiles was spent.

import { readFileSync } from "node:fs";
import { relative } from "node:path";
import { inRepository } from "./checks.ts";

/** The part of V8's profile format that is read here. */
interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: {
      readonly functionName: string;
      readonly url: string;
      readonly lineNumber: number;
    };
  }[];
  /** Ids of nodes, one a sample. */
  readonly samples: readonly number[];
  /** Microseconds before each sample. */
  readonly timeDeltas: readonly number[];
}

const ROWS = 30;

function nameOf({ callFrame }: CpuProfile["nodes"][number]): string {
  const { functionName, url, lineNumber } = callFrame;
  const place = url.startsWith("file://")
    ? relative(inRepository("."), new URL(url).pathname)
    : url;
  return place === ""
    ? functionName
    : `${functionName || "(anonymous)"}  ${place}:${lineNumber + 1}`;
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error("usage: npm run profile -- FILE.cpuprofile...");
  process.exit(1);
}
const selfUs = new Map<string, number>();
for (const file of files) {
  const profile = JSON.parse(readFileSync(file, "utf8")) as CpuProfile;
  const names = new Map(profile.nodes.map((node) => [node.id, nameOf(node)]));
  for (const [index, id] of profile.samples.entries()) {
    const name = names.get(id) ?? "(unknown)";
    selfUs.set(name, (selfUs.get(name) ?? 0) + profile.timeDeltas[index]!);
  }
}
const busy = [...selfUs].filter(([name]) => name !== "(idle)" && name !== "(program)");
const totalUs = busy.reduce((sum, [, us]) => sum + us, 0);
for (const [name, us] of busy.toSorted((a, b) => b[1] - a[1]).slice(0, ROWS)) {
  const share = ((us / totalUs) * 100).toFixed(1).padStart(5);
  console.log(`${share} %  ${(us / 1000).toFixed(1).padStart(9)} ms  ${name}`);
}
