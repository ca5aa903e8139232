// Sizes as Postgres's settings write them: "500MB", "8 kB".

const UNITS: Readonly<Record<string, number>> = {
  kB: 2 ** 10,
  MB: 2 ** 20,
  GB: 2 ** 30,
  TB: 2 ** 40,
};

/** Bytes; MB where no unit is given. Undefined where it is no size. */
export function parseSizeBytes(text: string): number | undefined {
  const match = /^(\d{1,9})\s*(kB|MB|GB|TB)?$/.exec(text.trim());
  return match === null ? undefined : Number(match[1]) * UNITS[match[2] ?? "MB"]!;
}
