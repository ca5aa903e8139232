// A single broken rule and the test that must notice it; `npm run test:mutants` tries them all.

export interface Mutant {
  /** What is wrong with the code once it is changed. */
  readonly rule: string;
  /** Path in the repository. */
  readonly file: string;
  /** Text that stands in the file exactly once, and what comes in its place. */
  readonly search: string;
  readonly replace: string;
  /** The test file that fails then, and how the name of its test begins. */
  readonly test: string;
  readonly name: string;
}

export interface MutantPart {
  /** For `--only`. */
  readonly part: string;
  readonly mutants: readonly Mutant[];
}

/** How often `text` has `search` in it. */
export function occurrences(text: string, search: string): number {
  return text.split(search).length - 1;
}
