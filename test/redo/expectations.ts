// What is wrong with the runs of one installation: mismatches, and record kinds that did not occur.

import {
  GIN_BRIN_DELTAS,
  GIST_SPGIST_HASH_DELTAS,
  HEAP_DELTAS,
  IMPLIED_MAP_DELTAS,
  pruneParts,
  REGISTERED_MAP_DELTAS,
} from "../../testing/redo/expected-deltas.ts";
import { opcodeName, opcodesOf } from "./opcodes.ts";
import type { RunResult } from "./run.ts";
import { countOpcodes } from "./run.ts";

/**
 * One line for each problem. `deltas`: also what a record's parts must have been, which takes the whole
 * workload.
 */
export function findProblems(
  major: number,
  runs: readonly RunResult[],
  { deltas }: { readonly deltas: boolean },
): string[] {
  return [
    ...runs.flatMap(mismatches),
    ...opcodeProblems(major, runs),
    ...(deltas ? deltaProblems(major, runs) : []),
  ];
}

function mismatches(run: RunResult): string[] {
  const setting = `full_page_writes ${run.fullPageWrites ? "on" : "off"}`;
  return run.reports.flatMap((report) =>
    report.mismatches === 0
      ? []
      : [
          `${setting}: ${report.mismatches} mismatches`,
          ...report.firstMismatches.slice(0, 5).map(({ kind, where, block, what, record }) => {
            const by =
              record === undefined
                ? "as in the base"
                : opcodeName(report.major, record.rmid, record.info & 0xf0);
            return `  ${kind} ${where} block ${block ?? "-"}, ${by}: ${what}`;
          }),
        ],
  );
}

function opcodeProblems(major: number, runs: readonly RunResult[]): string[] {
  const seen = new Map<number, number>();
  for (const [key, { records }] of countOpcodes(runs.flatMap((run) => run.reports))) {
    seen.set(key, records);
  }
  const withHints = runs.some((run) => run.fullPageWrites);
  const problems: string[] = [];
  for (const { rmid, info, impossible, needsHints } of opcodesOf(major)) {
    const occurred = seen.delete((rmid << 8) | info);
    if (impossible !== undefined && occurred) {
      problems.push(`${opcodeName(major, rmid, info)} occurred, and is listed as impossible`);
    } else if (impossible === undefined && !occurred && (withHints || needsHints !== true)) {
      problems.push(`${opcodeName(major, rmid, info)} never occurred`);
    }
  }
  for (const key of seen.keys()) {
    problems.push(`${opcodeName(major, key >> 8, key & 0xff)} occurred, and is not listed`);
  }
  return problems;
}

function deltaProblems(major: number, runs: readonly RunResult[]): string[] {
  const seen = new Set(runs.flatMap((run) => [...run.deltas]));
  const map = IMPLIED_MAP_DELTAS.some((name) => seen.has(name))
    ? IMPLIED_MAP_DELTAS
    : REGISTERED_MAP_DELTAS;
  return [
    ...HEAP_DELTAS,
    ...map,
    ...GIN_BRIN_DELTAS,
    ...GIST_SPGIST_HASH_DELTAS,
    ...pruneParts(major),
  ]
    .filter((name) => !seen.has(name))
    .map((name) => `delta '${name}' never occurred`);
}
