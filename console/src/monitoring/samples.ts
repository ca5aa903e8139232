// What a branch is doing, as the control plane tells while the page is looked at.

import { useRef, useState } from "react";
import { useEvents } from "../api/events.ts";
import type { MonitoringSample } from "../api/types.ts";

/** As many as the control plane keeps. */
const MAX_SAMPLES = 900;

export interface Watched {
  readonly samples: readonly MonitoringSample[];
  /** Nobody answers. */
  readonly isAway: boolean;
}

export function useSamples(projectId: string, branchId: string): Watched {
  const [watched, setWatched] = useState<Watched>({ samples: [], isAway: false });
  const isFirst = useRef(true);
  useEvents(`/console/projects/${projectId}/branches/${branchId}/monitoring`, {
    onOpen: () => {
      isFirst.current = true;
    },
    onAway: () => setWatched(({ samples }) => ({ samples, isAway: true })),
    onMessage: (data) => {
      const news = data as MonitoringSample[];
      // The first has all that was seen before, by whomever.
      const isAll = isFirst.current;
      isFirst.current = false;
      setWatched(({ samples }) => ({
        samples: isAll ? news : [...samples, ...news].slice(-MAX_SAMPLES),
        isAway: false,
      }));
    },
  });
  return watched;
}
