// The command palette: any page, project or branch by a few letters of its name, with the keys alone.

import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { type KeyboardEvent, useEffect, useId, useState } from "react";
import { projectsQuery, treeQuery } from "../api/queries.ts";
import { Dialog } from "../parts/dialog.tsx";
import { setTheme } from "../parts/theme.ts";
import { logOut } from "../session/session-gate.tsx";
import { PROJECT_PAGES } from "./pages.ts";

const SHOWN = 50;

interface Command {
  readonly title: string;
  readonly kind: string;
  readonly run: () => void;
}

const isMac = /Mac|iP/.test(navigator.platform);
export const PALETTE_KEYS = isMac ? "⌘ K" : "Ctrl K";

/** Calls back when its keys are pressed, wherever the focus is. */
export function usePaletteKeys(onOpen: () => void): void {
  useEffect(() => {
    const press = (event: globalThis.KeyboardEvent) => {
      if (event.key.toLowerCase() === "k" && (isMac ? event.metaKey : event.ctrlKey)) {
        event.preventDefault();
        event.stopPropagation();
        // What is being asked for elsewhere is not left by accident.
        if (document.querySelector("dialog[open]") === null) {
          onOpen();
        }
      }
    };
    // Before the editor has them.
    document.addEventListener("keydown", press, { capture: true });
    return () => document.removeEventListener("keydown", press, { capture: true });
  }, [onOpen]);
}

export function Palette({ onClose }: { readonly onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const [active, setActive] = useState(0);
  const id = useId();
  const words = typed.toLowerCase().split(/\s+/);
  const found = useCommands()
    .filter(({ title, kind }) =>
      words.every((word) => `${title} ${kind}`.toLowerCase().includes(word)),
    )
    .slice(0, SHOWN);
  const at = Math.min(active, found.length - 1);
  const run = (command: Command | undefined) => {
    if (command !== undefined) {
      onClose();
      command.run();
    }
  };
  const press = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      setActive((at + step + found.length) % Math.max(1, found.length));
    } else if (event.key === "Enter") {
      event.preventDefault();
      run(found[at]);
    }
  };
  return (
    <Dialog title="Go to" onClose={onClose}>
      <div className="dialog-body palette">
        <input
          ref={(element) => {
            element?.toggleAttribute("autofocus", true);
          }}
          role="combobox"
          aria-expanded={true}
          aria-controls={id}
          aria-activedescendant={at >= 0 ? `${id}-${at}` : undefined}
          aria-label="A page, project or branch"
          placeholder="A page, project or branch"
          value={typed}
          onKeyDown={press}
          onChange={(event) => {
            setTyped(event.target.value);
            setActive(0);
          }}
        />
        <div id={id} role="listbox" aria-label="Found">
          {found.map((command, i) => (
            // biome-ignore lint/a11y/useKeyWithClickEvents: keys are the field's
            <div
              key={i}
              id={`${id}-${i}`}
              role="option"
              tabIndex={-1}
              aria-selected={i === at}
              ref={(element) => {
                if (i === at) {
                  element?.scrollIntoView({ block: "nearest" });
                }
              }}
              onClick={() => run(command)}
            >
              <bdi>{command.title}</bdi> <small>{command.kind}</small>
            </div>
          ))}
        </div>
        {found.length === 0 && <p className="muted">Nothing is called so.</p>}
      </div>
    </Dialog>
  );
}

function useCommands(): readonly Command[] {
  const navigate = useNavigate();
  const { projectId } = useParams({ strict: false });
  const projects = useQuery(projectsQuery);
  const tree = useQuery({ ...treeQuery(projectId ?? ""), enabled: projectId !== undefined });
  const ofProject = (id: string): Command[] => [
    ...PROJECT_PAGES.map(([to, title]) => ({
      title,
      kind: "page",
      run: () => void navigate({ to, params: { projectId: id }, search: (now) => now }),
    })),
    ...(tree.data?.branches ?? []).map(({ branch }) => ({
      title: branch.name,
      kind: "SQL on branch",
      run: () =>
        void navigate({
          to: "/projects/$projectId/sql",
          params: { projectId: id },
          search: { branch: branch.id },
        }),
    })),
  ];
  return [
    ...(projectId === undefined ? [] : ofProject(projectId)),
    ...(projects.data ?? []).map((project) => ({
      title: project.name,
      kind: "project",
      run: () =>
        void navigate({
          to: "/projects/$projectId/branches",
          params: { projectId: project.id },
        }),
    })),
    { title: "All projects", kind: "page", run: () => void navigate({ to: "/" }) },
    { title: "Settings", kind: "page", run: () => void navigate({ to: "/settings" }) },
    ...(["light", "dark", "system"] as const).map((theme) => ({
      title: `Colours: ${theme}`,
      kind: "action",
      run: () => setTheme(theme),
    })),
    { title: "Log out", kind: "action", run: () => void logOut() },
  ];
}
