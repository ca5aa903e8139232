// Postgres's timestamptz: microseconds since 2000-01-01 00:00 UTC, as a number and as text.

/** 2000-01-01 in Unix milliseconds (POSTGRES_EPOCH_JDATE). */
export const POSTGRES_EPOCH_MS = 946_684_800_000;

const TIMESTAMP =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)? ?(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?$/i;

export interface ParsedTimestamp {
  /** Whole microseconds since 2000-01-01, what is finer cut off; negative before. */
  readonly timeUs: number;
  /** False: it was taken as local time. */
  readonly hasZone: boolean;
}

/** ISO 8601, or as Postgres prints it (`2026-11-28 10:38:10.25+00`); undefined where it is neither. */
export function parseTimestamp(text: string): ParsedTimestamp | undefined {
  const match = TIMESTAMP.exec(text.trim());
  if (match === null) {
    return undefined;
  }
  const [year, month, day, hour, minute, second] = match
    .slice(1, 7)
    .map((part) => Number(part ?? "0")) as [number, number, number, number, number, number];
  const parts = [year, month - 1, day, hour, minute, second] as const;
  const zone = match[8];
  // Date takes 31 February for 3 March.
  const isReal = new Date(Date.UTC(...parts)).toISOString().startsWith(isoPrefix(match));
  if (!isReal) {
    return undefined;
  }
  const unixMs =
    zone === undefined
      ? new Date(...parts).getTime()
      : Date.UTC(...parts) - offsetMinutes(zone) * 60_000;
  const micros = Number((match[7] ?? "").padEnd(6, "0").slice(0, 6));
  return { timeUs: (unixMs - POSTGRES_EPOCH_MS) * 1000 + micros, hasZone: zone !== undefined };
}

function isoPrefix(match: RegExpExecArray): string {
  const [, year, month, day, hour = "00", minute = "00", second = "00"] = match;
  return `${year}-${month}-${day}T${hour}:${minute}:${second}`;
}

function offsetMinutes(zone: string): number {
  const match = /^([+-])(\d\d):?(\d\d)?$/.exec(zone);
  if (match === null) {
    return 0;
  }
  const minutes = Number(match[2]) * 60 + Number(match[3] ?? "0");
  return match[1] === "-" ? -minutes : minutes;
}

/** RFC 3339 in UTC with all six digits: `2026-11-28T10:38:10.250000Z`. */
export function formatTimestamp(timeUs: number): string {
  const seconds = Math.floor(timeUs / 1_000_000);
  const micros = timeUs - seconds * 1_000_000;
  const date = new Date(POSTGRES_EPOCH_MS + seconds * 1000).toISOString().slice(0, 19);
  return `${date}.${`${micros}`.padStart(6, "0")}Z`;
}
