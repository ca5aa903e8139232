// Durations as people and Neon's settings write them (Rust's humantime): "7 days", "1h 30m", "0s".

const SECOND = 1000;
const DAY = 86_400 * SECOND;

/** In milliseconds, and how humantime spells it; the first spelling is the one that is printed. */
const UNITS: readonly (readonly [ms: number, spellings: readonly string[]])[] = [
  [DAY, ["days", "day", "d"]],
  [3600 * SECOND, ["h", "hours", "hour", "hr"]],
  [60 * SECOND, ["m", "minutes", "minute", "min"]],
  [SECOND, ["s", "seconds", "second", "sec"]],
  [1, ["ms", "msec"]],
];
const WEEKS: readonly string[] = ["weeks", "week", "w"];

const FACTORS = new Map([
  ...UNITS.flatMap(([ms, spellings]) => spellings.map((unit) => [unit, ms] as const)),
  ...WEEKS.map((unit) => [unit, 7 * DAY] as const),
]);

/** 30,000 years: a sum beyond it is no duration. */
const MAX_MS = 1e15;

/**
 * Whole milliseconds: numbers with a unit each, spaces or not. Undefined where it is none, or too long. A number
 * without a unit is none, but for 0.
 */
export function parseDurationMs(text: string): number | undefined {
  const trimmed = text.trim();
  if (trimmed === "0") {
    return 0;
  }
  if (!/^(\d+(\.\d+)?\s*[a-z]+\s*)+$/.test(trimmed)) {
    return undefined;
  }
  let sum = 0;
  for (const [, digits, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)\s*([a-z]+)/g)) {
    const factor = FACTORS.get(unit!);
    if (factor === undefined) {
      return undefined;
    }
    sum += Number(digits) * factor;
  }
  return sum <= MAX_MS ? Math.round(sum) : undefined;
}

/** The largest units first, those that are zero left out; `parseDurationMs` gives the same back. */
export function formatDurationMs(durationMs: number): string {
  const parts: string[] = [];
  let rest = durationMs;
  for (const [ms, [unit]] of UNITS) {
    const count = Math.floor(rest / ms);
    rest -= count * ms;
    if (count > 0) {
      parts.push(`${count}${unit === "days" && count === 1 ? "day" : unit}`);
    }
  }
  return parts.length === 0 ? "0s" : parts.join(" ");
}
