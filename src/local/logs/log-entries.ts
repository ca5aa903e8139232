// Bytes of a log into its entries: levels, times, and text that neither harms nor tells passwords.
//
// Input is hostile: users write into Postgres's log what they like. A line is cut, what is no UTF-8 and what steers a
// terminal or turns the direction of text is shown as a sign, and passwords in statements are taken out.

import { HIDDEN, withoutPasswords } from "./passwords.ts";

export const LOG_SOURCES = ["compute", "postgres"] as const;
/** `compute`: JSON lines of the agent; `postgres`: as Postgres writes it. */
export type LogSource = (typeof LOG_SOURCES)[number];

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogEntry {
  readonly level: LogLevel;
  /** ISO, in UTC; absent where the line has none. */
  readonly time?: string;
  /** One or more lines, without the time where that is known. */
  readonly text: string;
  /** Bytes that are left out, beside `text`. */
  readonly cutBytes: number;
}

/** Of one line. What is behind is counted only. */
const MAX_LINE_BYTES = 8 * 1024;
/** Of one entry with the lines that belong to it. */
const MAX_ENTRY_CHARS = 16 * 1024;
const NEWLINE = 10;

interface Line {
  readonly text: string;
  readonly cutBytes: number;
}

/** To be given a log's bytes in their order. */
export class LogParser {
  readonly #source: LogSource;
  readonly #isRaw: boolean;
  /** Of the line that has no end yet. */
  #chunks: Buffer[] = [];
  #heldBytes = 0;
  #cutBytes = 0;
  /** Of the entry of which more lines may come. */
  #lines: string[] = [];
  #entryChars = 0;
  #entryCutBytes = 0;
  /** Of the entry before. */
  #level: LogLevel = "info";
  /** Until a line has ended, of which nobody knows whether it was seen from its beginning. */
  #isSkipping: boolean;
  /** The lines that follow are of an entry whose beginning was not seen. */
  #isHeadless = false;

  /**
   * `isRaw`: lines stay as they are, but for what harms. `isInside`: the bytes may begin within an entry, which is left
   * out then: what it begins with says what it is.
   */
  constructor(source: LogSource, { isRaw = false, isInside = false } = {}) {
    this.#source = source;
    this.#isRaw = isRaw;
    this.#isSkipping = isInside;
  }

  /** Whether the bytes that it was given end within a line. */
  get isInLine(): boolean {
    return this.#heldBytes + this.#cutBytes > 0;
  }

  /** Entries of which the next one has begun: the last one is kept for `flush`. Keeps none of the bytes. */
  push(bytes: Uint8Array): LogEntry[] {
    const entries: LogEntry[] = [];
    let at = 0;
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, at)) {
      this.#hold(bytes.subarray(at, end));
      entries.push(...this.#endLine());
      at = end + 1;
    }
    this.#hold(bytes.subarray(at));
    return entries;
  }

  /** The last entry, as far as its lines have ended. */
  flush(): LogEntry[] {
    const text = this.#lines.join("\n");
    const cutBytes = this.#entryCutBytes;
    this.#lines = [];
    this.#entryChars = 0;
    this.#entryCutBytes = 0;
    return text === "" ? [] : [this.#entryOf(text, cutBytes)];
  }

  #hold(bytes: Uint8Array): void {
    const part = bytes.subarray(0, MAX_LINE_BYTES - this.#heldBytes);
    if (part.length > 0) {
      this.#chunks.push(Buffer.from(part));
      this.#heldBytes += part.length;
    }
    this.#cutBytes += bytes.length - part.length;
  }

  #endLine(): LogEntry[] {
    const line = { text: Buffer.concat(this.#chunks).toString("utf8"), cutBytes: this.#cutBytes };
    this.#chunks = [];
    this.#heldBytes = 0;
    this.#cutBytes = 0;
    // Postgres indents all lines of a message but its first (append_with_tabs in elog.c).
    const isMore = this.#source === "postgres" && line.text.startsWith("\t");
    if (this.#isSkipping) {
      // The first line may be the rest of one, whatever it begins with.
      this.#isSkipping = false;
      this.#isHeadless = true;
      return [];
    }
    if (isMore && this.#isHeadless) {
      return [];
    }
    this.#isHeadless = false;
    if (isMore && this.#lines.length > 0) {
      this.#append(line);
      return [];
    }
    const ended = this.flush();
    this.#append(line);
    return ended;
  }

  #append({ text, cutBytes }: Line): void {
    const isTooLong = this.#entryChars + text.length > MAX_ENTRY_CHARS;
    if (!isTooLong) {
      this.#lines.push(text);
      this.#entryChars += text.length + 1;
    }
    this.#entryCutBytes += cutBytes + (isTooLong ? Buffer.byteLength(text) : 0);
  }

  #entryOf(text: string, cutBytes: number): LogEntry {
    const { level, time, rest } =
      this.#source === "compute" ? readAgentLine(text) : this.#readPostgresLine(text);
    this.#level = level;
    const shown = harmless(withoutSecrets(this.#isRaw ? text : rest));
    return { level, ...(time === undefined ? {} : { time }), text: shown, cutBytes };
  }

  #readPostgresLine(text: string): ReadLine {
    const time = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,6})?) UTC /.exec(text);
    const word = SEVERITY.exec(text.slice(0, MAX_PREFIX))?.[1];
    return {
      // DETAIL, STATEMENT and the like belong to the line before them, as does what has no word.
      level: (word === undefined ? undefined : POSTGRES_LEVELS[word]) ?? this.#level,
      time: time === null ? undefined : `${time[1]}T${time[2]}Z`,
      rest: time === null ? text : text.slice(time[0].length),
    };
  }
}

