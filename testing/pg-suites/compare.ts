// Compares what a suite of Postgres's own tests wrote on stock with what it wrote on Strata, file by file.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createTwoFilesPatch } from "diff";

/** Outputs of one run: the name of each file, and its bytes. */
export type Outputs = ReadonlyMap<string, Buffer>;

/**
 * - `equal`: the same bytes.
 * - `different`: other bytes, or a file that one side lacks.
 * - `unstable`: other bytes, where a second run of stock is not as its first one either.
 */
export type Verdict = "equal" | "different" | "unstable";

export interface ComparedFile {
  readonly name: string;
  readonly verdict: Verdict;
  /** From stock to Strata, for people; empty where they are equal. */
  readonly diff: string;
}

/** All files in `directory`, at any depth. */
export function readOutputs(directory: string): Outputs {
  const outputs = new Map<string, Buffer>();
  const walk = (below: string) => {
    for (const entry of readdirSync(join(directory, below), { withFileTypes: true })) {
      const name = join(below, entry.name);
      if (entry.isDirectory()) {
        walk(name);
      } else {
        outputs.set(name, readFileSync(join(directory, name)));
      }
    }
  };
  walk("");
  return outputs;
}

/** `again` is a second run on stock: it tells files apart that no two runs have equal. */
export function compareOutputs(stock: Outputs, ours: Outputs, again?: Outputs): ComparedFile[] {
  const names = new Set([...stock.keys(), ...ours.keys()]);
  return [...names].toSorted().map((name) => {
    if (isSame(stock.get(name), ours.get(name))) {
      return { name, verdict: "equal", diff: "" };
    }
    const unstable = again !== undefined && !isSame(stock.get(name), again.get(name));
    const diff = describe(name, stock.get(name), ours.get(name));
    return { name, verdict: unstable ? "unstable" : "different", diff };
  });
}

/** A file that one side lacks is not the same as one that is empty. */
function isSame(one: Buffer | undefined, other: Buffer | undefined): boolean {
  return one !== undefined && other !== undefined && one.equals(other);
}

function describe(name: string, stock: Buffer | undefined, ours: Buffer | undefined): string {
  if (stock === undefined || ours === undefined) {
    return `only on ${stock === undefined ? "Strata" : "stock"}: ${name}\n`;
  }
  const [before, after] = [stock.toString("latin1"), ours.toString("latin1")];
  return createTwoFilesPatch(`stock/${name}`, `strata/${name}`, before, after);
}

/** What pg_regress says at the end of its own output. */
export interface Summary {
  readonly tests: number;
  /** Whose output is none of those that Postgres's developers expect; on both sides where the set-up differs from theirs. */
  readonly unexpected: number;
}

/** Undefined where pg_regress did not come to its end. Up to 15 it is prose, from 16 on TAP with the same words. */
export function parseSummary(output: string): Summary | undefined {
  const failed = /(\d+) of (\d+) tests failed/.exec(output);
  if (failed !== null) {
    return { tests: Number(failed[2]), unexpected: Number(failed[1]) };
  }
  const passed = /All (\d+) tests passed/.exec(output);
  return passed === null ? undefined : { tests: Number(passed[1]), unexpected: 0 };
}
