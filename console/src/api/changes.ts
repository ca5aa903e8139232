// Listens to what changes, while the page is looked at, and has what it shows read again.

import { useRef, useState } from "react";
import { useEvents } from "./events.ts";
import { queryClient } from "./queries.ts";

export type Liveness = "live" | "away";

/** `away` while nobody answers. */
export function useChanges(): Liveness {
  const [liveness, setLiveness] = useState<Liveness>("live");
  const hasHeard = useRef(false);
  useEvents("/console/changes", {
    onOpen: () => {
      setLiveness("live");
      // Nobody has told what changed meanwhile.
      if (hasHeard.current) {
        void queryClient.invalidateQueries({
          predicate: ({ queryKey }) => queryKey[0] !== "sql",
        });
      }
      hasHeard.current = true;
    },
    onAway: (isRefused) => {
      setLiveness("away");
      // Where the session has ended, the next query says so.
      if (isRefused) {
        void queryClient.invalidateQueries({ queryKey: ["projects"] });
      }
    },
    onMessage: (ids) => {
      void queryClient.invalidateQueries({ queryKey: ["projects"] });
      for (const id of ids as string[]) {
        void queryClient.invalidateQueries({ queryKey: ["project", id] });
      }
    },
  });
  return liveness;
}
