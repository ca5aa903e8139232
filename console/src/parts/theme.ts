// Light or dark: as the system has it, until somebody chooses.

import { useSyncExternalStore } from "react";

export type Theme = "system" | "light" | "dark";

const KEY = "strata.theme";
const listeners = new Set<() => void>();

export function theme(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function setTheme(wanted: Theme): void {
  if (wanted === "system") {
    localStorage.removeItem(KEY);
  } else {
    localStorage.setItem(KEY, wanted);
  }
  startTheme();
  for (const listener of listeners) {
    listener();
  }
}

export function useTheme(): Theme {
  return useSyncExternalStore((onChange) => {
    listeners.add(onChange);
    return () => listeners.delete(onChange);
  }, theme);
}

export function startTheme(): void {
  document.documentElement.dataset["theme"] = theme();
}
