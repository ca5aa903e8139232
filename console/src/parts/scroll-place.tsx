// What is wider than its place and scrolls: keys must reach it.

import type { ReactNode } from "react";

interface ScrollPlaceProps {
  readonly label: string;
  readonly children: ReactNode;
}

export function ScrollPlace({ label, children }: ScrollPlaceProps) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: that is how keys reach it
    <section className="scroll-place" tabIndex={0} aria-label={label}>
      {children}
    </section>
  );
}
