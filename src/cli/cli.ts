// What every command shares: the home, printing, locking, options that many verbs have.

import { type Command, InvalidArgumentError, Option } from "commander";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import { parseDurationMs } from "../base/text/duration.ts";
import { StrataHome } from "../local/home.ts";
import {
  withHomeLocked as lockHome,
  withHomeShared as shareHome,
  withLock,
} from "../local/lock.ts";

/** What ends says so at once: this is for a machine that is slow. */
const DEFAULT_START_TIMEOUT = "60s";

/** Result lines go to stdout. */
export function print(line: string): void {
  console.log(line);
}

/** Progress and notices go to stderr, so that output can be piped. */
export function notice(line: string): void {
  console.error(line);
}

export function printJson(value: unknown): void {
  console.log(JSON.stringify(value, undefined, 2));
}

export function openHome(): StrataHome {
  return StrataHome.fromEnvironment();
}

/** Runs `body` while no other command changes this home. */
export function withHomeLocked<T>(
  home: StrataHome,
  body: () => Promise<T>,
  { makesHome = false } = {},
): Promise<T> {
  return lockHome(home, body, { makesHome, onWait: noticeWait });
}

/** Runs `body`, which only makes branches, while other commands do no more than that. */
export function withHomeShared<T>(home: StrataHome, body: () => Promise<T>): Promise<T> {
  return shareHome(home, body, { onWait: noticeWait });
}

const noticeWait = () => notice("waiting for another strata command to finish");

/** Runs `body` while no other command starts, stops or changes that endpoint. */
export function withEndpointLocked<T>(
  home: StrataHome,
  id: string,
  body: () => Promise<T>,
): Promise<T> {
  return withLock(home.path, `endpoint ${id}`, body, {
    onWait: () => noticeEndpointWait(id),
  });
}

export function noticeEndpointWait(id: string): void {
  notice(`waiting for another strata command that works on endpoint ${id}`);
}

/** `90s`, `1h 30m`, or a bare number of seconds, as milliseconds. */
export function parseDuration(text: string): number {
  const ms = parseDurationMs(/^\d+(\.\d+)?$/.test(text) ? `${text}s` : text);
  if (ms === undefined) {
    throw new InvalidArgumentError("a duration is wanted, such as 10s");
  }
  return ms;
}

export function parsePort(text: string): number {
  const port = Number(text);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new InvalidArgumentError("a port is wanted, 1 to 65535");
  }
  return port;
}

export function parseLsnOption(text: string): Lsn {
  const lsn = parseLsn(text);
  if (lsn === undefined) {
    throw new InvalidArgumentError("an LSN is wanted, such as 0/16F9A00");
  }
  return lsn;
}

export function parseCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1) {
    throw new InvalidArgumentError("a number from 1 on is wanted");
  }
  return count;
}

/** `1,2,4`. */
export function parseIds(text: string): number[] {
  const ids = text.split(",").map(parseCount);
  if (new Set(ids).size < ids.length) {
    throw new InvalidArgumentError("an id occurs twice");
  }
  return ids;
}

/** Collects `-c key=value` (or Neon's `key:value`) into a record. */
export function parseSetting(
  text: string,
  previous: Record<string, string> | undefined,
): Record<string, string> {
  const match = /^([A-Za-z_][\w.]*)\s*[=:](.*)$/s.exec(text);
  if (match === null) {
    throw new InvalidArgumentError("key=value is wanted");
  }
  return { ...previous, [match[1]!]: match[2]!.trim() };
}

export function tenantOption(): Option {
  return new Option("--tenant-id <id>", "tenant, 32 hex digits (default: the default tenant)");
}

export function safekeeperSetOption(): Option {
  return new Option(
    "--sk-set <ids>",
    "safekeepers that keep its WAL, as 1,2,3 (default: all)",
  ).argParser(parseIds);
}

export function jsonOption(): Option {
  return new Option("--json", "print JSON");
}

export function startTimeoutOption(fallback = DEFAULT_START_TIMEOUT): Option {
  return new Option("-t, --start-timeout <duration>", "how long to wait for the start")
    .default(parseDuration(fallback), fallback)
    .argParser(parseDuration);
}

export function stopModeOption(): Option {
  return new Option("-m, --mode <mode>", "fast: in good order; immediate: as in a crash")
    .choices(["fast", "immediate"])
    .default("fast");
}

/** A command that only has subcommands. */
export function group(program: Command, name: string, description: string): Command {
  return program.command(name).description(description);
}
