// Checks of what a file's JSON or a database's rows say, by hand: loading zod would take half of the time of every command.

export type Fields = Record<string, unknown>;

/** What is wrong, as `path problem`. */
export class Problem extends Error {}

const ADDRESS = /^[^\s:]+:\d{1,5}$/;
const HEX_32 = /^[0-9a-f]{32}$/;

/** An object; with `known`, one that has no other fields. */
export function record(value: unknown, path: string, known?: readonly string[]): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Problem(`${path} expected an object`.trim());
  }
  const unknown = known && Object.keys(value).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new Problem(`${path} unrecognized field '${unknown}'`.trim());
  }
  return value as Fields;
}

export function string(value: unknown, path: string, pattern: RegExp, expected: string): string {
  if (typeof value !== "string" || !pattern.test(value)) {
    throw new Problem(`${path} expected ${expected}`);
  }
  return value;
}

export function address(value: unknown, path: string): string {
  const text = string(value, path, ADDRESS, "host:port");
  integer(Number(text.slice(text.lastIndexOf(":") + 1)), `${path}: its port`, 1, 65_535);
  return text;
}

export function hex(value: unknown, path: string): string {
  return string(value, path, HEX_32, "32 hex digits");
}

/** In [least, most]. */
export function integer(value: unknown, path: string, least: number, most: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most) {
    throw new Problem(`${path} expected a whole number from ${least} to ${most}`);
  }
  return value;
}
