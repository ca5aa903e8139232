// A time as how long ago it was, with the time itself for who points at it.

import { agoText, timeText } from "./words.ts";

export function Ago({ time }: { readonly time: string | undefined }) {
  return time === undefined ? (
    <span className="muted">—</span>
  ) : (
    <time dateTime={time} title={timeText(time)}>
      {agoText(time)}
    </time>
  );
}
