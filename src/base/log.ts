// JSON log lines on stderr: fixed messages, data in fields.

import { writeSync } from "node:fs";
import { errnoCode } from "./errors.ts";
import { sourceStack } from "./source-positions.ts";

/** Either a message, or fields and a message; a field that is an Error shows its stack and causes. */
export interface LogMethod {
  (message: string): void;
  (fields: object, message: string): void;
}

export interface Logger {
  level: string;
  trace: LogMethod;
  debug: LogMethod;
  info: LogMethod;
  warn: LogMethod;
  error: LogMethod;
  fatal: LogMethod;
  /** A logger whose lines all carry `fields`. */
  child(fields: object): Logger;
}

const LEVELS: readonly string[] = ["trace", "debug", "info", "warn", "error", "fatal", "silent"];
const STDERR = 2;
const MAX_CAUSES = 8;

/**
 * `level` from $STRATA_LOG (trace, debug, info, warn, error, silent); default info. Our own because
 * loading a logging package takes a quarter of the time in which a compute starts.
 */
export function createLogger(
  component: string,
  level: string = process.env["STRATA_LOG"] ?? "info",
): Logger {
  return new JsonLogger(LEVELS.includes(level) ? level : "info", { component, pid: process.pid });
}

class JsonLogger implements Logger {
  level: string;
  readonly #fields: object;

  constructor(level: string, fields: object) {
    this.level = level;
    this.#fields = fields;
  }

  child(fields: object): Logger {
    return new JsonLogger(this.level, { ...this.#fields, ...fields });
  }

  trace(first: object | string, message?: string): void {
    this.#log("trace", first, message);
  }

  debug(first: object | string, message?: string): void {
    this.#log("debug", first, message);
  }

  info(first: object | string, message?: string): void {
    this.#log("info", first, message);
  }

  warn(first: object | string, message?: string): void {
    this.#log("warn", first, message);
  }

  error(first: object | string, message?: string): void {
    this.#log("error", first, message);
  }

  fatal(first: object | string, message?: string): void {
    this.#log("fatal", first, message);
  }

  #log(level: string, first: object | string, message: string | undefined): void {
    if (LEVELS.indexOf(level) < LEVELS.indexOf(this.level)) {
      return;
    }
    const [fields, msg] = typeof first === "string" ? [{}, first] : [first, message];
    const line = { level, time: new Date().toISOString(), ...this.#fields, ...fields, msg };
    writeLine(`${JSON.stringify(line, printable)}\n`);
  }
}

/** Synchronous: a crash must not lose the lines that explain it. */
function writeLine(line: string): void {
  const bytes = Buffer.from(line);
  let done = 0;
  while (done < bytes.length) {
    try {
      done += writeSync(STDERR, bytes, done);
    } catch (error) {
      // A pipe whose reader is slow (EAGAIN): try again. One that nobody reads, or a full disk:
      // the work goes on without its log.
      if (errnoCode(error) !== "EAGAIN") {
        return;
      }
    }
  }
}

/** What JSON has no form for. */
function printable(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") {
    return value.toString();
  }
  return value instanceof Error ? describeError(value) : value;
}

/** Messages carry their context already (errors.ts), but only stacks tell where causes arose. */
function describeError(error: Error): object {
  const stacks: string[] = [];
  for (let at: unknown = error; at instanceof Error && stacks.length < MAX_CAUSES; at = at.cause) {
    stacks.push(sourceStack(at.stack ?? at.message));
  }
  const own: object = error;
  return {
    type: error.constructor.name,
    message: error.message,
    stack: stacks.join("\ncaused by: "),
    // Codes and fields; an Error's own message, stack and cause are not enumerable.
    ...own,
  };
}
