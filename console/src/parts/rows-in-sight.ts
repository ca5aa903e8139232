// Which rows of a long list are in sight, while the window scrolls: only those need to be in the page.

import { type RefObject, useLayoutEffect, useState } from "react";

/** Above and below, so that keys and quick scrolling find something. */
const MARGIN_ROWS = 12;
/** Changes come in steps of so many: to scroll by one row draws nothing anew. */
const STEP_ROWS = 8;
const FIRST_ROWS = 40;

/** `[from, to)` */
export interface RowRange {
  readonly from: number;
  readonly to: number;
}

/** Of `count` rows, each `rowHeight` pixels high, the first one `top` pixels below the top of `place`. */
export function useRowsInSight(
  place: RefObject<HTMLElement | null>,
  { count, rowHeight, top }: { count: number; rowHeight: number; top: number },
): RowRange {
  const [range, setRange] = useState<RowRange>({ from: 0, to: FIRST_ROWS });
  useLayoutEffect(() => {
    const look = () => {
      const first = place.current!.getBoundingClientRect().top + top;
      const next = rangeOf(-first / rowHeight, (window.innerHeight - first) / rowHeight, count);
      setRange((now) => (now.from === next.from && now.to === next.to ? now : next));
    };
    look();
    window.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look, { passive: true });
    return () => {
      window.removeEventListener("scroll", look);
      window.removeEventListener("resize", look);
    };
  }, [place, count, rowHeight, top]);
  return { from: Math.min(range.from, count), to: Math.min(range.to, count) };
}

function rangeOf(first: number, last: number, count: number): RowRange {
  const from = STEP_ROWS * Math.floor((first - MARGIN_ROWS) / STEP_ROWS);
  const to = STEP_ROWS * Math.ceil((last + MARGIN_ROWS) / STEP_ROWS);
  return { from: Math.max(0, Math.min(from, count)), to: Math.max(0, Math.min(to, count)) };
}
