// Queries with names, kept in this browser.

import { type FormEvent, useState } from "react";
import { Dialog } from "../parts/dialog.tsx";
import { NameField } from "../parts/name-field.tsx";
import { ErrorNotice } from "../parts/notice.tsx";

interface SavedQuery {
  readonly name: string;
  readonly text: string;
}

const KEY = "strata.saved-queries";

interface SavedQueriesProps {
  /** What is in the editor. */
  readonly text: string;
  readonly onOpen: (text: string) => void;
  readonly onClose: () => void;
}

export function SavedQueries({ text, onOpen, onClose }: SavedQueriesProps) {
  const [saved, setSaved] = useState(read);
  const [name, setName] = useState("");
  const [error, setError] = useState<Error>();
  const keep = (change: (now: readonly SavedQuery[]) => readonly SavedQuery[]) => {
    // As another tab may have left it.
    const next = change(read()).toSorted((a, b) => a.name.localeCompare(b.name));
    try {
      localStorage.setItem(KEY, JSON.stringify(next));
      setSaved(next);
      setError(undefined);
    } catch {
      setError(new Error("The browser has no room for it."));
    }
  };
  const save = (event: FormEvent) => {
    event.preventDefault();
    keep((now) => [...now.filter((one) => one.name !== name), { name, text }]);
    setName("");
  };
  const isKnown = saved.some((one) => one.name === name);
  return (
    <Dialog title="Saved queries" onClose={onClose} isWide>
      <div className="dialog-body">
        <form className="row" onSubmit={save}>
          <NameField
            label="Save what is in the editor as"
            value={name}
            onChange={setName}
            maxLength={100}
          />
          <button type="submit" className="primary">
            {isKnown ? "Replace" : "Save"}
          </button>
        </form>
        {error && <ErrorNotice error={error} />}
        {saved.length === 0 && (
          <p className="muted">There is none yet; they stay in this browser.</p>
        )}
        <ul className="lines" aria-label="Saved">
          {saved.map((query) => (
            <li key={query.name}>
              <button
                type="button"
                className="quiet"
                onClick={() => {
                  onClose();
                  onOpen(query.text);
                }}
              >
                <bdi>{query.name}</bdi>
              </button>
              <code className="muted">{query.text.replaceAll(/\s+/g, " ").slice(0, 60)}</code>
              <button
                type="button"
                className="small danger"
                aria-label={`Forget ${query.name}`}
                onClick={() => keep((now) => now.filter((one) => one.name !== query.name))}
              >
                Forget
              </button>
            </li>
          ))}
        </ul>
      </div>
    </Dialog>
  );
}

/** Anything may have been written there. */
function read(): readonly SavedQuery[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept)
      ? kept.filter((one) => typeof one?.name === "string" && typeof one?.text === "string")
      : [];
  } catch {
    return [];
  }
}
