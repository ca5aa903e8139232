// The log of an endpoint as the control plane tells it, while the page is looked at.

import { useRef, useState } from "react";
import { useEvents } from "../api/events.ts";
import type { LogEvent, LogLevel, LogSource } from "../api/types.ts";

export type LogEntry = LogEvent["entries"][number];

/** Kept in the page, the newest: as many as are asked for at first, and what has come since. */
const MAX_ENTRIES = 2000;
const MAX_CHARS = 4_000_000;

export interface ShownLog {
  /** Undefined: nothing was heard yet. */
  readonly entries: readonly NumberedEntry[] | undefined;
  /** Older ones were let go. */
  readonly isCut: boolean;
  readonly isAway: boolean;
}

export interface NumberedEntry extends LogEntry {
  /** In the order of their coming: what a list knows them by. */
  readonly number: number;
}

export interface LogPlace {
  readonly projectId: string;
  readonly endpointId: string;
  readonly source: LogSource;
  readonly level: LogLevel;
}

const NOTHING: ShownLog = { entries: undefined, isCut: false, isAway: false };

export function logPath({ projectId, endpointId }: LogPlace): string {
  return `/console/projects/${projectId}/endpoints/${encodeURIComponent(endpointId)}/logs`;
}

/** Stands still while `isFollowing` is false. */
export function useLog(place: LogPlace, isFollowing: boolean): ShownLog {
  const [log, setLog] = useState(NOTHING);
  const { source, level } = place;
  const path = logPath(place);
  const isFirst = useRef(true);
  useEvents(isFollowing ? `${path}?${new URLSearchParams({ source, level })}` : undefined, {
    onOpen: () => {
      isFirst.current = true;
    },
    onAway: () => setLog((before) => ({ ...before, isAway: true })),
    onMessage: (data) => {
      const { entries } = data as LogEvent;
      // The first has those of before.
      const isAll = isFirst.current;
      isFirst.current = false;
      setLog((before) => added(isAll ? NOTHING : before, entries));
    },
  });
  return log;
}

function added({ entries = [], isCut }: ShownLog, news: readonly LogEntry[]): ShownLog {
  const from = (entries.at(-1)?.number ?? -1) + 1;
  const all = [...entries, ...news.map((entry, i) => ({ ...entry, number: from + i }))];
  let chars = 0;
  let first = all.length;
  while (first > 0 && all.length - first < MAX_ENTRIES && chars < MAX_CHARS) {
    first--;
    chars += all[first]!.text.length;
  }
  return { entries: all.slice(first), isCut: isCut || first > 0, isAway: false };
}
