// What is around every page: the name, the way to other projects, who is logged in.

import { Link, Outlet } from "@tanstack/react-router";
import { useCallback, useState } from "react";
import { useChanges } from "../api/changes.ts";
import { Logo } from "../parts/logo.tsx";
import { setTheme, useTheme } from "../parts/theme.ts";
import { logOut } from "../session/session-gate.tsx";
import { PALETTE_KEYS, Palette, usePaletteKeys } from "./palette.tsx";

const NEXT = { system: "light", light: "dark", dark: "system" } as const;
const SIGNS = { system: "◐", light: "☀", dark: "☾" } as const;

export function Shell() {
  const liveness = useChanges();
  const [isFinding, setIsFinding] = useState(false);
  const find = useCallback(() => setIsFinding(true), []);
  usePaletteKeys(find);
  const current = useTheme();
  return (
    <div className="shell">
      <header className="top">
        <Link to="/" className="brand">
          <Logo />
          <span>Strata</span>
        </Link>
        <div id="top-place" />
        {liveness === "away" && (
          <span className="badge warning" role="status">
            Strata does not answer
          </span>
        )}
        <nav aria-label="You">
          <button type="button" className="quiet" onClick={find}>
            Go to <kbd>{PALETTE_KEYS}</kbd>
          </button>
          <Link to="/settings" className="button quiet">
            Settings
          </Link>
          <button
            type="button"
            className="quiet icon"
            onClick={() => setTheme(NEXT[current])}
            aria-label={`Colours: ${current}`}
            title={`Colours: ${current}`}
          >
            {SIGNS[current]}
          </button>
          <button type="button" className="quiet" onClick={() => void logOut()}>
            Log out
          </button>
        </nav>
      </header>
      <Outlet />
      {isFinding && <Palette onClose={() => setIsFinding(false)} />}
    </div>
  );
}
