// Numbers, sizes and times as people read them.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** In steps of 1024, as Postgres's pg_size_pretty. */
export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function msText(ms: number): string {
  return ms < 1000
    ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`
    : `${(ms / 1000).toFixed(2)} s`;
}

/** Local, to the second: `2026-11-29 07:20:11`. */
export function timeText(time: number | string): string {
  const date = new Date(time);
  const two = (value: number) => `${value}`.padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

const STEPS: readonly [number, string][] = [
  [60, "s"],
  [60, "min"],
  [24, "h"],
  [Number.POSITIVE_INFINITY, "d"],
];

/** How long ago: `5 min ago`. */
export function agoText(time: string, now = Date.now()): string {
  let value = Math.max(0, (now - Date.parse(time)) / 1000);
  for (const [size, unit] of STEPS) {
    if (value < size) {
      return unit === "s" && value < 10 ? "just now" : `${Math.floor(value)} ${unit} ago`;
    }
    value /= size;
  }
  return "";
}

/** `create_branch` as people say it. */
export function actionText(action: string): string {
  return action.replaceAll("_", " ");
}

/** An LSN's place, to compare and to draw: exact below 2^53. */
export function lsnNumber(lsn: string): number {
  const [high, low] = lsn.split("/");
  return Number.parseInt(high ?? "0", 16) * 2 ** 32 + Number.parseInt(low ?? "0", 16);
}

export function lsnText(value: number): string {
  const whole = Math.max(0, Math.round(value));
  const high = Math.floor(whole / 2 ** 32).toString(16);
  return `${high}/${(whole % 2 ** 32).toString(16)}`.toUpperCase();
}
