// What a broken variant is: changes of source text that take out one rule.

/** `find` occurs exactly once in the file, a path below src/. */
export interface Change {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface Variant {
  readonly name: string;
  /** The rule that it lacks. */
  readonly rule: string;
  /** One that catches it. Any change of the code may make another one necessary. */
  readonly seed: number;
  /** What catches it: runs of the whole simulation, unless it says so. */
  readonly caughtBy?: "power-cuts";
  readonly changes: readonly Change[];
}
