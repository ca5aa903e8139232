// Listens to what changes, while the page is looked at, and has what it shows read again.

import { useEffect, useState } from "react";
import { queryClient } from "./queries.ts";

export type Liveness = "live" | "away";

/** `away` while nobody answers; the browser tries again by itself. */
export function useChanges(): Liveness {
  const [liveness, setLiveness] = useState<Liveness>("live");
  useEffect(() => {
    let source: EventSource | undefined;
    let wasAway = false;
    const open = () => {
      source = new EventSource("/console/changes");
      source.onopen = () => {
        setLiveness("live");
        if (wasAway) {
          void queryClient.invalidateQueries({
            predicate: ({ queryKey }) => queryKey[0] !== "sql",
          });
        }
        wasAway = false;
      };
      source.onerror = () => {
        wasAway = true;
        setLiveness("away");
        // An ended session closes it for good: the next query says so.
        if (source?.readyState === EventSource.CLOSED) {
          void queryClient.invalidateQueries({ queryKey: ["projects"] });
        }
      };
      source.onmessage = ({ data }) => {
        void queryClient.invalidateQueries({ queryKey: ["projects"] });
        for (const id of JSON.parse(data) as string[]) {
          void queryClient.invalidateQueries({ queryKey: ["project", id] });
        }
      };
    };
    // A browser gives one host few connections: those that nobody looks at go.
    const follow = () => {
      if (document.hidden) {
        source?.close();
        source = undefined;
        wasAway = true;
      } else if (source === undefined) {
        open();
      }
    };
    follow();
    document.addEventListener("visibilitychange", follow);
    return () => {
      document.removeEventListener("visibilitychange", follow);
      source?.close();
    };
  }, []);
  return liveness;
}
