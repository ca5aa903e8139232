// What has been used since it was last looked at: pure, from what was counted up to then and what is seen now.
//
// Each cursor says up to where something has been counted. A look adds what is behind it and moves it, in one transaction
// (meter.ts): so what a crash comes in between of is counted at the next look, once.

import type { Lsn } from "../../base/lsn.ts";

/** Up to where an endpoint has been counted. */
export interface EndpointCursor {
  /** Which of its runs, as EndpointReading's. */
  readonly run: string;
  /** Milliseconds since 1970. */
  readonly activeUntilMs: number;
  /** Of the run: its processor time that has been counted. */
  readonly cpuMs: number;
  /** That run has ended, and all of it is counted. */
  readonly hasEnded: boolean;
}

export interface EndpointReading {
  /** Tells runs of its agent apart; absent where it does not run. */
  readonly run?: string | undefined;
  /** When that run began; milliseconds since 1970. */
  readonly sinceMs?: number | undefined;
  /** Processor time of all its processes since then; absent where it could not be read. */
  readonly cpuMs?: number | undefined;
  /** When it last did something; absent where it never ran. */
  readonly lastWordMs?: number | undefined;
}

export interface EndpointUse {
  /** Undefined: it was never seen running. */
  readonly cursor: EndpointCursor | undefined;
  /** `[from, to)`; undefined for nothing. */
  readonly active: { readonly fromMs: number; readonly toMs: number } | undefined;
  readonly cpuMs: number;
}

/** `isFirst`: nothing was ever counted, so what was before now is not known. */
export function countEndpoint(
  cursor: EndpointCursor | undefined,
  reading: EndpointReading,
  { nowMs, isFirst }: { readonly nowMs: number; readonly isFirst: boolean },
): EndpointUse {
  const { run, sinceMs = nowMs, cpuMs } = reading;
  if (run === undefined) {
    if (cursor === undefined || cursor.hasEnded) {
      return { cursor, active: undefined, cpuMs: 0 };
    }
    // Of its end only its log tells.
    const endMs = Math.max(cursor.activeUntilMs, Math.min(nowMs, reading.lastWordMs ?? 0));
    return {
      cursor: { ...cursor, activeUntilMs: endMs, hasEnded: true },
      active: span(cursor.activeUntilMs, endMs),
      cpuMs: 0,
    };
  }
  if (cursor === undefined && isFirst) {
    const baseline = { run, activeUntilMs: nowMs, cpuMs: cpuMs ?? 0, hasEnded: false };
    return { cursor: baseline, active: undefined, cpuMs: 0 };
  }
  const isSame = cursor?.run === run;
  const countedMs = isSame ? cursor.cpuMs : 0;
  // A clock that went back, or a process counted twice as it ended, is waited for: nothing is taken back.
  const fromMs = isSame ? cursor.activeUntilMs : Math.max(sinceMs, cursor?.activeUntilMs ?? 0);
  const seenMs = Math.max(countedMs, cpuMs ?? countedMs);
  return {
    cursor: { run, activeUntilMs: Math.max(fromMs, nowMs), cpuMs: seenMs, hasEnded: false },
    active: span(fromMs, nowMs),
    cpuMs: seenMs - countedMs,
  };
}

function span(fromMs: number, toMs: number): EndpointUse["active"] {
  return toMs > fromMs ? { fromMs, toMs } : undefined;
}

/**
 * Bytes of WAL since the cursor, and where it is then. A timeline that is new begins where its own WAL does. A
 * pageserver that was started again may not have all of it yet: nothing is taken back.
 */
export function countWal(
  counted: Lsn | undefined,
  { startLsn, lastLsn }: { readonly startLsn: Lsn; readonly lastLsn: Lsn },
  isFirst: boolean,
): { readonly counted: Lsn; readonly bytes: number } {
  const from = counted ?? (isFirst ? lastLsn : startLsn);
  const bytes = Math.max(0, lastLsn - from);
  return { counted: (from + bytes) as Lsn, bytes };
}
