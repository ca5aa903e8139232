// What was run before, in this browser.

import { useState } from "react";

export interface PastRun {
  readonly text: string;
  /** Unix milliseconds. */
  readonly at: number;
  readonly isFailed: boolean;
}

const KEY = "strata.sql-history";
const MAX_RUNS = 100;
/** Longer ones are not worth the browser's room. */
const MAX_LETTERS = 20_000;

export function usePastRuns(): [readonly PastRun[], (run: PastRun) => void] {
  const [runs, setRuns] = useState(read);
  const add = (run: PastRun) => {
    if (run.text.trim() !== "" && run.text.length <= MAX_LETTERS) {
      const next = [run, ...read().filter(({ text }) => text !== run.text)].slice(0, MAX_RUNS);
      localStorage.setItem(KEY, JSON.stringify(next));
      setRuns(next);
    }
  };
  return [runs, add];
}

function read(): readonly PastRun[] {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "[]") as PastRun[];
  } catch {
    return [];
  }
}
