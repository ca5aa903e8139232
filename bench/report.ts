// Medians, ratios and the one table that `npm run bench` prints.

import { formatTable } from "../src/cli/output.ts";

export interface Row {
  readonly what: string;
  readonly ours: string;
  readonly theirs: string;
  /** Ours against theirs as the aim counts it. */
  readonly ratio: string;
  readonly aim: string;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The value that `share` of all are not above. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)]!;
}

/** `p50 (p99)`. */
export function spread(values: readonly number[], digits = 0): string {
  return `${median(values).toFixed(digits)} (${percentile(values, 0.99).toFixed(digits)})`;
}

export function ratio(ours: number, theirs: number): string {
  return (ours / theirs).toFixed(2);
}

export function printTable(rows: readonly Row[]): void {
  const header = ["MEASURED", "STRATA", "STOCK", "RATIO", "AIM"];
  const cells = rows.map((row) => [row.what, row.ours, row.theirs, row.ratio, row.aim]);
  console.log(formatTable(header, cells));
}

/** Progress goes to stderr, so that the table alone is on stdout. */
export function progress(text: string): void {
  console.error(`bench: ${text}`);
}