interface ReadLine {
  readonly level: LogLevel;
  readonly time: string | undefined;
  readonly rest: string;
}

/** `log_line_prefix` may be of any kind, and this long. */
const MAX_PREFIX = 300;
const SEVERITY = /(?:^|\s)([A-Z]+[1-5]?): {2}/;
const POSTGRES_LEVELS: Readonly<Record<string, LogLevel>> = {
  ...{ DEBUG1: "debug", DEBUG2: "debug", DEBUG3: "debug", DEBUG4: "debug", DEBUG5: "debug" },
  ...{ LOG: "info", INFO: "info", NOTICE: "info", WARNING: "warn" },
  ...{ ERROR: "error", FATAL: "fatal", PANIC: "fatal" },
};

/** A JSON line of base/log.ts; or an uncaught error, or what a program below it wrote. */
function readAgentLine(text: string): ReadLine {
  const head = /^\{"level":"(\w{1,9})","time":"([\d:.TZ-]{1,40})"/.exec(text);
  if (head === null) {
    const level = text.startsWith("fatal: ")
      ? "fatal"
      : /^\w*Error\b/.test(text)
        ? "error"
        : "info";
    return { level, time: undefined, rest: text };
  }
  const level = LOG_LEVELS.find((one) => one === head[1]) ?? "info";
  return { level, time: head[2], rest: agentText(text) };
}

/** Its message, and its fields as `name=value`. As it is where it was cut. */
function agentText(line: string): string {
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line;
  }
  const { level, time, component, pid, msg, ...rest } = fields;
  const words = Object.entries(rest).map(([name, value]) => {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return `${name}=${/^[^\s"]+$/.test(text) ? text : JSON.stringify(value)}`;
  });
  return [`${msg}`, ...words].join(" ");
}

/** Each in time that grows with the length of the text, whatever it is. */
const SECRETS: readonly (readonly [RegExp, string])[] = [
  // Of a connection string.
  [/(\bpassword\s*=\s*)[^\s'"]+/gi, `$1${HIDDEN}`],
  [/(\b[a-z][a-z0-9+.-]{0,20}:\/\/[^\s:@/'"]{0,200}:)[^\s@/'"]{1,500}(?=@)/gi, `$1${HIDDEN}`],
  // What stands for one in catalogs.
  [/\bSCRAM-SHA-256\$[\w+/=:$]+/g, HIDDEN],
  [/\bmd5[0-9a-f]{32}\b/g, HIDDEN],
  // Tokens: JWTs.
  [/\beyJ[\w-]{1,2000}\.[\w-]{1,2000}\.[\w-]{1,2000}/g, HIDDEN],
];

function withoutSecrets(text: string): string {
  return SECRETS.reduce(
    (rest, [pattern, shown]) => rest.replace(pattern, shown),
    withoutPasswords(text),
  );
}

/** Control characters become pictures of themselves; what turns the direction of text, its number. */
function harmless(text: string): string {
  return text
    .replace(/[\p{Cc}]/gu, (sign) => {
      const code = sign.charCodeAt(0);
      return sign === "\n" || sign === "\t"
        ? sign
        : String.fromCharCode(code < 0x20 ? 0x2400 + code : code === 0x7f ? 0x2421 : 0xfffd);
    })
    .replace(
      /[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
      (sign) => `<U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`,
    );
}

/** At least as grave. */
export function isOfLevel({ level }: LogEntry, least: LogLevel): boolean {
  return LOG_LEVELS.indexOf(level) >= LOG_LEVELS.indexOf(least);
}
