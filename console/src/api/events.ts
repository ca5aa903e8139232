// Server-sent events of the control plane, while the page is looked at, until whoever listens has gone.

import { useEffect, useRef } from "react";

/** Doubled at each failure, up to the last. */
const WAIT_MS = { first: 1000, last: 30_000 };

export interface EventHandlers {
  /** At first, and whenever it is heard of again. */
  readonly onOpen: () => void;
  readonly onMessage: (data: unknown) => void;
  /** Nothing is heard; it is tried again. `isRefused`: there was an answer, and it was none to listen to. */
  readonly onAway: (isRefused: boolean) => void;
}

/** `path` undefined: there is nothing to listen to. */
export function useEvents(path: string | undefined, handlers: EventHandlers): void {
  const latest = useRef(handlers);
  latest.current = handlers;
  useEffect(() => {
    if (path === undefined) {
      return;
    }
    let source: EventSource | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let waitMs = WAIT_MS.first;
    const open = () => {
      timer = undefined;
      source = new EventSource(path);
      source.onopen = () => {
        waitMs = WAIT_MS.first;
        latest.current.onOpen();
      };
      source.onmessage = ({ data }) => latest.current.onMessage(JSON.parse(data));
      source.onerror = () => {
        // Where a connection broke, the browser tries again by itself; where an error was answered, it never does.
        const isRefused = source?.readyState === EventSource.CLOSED;
        if (isRefused) {
          timer = setTimeout(open, waitMs);
          waitMs = Math.min(2 * waitMs, WAIT_MS.last);
        }
        latest.current.onAway(isRefused);
      };
    };
    const close = () => {
      clearTimeout(timer);
      timer = undefined;
      source?.close();
      source = undefined;
    };
    // A browser gives one host few connections: those that nobody looks at go.
    const follow = () => {
      if (document.hidden) {
        close();
      } else if (source === undefined) {
        open();
      }
    };
    follow();
    document.addEventListener("visibilitychange", follow);
    return () => {
      document.removeEventListener("visibilitychange", follow);
      close();
    };
  }, [path]);
}
