// A menu behind a button: the browser's popover, moved through by arrow keys.

import { type KeyboardEvent, type ReactNode, useId, useRef, useState } from "react";
import { flushSync } from "react-dom";

export interface MenuItem {
  readonly title: ReactNode;
  readonly onSelect: () => void;
  readonly isDanger?: boolean;
  /** Why it cannot be chosen; undefined: it can. */
  readonly whyNot?: string | undefined;
}

export function Menu({
  label,
  items,
}: {
  readonly label: string;
  readonly items: readonly MenuItem[];
}) {
  const id = useId();
  const button = useRef<HTMLButtonElement>(null);
  const menu = useRef<HTMLDivElement>(null);
  // Long lists have a menu a line: what is in it is made when it opens, before it is placed.
  const [isOpen, setIsOpen] = useState(false);
  const place = () => {
    const at = button.current!.getBoundingClientRect();
    const element = menu.current!;
    const below = at.bottom + 4;
    const fits = below + element.offsetHeight < window.innerHeight;
    element.style.top = `${fits ? below : Math.max(4, at.top - element.offsetHeight - 4)}px`;
    element.style.left = `${Math.max(4, at.right - element.offsetWidth)}px`;
    element.querySelector<HTMLElement>("button:not([aria-disabled=true])")?.focus();
  };
  const move = (event: KeyboardEvent) => {
    const buttons = [...menu.current!.querySelectorAll<HTMLElement>("button")];
    const at = buttons.indexOf(document.activeElement as HTMLElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      buttons.at((at + step) % buttons.length)?.focus();
    }
  };
  return (
    <>
      <button
        type="button"
        ref={button}
        className="quiet icon"
        aria-label={label}
        aria-haspopup="menu"
        popoverTarget={id}
      >
        ⋯
      </button>
      <div
        id={id}
        ref={menu}
        popover="auto"
        role="menu"
        tabIndex={-1}
        className="menu"
        aria-label={label}
        onKeyDown={move}
        onBeforeToggle={(event) => flushSync(() => setIsOpen(event.newState === "open"))}
        onToggle={(event) => event.newState === "open" && place()}
      >
        {(isOpen ? items : []).map((item, i) => (
          <button
            key={i}
            type="button"
            role="menuitem"
            className={item.isDanger ? "danger" : ""}
            aria-disabled={item.whyNot !== undefined}
            title={item.whyNot}
            onClick={() => {
              if (item.whyNot === undefined) {
                menu.current!.hidePopover();
                item.onSelect();
              }
            }}
          >
            {item.title}
          </button>
        ))}
      </div>
    </>
  );
}
