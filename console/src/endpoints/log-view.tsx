// Entries of a log, the newest at the bottom, where the view stays while new ones come and nobody has scrolled up.

import { memo, useLayoutEffect, useRef } from "react";
import { Empty } from "../parts/notice.tsx";
import { bytesText } from "../parts/words.ts";
import { type LogPlace, type NumberedEntry, useLog } from "./log-stream.ts";

/** Whoever is so near to the end wants to see what comes. */
const NEAR_PIXELS = 40;

interface LogViewProps {
  readonly place: LogPlace;
  readonly isFollowing: boolean;
}

export function LogView({ place, isFollowing }: LogViewProps) {
  const { entries, isCut, isAway } = useLog(place, isFollowing);
  const view = useRef<HTMLElement>(null);
  const isAtEnd = useRef(true);
  // biome-ignore lint/correctness/useExhaustiveDependencies: when there are others
  useLayoutEffect(() => {
    const element = view.current;
    if (element !== null && isAtEnd.current) {
      element.scrollTop = element.scrollHeight;
    }
  }, [entries]);
  return (
    <>
      {isAway && isFollowing && (
        <p className="notice">Nothing is heard of the log at the moment.</p>
      )}
      {entries === undefined ? (
        <p className="empty" aria-busy={isFollowing} />
      ) : entries.length === 0 ? (
        <Empty>Nothing of that kind was written yet.</Empty>
      ) : (
        <section
          ref={view}
          className="log-view"
          aria-label="Log"
          // biome-ignore lint/a11y/noNoninteractiveTabindex: that is how keys reach it
          tabIndex={0}
          onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => {
            isAtEnd.current = scrollHeight - scrollTop - clientHeight < NEAR_PIXELS;
          }}
        >
          {isCut && <p className="hint muted">Older ones are not shown here.</p>}
          <ol>
            {entries.map((entry) => (
              <Entry key={entry.number} entry={entry} />
            ))}
          </ol>
        </section>
      )}
    </>
  );
}

const Entry = memo(function Entry({ entry }: { readonly entry: NumberedEntry }) {
  const { level, time, text, cutBytes } = entry;
  return (
    <li className={level}>
      <span className="log-level">{level}</span>
      {time !== undefined && (
        <time dateTime={time} title={time}>
          {time.slice(11, 23)}
        </time>
      )}
      <bdi className="log-text" dir="ltr">
        {text}
        {cutBytes > 0 && <em> {bytesText(cutBytes)} left out</em>}
      </bdi>
    </li>
  );
});
